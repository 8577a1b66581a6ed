"""Names of the numbers that a compiled step overwrites, so that error messages can name those that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from varigrad._torch_internals import pytree
from varigrad.compile.step.flat_state import Bucket, FlatState
from varigrad.compile.trace.traced_function import Difference
from varigrad.objectives.bound import Bound

_METRICS = ("the loss", "the norm of the gradient", "whether the step was finite")

Telling = Callable[[int], str]
"""A function from the number of an element to its name."""


class OutputNames:
    """The names of the tensors that a step overwrites, in the order of `TracedFunction`'s targets.

    Args:
        bound: has the parameters, by name.
        flat_state: what the step keeps, in order.
        buffers: buffers of modules that the program writes in place.
    """

    def __init__(self, bound: Bound, flat_state: FlatState, buffers: Sequence[Tensor]) -> None:
        names = {id(p): name for name, p in bound.named_parameters()}
        moments = () if flat_state.rule is None else flat_state.rule.moments
        self._tell: list[Telling] = []
        for bucket in flat_state.buckets:
            for what in ("", *moments):
                self._tell.append(_in_bucket(bucket, names, what))
            self._tell.append(_always("how many steps the optimiser has taken"))
        own = flat_state.parameters if flat_state.rule is None else ()
        self._tell += [_entry(f"the gradient of {_quoted(names, p)}", p.numel()) for p in own]
        paths = pytree.tree_flatten_with_path(flat_state.tree())[0]
        for path, leaf in paths:
            if isinstance(leaf, Tensor):
                site = getattr(path[0], "key", "") if path else ""
                self._tell.append(_entry(f"the state of the estimator at {site!r}", leaf.numel()))
        self._tell.append(_always("whether steps are still taken"))
        self._tell.append(lambda i: _METRICS[i % len(_METRICS)])
        self._tell.append(_always("the number of the step"))
        of_modules = {id(b): name for name, b in bound.named_buffers()}
        self._tell += [_entry(f"the buffer {of_modules.get(id(b), '')!r}", b.numel()) for b in buffers]

    def in_words(self, difference: Difference) -> str:
        """Say which quantity differs, and by how much."""
        what = self._tell[difference.target](difference.element)
        in_words = f"{what} is {difference.found:.9g} by graph and {difference.expected:.9g} by Python"
        if not difference.steady:
            in_words += ", and another number when Python runs the step again, on the same random numbers"
        return in_words


def _in_bucket(bucket: Bucket, names: dict[int, str], moment: str) -> Telling:
    def tell(element: int) -> str:
        number = max(i for i, start in enumerate(bucket.starts) if start <= element)
        p, inside = bucket.parameters[number], element - bucket.starts[number]
        what = f"parameter {_quoted(names, p)}" if not moment else f"{moment!r} of the gradient of {_quoted(names, p)}"
        return _entry(what, p.numel())(inside)

    return tell


def _entry(what: str, count: int) -> Telling:
    return lambda i: what if count == 1 else f"{what} (entry {i})"


def _always(what: str) -> Telling:
    return lambda _: what


def _quoted(names: dict[int, str], parameter: nn.Parameter) -> str:
    return repr(names.get(id(parameter), "(no name)"))
