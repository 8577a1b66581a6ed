"""`JointValues`: sums a model over all joint values of sites that are summed out, by running it with each of them.

Nothing is taken apart: every element of every site takes every value, in a run of its own. Only scales need care. A
scale stands outside of a sum, so statements are grouped by their scale, and each group is summed over the values of its
own sites.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from varigrad.distributions.finite_support import count_of, inner_of
from varigrad.gradients.outcomes import NotEnumerable
from varigrad.language.messages import Factor, Sample
from varigrad.language.runtime import plate_shape

TOLERANCE = 1e-12
"""Relative to the log-density: what it may change by rounding alone."""


class JointValues:
    """The runs of a model with all joint values of the sites that are summed out.

    Attributes:
        options: for every such site, its number of elements and the number of values of each.
    """

    def __init__(self) -> None:
        self.options: dict[str, tuple[int, int]] = {}
        self._scale_of: dict[str, float] = {}
        self._joint: tuple[int, ...] = ()
        self._done: list[tuple[int, ...]] = []
        self._log_probs: list[dict[float, list[Tensor]]] = []

    def runs(self, limit: int) -> Iterator[None]:
        """Once for every joint value; the first run finds out which there are.

        Raises:
            NotEnumerable: there are more than `limit`.
        """
        self._log_probs.append({})
        yield
        elements = [values for count, values in self.options.values() for _ in range(count)]
        if math.prod(elements) > limit:
            raise NotEnumerable(f"the sites that are summed out have more than {limit} joint values")
        self._done.append((0,) * len(elements))
        for joint in itertools.islice(itertools.product(*map(range, elements)), 1, None):
            self._joint = joint
            self._done.append(joint)
            self._log_probs.append({})
            yield

    def value_of(self, message: Sample) -> Tensor:
        """The value of a site in this run."""
        name, distribution = message.name, inner_of(message.distribution)[0]
        shape = plate_shape(message)
        if name not in self.options:
            values = count_of(distribution)
            if values is None:
                raise NotEnumerable(f"{name!r} has no finite support to enumerate")
            self.options[name] = math.prod(shape), values
        first = sum(self.options[other][0] for other in itertools.takewhile(lambda other: other != name, self.options))
        count = self.options[name][0]
        chosen = self._joint[first : first + count] if self._joint else (0,) * count
        support: Tensor = distribution.enumerate_support(expand=False)
        support = support.reshape(len(support), *message.distribution.event_shape)
        return support[torch.tensor(chosen, dtype=torch.int64)].reshape((*shape, *support.shape[1:]))

    def add(self, message: Sample | Factor, log_prob: Tensor) -> None:
        """Count a statement of this run, `[]`, without its scale.

        Raises:
            NotEnumerable: it has several scales.
        """
        if isinstance(message.scale, Tensor) and message.scale.numel() > 1:
            raise NotEnumerable(f"{message.name!r} has a scale for each element")
        scale = float(message.scale)
        if message.name in self.options:
            self._scale_of[message.name] = scale
        self._log_probs[-1].setdefault(scale, []).append(log_prob)

    def log_sum(self) -> Tensor:
        """The logarithm of the sum over all joint values, with the scales outside.

        Raises:
            NotEnumerable: a statement reads a site with another scale, so that a scale stands inside of a sum.
        """
        sites = [name for name, (count, _) in self.options.items() for _ in range(count)]
        total: list[Tensor] = []
        for scale in dict.fromkeys(scale for run in self._log_probs for scale in run):
            every = [torch.stack(run[scale]).sum() for run in self._log_probs]
            own: dict[tuple[int, ...], Tensor] = {}
            for joint, log_prob in zip(self._done, every, strict=True):
                mine = tuple(v for v, name in zip(joint, sites, strict=True) if self._scale_of[name] == scale)
                known = own.setdefault(mine, log_prob)
                if abs(float((log_prob - known).detach())) > TOLERANCE * (1 + abs(float(known.detach()))):
                    raise NotEnumerable(
                        "a minibatch is scaled inside a sum over values",
                        because="brute force knows no such sum",
                        try_="the whole plate",
                    )
            total.append(scale * torch.stack(list(own.values())).logsumexp(0))
        return torch.stack(total).sum() if total else torch.zeros(())
