"""Networks that compute the parameters of transforms: dense ones, and autoregressive ones with masked weights.

References:
    Germain, Gregor, Murray, Larochelle (2015), MADE: masked autoencoder for distribution estimation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def mask_degrees(input_dim: int, hidden_dim: int, lowest: int) -> Tensor:
    """How many inputs each hidden unit may see, spread evenly.

    Args:
        input_dim: number of inputs.
        hidden_dim: number of hidden units.
        lowest: the smallest number of inputs; the largest is all but one.

    Returns:
        `[hidden_dim]`.
    """
    return torch.linspace(lowest, max(input_dim - 1, lowest), hidden_dim).round()


def create_mask(
    input_dim: int, context_dim: int, hidden_dims: Sequence[int], permutation: Tensor, output_dim_multiplier: int
) -> tuple[list[Tensor], Tensor]:
    """Masks of all layers, and of a connection that skips them, each `[outputs, inputs]`.

    Args:
        input_dim: number of variables.
        context_dim: number of inputs, before the variables, that everything may depend on.
        hidden_dims: sizes of the hidden layers.
        permutation: `[input_dim]`, the variables in the order of dependency.
        output_dim_multiplier: outputs for each variable.
    """
    order = torch.empty(input_dim)
    order[permutation] = torch.arange(1.0, input_dim + 1)
    degrees = torch.cat([torch.zeros(context_dim), order])
    first, masks = degrees, []
    for hidden in hidden_dims:
        inner = mask_degrees(input_dim, hidden, 0 if context_dim else min(1, input_dim - 1))
        masks.append((inner.unsqueeze(-1) >= degrees).float())
        degrees = inner
    last = order.repeat(output_dim_multiplier).unsqueeze(-1)
    masks.append((last > degrees).float())
    return masks, (last > first).float()


class MaskedLinear(nn.Linear):
    """A linear layer whose weights are zero where `mask`, `[out_features, in_features]`, is."""

    mask: Tensor

    def __init__(self, in_features: int, out_features: int, mask: Tensor, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("mask", mask.detach())

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.mask, self.bias)


class _Heads(nn.Module):
    """Interface of networks with one output, divided into parameters of given sizes."""

    def __init__(self, param_dims: Sequence[int] | None) -> None:
        super().__init__()
        self.param_dims: list[int] = [1, 1] if param_dims is None else list(param_dims)
        self.count_params: int = len(self.param_dims)
        self.output_multiplier: int = sum(self.param_dims)
        self.all_ones: bool = all(d == 1 for d in self.param_dims)

    def _divided(self, h: Tensor, dim: int) -> Any:
        """`h`, with all parameters along `dim`, as one tensor or a tuple of them."""
        if self.count_params == 1:
            return h.squeeze(dim) if self.all_ones and dim != -1 else h
        parts = h.split(self.param_dims, dim)
        return tuple(p.squeeze(dim) for p in parts) if self.all_ones and dim != -1 else tuple(parts)


class ConditionalAutoRegressiveNN(_Heads):
    """Computes parameters for each variable from the variables before it, and from a context.

    Args:
        input_dim: number of variables.
        context_dim: size of the context.
        hidden_dims: sizes of the hidden layers, none smaller than `input_dim`.
        param_dims: sizes of the parameters for each variable; default: two of size one.
        permutation: `[input_dim]`, the order of dependency; default: a random one.
        skip_connections: connect inputs and outputs directly, too.
        nonlinearity: between the layers.

    Raises:
        ValueError: a hidden layer is smaller than the input.
    """

    permutation: Tensor

    def __init__(
        self,
        input_dim: int,
        context_dim: int,
        hidden_dims: Sequence[int],
        param_dims: Sequence[int] | None = None,
        permutation: Tensor | None = None,
        skip_connections: bool = False,
        nonlinearity: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(param_dims)
        if any(h < input_dim for h in hidden_dims):
            raise ValueError(f"hidden layers {list(hidden_dims)}: none may be smaller than the {input_dim} inputs")
        self.input_dim: int = input_dim
        self.context_dim: int = context_dim
        self.hidden_dims: list[int] = list(hidden_dims)
        order = torch.randperm(input_dim) if permutation is None else permutation.long()
        self.register_buffer("permutation", order)
        masks, skip = create_mask(input_dim, context_dim, hidden_dims, order, self.output_multiplier)
        sizes = [input_dim + context_dim, *hidden_dims, input_dim * self.output_multiplier]
        self.layers: nn.ModuleList = nn.ModuleList(
            MaskedLinear(a, b, mask) for a, b, mask in zip(sizes, sizes[1:], masks, strict=False)
        )
        self.skip_layer: MaskedLinear | None = (
            MaskedLinear(sizes[0], sizes[-1], skip, bias=False) if skip_connections else None
        )
        self.f: Callable[[Tensor], Tensor] = nn.ReLU() if nonlinearity is None else nonlinearity

    def get_permutation(self) -> Tensor:
        """The order of dependency, `[input_dim]`."""
        return self.permutation

    def forward(self, x: Tensor, context: Tensor | None = None) -> Any:
        """One tensor for each entry of `param_dims`: `[*, param_dim, input_dim]`, or `[*, input_dim]` if all are 1."""
        if context is not None:
            x = torch.cat([context.expand(*x.shape[:-1], -1), x], -1)
        h = x
        for layer in self.layers[:-1]:
            h = self.f(layer(h))
        h = self.layers[-1](h)
        if self.skip_layer is not None:
            h = h + self.skip_layer(x)
        return self._divided(h.unflatten(-1, (self.output_multiplier, self.input_dim)), -2)


class AutoRegressiveNN(ConditionalAutoRegressiveNN):
    """Computes parameters for each variable from the variables before it.

    Args:
        input_dim: number of variables.
        hidden_dims: sizes of the hidden layers, none smaller than `input_dim`.
        param_dims: sizes of the parameters for each variable; default: two of size one.
        permutation: `[input_dim]`, the order of dependency; default: a random one.
        skip_connections: connect inputs and outputs directly, too.
        nonlinearity: between the layers.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int],
        param_dims: Sequence[int] | None = None,
        permutation: Tensor | None = None,
        skip_connections: bool = False,
        nonlinearity: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(input_dim, 0, hidden_dims, param_dims, permutation, skip_connections, nonlinearity)


class ConditionalDenseNN(_Heads):
    """Computes parameters from an input and a context, through dense layers.

    Args:
        input_dim, context_dim: sizes of the two.
        hidden_dims: sizes of the hidden layers.
        param_dims: sizes of the parameters; default: two of size one.
        nonlinearity: between the layers.
    """

    def __init__(
        self,
        input_dim: int,
        context_dim: int,
        hidden_dims: Sequence[int],
        param_dims: Sequence[int] | None = None,
        nonlinearity: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(param_dims)
        self.input_dim: int = input_dim
        self.context_dim: int = context_dim
        self.hidden_dims: list[int] = list(hidden_dims)
        sizes = [input_dim + context_dim, *hidden_dims, self.output_multiplier]
        self.layers: nn.ModuleList = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.f: Callable[[Tensor], Tensor] = nn.ReLU() if nonlinearity is None else nonlinearity

    def forward(self, x: Tensor, context: Tensor | None = None) -> Any:
        """One tensor `[*, param_dim]` for each entry of `param_dims`."""
        h = x if context is None else torch.cat([context.expand(*x.shape[:-1], -1), x], -1)
        for layer in self.layers[:-1]:
            h = self.f(layer(h))
        return self._divided(self.layers[-1](h), -1)


class DenseNN(ConditionalDenseNN):
    """Computes parameters from an input, through dense layers.

    Args:
        input_dim: its size.
        hidden_dims: sizes of the hidden layers.
        param_dims: sizes of the parameters; default: two of size one.
        nonlinearity: between the layers.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int],
        param_dims: Sequence[int] | None = None,
        nonlinearity: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(input_dim, 0, hidden_dims, param_dims, nonlinearity)
