"""The seven workloads, by name."""

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
