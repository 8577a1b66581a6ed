"""Classes of `pyro.infer` that varigrad lacks: programs can import them, and their use raises an error."""

from __future__ import annotations

WHY: dict[str, tuple[str, ...]] = {
    "MCMC: no sampling along Markov chains": ("MCMC", "NUTS", "HMC", "RandomWalkKernel", "StreamingMCMC"),
    "the objective is not there yet": (
        "EnergyDistance", "ReweightedWakeSleep", "TraceTailAdaptive_ELBO", "Trace_MMD",
    ),
    "Stein's method is not there": ("SVGD", "IMQSteinKernel", "RBFSteinKernel"),
    "only variational inference is there": (
        "CSIS", "EmpiricalMarginal", "Importance", "MHResampler", "SMCFilter", "TracePosterior", "TracePredictive",
        "WeighedPredictive",
    ),
}  # fmt: skip


class NotThere:
    """Stands for a class of Pyro's that varigrad lacks; constructing it raises an error."""

    why = ""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError(
            f"pyro.infer.{type(self).__name__}: {self.why}. Try: SVI with Trace_ELBO(), or Pyro itself"
        )


ABSENT: dict[str, type] = {name: type(name, (NotThere,), {"why": why}) for why, names in WHY.items() for name in names}
