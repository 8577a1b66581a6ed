"""Names that programs import from `pyro.infer` and need not use: an error says what is missing when they do."""

from __future__ import annotations

WHY: dict[str, tuple[str, ...]] = {
    "MCMC: no sampling along Markov chains": ("MCMC", "NUTS", "HMC", "RandomWalkKernel", "StreamingMCMC"),
    "the objective is not there yet": (
        "EnergyDistance", "ReweightedWakeSleep", "TraceTailAdaptive_ELBO", "TraceTMC_ELBO", "Trace_MMD",
    ),
    "Stein's method is not there": ("SVGD", "IMQSteinKernel", "RBFSteinKernel"),
    "it needs enumeration of sites in the model, which is not there yet": ("infer_discrete",),
    "only variational inference is there": (
        "CSIS", "EmpiricalMarginal", "Importance", "MHResampler", "SMCFilter", "TracePosterior", "TracePredictive",
        "WeighedPredictive",
    ),
}  # fmt: skip


class NotThere:
    """Stands for a class of Pyro's that varigrad does not have."""

    why = ""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError(
            f"pyro.infer.{type(self).__name__}: {self.why}. Try: SVI with Trace_ELBO(), or Pyro itself"
        )


ABSENT: dict[str, type] = {name: type(name, (NotThere,), {"why": why}) for why, names in WHY.items() for name in names}
