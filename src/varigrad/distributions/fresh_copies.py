"""Copies of distributions without cached results, so that a log-density uses the current parameters.

Transforms keep their last value and its image (`cache_size=1`), distributions keep lazily computed attributes, and
users' classes may keep anything. A draw made without gradients would pass stale cached results to the same object's
log-density; an object made outside the program would carry them from one step to the next.
"""

from __future__ import annotations

from copy import copy
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any, TypeVar
from weakref import ref

from torch import Size, Tensor, nn
from torch import distributions as td
from torch.distributions.utils import lazy_property

from varigrad.distributions.delta import Delta
from varigrad.distributions.fast_families import Lazy
from varigrad.distributions.flows.base import TransformModule
from varigrad.distributions.mixin import Independent
from varigrad.distributions.tensor_walk import is_known_type
from varigrad.distributions.unit import Unit

P = TypeVar("P", bound=td.Distribution | td.Transform)

_FAMILIES = (
    td.Beta, td.Cauchy, td.Dirichlet, td.Exponential, td.Gamma, td.Gumbel, td.HalfCauchy, td.HalfNormal,
    td.InverseGamma, td.Laplace, td.LogNormal, td.Normal, td.Pareto, td.Poisson, td.StudentT, td.Uniform, td.VonMises,
    td.Weibull, Delta,
    Unit,
)  # fmt: skip
"""Families that keep nothing that depends on their parameters, however they are used."""


class _Memory(Enum):
    NOTHING = "keeps nothing"
    ITSELF = "keeps what it has computed lazily"
    PARTS = "keeps what its parts keep"
    ANYTHING = "a class that is not known"


_NOTHING, _PARTS = _Memory.NOTHING, _Memory.PARTS
_REMEMBERING = td.Distribution, td.Transform
_INDEPENDENT = td.Independent, Independent
_NUMBERS = frozenset({Tensor, nn.Parameter, Size, bool, int, float, type(None)})
"""Types of attributes that hold no part."""


def fresh(distribution: td.Distribution) -> td.Distribution:
    """The distribution itself or, where anything in it could remember results, a copy that does not.

    The copy shares all tensors and modules. What is computed of it, or drawn from it, stays with the copy.
    """
    memory = _memory_of(type(distribution))  # type: ignore[arg-type]
    if memory is _NOTHING:
        return distribution
    if memory is _PARTS and (_holds_one_that_forgets(distribution) or not _remembers(distribution, set())):
        return distribution
    twin: td.Distribution = _twin(distribution, {})
    return twin


def _holds_one_that_forgets(part: td.Distribution) -> bool:
    """Whether a distribution is an `Independent` of a family that keeps nothing: the most common one with parts."""
    return type(part) in _INDEPENDENT and _memory_of(type(part.base_dist)) is _NOTHING  # type: ignore[attr-defined, arg-type]


@lru_cache(maxsize=1024)
def _memory_of(kind: type) -> _Memory:
    if not is_known_type(kind):
        return _Memory.ANYTHING
    if issubclass(kind, (*_FAMILIES, TransformModule)):
        return _Memory.NOTHING  # a flow knows by itself when what it remembers is out of date
    lazy = any(isinstance(entry, (lazy_property, Lazy)) for parent in kind.__mro__ for entry in vars(parent).values())
    return _Memory.ITSELF if lazy else _Memory.PARTS


def _remembers(part: object, seen: set[int]) -> bool:
    """Whether a distribution or transform, or anything in it, could keep results."""
    seen.add(id(part))
    memory = _memory_of(type(part))  # type: ignore[arg-type]
    if memory is not _PARTS:
        return memory is not _NOTHING
    own = part.__dict__
    if own.get("_cache_size"):  # of a transform
        return True
    for value in own.values():
        kind = type(value)
        if kind in _NUMBERS:
            continue
        for entry in value if kind is list or kind is tuple else (value,):
            if isinstance(entry, _REMEMBERING) and id(entry) not in seen and _remembers(entry, seen):
                return True
    return False


def _twin(part: P, twins: dict[int, object]) -> P:
    """A copy of a distribution or transform, and of all that it is made of, that has forgotten what was computed."""
    twin = twins[id(part)] = object.__new__(type(part))
    own = twin.__dict__
    own.update(part.__dict__)
    for key, value in part.__dict__.items():
        if type(value) is ref:
            own[key] = None  # the inverse that a transform refers to weakly is the original's; a twin makes its own
        elif type(value) not in _NUMBERS:
            own[key] = _inside(value, twins)
    _forget(twin)
    return twin


def _inside(value: Any, twins: dict[int, object]) -> object:
    if isinstance(value, _REMEMBERING):
        return twins[id(value)] if id(value) in twins else _twin(value, twins)
    kind = type(value)
    return kind([_inside(entry, twins) for entry in value]) if kind is list or kind is tuple else value


def _forget(part: object) -> None:
    """Take away what was computed of a part before; containers of a user's class are not shared."""
    own: dict[str, Any] = part.__dict__
    if "_cached_x_y" in own:
        own["_cached_x_y"] = None, None
    given = own.get("_param")
    if given is not None and "probs" in own and "logits" in own:
        del own["logits" if own["probs"] is given else "probs"]
    kind: type = type(part)
    if not is_known_type(kind) and not isinstance(part, nn.Module):
        own.update({name: copy(value) for name, value in own.items() if isinstance(value, (dict, set))})
    for name in ("_gamma", *_cached_by(kind)):  # the first is a negative binomial's
        own.pop(name, None)


@lru_cache(maxsize=1024)
def _cached_by(kind: type) -> tuple[str, ...]:
    """Names of the attributes that a class of the user's computes once and keeps."""
    return tuple(
        name for parent in kind.__mro__ for name, entry in vars(parent).items() if isinstance(entry, cached_property)
    )
