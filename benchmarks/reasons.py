"""Why a target is missed: `(workload, what it was held to) -> reason`, shown beside the number that misses.

What it was held to: "target" (DESIGN's microseconds), "numpyro-scan" or "hand-compiled".
"""

REASONS: dict[tuple[str, str], str] = {}
