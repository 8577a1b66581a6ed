"""What to use in place of what Pyro has and varigrad lacks."""

from __future__ import annotations

from fnmatch import fnmatchcase

ADVICE: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("*.MCMC", "*.NUTS", "*.HMC", "*.RandomWalkKernel", "*.StreamingMCMC"),
        "SVI with a guide, or Pyro itself for MCMC",
    ),
    (("*.SVGD", "*SteinKernel", "pyro.infer.svgd.*"), "SVI with AutoNormal, AutoMultivariateNormal or AutoIAFNormal"),
    (("*ReweightedWakeSleep*", "pyro.infer.rws.*"), "RenyiELBO(alpha=0, num_particles=...)"),
    (("*EnergyDistance*", "*MMD*", "*TailAdaptive*"), "SVI with Trace_ELBO() or RenyiELBO()"),
    (
        ("*.CSIS", "*Importance*", "*SMC*", "*Resampler*", "*WeighedPredictive*"),
        "SVI with Predictive(model, guide=guide)",
    ),
    (("*TracePosterior*", "*TracePredictive*", "*EmpiricalMarginal*"), "Predictive(model, guide=guide)"),
    (("pyro.infer.autoguide.*Messenger", "pyro.infer.autoguide.effect.*", "pyro.poutine.guide.*"), "AutoNormal(model)"),
    (("pyro.infer.autoguide.*",), "AutoNormal, AutoMultivariateNormal or AutoLowRankMultivariateNormal"),
    (("pyro.infer.reparam.*",), "LocScaleReparam or TransformReparam, or the model written in the other parameters"),
    (
        ("*HMM*", "*GaussianMRF"),
        "a loop of sample statements marked infer={'enumerate': 'parallel'} for discrete states",
    ),
    (("pyro.distributions.transforms.*", "pyro.distributions.*onditional*"), "varigrad.distributions.transforms"),
    (("pyro.distributions.*testing.*",), "varigrad.testing"),
    (("pyro.distributions.*",), "a family of varigrad.distributions, or a subclass of TorchDistribution"),
    (("pyro.ops.einsum*", "pyro.ops.contract*", "pyro.ops.rings*", "pyro.ops.packed*"), "varigrad.ELBO(marginal=...)"),
    (("pyro.ops.jit*",), "JitTrace_ELBO(), or varigrad.compiled"),
    (("pyro.ops.hessian*", "pyro.ops.newton*"), "torch.func.hessian"),
    (("pyro.ops.*",), "torch's own functions (torch.linalg, torch.special, torch.func)"),
    (("pyro.optim.*",), "pyro.optim.Adam, pyro.optim.ClippedAdam, or any class of torch.optim"),
    (("pyro.poutine.*collapse*", "pyro.poutine.*Collapse*"), "the marginal distribution (BetaBinomial, ...) by hand"),
    (("pyro.poutine.*",), "a subclass of pyro.poutine.messenger.Messenger"),
    (("pyro.util.check_*", "pyro.util.*"), "nothing: objectives check programs on their first run"),
)
"""Patterns on names of Pyro's, and what stands for these; the first that matches counts."""


def advice_for(what: str) -> str:
    """What to use in place of something of Pyro's, `pyro.infer.SVGD` for instance."""
    for patterns, advice in ADVICE:
        if any(fnmatchcase(what, pattern) for pattern in patterns):
            return advice
    return "Pyro itself, in a process of its own"
