"""Copies of distributions that remember nothing, so that a log-density is that of the parameters as they are.

Transforms keep their last value and its image (`cache_size=1`), distributions keep what they have computed lazily, and
classes of users may keep anything. A draw that is made without gradients would hand its half-finished results to the
log-density of the same object, and an object that lives outside of a program those of one step to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any

from torch import Tensor, nn
from torch import distributions as td
from torch.distributions.utils import lazy_property

from varigrad.distributions.delta import Delta
from varigrad.distributions.fast_families import Lazy
from varigrad.distributions.flows.base import TransformModule
from varigrad.distributions.tensor_walk import is_known_type, replace_tensors
from varigrad.distributions.unit import Unit

_PLAIN = (
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


def fresh(distribution: td.Distribution) -> td.Distribution:
    """The distribution itself or, where anything in it could remember results, a copy that does not.

    The copy shares all tensors and modules. What is computed of it, or drawn from it, stays with the copy.
    """
    memory = _memory_of(type(distribution))  # type: ignore[arg-type]
    if memory is _Memory.NOTHING:
        return distribution
    if memory is _Memory.ITSELF:
        twin: td.Distribution = object.__new__(type(distribution))
        twin.__dict__.update(distribution.__dict__)
        _forget(twin)
        return twin
    if not _remembers(distribution, set()):
        return distribution
    copied = replace_tensors(distribution, _same)
    for part in _all_parts(copied, set()):
        _forget(part)
    return copied


@lru_cache(maxsize=1024)
def _memory_of(kind: type) -> _Memory:
    if not is_known_type(kind):
        return _Memory.ANYTHING
    if issubclass(kind, (*_PLAIN, TransformModule)):
        return _Memory.NOTHING  # a flow knows by itself when what it remembers is out of date
    lazy = any(isinstance(entry, (lazy_property, Lazy)) for parent in kind.__mro__ for entry in vars(parent).values())
    return _Memory.ITSELF if lazy else _Memory.PARTS


def _remembers(part: object, seen: set[int]) -> bool:
    """Whether a distribution or transform, or anything in it, could keep results."""
    seen.add(id(part))
    memory = _memory_of(type(part))  # type: ignore[arg-type]
    if memory is not _Memory.PARTS:
        return memory is not _Memory.NOTHING
    if isinstance(part, td.Transform) and part._cache_size:
        return True
    return any(_remembers(inner, seen) for inner in _held(part) if id(inner) not in seen)


def _held(part: object) -> Iterator[object]:
    for value in vars(part).values():
        for entry in value if type(value) in (list, tuple) else (value,):
            if isinstance(entry, (td.Distribution, td.Transform)):
                yield entry


def _all_parts(part: object, seen: set[int]) -> Iterator[object]:
    seen.add(id(part))
    yield part
    for inner in _held(part):
        if id(inner) not in seen:
            yield from _all_parts(inner, seen)


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


def _same(tensor: Tensor) -> Tensor:
    return tensor
