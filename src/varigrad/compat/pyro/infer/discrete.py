"""`infer_discrete`: runs a program with values of its marked discrete sites from their posterior given the others."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

from varigrad.compat.pyro.infer.infer_options import Reading
from varigrad.compat.pyro.infer.summed_out import replayed, summed_run
from varigrad.compat.pyro.infer.traceenum_elbo import TraceEnum_ELBO
from varigrad.compat.pyro.poutine.messenger import block_messengers
from varigrad.errors import VarigradError
from varigrad.language.messages import Forward, Message, Program, Sample, evolve
from varigrad.language.runtime import Handled
from varigrad.objectives.bound import Bound
from varigrad.objectives.marginal_posterior import Assignment


def infer_discrete(
    fn: Program | None = None,
    first_available_dim: int | None = None,
    temperature: int = 1,
    *,
    strict_enumeration_warning: bool = True,
) -> Program | Callable[[Program], Program]:
    """The program, run with values of its marked discrete sites from their joint posterior given all other values.

    Sites without a mark that have no value are drawn from the program's own distributions first. Handlers around the
    call see the run with the posterior's values only. Where a mask leaves a site out, its values count alike, so
    padding has no influence on the most probable values.

    Args:
        fn: the program; left out, a decorator is returned.
        first_available_dim: accepted, and not needed: dimensions are found by themselves.
        temperature: 1 for a draw from the posterior, 0 for the most probable joint value.
        strict_enumeration_warning: warn if no site is marked.

    Raises:
        VarigradError: (a `ValueError`) `first_available_dim` is not negative, or the temperature is neither 0 nor 1.
    """
    if first_available_dim is not None and not first_available_dim < 0:
        raise VarigradError(f"first_available_dim must be negative, got {first_available_dim!r}")
    if temperature not in (0, 1):
        raise VarigradError(f"temperature must be 0 or 1, got {temperature!r}", try_="1 for draws, 0 for the maximum")
    if fn is None:
        return functools.partial(
            infer_discrete,
            first_available_dim=first_available_dim,
            temperature=temperature,
            strict_enumeration_warning=strict_enumeration_warning,
        )
    how: Assignment = "max" if temperature == 0 else "sample"
    program = Handled(fn, _given)

    @functools.wraps(fn, updated=())
    def inferred(*args: object, **kwargs: object) -> object:
        with block_messengers(lambda handler: True):
            summed, bound = summed_run(program, _no_guide, args, kwargs)
            assignment = {} if summed is None else summed.assignment(how, bound.source)
        if summed is None:
            if strict_enumeration_warning:
                warnings.warn(
                    "infer_discrete: no site is marked for enumeration. Try: @config_enumerate on the program, or "
                    "infer={'enumerate': 'parallel'} at a site",
                    stacklevel=2,
                )
            return fn(*args, **kwargs)
        return replayed(summed, assignment, fn, args, kwargs)

    return inferred


class TraceEnumSample_ELBO(TraceEnum_ELBO):  # noqa: N801 - Pyro's name
    """`TraceEnum_ELBO` that remembers what its last loss was computed for, to draw from the posterior there."""

    _saved: tuple[Program, Program, tuple[object, ...], dict[str, object]] | None = None

    def sample_saved(self) -> object:
        """What the model returns at a joint draw of guide and summed-out sites, with the arguments of the last loss.

        Raises:
            VarigradError: there was no loss yet, or nothing is summed out.
        """
        if self._saved is None:
            raise VarigradError("sample_saved: no loss has been computed yet", try_="svi.step(...) before it")
        model, guide, args, kwargs = self._saved
        return self.sample_posterior(model, guide, *args, **kwargs)

    def _ready(
        self, model: Program, guide: Program, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[Bound, Reading]:
        self._saved = model, guide, args, kwargs
        return super()._ready(model, guide, args, kwargs)


def _no_guide(*args: object, **kwargs: object) -> None:
    """A guide without sites."""


def _given(message: Message, forward: Forward) -> Message:
    """Take values that a site has been given, by a replay for instance, as observed."""
    if type(message) is not Sample or message.observed:
        return forward(message)
    if message.value is None:
        return forward(message)
    return evolve(forward(evolve(message, observed=True)), observed=False)
