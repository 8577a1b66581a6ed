"""`TraceEnum_ELBO`: the ELBO with exact sums over sites that are marked to be enumerated, in the guide or the model."""

from __future__ import annotations

from collections import OrderedDict

from torch import distributions as td

from varigrad.compat.pyro.infer.infer_options import Reading
from varigrad.compat.pyro.infer.summed_out import posterior_marginals, replayed, summed_run
from varigrad.compat.pyro.infer.trace_elbo import Trace_ELBO
from varigrad.errors import VarigradError
from varigrad.language.messages import Program
from varigrad.objectives.bound import Bound
from varigrad.objectives.marginal_posterior import SummedRun


class TraceEnum_ELBO(Trace_ELBO):  # noqa: N801 - Pyro's name
    """The ELBO with exact sums over the sites marked `infer={"enumerate": "parallel"}` (or `"sequential"`).

    Marked sites of the model that the guide lacks are summed out jointly: `varigrad.ELBO(marginal=...)`.

    Marked sites of the guide have `Enumerate()`: each is summed over exactly, given a draw of the others. With one such
    site the loss is exact, with several it is unbiased, and costs their sum and not their product. `num_samples` at
    a site of the guide means `LeaveOneOut(num_samples)`.
    """

    enumerates = True

    def compute_marginals(
        self, model: Program, guide: Program, *args: object, **kwargs: object
    ) -> OrderedDict[str, td.Distribution]:
        """The posterior of each site that is summed out, by name, given one draw of the guide.

        Raises:
            NotImplementedError: there are several particles, or sites of the guide are enumerated.
            VarigradError: nothing is summed out.
        """
        return posterior_marginals(self._summed(model, guide, "compute_marginals", args, kwargs)[0])

    def sample_posterior(self, model: Program, guide: Program, *args: object, **kwargs: object) -> object:
        """What the model returns at a joint posterior draw of the sites that are summed out, given one of the guide.

        Raises:
            NotImplementedError: there are several particles, or sites of the guide are enumerated.
            VarigradError: nothing is summed out.
        """
        summed, bound = self._summed(model, guide, "sample_posterior", args, kwargs)
        return replayed(summed, summed.assignment("sample", bound.source), model, args, kwargs)

    def _summed(
        self, model: Program, guide: Program, what: str, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[SummedRun, Bound]:
        """One run with all values of the sites that are summed out."""
        if self.num_particles != 1:
            raise NotImplementedError(f"{what} is about one particle. Try: {type(self).__name__}()")
        reading = Reading(self.enumerates)
        found, bound = summed_run(reading.around_model(model), reading.around_guide(guide), args, kwargs)
        if reading.enumerated_in_guide:
            raise NotImplementedError(
                f"{what} is about sites of the model, and {sorted(reading.enumerated_in_guide)} of the guide are "
                "enumerated. Try: no mark at the guide's sites"
            )
        if found is None:
            raise VarigradError(
                f"{what}: no site of the model is summed out",
                try_="@config_enumerate on the model, or infer={'enumerate': 'parallel'} at a site without a guide",
            )
        return found, bound


class JitTraceEnum_ELBO(TraceEnum_ELBO):  # noqa: N801
    """`TraceEnum_ELBO` with compiled steps."""

    compiles = True
