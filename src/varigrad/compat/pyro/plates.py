"""`plate`: Pyro's plates, which yield their indices, and can also loop or wrap a function."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, Self, SupportsInt, TypeVar

import torch
from torch import Tensor

from varigrad.errors import PlateError, check_whole
from varigrad.language import plates as native
from varigrad.language.messages import InUse
from varigrad.language.runtime import apply

F = TypeVar("F")
P = ParamSpec("P")
R = TypeVar("R")


class plate:  # noqa: N801 - Pyro's name
    """Declares independence: `with plate("data", n) as indices:`, `for i in plate("data", n):`, or around a function.

    A minibatch is drawn when the plate is made, and is the same in model and guide, whichever of them asks for it.

    Args:
        name: unique among the program's plates.
        size: number of elements; None leaves it to the sites inside (vectorised only, no subsampling).
        subsample_size: draw that many elements; log-densities inside count `size / subsample_size`.
        subsample: use these indices instead, anything with a length.
        dim: the negative batch dimension to occupy; default: the rightmost free one.
        use_cuda, device: where the indices are to be.

    Raises:
        PlateError: see `varigrad.plate`.
    """

    def __init__(
        self,
        name: str,
        size: int | None = None,
        subsample_size: int | None = None,
        subsample: Tensor | Sequence[int] | None = None,
        dim: int | None = None,
        use_cuda: bool | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        size = _whole(size)
        self.device: torch.device | str | None = "cuda" if use_cuda and device is None else device
        if subsample is not None:
            subsample = torch.as_tensor(subsample)
            if size is None:
                raise PlateError("subsample needs a size", site=name)
        self._plate = native.plate(name, size, _whole(subsample_size), subsample, dim)
        if size is not None and subsample is None and subsample_size in (None, size):
            # A model that names no minibatch takes its guide's.
            self._plate.indices = apply(InUse(name)).value
        drawn = self._plate._subsample()
        if drawn is not None and self.device is not None:
            self._plate.indices = drawn.to(self.device)
        self._all: Tensor | None = None

    @property
    def name(self) -> str:
        """The name of the plate."""
        return self._plate.name

    @property
    def size(self) -> int | None:
        """The full size of the plate."""
        return self._plate.size

    @property
    def subsample_size(self) -> int | None:
        """How many elements are in use."""
        drawn = self._plate.indices
        return self.size if drawn is None else len(drawn)

    @property
    def dim(self) -> int | None:
        """The batch dimension that was asked for."""
        return self._plate.dim

    @property
    def indices(self) -> Tensor | None:
        """The elements in use, `[subsample_size]`; None for a plate without a size."""
        if self._plate.indices is not None:
            return self._plate.indices
        if self._all is None and self.size is not None:
            self._all = torch.arange(self.size, device=self.device)
        return self._all

    def __enter__(self) -> Tensor | None:
        self._plate.__enter__()
        return self.indices

    def __exit__(self, *error: object) -> None:
        self._plate.__exit__(*error)

    def __iter__(self) -> Iterator[int]:
        return iter(self._plate)

    def __len__(self) -> int:
        if self.subsample_size is None:
            raise PlateError("has no size", site=self.name)
        return self.subsample_size

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return inside


class iarange(plate):  # noqa: N801 - Pyro's name
    """The older name of a vectorised `plate`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("pyro.iarange is deprecated. Try: pyro.plate", DeprecationWarning, stacklevel=2)
        super().__init__(*args, **kwargs)


class irange(plate):  # noqa: N801 - Pyro's name
    """The older name of a `plate` that loops."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("pyro.irange is deprecated. Try: pyro.plate", DeprecationWarning, stacklevel=2)
        super().__init__(*args, **kwargs)


@contextmanager
def plate_stack(prefix: str, sizes: Sequence[int], rightmost_dim: int = -1) -> Iterator[None]:
    """Nested plates `prefix_0`, `prefix_1`, ... for the dimensions of a batch of shape `sizes`."""
    if rightmost_dim >= 0:
        raise PlateError(f"rightmost_dim must be negative, got {rightmost_dim}", site=prefix)
    with ExitStack() as stack:
        for i, size in enumerate(reversed(sizes)):
            stack.enter_context(plate(f"{prefix}_{i}", size, dim=rightmost_dim - i))
        yield


class Markov:
    """Marks a part of a program, or a loop, whose variables depend on the last few steps only.

    In Pyro it says which dimensions an enumeration may use again. Here it is checked and does nothing: sites that are
    summed out share a dimension wherever no statement reads them together, whatever is declared.

    Args:
        history: how many steps before the current one its variables may depend on.
        keep: accepted.
        dim, name: None, as in Pyro.

    Raises:
        PlateError: (a `ValueError`) `history` is not a whole number of at least 0.
        NotImplementedError: `dim` or `name` is given, as in Pyro.
    """

    def __init__(self, history: int = 1, keep: bool = False, dim: int | None = None, name: str | None = None) -> None:
        check_whole("history", history, 0, error=PlateError, site="markov")
        if dim is not None or name is not None:
            raise NotImplementedError("markov has no dimension and no name. Try: a loop over pyro.markov(range(n))")
        self.history = history
        self.keep = keep
        self.dim = dim
        self.name = name
        self._iterable: Iterable[Any] | None = None

    def generator(self, iterable: Iterable[Any]) -> Self:
        """The loop over an iterable."""
        self._iterable = iterable
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __iter__(self) -> Iterator[Any]:
        if self._iterable is None:
            raise PlateError("has nothing to loop over", site="markov", try_="for t in pyro.markov(range(n)): ...")
        return iter(self._iterable)

    def __call__(self, function: F) -> F:
        return function


def markov(
    fn: Any = None, history: int = 1, keep: bool = False, dim: int | None = None, name: str | None = None
) -> Any:
    """Mark a loop over what is given, a block, or a function; see `Markov`."""
    mark = Markov(history, keep, dim, name)
    if fn is None:
        return mark
    return mark(fn) if callable(fn) else mark.generator(fn)


def _whole(number: SupportsInt | None) -> int | None:
    """A size, which may come as a tensor or a number of numpy's."""
    return number if number is None or isinstance(number, int) else int(number)
