"""Products of a sequence of elements under an associative operation, in a number of levels logarithmic in its length.

An element is a tuple of tensors with time third from the right, `[*, time, m, n]`: a matrix for each time, a column
`n = 1`, or a map of indices `m = 1`. The operation takes two such tuples, the earlier element first, for all times
at once.

References:
    Blelloch (1990), Prefix sums and their applications.
    Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers. arXiv:1905.13002.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from varigrad.shapes import join

TIME = -3
"""The dimension of time."""

SMALL = 8
"""Matrices of at most so many columns are multiplied entry by entry."""

Elements = tuple[Tensor, ...]
"""Tensors `[*, time, m, n]`, all of the same number of times."""

Operation = Callable[[Elements, Elements], Elements]
"""An associative operation: the earlier elements first."""


def product(elements: Elements, operation: Operation) -> Elements:
    """The product of all elements, earliest first.

    Args:
        elements: of at least one time.
        operation: called about `2 log2(times)` times, on half as many elements each time.

    Returns:
        Tensors `[*, 1, m, n]`.
    """
    left_over: list[Elements] = []
    while (times := _times(elements)) > 1:
        if times % 2:
            left_over.append(_at(elements, slice(times - 1, times)))
        elements = operation(_at(elements, slice(0, times - 1, 2)), _at(elements, slice(1, times, 2)))
    for last in reversed(left_over):
        elements = operation(elements, last)
    return elements


def states(start: Elements, elements: Elements, operation: Operation, act: Operation) -> Elements:
    """For each time, the state that the elements up to and with that time lead to.

    Args:
        start: the state before the first time, tensors `[*, 1, m, n]`.
        elements: tensors `[*, time, m, n]`.
        operation: the product of elements, called about `log2(times)` times.
        act: takes states and the elements that act on them, and is called about as often. Whether two elements act one
            after the other, or their product does, makes no difference.

    Returns:
        Tensors `[*, time, m, n]`, without the start.
    """
    times = _times(elements)
    if times < 2:
        return act(start, elements) if times else _at(start, slice(0, 0))
    even, odd = _at(elements, slice(0, None, 2)), _at(elements, slice(1, None, 2))
    after_odd = states(start, operation(_at(even, slice(0, times // 2)), odd), operation, act)
    between = _at(after_odd, slice(0, (times - 1) // 2))
    before_even = tuple(after(a, b) for a, b in zip(start, between, strict=True))
    after_even = act(before_even, even)
    return tuple(_interleaved(a, b) for a, b in zip(after_even, after_odd, strict=True))


def states_backwards(end: Elements, elements: Elements, operation: Operation, act: Operation) -> Elements:
    """For each time, the state that the elements from that time to the last one lead to, backwards from an end.

    Args:
        end: the state after the last time, tensors `[*, 1, m, n]`.
        elements: tensors `[*, time, m, n]`.
        operation: the product of elements, earlier ones first.
        act: takes states and the elements before them.

    Returns:
        Tensors `[*, time, m, n]`, without the end.
    """
    turned = tuple(e.flip(TIME) for e in elements)
    found = states(end, turned, lambda later, earlier: operation(earlier, later), act)
    return tuple(e.flip(TIME) for e in found)


def compose(earlier: Elements, later: Elements) -> Elements:
    """Maps of indices, one after the other: `later[earlier[index]]`. The first may be a single index.

    Args:
        earlier: one tensor of indices, `[*, time, 1, states]` or `[*, time, 1, 1]`.
        later: one tensor of indices, `[*, time, 1, states]`.
    """
    return (later[0].gather(-1, earlier[0]),)


def compose_backwards(earlier: Elements, later: Elements) -> Elements:
    """Maps of indices that lead from later times to earlier ones: `earlier[later[index]]`.

    Args:
        earlier: one tensor of indices, `[*, time, 1, states]`.
        later: one tensor of indices, `[*, time, 1, states]`.
    """
    return compose(later, earlier)


def matmul(first: Tensor, second: Tensor) -> Tensor:
    """The product of two matrices, for each time.

    Small ones are multiplied entry by entry, for all times at once: a compiled step then has one loop over the times,
    where it has a loop for each matrix of a batched product.

    Args:
        first: `[*, m, k]`.
        second: `[*, k, n]`.

    Returns:
        `[*, m, n]`.
    """
    if first.shape[-1] > SMALL:
        return first @ second
    return (first.unsqueeze(-1) * second.unsqueeze(-3)).sum(-2)


def after(first: Tensor, rest: Tensor) -> Tensor:
    """One after the other in time, where one may have fewer batch dimensions."""
    batch = join(first.shape[:TIME], rest.shape[:TIME])
    return torch.cat([e.expand(batch + e.shape[TIME:]) for e in (first, rest)], TIME)


def _times(elements: Elements) -> int:
    return elements[0].shape[TIME]


def _at(elements: Elements, times: slice) -> Elements:
    return tuple(e[..., times, :, :] for e in elements)


def _interleaved(even: Tensor, odd: Tensor) -> Tensor:
    """Entries of `even` and `odd` by turns; `even` may have one more."""
    count = odd.shape[TIME]
    batch = join(even.shape[:TIME], odd.shape[:TIME])
    even, odd = (e.expand(batch + e.shape[TIME:]) for e in (even, odd))
    pairs = torch.stack([even[..., :count, :, :], odd], TIME).flatten(TIME - 1, TIME)
    return pairs if even.shape[TIME] == count else torch.cat([pairs, even[..., count:, :, :]], TIME)
