"""The seven workloads, by name."""

from benchmarks.workload import Workload
from benchmarks.workloads import belief_net, chain, coin, eight_schools, gaussian_mixture, logistic, vae

WORKLOADS = {
    "coin": coin.WORKLOAD,
    "gaussian_mixture": gaussian_mixture.WORKLOAD,
    "logistic": logistic.WORKLOAD,
    "eight_schools": eight_schools.WORKLOAD,
    "vae": vae.WORKLOAD,
    "belief_net": belief_net.WORKLOAD,
    "chain": chain.WORKLOAD,
}


def find(name: str) -> Workload:
    """By name; `chain:30` is the chain with 30 sites."""
    base, _, length = name.partition(":")
    return chain.of_length(int(length)) if length else WORKLOADS[base]
