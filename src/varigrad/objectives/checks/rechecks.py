"""Rechecks: decides when programs are analysed again, and warns if an earlier analysis was wrong.

Programs are analysed at steps 10, 100, 1000, ..., and whenever something changes that may matter: the mode of a module,
a buffer (from outside), the shapes of arguments, `requires_grad`, or the statements of a run. Once found mixed,
discontinuous or not vectorisable, a site or plate stays so: still correct, only noisier.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from operator import attrgetter
from typing import Protocol

import torch
from torch import Tensor, nn

from varigrad._torch_internals import DropoutNd, own_buffers, own_parameters
from varigrad.language.messages import evolve
from varigrad.objectives.checks.replays import FAILURES
from varigrad.objectives.discovery import POINTS, DiscoveryResult, branch_of
from varigrad.objectives.parameters import ParameterStore
from varigrad.objectives.reachable_state import ReachableState
from varigrad.objectives.run_record import RunRecord, Vectorization
from varigrad.user_warnings import warn_user

FIRST = 10
"""The first step at which everything is looked at again; then at every tenfold."""
KEPT = 64
"""For how many situations (modes of modules, shapes of arguments) findings are kept,"""
SHAPES = 8
"""and how many of these are looked at only because arguments differ: a loader may have no two batches of one shape."""
BRANCHES = 32
"""How many ways through a program are looked at that differ in statements,"""
OPERATIONS = 8
"""and how many that differ in their operations: random control flow may have no two runs of one number."""

Situation = tuple[object, ...]

# Asked of everything before every step: without a loop in Python.
_TRAINING, _RATE, _REQUIRED, _VERSION = map(attrgetter, ("training", "p", "requires_grad", "_version"))


class StaleCheckWarning(UserWarning):
    """What the first runs of a program had shown turned out not to hold, and steps may have been wrong.

    Example:
        >>> import warnings
        >>> from varigrad.objectives import StaleCheckWarning
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", StaleCheckWarning)  # steps stop where a check is out of date
    """


class Explored(Protocol):
    """Interface of an object that holds the analysis of some programs and can repeat it.

    Attributes:
        quiet: whether to warn of nothing.
        discovered: the result of the last look.
        owner: holds the programs' parameters.
        steps: how many steps have been taken.
    """

    quiet: bool

    @property
    def discovered(self) -> DiscoveryResult | None: ...

    @property
    def owner(self) -> ParameterStore: ...

    @property
    def steps(self) -> int: ...

    def reach(self) -> ReachableState:
        """The modules that the programs refer to."""

    def use(self, discovered: DiscoveryResult) -> None:
        """Take steps by this result."""

    def look(
        self,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        known: DiscoveryResult | None = None,
        base: tuple[RunRecord, Vectorization] | None = None,
        *,
        points: int = POINTS,
    ) -> DiscoveryResult:
        """Look at the programs, in addition to what is known."""


class Rechecks:
    """Decides when programs are analysed again, and keeps earlier results by situation.

    Attributes:
        due: how many steps have to have been taken for the next look that nothing but time calls for.
        since: how many had been taken at the last look.
    """

    def __init__(self) -> None:
        self.due: int = FIRST
        self.since: int = 0
        self._known: OrderedDict[Situation, DiscoveryResult] = OrderedDict()
        self._arguments: set[object] = set()
        self._branches: set[tuple[object, ...]] = set()
        self._operations: set[tuple[int, int]] = set()
        self._looked = True
        self._modules: tuple[nn.Module, ...] = ()
        self._dropouts: tuple[DropoutNd, ...] = ()
        self._buffers: tuple[Tensor, ...] = ()
        self._versions: list[int] = []
        self._leaves: tuple[Tensor, ...] = ()
        self._undeclared: tuple[Tensor, ...] = ()
        self._version = -1
        self._now: Situation | None = None
        self._copied = False
        self._beside: Rechecks | None = None

    @property
    def unsettled(self) -> bool:
        """Whether the situation of the first look is still to be noted."""
        return self._now is None

    def __getstate__(self) -> dict[str, object]:
        """When to look again; a copy finds its own modules in its first look."""
        kept = ("due", "since", "_known", "_arguments", "_branches", "_now")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__()  # type: ignore[misc]
        self.__dict__.update(state, _copied=True)

    def copy(self) -> Rechecks:
        """A copy that may change without changing this one."""
        twin = Rechecks()
        twin.__dict__.update(self.__dict__)
        twin._known, twin._branches, twin._arguments = self._known.copy(), set(self._branches), set(self._arguments)
        twin._operations, twin._beside = set(self._operations), None
        return twin

    def beside(self, explored: Explored) -> Rechecks:
        """A copy for runs beside the steps (an evaluation's, for example), which may change without changing this one.

        The same copy serves until this one learns something, so that evaluations in a row need one look, not one each.
        """
        if self._beside is None:
            self._beside = self.copy()
        copy = self._beside
        copy._now, copy._versions, copy._looked = self._now, self._versions, self._looked
        known = None if copy._now is None else copy._known.get(copy._now)
        if known is not None:  # with what such runs have added to it
            explored.use(known)
        return copy

    def situation(self, explored: Explored, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Situation:
        """All that discovery depends on: modes, shapes, gradients. Computed before every step, so it is cheap."""
        owner = explored.owner
        if self._copied:
            self._copied = False
            self.reach(explored.owner, explored.reach())
            flags = tuple(map(_REQUIRED, self._undeclared))  # a copy may see fewer tensors than were seen
            self._known = OrderedDict(((*known[:-1], flags), found) for known, found in self._known.items())
            self._now = None if self._now is None else (*self._now[:-1], flags)
        if owner.version != self._version:
            self._version, self._leaves = owner.version, tuple(p for _, p in owner.named_parameters())
        shapes = tuple(map(_shape, args))
        if kwargs:
            shapes = (*shapes, *((key, _shape(a)) for key, a in kwargs.items()))
        modes = (tuple(map(_TRAINING, self._modules)), tuple(map(_RATE, self._dropouts)))
        own, undeclared = tuple(map(_REQUIRED, self._leaves)), tuple(map(_REQUIRED, self._undeclared))
        return torch.is_grad_enabled(), shapes, own, modes, undeclared

    @property
    def undeclared(self) -> tuple[bool, ...]:
        """`requires_grad` of the tensors that the programs see and do not declare."""
        return tuple(map(_REQUIRED, self._undeclared))

    def is_due(self, explored: Explored, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
        """Whether something has changed that may matter, or it is time."""
        if self._now is None:  # the first look has been taken just now, and its step not yet
            return False
        if explored.steps >= self.due or (self._buffers and self._versions != list(map(_VERSION, self._buffers))):
            return True
        return self._now != self.situation(explored, args, kwargs)

    def recheck(self, explored: Explored, args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
        """Look again, or take what an earlier look found in this situation.

        Returns:
            Whether what was known before does not hold.
        """
        now = self.situation(explored, args, kwargs)
        known = self._known.get(now)
        late = explored.steps >= self.due
        touched = self._buffers and self._versions != list(map(_VERSION, self._buffers))
        if known is not None and not late and not touched:
            self._now = now
            explored.use(known)
            return False
        if known is None and not late and self._only_arguments(now):
            self._arguments.add(now[1])
            if len(self._arguments) > SHAPES:
                self._now = now
                explored.use(self._most_careful(explored))
                self.remember(explored)
                return False
        if late:
            self.due = _tenfold(explored.steps)
        try:
            found = explored.look(args, kwargs, known, points=1 if late else POINTS)
        except FAILURES:
            return False  # the step itself runs into it, too, and says so
        since, self.since = self.since, explored.steps
        if known is not None:
            found, worse = joined(known, found)
            if worse:
                self._warn(explored, worse, since)
        else:
            worse = []
        explored.use(found)
        self.settle(explored, args, kwargs)
        return bool(worse)

    def hasten(self, explored: Explored) -> None:
        """Look before the next step: something besides time has shown that the programs may have changed."""
        self.due, self._beside = min(self.due, explored.steps), None

    def begin(self, explored: Explored) -> None:
        """Start: everything has been looked at just now."""
        self.due, self.since = _tenfold(explored.steps), explored.steps

    def settle(self, explored: Explored, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Note that what is discovered belongs to the present situation."""
        self._now, self._looked = self.situation(explored, args, kwargs), True
        self._arguments.add(self._now[1])
        self.remember(explored)

    def remember(self, explored: Explored) -> None:
        """Keep what is discovered for the present situation."""
        finding, self._beside = explored.discovered, None
        if finding is not None and self._now is not None:
            self._known[self._now] = finding
            self._known.move_to_end(self._now)
            self._branches.add(finding.branch)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)

    def reach(self, owner: ParameterStore, reached: ReachableState) -> None:
        """Watch the modes and buffers of these modules, and the tensors that may require a gradient later."""
        self._modules, self._beside = tuple(reached.modules.values()), None
        own = {id(p) for _, p in owner.named_parameters()}
        held = [p for m in self._modules for p in own_parameters(m).values() if p is not None]
        seen = {id(p): p for p in (*held, *reached.tensors.values()) if id(p) not in own}
        self._undeclared = tuple(p for p in seen.values() if p.is_floating_point() or p.is_complex())
        self._dropouts = tuple(m for m in self._modules if isinstance(m, DropoutNd))
        buffers = {id(b): b for m in self._modules for b in own_buffers(m).values() if b is not None}
        self._buffers = tuple(b for b in buffers.values() if not b.is_inference())
        self.note_buffers()

    def note_buffers(self) -> None:
        """Take what was written to buffers up to now for the programs' own doing."""
        if self._buffers:
            self._versions = list(map(_VERSION, self._buffers))

    def note_branch(
        self,
        explored: Explored,
        run: RunRecord,
        vectorization: Vectorization,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> bool:
        """Look again if a run took a branch that no look has seen.

        Returns:
            Whether that changes what is known.
        """
        branch = branch_of(run)
        other = branch not in self._branches and len(self._branches) < BRANCHES
        if self._looked:  # the look that has just been taken went this way, too
            self._looked = False
            self._operations.add(run.operations)
        unlike = run.operations not in self._operations and len(self._operations) < OPERATIONS
        if not (other or unlike):
            return False
        self._branches.add(branch)
        self._operations.add(run.operations)
        known = explored.discovered
        assert known is not None
        try:
            found = explored.look(args, kwargs, known, (run, vectorization), points=POINTS if other else 1)
        except FAILURES:
            return False
        found, worse = joined(known, found)
        if worse:
            explored.use(found)
            self.remember(explored)
        return bool(worse)

    def _only_arguments(self, now: Situation) -> bool:
        """Whether a new situation differs from the present one in the shapes of arguments alone."""
        before = self._now
        return before is not None and (now[0], now[2:]) == (before[0], before[2:])

    def _most_careful(self, explored: Explored) -> DiscoveryResult:
        """All results in one: what was mixed in any situation counts as mixed."""
        found = explored.discovered
        assert found is not None
        for other in self._known.values():
            found, _ = joined(found, other)
        return found

    @staticmethod
    def _warn(explored: Explored, worse: list[str], since: int) -> None:
        if not explored.quiet:
            steps = f"steps {since + 1} to {explored.steps}" if explored.steps > since + 1 else f"step {explored.steps}"
            warn_user(
                f"{'; '.join(worse)}. That did not show before, so {steps} may have used gradients with a bias. "
                "From here on it is taken into account: right, and noisier or slower",
                StaleCheckWarning,
            )


def joined(known: DiscoveryResult, found: DiscoveryResult) -> tuple[DiscoveryResult, list[str]]:
    """An earlier result with what a later one adds to it, and a sentence about each thing that it adds."""
    worse: list[str] = []
    mixed = dict(known.vectorization.mixed)
    for site, plates in found.vectorization.mixed.items():
        new = plates - mixed.get(site, frozenset())
        if new and site in known.vectorization.order:
            names = ", ".join(map(repr, sorted(new)))
            how = [found.sentences[site, plate] for plate in sorted(new) if (site, plate) in found.sentences]
            because = f" ({'; '.join(how)})" if how else ""
            worse.append(f"{site!r}: what reads it mixes the elements of plate {names}{because}")
        mixed[site] = mixed.get(site, frozenset()) | plates
    side, reason = known.side_by_side, known.reason
    if side and not found.side_by_side:
        side, reason = False, found.reason
        worse.append(f"particles or alternatives cannot run side by side: {reason}")
    nondifferentiable = found.nondifferentiable - known.nondifferentiable
    for site in sorted(nondifferentiable):
        worse.append(
            f"{site!r}: its value goes through a comparison, rounding, conversion or pole, or loses its derivative"
        )
    if not worse:
        return known, worse
    return evolve(
        known,
        vectorization=evolve(known.vectorization, mixed=mixed),
        side_by_side=side,
        reason=reason,
        nondifferentiable=known.nondifferentiable | found.nondifferentiable,
        plan=found.plan,
        sentences={**known.sentences, **found.sentences},
        crossed={**known.crossed, **found.crossed},
    ), worse


def _tenfold(steps: int) -> int:
    """The smallest power of ten above a number of steps."""
    due = FIRST
    while due <= steps:
        due *= 10
    return due


def _shape(value: object) -> object:
    """What discovery may depend on in an argument, besides the numbers in tensors."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (tuple, list)):
        return tuple([_shape(v) for v in value])
    if isinstance(value, dict):
        return tuple([(repr(k), _shape(v)) for k, v in value.items()])
    return type(value)
