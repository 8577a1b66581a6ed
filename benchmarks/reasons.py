"""Why a target is missed: `(workload, what it was held to) -> reason`, shown beside the number that misses.

What it was held to: "target" (the plan's microseconds), "numpyro-scan" or "hand-compiled".
"""

_BLAS = (
    "three quarters of the step are two products of the data (2 MB) with a vector, in MKL: 110 us alone (2026-11-24, "
    "one thread). Loops of our own took 90 us alone but no less within a step, where the data have left the cache. A "
    "copy of the data by columns would need 74, but could go stale"
)

_PRODUCTS = (
    "the products alone take 4.9 to 5.2 ms, at up to 168 GFLOP/s of the 171 that a large one reaches on this machine "
    "(2026-11-24, one thread); Adam's pass over 18 MB takes 0.4 ms, logarithms and exponentials of 784 pixels 0.3"
)
_LAYERS = "the products alone take 2.6 ms, at the rate of BLAS on this machine (2026-11-24, one thread)"

REASONS: dict[tuple[str, str], str] = {
    ("logistic", "target"): _BLAS,
    ("logistic", "numpyro-scan"): _BLAS,
    ("vae", "target"): _PRODUCTS,
    ("vae", "numpyro-scan"): _PRODUCTS,
    ("belief_net", "target"): _LAYERS,
}
