"""varigrad: stochastic variational inference for PyTorch whose gradients you can choose, measure and trust."""

from typing import TYPE_CHECKING

from varigrad import distributions as distributions
from varigrad import errors as errors
from varigrad import estimators as estimators
from varigrad import guides as guides
from varigrad import optim as optim
from varigrad.compile.step.compiled_loss import compiled as compiled
from varigrad.inference.fit_result import Fit as Fit
from varigrad.inference.gradient_monitor import Gradients as Gradients
from varigrad.inference.predictive import Predictive as Predictive
from varigrad.inference.svi import SVI as SVI
from varigrad.language import handlers as handlers
from varigrad.language.chains import scan as scan
from varigrad.language.plates import plate as plate
from varigrad.language.primitives import deterministic as deterministic
from varigrad.language.primitives import factor as factor
from varigrad.language.primitives import module as module
from varigrad.language.primitives import param as param
from varigrad.language.primitives import sample as sample
from varigrad.language.primitives import subsample as subsample
from varigrad.objectives import ELBO as ELBO
from varigrad.objectives import Renyi as Renyi
from varigrad.terms.dependency_tracker import track_sites as track_sites
from varigrad.terms.provenance import get_provenance as get_provenance
from varigrad.terms.provenance import track_provenance as track_provenance

if TYPE_CHECKING:
    from varigrad.diagnostics import Comparison as Comparison
    from varigrad.diagnostics import compare as compare
    from varigrad.diagnostics import decide as decide

__version__ = "0.1.0"


_MEASURING = ("Comparison", "compare", "decide")
"""Names that are imported when they are first used: they need `varigrad.testing`, which costs a start of its own."""
_PACKAGES = ("distributions", "errors", "estimators", "guides", "handlers", "optim")


def __getattr__(name: str) -> object:
    if name in _MEASURING:
        from varigrad import diagnostics

        return getattr(diagnostics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names: what is exported above, and what is imported when it is first used."""
    public = {name for name, value in globals().items() if getattr(value, "__module__", None) and name[0] != "_"}
    return sorted({*public, *_MEASURING, *_PACKAGES, "__version__"})
