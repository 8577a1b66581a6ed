"""`Follower`: proves from a run's operations, not from its numbers, that plate elements or lanes stay apart.

The cost of one plate element may leave out the other elements' terms only if no operation combines elements on the way:
a sum, a flip, batch normalisation. A comparison of numbers can miss that where a gate is zero at first. So a `Follower`
intercepts every operation that reaches torch's dispatcher, and labels the dimensions of each tensor with the site and
plate whose elements lie along them. Its verdict "apart" is proven for all parameters and data of the same shapes, as
long as the same operations run. Where it has no proof, the verdict is "unknown", never "apart".

The analysis does not change the run: it draws nothing, and reads no number.

References:
    Cousot, Cousot (1977), Abstract interpretation. The abstract value of a tensor is where its elements come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from varigrad._torch_internals import (
    OpOverload,
    TorchDispatchMode,
    can_decompose,
    disable_current_modes,
    fused_sdp_choice,
    has_same_storage_numel,
    local_scalar_dense,
    pytree,
    schema_of_operator,
)
from varigrad.language.messages import Plate, Sample
from varigrad.terms.independence.aliases import Known, Label, Origin, State, Trouble, joined, overlaps
from varigrad.terms.independence.layer_rules import MASKS
from varigrad.terms.independence.propagation import (
    bound,
    labels_of,
    looked_at_in_vain,
    plain,
    same_trouble,
    slots_of,
    tensors_in,
    users_line,
    written_by,
)
from varigrad.terms.independence.rule_table import name_of, rule_of
from varigrad.terms.independence.rules import Call, Place, Slot
from varigrad.terms.provenance import Escapes, Provenance
from varigrad.terms.term import Term

LANES = Origin("", "lanes")
"""The dimension along which alternatives lie; all sites share it."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on whether elements stay apart on the way to a density.

    Attributes:
        kind: "apart" is a proof; "mixes" names an operation that combines or moves them; "unknown" one that cannot be
            seen into.
        operation: its name; empty if they are apart.
        where: the user's line, `file:line: code`; empty if there is none.
        term: the site whose density it reached.
    """

    kind: Literal["apart", "mixes", "unknown"]
    operation: str = ""
    where: str = ""
    term: str = ""

    @property
    def apart(self) -> bool:
        """Whether the elements are proven to stay apart."""
        return self.kind == "apart"

    def sentence(self) -> str:
        """What happens to the elements, for a message; empty if they stay apart."""
        if self.apart:
            return ""
        line = f" ({self.where})" if self.where else ""
        what = "combines or moves its elements" if self.kind == "mixes" else "may combine its elements"
        term = f", on the way to the density of {self.term!r}" if self.term else ""
        return f"{self.operation} {what}{line}{term}"

    def join(self, other: Verdict) -> Verdict:
        """The worse of two: mixes, unknown, apart."""
        order = ("mixes", "unknown", "apart")
        return min(self, other, key=lambda v: order.index(v.kind))


APART = Verdict("apart")
_aten = torch.ops.aten
_SHAPES_ONLY = frozenset({fused_sdp_choice, _aten.is_same_size, has_same_storage_numel})
_HANDLED_HERE = frozenset({local_scalar_dense, _aten.as_strided, *_SHAPES_ONLY})


class Follower(TorchDispatchMode):
    """A mode that labels the dimensions of every tensor with the drawn values' elements that lie along them."""

    def __init__(self) -> None:
        super().__init__()
        self.known: Known = Known()
        self.left: dict[Origin, Trouble] = {}
        """What has been turned into a Python number, or told by a shape."""
        self.plates_of: dict[str, tuple[Plate, ...]] = {}
        self.checking = False
        """Whether a value is being looked at only to raise an error."""
        self.asked: str = ""
        """Where Python first asked for a number that does not come from a draw: others may run for another."""
        self._followed: set[Origin] = set()
        self.unruled: set[str] = set()
        """Operations on followed tensors for which there is no rule."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # a run that is followed is not compiled, and torch would import its compiler to prevent it

    # -- saying what to follow --

    def mark(self, tensor: Tensor, origin: Origin, dim: int) -> None:
        """Follow the elements along a dimension (negative) of a tensor, in addition to what it carries."""
        size = tensor.shape[dim]
        if size > 1:
            bare = plain(tensor)
            self.known.put(bare, {**self.known.get(bare), origin: Place(dim, size)})

    def drawn(self, value: Tensor, message: Sample, upstream: Provenance, lane: int | None = None) -> Tensor:
        """A drawn value, as a copy whose elements are followed.

        Given what is upstream, element `i` of a draw follows element `i` of the site's density, whatever the sampler
        did with its numbers. That density is a term itself, so mixing there is found there.

        Args:
            message: the site, with its plates.
            upstream: the tokens of what its distribution depends on.
            lane: the batch dimension of the alternatives, or None if there are none.
        """
        event = len(message.distribution.event_shape)
        here = {p.name: p.dim for p in message.plates if p.dim is not None}
        self.plates_of[message.name] = tuple(p for p in message.plates if p.dim is not None)
        label: dict[Origin, State] = {}
        for token in upstream:
            for plate in self.plates_of.get(token.site, ()):
                origin = Origin(token.site, plate.name)
                dim = here.get(plate.name)
                if plate.name in token.cross_element or dim is None:
                    state: State = Trouble("mixes", f"the draw of {message.name!r}, outside of the plate,", "")
                else:
                    state = _placed(value, dim - event, plate)
                label[origin] = joined(label[origin], state) if origin in label else state
        for plate in self.plates_of[message.name]:
            assert plate.dim is not None
            label[Origin(message.name, plate.name)] = _placed(value, plate.dim - event, plate)
        if lane is not None and value.dim() - event >= -lane:
            label[LANES] = Place(lane - event, value.shape[lane - event])
        with disable_current_modes():
            copy = value.clone()
        label = {origin: state for origin, state in label.items() if not (isinstance(state, Place) and state.size <= 1)}
        self._followed |= label.keys()
        self.known.put(plain(copy), label)
        return copy

    # -- asking --

    def verdict(self, tensor: Tensor, origin: Origin, dim: int) -> Verdict:
        """Whether the tensor's entries along a dimension (negative) depend on the same elements of the origin only."""
        state = self.known.get(plain(tensor)).get(origin)
        left = self.left.get(origin)
        if isinstance(state, Trouble):
            return Verdict(state.kind, state.operation, state.where)
        if state is not None and state != Place(dim, tensor.shape[dim] if tensor.dim() >= -dim else 1):
            return Verdict("mixes", f"what moves dimension {dim} to {state.dim}, or repeats it,")
        return APART if left is None else Verdict(left.kind, left.operation, left.where)

    def plates(self, terms: Iterable[Term]) -> dict[str, dict[str, Verdict]]:
        """For each site and each plate around it, whether all densities in the plate keep its elements apart.

        Plates with known cross-element dependence on the way to a density are left out of the question there.
        """
        terms = list(terms)
        found: dict[str, dict[str, Verdict]] = {}
        for site, plates in self.plates_of.items():
            for plate in plates:
                worst = APART
                for term in terms:
                    worst = worst.join(self._of_term(term, site, plate))
                found.setdefault(site, {})[plate.name] = worst
        return found

    def _of_term(self, term: Term, site: str, plate: Plate) -> Verdict:
        own = term.name == site and term.latent
        inside = any(p.name == plate.name for p in term.plates)
        if not inside or plate.dim is None or not (own or site in term.upstream):
            return APART
        if plate.name in term.upstream.get(site, ()):
            return APART  # cross-element dependence: this cost is not taken element by element
        origin = Origin(site, plate.name)
        found = self.verdict(term.log_prob, origin, plate.dim)
        if found.apart and origin in self._followed and origin not in self.known.get(plain(term.log_prob)):
            # The tracker knows of a dependency that came some way that is not seen here.
            found = Verdict("unknown", "a way that no operation shows")
        return found if found.apart else Verdict(found.kind, found.operation, found.where, term.name)

    def lanes(
        self, terms: Iterable[Term], dims: int, escapes: Escapes | None = None, particles: str = "particles"
    ) -> Verdict:
        """Whether all densities keep alternatives apart, and particles.

        Args:
            terms: of a run with alternatives and particles side by side, `[lanes?, *plates]`.
            dims: number of plate dimensions, that of the particles included; lanes lie to their left.
            escapes: what left torch during the run.
            particles: the name of the plate along which particles lie.
        """
        worst = APART
        if escapes is not None and escapes.provenance:
            sites = ", ".join(sorted(repr(t.site) for t in escapes.provenance))
            worst = Verdict("unknown", f"Python, to which the value of {sites} went,")
        for term in terms:
            found = self.verdict(term.log_prob, LANES, -dims - 1)
            for site, plates in self.plates_of.items():
                for plate in plates:
                    if plate.name == particles and plate.dim is not None:
                        found = found.join(self.verdict(term.log_prob, Origin(site, plate.name), plate.dim))
            if not found.apart:
                worst = worst.join(Verdict(found.kind, found.operation, found.where, term.name))
        return worst

    # -- following --

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):
            return self._opaque(func, args, kwargs)
        given = bound(func, args, kwargs)
        schema = schema_of_operator(func)
        outputs = [a.name for a in schema.arguments if a.is_out] if schema.is_mutable else []
        read = slots_of({name: value for name, value in given.items() if name not in outputs})
        slots = [(slot, label) for slot in read if (label := self.known.get(slot.tensor))]
        if not slots and not outputs:
            if func is local_scalar_dense.default and not self.asked and not looked_at_in_vain():
                self.asked = users_line()
            return func(*args, **kwargs)
        rule = rule_of(func)
        if rule is None and can_decompose(func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if rule is None and func.overloadpacket not in _HANDLED_HERE:
            self.unruled.add(str(func))
        reshaped = torch.Tag.inplace_view in func.tags
        if reshaped:  # rules ask for the shape before: a stand-in has it
            given = {**given, "self": torch.empty_like(given["self"], device="meta")}
            slots = [(slot._replace(tensor=given["self"]) if slot.name == "self" else slot, n) for slot, n in slots]
        shapes = [given[name].shape for name in outputs]
        written = [] if reshaped else written_by(func, given)
        try:
            result = func(*args, **kwargs)
        except Exception:
            for target in written:  # it may have written a part
                self.known.write(target, same_trouble(slots, str(func)))
            raise
        if shapes != [given[name].shape for name in outputs]:
            rule = None  # torch has given the output another shape, over memory that others may share
        results = [plain(r) for r in tensors_in(result)]
        call = Call(name_of(func), given, results)
        if call.name == "as_strided":  # any view of the memory: strides say where the elements lie
            labels = [self.known.get(results[0])]
        else:
            if any(overlaps(target, slot.tensor) for target in written for slot, _ in slots):
                rule = None  # what is read depends on the order in which it is overwritten
            labels = labels_of(call, rule, slots, str(func))
        for tensor, label in zip(results, labels, strict=True):
            if not any(tensor is w for w in written):
                self.known.put(tensor, label)
        for target in written:
            mine = [label for r, label in zip(results, labels, strict=True) if r is target]
            self.known.write(target, mine[0] if mine else same_trouble(slots, str(func)))
        self._notice(func, given, result, slots)
        return result

    def _opaque(self, func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """Run an operation that takes functions: its results count as not known to keep elements apart."""
        slots = [(s, self.known.get(s.tensor)) for s in slots_of({"": pytree.tree_leaves((args, kwargs))})]
        result = func(*args, **kwargs)
        self.unruled.add(str(func))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.known.put(plain(tensor), same_trouble(slots, str(func)))
        return result

    def _notice(
        self, func: OpOverload, given: dict[str, object], result: object, slots: Sequence[tuple[Slot, Label]]
    ) -> None:
        """Note what leaves torch, and running averages that an operation writes though its schema does not say so."""
        tells = torch.Tag.dynamic_output_shape in func.tags or (result is not None and not tensors_in(result))
        if name_of(func) == "index":
            tells = any(slot.name == "indices" and slot.tensor.dtype in MASKS for slot, _ in slots)
        if tells and func.overloadpacket not in _SHAPES_ONLY and not self.checking and not looked_at_in_vain():
            where = users_line()
            for _, label in slots:
                for origin in label:
                    self.left.setdefault(origin, Trouble("unknown", f"{func}, which takes a value to Python,", where))
        if "running_mean" in given and given.get("training", True):
            for name in ("running_mean", "running_var"):
                average = given[name]
                if isinstance(average, Tensor):
                    self.known.write(plain(average), same_trouble(slots, str(func), "mixes"))


@contextmanager
def follow_dimensions() -> Iterator[Follower]:
    """Follow dimensions through everything that runs inside, in this thread.

    Example:
        >>> z = torch.zeros(3)
        >>> with follow_dimensions() as follower:
        ...     follower.mark(z, Origin("z", "n"), -1)
        ...     apart, mixed = z.exp() + 1, z - z.mean()
        >>> follower.verdict(apart, Origin("z", "n"), -1).kind, follower.verdict(mixed, Origin("z", "n"), -1).kind
        ('apart', 'mixes')
    """
    follower = Follower()
    with follower, _Classes(follower):
        yield follower


def _placed(value: Tensor, dim: int, plate: Plate) -> State:
    """Where a plate's elements lie in a drawn value."""
    size = value.shape[dim] if value.dim() >= -dim else 1
    if size == 1 and (plate.batch or 1) > 1:
        return Trouble("mixes", "one value for all elements of the plate", "")
    return Place(dim, size)


class _Classes(TorchFunctionMode):
    """A mode that reports calls of `one_hot` with a number of classes, which read values only to raise an error."""

    def __init__(self, follower: Follower) -> None:
        super().__init__()
        self.follower = follower

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.one_hot:
            return func(*args, **kwargs)
        given = (*args[1:], *kwargs.values())
        before = self.follower.checking
        self.follower.checking = any(isinstance(v, int) and v > 0 for v in given)
        try:
            return func(*args, **kwargs)
        finally:
            self.follower.checking = before
