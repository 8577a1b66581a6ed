"""`TraceEnum_ELBO`: the ELBO with exact sums over the guide's sites that are marked to be enumerated."""

from __future__ import annotations

from typing import NoReturn

from varigrad.compat.pyro.infer.trace_elbo import Trace_ELBO
from varigrad.language.messages import Program


class TraceEnum_ELBO(Trace_ELBO):  # noqa: N801 - Pyro's name
    """The ELBO with `Enumerate()` at the guide's sites marked `infer={"enumerate": "parallel"}` (or `"sequential"`).

    Each is summed over exactly, given a draw of the others: with one such site the loss is exact, with several it
    is unbiased, and costs their sum and not their product. `num_samples` means `LeaveOneOut(num_samples)`.
    """

    enumerates = True

    def compute_marginals(self, model: Program, guide: Program, *args: object, **kwargs: object) -> NoReturn:
        """Not there: it is about sites of the model that are summed over."""
        raise _not_there("compute_marginals")

    def sample_posterior(self, model: Program, guide: Program, *args: object, **kwargs: object) -> NoReturn:
        """Not there: it is about sites of the model that are summed over."""
        raise _not_there("sample_posterior")


class JitTraceEnum_ELBO(TraceEnum_ELBO):  # noqa: N801
    """`TraceEnum_ELBO` with compiled steps."""

    compiles = True


def _not_there(what: str) -> NotImplementedError:
    return NotImplementedError(
        f"{what} needs enumeration of sites in the model, which is not there yet; the native objective for it will be "
        "varigrad.MarginalELBO. Try: the sites in the guide, marked infer={'enumerate': 'parallel'}"
    )
