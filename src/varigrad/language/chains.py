"""`scan`: a chain of rounds in which each round's choices depend on those of the round before: hidden Markov models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from varigrad.errors import PlateError, ShapeError
from varigrad.language.messages import Chain, Factor, Forward, Message, Record, Sample, evolve
from varigrad.language.plates import InPlate, plate
from varigrad.language.runtime import Scope, apply, handlers_in_force

Carry = object
"""What one round hands to the next: a value, or tuples, lists and dictionaries of values."""

Step = Callable[[Carry, object], Carry]


def scan(step: Step, init: Carry, xs: object, *, name: str = "time", dim: int | None = None) -> None:
    """Run `carry = step(carry, x)` once for every row of `xs`: a chain, such as a hidden Markov model's.

    In round `t` a site that the step calls "z" is the site `z_0`, `z_1`, ... of the program. Where an objective sums
    these sites out (`ELBO(marginal="z_*")`), all rounds but the first run at once, along the dimension `dim`, and the
    sums over a chain of T rounds need O(log T) products of tables. The carry must then be made of values of sites.

    Args:
        step: a function of the carry and of the rows of one round or of several. It samples, and returns the next
            carry. Rows keep their leading dimension, which lies at batch dimension `dim`.
        init: the carry of the first round.
        xs: `[T, ...]`, or tuples, lists and dictionaries of such; the leading dimension lies left of those of the
            plates around.
        name: of the plates that the rounds are in: `time_0`, ...
        dim: the batch dimension of the rounds, negative; default: left of the plates around. Name it if the step
            enters plates, which lie to its right.

    Raises:
        ShapeError: `xs` is empty, its parts have different lengths, or fewer dimensions than the plates around ask for.
        PlateError: the dimension is taken, or not negative.
        SiteError: the carry is not made of values of sites, where they are summed out.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> transition = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        >>> def model(y):
        ...     def step(z, y):
        ...         z = vg.sample("z", dist.Categorical(transition[z]))
        ...         vg.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)
        ...         return z
        ...     vg.scan(step, torch.tensor(0), y)
        >>> bound = vg.ELBO(marginal="z_*")(model, lambda y: None)
        >>> round(bound.evaluate(torch.tensor([0.1, 1.8, 2.2])), 3)
        -4.971

    References:
        Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers. arXiv:1905.13002.
    """
    length = _length(xs)
    if dim is None:
        dim = min((h.plate.dim for h in handlers_in_force() if isinstance(h, InPlate) and h.plate.dim), default=0) - 1
    if isinstance(dim, bool) or not isinstance(dim, int) or dim >= 0:
        raise PlateError(f"dim must be a negative whole number, got {dim!r}", site=name)
    for leaf in leaves(xs):
        assert isinstance(leaf, Tensor)
        if leaf.dim() < -dim:
            raise ShapeError(
                f"rows of shape {tuple(leaf.shape)} have their leading dimension at dim {-leaf.dim()}, and the rounds "
                f"of {name!r} lie at dim {dim}",
                because="the plates around, or those that dim= leaves room for, lie right of the rounds",
                try_=f"x.reshape({', '.join(map(str, [length, *(1,) * (-dim - leaf.dim()), *leaf.shape[1:]]))})",
            )
    chain = apply(Chain(name, length, dim))
    if chain.at_once is not None:
        chain.at_once(step, init, xs)
        return
    carry = init
    for t in range(length if chain.most is None else min(length, chain.most)):
        with rounds(chain, t, t + 1):
            carry = step(carry, rows(xs, t, t + 1))


@contextmanager
def rounds(chain: Chain, start: int, stop: int) -> Iterator[None]:
    """The plate of some rounds, inside of which sites have these rounds in their names."""
    label = label_of(start, stop)

    def rename(message: Message, forward: Forward) -> Message:
        if not isinstance(message, (Sample, Factor, Record)):
            return forward(message)
        return evolve(forward(evolve(message, name=f"{message.name}_{label}")), name=message.name)

    with plate(f"{chain.name}_{label}", stop - start, dim=chain.dim), Scope(rename):
        yield


def label_of(start: int, stop: int) -> str:
    """`3` for a single round, `3-7` for several."""
    return str(start) if stop == start + 1 else f"{start}-{stop - 1}"


def rows(xs: object, start: int, stop: int) -> object:
    """Some rows of every tensor in a structure."""
    return mapped(lambda x: x[start:stop], xs)


def mapped(function: Callable[[Tensor], object], structure: object) -> object:
    """A structure of tuples, lists and dictionaries with a function applied to every leaf."""
    if isinstance(structure, Mapping):
        return {key: mapped(function, value) for key, value in structure.items()}
    if isinstance(structure, (tuple, list)):
        parts = [mapped(function, value) for value in structure]
        named = getattr(type(structure), "_make", None)
        return named(parts) if named is not None else type(structure)(parts)
    return function(structure)  # type: ignore[arg-type]  # the function says what is wrong with other leaves


def leaves(structure: object) -> list[object]:
    """The leaves of a structure of tuples, lists and dictionaries, in order."""
    found: list[object] = []
    mapped(found.append, structure)
    return found


def _length(xs: object) -> int:
    """The common length of all tensors in a structure."""
    lengths = set()
    for leaf in leaves(xs):
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            raise ShapeError(
                f"scan needs tensors with a leading dimension, got {type(leaf).__name__}",
                try_="torch.arange(T) for rounds that have no data",
            )
        lengths.add(len(leaf))
    if len(lengths) != 1 or lengths == {0}:
        raise ShapeError(
            f"scan needs tensors of one length, which is at least 1, got {sorted(lengths)}",
            try_="torch.arange(T) for rounds that have no data",
        )
    return lengths.pop()
