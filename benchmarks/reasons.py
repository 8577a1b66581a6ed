"""Why a target is missed: `(workload, what it was held to) -> reason`, shown beside the number that misses.

What it was held to: "target" (the plan's microseconds), "numpyro-scan" or "hand-compiled".
"""

_BLAS = (
    "two thirds of the step are two products of the data with a vector, in MKL's gemv: 109 us alone where the whole "
    "took 155 (2026-11-23, one thread, processor time on a busy machine). A copy of the data by columns would need 74, "
    "but could go stale"
)

REASONS: dict[tuple[str, str], str] = {
    ("logistic", "target"): _BLAS,
    ("logistic", "numpyro-scan"): _BLAS,
}
