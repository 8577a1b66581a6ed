"""`ELBO`, the interface of Pyro's objectives: each configures a native objective on the parameter store."""

from __future__ import annotations

import functools
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from varigrad import objectives
from varigrad.compat.pyro.infer.baselines import check_separate
from varigrad.compat.pyro.infer.enum import get_importance_trace
from varigrad.compat.pyro.infer.infer_options import Reading
from varigrad.compat.pyro.infer.util import torch_item
from varigrad.compat.pyro.params.param_store import Asking
from varigrad.compat.pyro.poutine.trace_struct import Trace
from varigrad.compat.pyro.primitives import get_param_store
from varigrad.compile.step.compiled_loss import Compiled, compiled
from varigrad.distributions.rng import Source
from varigrad.errors import PlateError, whole_number
from varigrad.language.messages import Program
from varigrad.objectives.bound import Bound
from varigrad.objectives.surrogate import Estimate
from varigrad.user_warnings import warn_user

Look = Callable[[Bound, Tensor, tuple[object, ...], Mapping[str, object]], None]
"""Is shown a bound, what is differentiated, and what the programs were called with."""

Native = objectives.ELBO | objectives.Renyi

KEPT = 8
"""How many pairs of model and guide an objective remembers; a pair that it does not know is explored anew."""


class ELBO:
    """Interface of Pyro's objectives; a user's subclass may define `loss` and `loss_and_grads` instead of `native`.

    Args:
        num_particles: independent runs of model and guide, averaged.
        max_plate_nesting: how many dimensions plates may take; found by itself, checked if given.
        vectorize_particles: run particles side by side along a dimension left of the plates; else one by one.
        strict_enumeration_warning: warn if an objective that enumerates has nothing to enumerate.
        retain_graph: keep the graph after the backward pass of `loss_and_grads`.
        max_iarange_nesting, ignore_jit_warnings, jit_options, tail_adaptive_beta: accepted.
    """

    enumerates = False
    compiles = False

    def __init__(
        self,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        max_iarange_nesting: float | None = None,
        vectorize_particles: bool = False,
        strict_enumeration_warning: bool = True,
        ignore_jit_warnings: bool = False,
        jit_options: dict[str, object] | None = None,
        retain_graph: bool | None = None,
        tail_adaptive_beta: float = -1.0,
    ) -> None:
        if max_iarange_nesting is not None:
            warnings.warn("max_iarange_nesting is deprecated. Try: max_plate_nesting", FutureWarning, stacklevel=2)
            max_plate_nesting = max_iarange_nesting
        self.max_plate_nesting = max_plate_nesting
        self.vectorize_particles = vectorize_particles
        self.strict_enumeration_warning = strict_enumeration_warning
        self.ignore_jit_warnings = ignore_jit_warnings
        self.jit_options = jit_options
        self.retain_graph = retain_graph
        self._bounds: OrderedDict[tuple[Program, Program], tuple[Bound, Reading]] = OrderedDict()
        self._graphs: WeakKeyDictionary[Bound, Compiled] = WeakKeyDictionary()
        self._generation = get_param_store().generation
        self.num_particles: int = whole_number("num_particles", num_particles)

    def native(self) -> Native:
        """The native objective that stands behind this one."""
        raise NotImplementedError(f"{type(self).__name__} says neither what to estimate nor how: loss_and_grads")

    @property
    def side_by_side(self) -> bool | None:
        """How particles are to run; alternatives of a single one as the engine likes."""
        return None if self.num_particles == 1 else bool(self.vectorize_particles)

    def __call__(self, model: Program, guide: Program) -> ELBOModule:
        """The objective of this model and guide as a torch module: `loss(data).backward()`."""
        return ELBOModule(model, guide, self)

    def bound(self, model: Program, guide: Program) -> Bound:
        """The native objective of this model and guide, whose parameters are in the store."""
        return self._bound(model, guide)[0]

    def loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """An estimate of minus the bound; nothing is updated."""
        with torch.no_grad():
            result = self._ready(model, guide, args, kwargs)[0].estimate(*args, **kwargs)
        return _checked(-torch_item(result.value))

    def differentiable_loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> Tensor:
        """A scalar whose value is the loss, and whose gradient is that of the estimators."""
        bound, reading = self._ready(model, guide, args, kwargs)
        result = self._estimate(bound, reading, args, kwargs)
        bound.advance(result.state)
        return result.surrogate.detach() - result.surrogate - result.value

    def loss_and_grads(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """The loss; its gradient is added to `.grad` of the unconstrained parameters."""
        return self.looked_at(None, model, guide, args, kwargs)

    def looked_at(
        self, look: Look | None, model: Program, guide: Program, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> float:
        """As `loss_and_grads`; `look` is shown what is differentiated."""
        bound, reading = self._ready(model, guide, args, kwargs)
        if self.compiles and (reading.checked or not reading.learns):
            return _checked(self._by_graph(bound, look, args, kwargs))
        result = self._estimate(bound, reading, args, kwargs)
        if look is not None:
            look(bound, result.surrogate, args, kwargs)
        if result.surrogate.requires_grad:
            torch.autograd.backward(-result.surrogate, retain_graph=self.retain_graph)
        bound.advance(result.state)
        return _checked(-torch_item(result.value))

    def _by_graph(self, bound: Bound, look: Look | None, args: tuple[object, ...], kwargs: dict[str, object]) -> float:
        """The loss, its gradient added to `.grad`; by a graph as soon as there is one."""
        graph = self._graphs.get(bound)
        if graph is None:
            graph = self._graphs[bound] = compiled(bound)
        if look is not None:
            graph.look = functools.partial(look, bound)
        loss, grads = graph.gradient(*args, **kwargs)
        store = get_param_store()
        names = {leaf: name for name, leaf in store.named_parameters()}
        for leaf, grad in grads.items():
            leaf.grad = grad.clone() if leaf.grad is None else leaf.grad + grad
            store.asked[names[leaf]] = None
        return loss

    def _get_trace(
        self, model: Program, guide: Program, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[Trace, Trace]:
        """Traces of one run of the model and of the guide, for users' objectives."""
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)

    def _get_traces(
        self, model: Program, guide: Program, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> Iterator[tuple[Trace, Trace]]:
        """Run model and guide `num_particles` times; each pair of traces is one particle."""
        for _ in range(self.num_particles):
            yield self._get_trace(model, guide, args, kwargs)

    def _estimate(
        self, bound: Bound, reading: Reading, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> Estimate:
        if not torch.is_grad_enabled():
            return bound.estimate(*args, **kwargs)
        if reading.checked or not reading.learns:
            return bound.estimate(*args, **kwargs)
        reading.regressions = []
        try:
            result = bound.estimate(*args, **kwargs)
            if reading.regressions:
                check_separate(result.surrogate, reading.regressions, dict(get_param_store().named_parameters()))
                reading.checked = True
            return result
        finally:
            reading.regressions = None

    def _bound(self, model: Program, guide: Program) -> tuple[Bound, Reading]:
        """The native objective of a pair of programs, made once; averages of baselines go on from pair to pair."""
        store = get_param_store()
        if store.generation != self._generation:
            self._generation = store.generation
            for old, _ in self._bounds.values():
                old.advance({})
        known = self._bounds.get((model, guide))
        if known is not None:
            return known
        reading = Reading(self.enumerates, self.strict_enumeration_warning)
        programs = reading.around_model(model), reading.around_guide(guide)
        bound = self.native().bind(*programs, Source(), store)
        if self._bounds:
            bound.advance(next(reversed(self._bounds.values()))[0].estimator_states)
        self._bounds[model, guide] = bound, reading
        if len(self._bounds) > KEPT:
            self._bounds.popitem(last=False)
        return bound, reading

    def _ready(
        self, model: Program, guide: Program, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[Bound, Reading]:
        """The native objective, explored."""
        bound, reading = self._bound(model, guide)
        if bound.is_empty:
            if self.compiles:
                bound.init(*args, **kwargs)  # a graph is made for parameters that exist
            else:
                bound.explore(*args, **kwargs)
            assert bound.discovered is not None and bound.latest_plan is not None
            reading.warn(bound.latest_plan)
            plates = bound.discovered.vectorization.plates
            if plates > self.max_plate_nesting:
                raise PlateError(
                    f"plates take {plates} dimensions, and max_plate_nesting is {self.max_plate_nesting}",
                    try_="a larger max_plate_nesting, or none: it is found by itself",
                )
        return bound, reading


class ELBOModule(nn.Module):
    """An objective of a model and a guide: calling it gives the differentiable loss.

    Its parameters are those of the programs that are modules, and the entries of the parameter store that the
    programs have asked for so far.
    """

    def __init__(self, model: Program, guide: Program, elbo: ELBO) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.elbo = elbo
        self._names: dict[str, None] = {}

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """The loss, with gradients."""
        with Asking(get_param_store()) as names:
            loss = self.elbo.differentiable_loss(self.model, self.guide, *args, **kwargs)
        self._names.update(names)
        return loss

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of modules, then those of the store."""
        seen = set()
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            seen.add(id(parameter))
            yield name, parameter
        store = get_param_store()._params
        for name in self._names:
            leaf = store.get(name)
            if leaf is not None and id(leaf) not in seen:
                yield (f"{prefix}.{name}" if prefix else name), leaf  # type: ignore[misc]


def _checked(loss: float) -> float:
    if not math.isfinite(loss):
        what = "NaN" if math.isnan(loss) else f"{loss:+}"
        warn_user(f"Encountered {what}: loss")
    return loss
