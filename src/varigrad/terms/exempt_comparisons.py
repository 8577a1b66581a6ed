"""Exempt comparisons: those inside torch's and varigrad's distributions that cause no jump of a density.

They choose between two formulas of one continuous function (an approximation, a limit), validate arguments, or compare
a number of categories or trials. All other comparisons count as jumps, also those of functions that a new version of
torch adds. `tests/test_density_jumps.py` tests that the functions named here are continuous.
"""

from __future__ import annotations

from types import FrameType

from torch.overrides import TorchFunctionMode

_TD, _VD = "torch.distributions.", "varigrad.distributions."

MODULES = frozenset(
    {
        _TD + "constraints", _TD + "distribution", _TD + "utils",
        _VD + "constraints", _VD + "continuous_bernoulli",
        _VD + "support_edges", _VD + "mixin", _VD + "log_space", _VD + "flows.splines", _VD + "flows.networks",
    }
)  # fmt: skip
"""Modules all of whose comparisons are harmless."""

FUNCTIONS = frozenset(
    {
        (_TD + "continuous_bernoulli", "ContinuousBernoulli.__init__"),
        (_TD + "continuous_bernoulli", "ContinuousBernoulli._outside_unstable_region"),
        (_TD + "continuous_bernoulli", "ContinuousBernoulli._cont_bern_log_norm"),
        (_TD + "continuous_bernoulli", "ContinuousBernoulli._log_normalizer"),
        (_TD + "continuous_bernoulli", "ContinuousBernoulli.cdf"),
        (_TD + "generalized_pareto", "GeneralizedPareto.log_prob"),
        (_TD + "generalized_pareto", "GeneralizedPareto.log_survival_function"),
        (_TD + "generalized_pareto", "GeneralizedPareto.icdf"),
        (_TD + "generalized_pareto", "GeneralizedPareto.support"),
        (_TD + "geometric", "Geometric.__init__"),
        (_TD + "geometric", "Geometric.log_prob"),
        (_TD + "laplace", "Laplace.cdf"),
        (_TD + "laplace", "Laplace.icdf"),
        (_TD + "lowrank_multivariate_normal", "_batch_capacitance_tril"),
        (_TD + "multinomial", "Multinomial.log_prob"),
        (_TD + "negative_binomial", "NegativeBinomial.log_prob"),
        (_TD + "transforms", "AffineTransform.sign"),
        (_TD + "transforms", "PowerTransform.sign"),
        (_TD + "von_mises", "_log_modified_bessel_fn"),
        (_TD + "wishart", "Wishart.__init__"),
        (_TD + "wishart", "_mvdigamma"),
        (_VD + "directional", "VonMises3D.log_prob"),
        (_VD + "flows.contractions", "Planar._inverse"),
        (_VD + "laplace_family", "AsymmetricLaplace.log_prob"),
        (_VD + "traceable_families", "Geometric.log_prob"),
        (_VD + "traceable_families", "Multinomial.log_prob"),
        (_VD + "nan_masked", "NanMaskedNormal.log_prob"),
        (_VD + "nan_masked", "NanMaskedMultivariateNormal.log_prob"),
        (_VD + "transforms", "ELUTransform._inverse"),
        (_VD + "transforms", "PositivePowerTransform._call"),
        (_VD + "transforms", "PositivePowerTransform._inverse"),
    }
)
"""Functions all of whose comparisons are harmless, by module and qualified name."""

_FAR = 8
"""How many frames of one mode's handler are looked through."""


def is_harmless(frame: FrameType | None) -> bool:
    """Whether a comparison that this frame makes, or a torch-function mode for it, causes no jump."""
    frame = caller(frame)
    if frame is None:
        return False
    module = str(frame.f_globals.get("__name__"))
    if not module.startswith((_TD, _VD)):
        return False
    name = frame.f_code.co_qualname
    if module == _TD + "kl":
        # Divergences from and to families whose support ends where a parameter says are infinite beyond it.
        return "uniform" not in name and "pareto" not in name
    return module in MODULES or (module, name) in FUNCTIONS


def caller(frame: FrameType | None) -> FrameType | None:
    """The frame that calls a torch function, behind the handlers of the modes in force (`with torch.device(...)`)."""
    while True:
        behind = _behind_a_mode(frame)
        if behind is None:
            return frame
        frame = behind


def _behind_a_mode(frame: FrameType | None) -> FrameType | None:
    """The frame that called into the nearest handler of a torch-function mode; None where none is near."""
    for _ in range(_FAR):
        if frame is None:
            return None
        if frame.f_code.co_name == "handle_torch_function" or (
            frame.f_code.co_name == "__torch_function__" and isinstance(frame.f_locals.get("self"), TorchFunctionMode)
        ):
            return frame.f_back
        frame = frame.f_back
    return None
