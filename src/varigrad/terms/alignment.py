"""Whether a run keeps the elements of a plate, or of lanes, apart: found from its operations, not from its numbers.

The cost of one element of a plate may be the terms of that element alone only as long as nothing combines elements on
the way: a sum, a flip, batch normalisation. A comparison of numbers can miss that where a gate is zero at first. So
a `Follower` sees every operation that reaches torch's dispatcher and knows, for each tensor, along which of its
dimensions the elements of which site and plate lie. What it calls "apart" is proven for all parameters and data of
the same shapes, as long as the same operations run. What it does not know is "unknown", never "apart".

The first result of a run is not changed by any of this: nothing is drawn, and no number is looked at.

References:
    Cousot, Cousot (1977), Abstract interpretation. The abstract value of a tensor is where its elements come from.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from varigrad.language.messages import Plate, Sample
from varigrad.terms.alignment_layers import MASKS
from varigrad.terms.alignment_memory import Known, Label, Origin, State, Trouble, joined
from varigrad.terms.alignment_rules import Answer, Call, Kind, Place, Rule, Slot
from varigrad.terms.alignment_table import name_of, rule_of
from varigrad.terms.provenance import Escapes, Provenance, Tracked
from varigrad.terms.term import Term

LANES = Origin("", "lanes")
"""The dimension along which alternatives lie; all sites share it."""


@dataclass(frozen=True)
class Verdict:
    """Whether elements stay apart on the way to a density.

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
        """Whether it is proven."""
        return self.kind == "apart"

    def sentence(self) -> str:
        """What happens, for a message; empty if the elements are apart."""
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


class Follower(TorchDispatchMode):
    """Knows where the elements of drawn values lie in every tensor computed from them, while it is in force."""

    def __init__(self) -> None:
        super().__init__()
        self.known = Known()
        self.left: dict[Origin, Trouble] = {}
        """What has been turned into a Python number, or told by a shape."""
        self.plates_of: dict[str, tuple[Plate, ...]] = {}
        self._followed: set[Origin] = set()
        self.unruled: set[str] = set()
        """Operations on followed tensors for which there is no rule."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nobody compiles a run that is followed, and torch would import its compiler to prevent it

    # -- saying what to follow --

    def mark(self, tensor: Tensor, origin: Origin, dim: int) -> None:
        """Follow the elements along a dimension (negative) of a tensor, in addition to what it carries."""
        size = tensor.shape[dim]
        if size > 1:
            plain = _plain(tensor)
            self.known.put(plain, {**self.known.get(plain), origin: Place(dim, size)})

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
                if plate.name in token.crossed or dim is None:
                    state: State = Trouble("mixes", f"the draw of {message.name!r}, outside of the plate,", "")
                else:
                    state = self._placed(value, dim - event)
                label[origin] = joined(label[origin], state) if origin in label else state
        for name, dim in here.items():
            label[Origin(message.name, name)] = self._placed(value, dim - event)
        if lane is not None and value.dim() - event >= -lane:
            label[LANES] = self._placed(value, lane - event)
        with _unfollowed():
            copy = value.clone()
        label = {origin: state for origin, state in label.items() if not _single(state)}
        self._followed |= label.keys()
        self.known.put(_plain(copy), label)
        return copy

    @staticmethod
    def _placed(value: Tensor, dim: int) -> State:
        size = value.shape[dim] if value.dim() >= -dim else 1
        return Place(dim, size)

    # -- asking --

    def verdict(self, tensor: Tensor, origin: Origin, dim: int) -> Verdict:
        """Whether the tensor's entries along a dimension (negative) depend on the same elements of the origin only."""
        state = self.known.get(_plain(tensor)).get(origin)
        left = self.left.get(origin)
        if isinstance(state, Trouble):
            return Verdict(state.kind, state.operation, state.where)
        if state is not None and state != Place(dim, tensor.shape[dim] if tensor.dim() >= -dim else 1):
            return Verdict("mixes", f"what moves dimension {dim} to {state.dim}, or repeats it,")
        return APART if left is None else Verdict(left.kind, left.operation, left.where)

    def plates(self, terms: Iterable[Term]) -> dict[str, dict[str, Verdict]]:
        """For each site and each plate around it, whether all densities in the plate keep its elements apart.

        Plates that are known to be crossed on the way to a density are left out of the question there.
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
            return APART  # crossed: nobody takes this cost element by element
        origin = Origin(site, plate.name)
        found = self.verdict(term.log_prob, origin, plate.dim)
        if found.apart and origin in self._followed and origin not in self.known.get(_plain(term.log_prob)):
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

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _bound(func, args, kwargs)
        slots = [(slot, label) for slot in _slots(given) if (label := self.known.get(slot.tensor))]
        if not slots:
            return func(*args, **kwargs)
        rule = rule_of(func)
        if rule is None and func._can_decompose():
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if rule is None:
            self.unruled.add(str(func))
        result = func(*args, **kwargs)
        results = [_plain(r) for r in _flat(result)]
        call = Call(name_of(func), given, results)
        labels = _labels(call, rule, slots, str(func))
        written = _written(func, given)
        for tensor, label in zip(results, labels, strict=True):
            if not any(tensor is w for w in written):
                self.known.put(tensor, label)
        for target in written:
            mine = [label for r, label in zip(results, labels, strict=True) if r is target]
            self.known.write(target, mine[0] if mine else _all_unknown(slots, str(func)))
        self._notice(func, given, result, slots)
        return result

    def _notice(self, func: Any, given: dict[str, Any], result: Any, slots: Sequence[tuple[Slot, Label]]) -> None:
        """What leaves torch, and running averages that an operation writes without saying so."""
        tells = torch.Tag.dynamic_output_shape in func.tags or (result is not None and not _flat(result))
        if name_of(func) == "index":
            tells = any(slot.name == "indices" and slot.tensor.dtype in MASKS for slot, _ in slots)
        if tells and func.overloadpacket not in _SHAPES_ONLY and not _harmless():
            where = _line()
            for _, label in slots:
                for origin in label:
                    self.left.setdefault(origin, Trouble("unknown", f"{func}, which takes a value to Python,", where))
        if "running_mean" in given and given.get("training", True):
            for name in ("running_mean", "running_var"):
                if isinstance(given[name], Tensor):
                    self.known.write(_plain(given[name]), _all_unknown(slots, str(func), "mixes"))


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
    with follower:
        yield follower


_aten = torch.ops.aten
_SHAPES_ONLY = frozenset({_aten._fused_sdp_choice, _aten.is_same_size, _aten.size, _aten.stride})
_OURS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent), "<")


def _labels(call: Call, rule: Rule | None, slots: Sequence[tuple[Slot, Label]], operation: str) -> list[Label]:
    """What each result depends on."""
    found: list[dict[Origin, State]] = [{} for _ in call.results]
    lines: dict[Kind, Trouble] = {}

    def trouble(kind: Kind) -> Trouble:
        if kind not in lines:
            lines[kind] = Trouble(kind, operation, _line())
        return lines[kind]

    for slot, label in slots:
        answers: dict[Place, Sequence[Answer]] = {}
        for origin, state in label.items():
            if isinstance(state, Trouble):
                states: Sequence[State | Kind | None] = [
                    None if a is None else state for a in _answered(call, rule, slot, Place(-1, 1))
                ]
            else:
                if state not in answers:
                    answers[state] = _answered(call, rule, slot, state)
                states = answers[state]
            for result, answer in zip(found, states, strict=True):
                if answer is None:
                    continue
                new = trouble(answer) if isinstance(answer, str) else answer
                before = result.get(origin)
                if before is not None and new != before:
                    new = joined(before, new)
                    if isinstance(new, Trouble) and not new.where:
                        new = trouble(new.kind)
                result[origin] = new
    return list(found)


def _answered(call: Call, rule: Rule | None, slot: Slot, place: Place) -> Sequence[Answer]:
    if rule is None:
        return ["unknown"] * len(call.results)
    try:
        answers = rule(call, slot, place)
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, ZeroDivisionError):
        answers = "unknown"  # a form of the operation that the rule does not know
    every = [answers] * len(call.results) if isinstance(answers, Place | str | None) else answers
    if len(every) != len(call.results):
        return ["unknown"] * len(call.results)
    return [_checked(answer, result) for answer, result in zip(every, call.results, strict=True)]


def _checked(answer: Answer, result: Tensor) -> Answer:
    """The answer, if the result has such a dimension."""
    if not isinstance(answer, Place):
        return answer
    fits = answer.dim < 0 and result.dim() >= -answer.dim
    return answer if fits and result.shape[answer.dim] % (answer.size * answer.inner) == 0 else "unknown"


def _all_unknown(slots: Sequence[tuple[Slot, Label]], operation: str, kind: Kind = "unknown") -> Label:
    trouble = Trouble(kind, operation, _line())
    return {origin: trouble for _, label in slots for origin in label}


def _bound(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, with their defaults."""
    given = {}
    for i, argument in enumerate(func._schema.arguments):
        if i < len(args):
            given[argument.name] = args[i]
        elif argument.name in kwargs:
            given[argument.name] = kwargs[argument.name]
        else:
            given[argument.name] = argument.default_value if argument.has_default_value() else None
    return given


def _slots(given: dict[str, Any]) -> Iterator[Slot]:
    for name, value in given.items():
        if isinstance(value, Tensor):
            yield Slot(name, 0, _plain(value))
        elif isinstance(value, (list, tuple)):
            for i, entry in enumerate(value):
                if isinstance(entry, Tensor):
                    yield Slot(name, i, _plain(entry))


def _written(func: Any, given: dict[str, Any]) -> list[Tensor]:
    if not func._schema.is_mutable:
        return []
    names = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    names = [name for name in names if not name.startswith("running_")]  # only if it trains: see `_notice`
    return [slot.tensor for slot in _slots({name: given[name] for name in names})]


def _flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [r for r in result if isinstance(r, Tensor)] if isinstance(result, (tuple, list)) else []


def _plain(tensor: Tensor) -> Tensor:
    return tensor._plain if type(tensor) is Tracked else tensor


def _single(state: State) -> bool:
    return isinstance(state, Place) and state.size <= 1


@contextmanager
def _unfollowed() -> Iterator[None]:
    with torch.utils._python_dispatch._disable_current_modes():
        yield


def _frames(start: int) -> Iterator[Any]:
    frame = sys._getframe(start)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def _line() -> str:
    """The user's line that is running now."""
    for frame in _frames(2):
        name = frame.f_code.co_filename
        if not name.startswith(_OURS):
            return f"{Path(name).name}:{frame.f_lineno}: {linecache.getline(name, frame.f_lineno).strip()}"
    return ""


def _harmless() -> bool:
    """Whether a value is looked at only to raise an error, or by a sampler, whose draws follow the density anyway."""
    for frame in _frames(2):
        name = frame.f_code.co_filename
        if name in (_VALIDATION, _SAMPLER) and frame.f_code.co_name in ("__init__", "_validate_sample", "draw"):
            return True
        if not name.startswith(_OURS):
            return False
    return False


_VALIDATION = str(Path(torch.distributions.distribution.__file__))
_SAMPLER = str(Path(__file__).parents[1] / "distributions" / "source.py")
