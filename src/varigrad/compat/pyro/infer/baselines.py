"""Builds varigrad's baselines from Pyro's options, with their loss kept apart from the bound's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from varigrad.errors import BaselineError
from varigrad.estimators.base import Draw, State
from varigrad.estimators.baselines import Baseline, Guess, MovingAverage, NeuralBaseline, Sum, ValueBaseline
from varigrad.language.messages import evolve


def baseline_of(options: Mapping[str, Any], regressions: list[Tensor] | None = None) -> Baseline:
    """The baseline that checked options stand for; the second learns what the first leaves.

    Args:
        regressions: where the losses of baselines with parameters are to be written down, if anywhere.
    """
    parts: list[Baseline] = []
    if options.get("use_decaying_avg_baseline"):
        parts.append(MovingAverage(options.get("baseline_beta", 0.90), per_element=True))
    network, value = options.get("nn_baseline"), options.get("baseline_value")
    if network is not None:
        given = options["nn_baseline_input"]
        one = isinstance(given, Tensor)
        if not isinstance(network, nn.Module):
            network = _Called(network)
        parts.append(NeuralBaseline(network, given) if one else NeuralBaseline(_OneArgument(network), tuple(given)))
    if value is not None:
        parts.append(ValueBaseline(torch.as_tensor(value), learn=True))
    baseline = parts[0] if len(parts) == 1 else Sum(tuple(parts))
    if learns(options):
        baseline = _Summed(baseline)
    return baseline if regressions is None else _Watched(baseline, regressions)


def learns(options: Mapping[str, Any]) -> bool:
    """Whether the baseline may have parameters."""
    return options.get("nn_baseline") is not None or options.get("baseline_value") is not None


class _Called(nn.Module):
    """A function of the inputs as a module; the program registers the modules that it calls."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = (function,)  # in a tuple: a module would become a part of this one

    def forward(self, inputs: object) -> Tensor:
        return self.function[0](inputs)


class _OneArgument(nn.Module):
    """Calls a network that takes a list of tensors as its one argument."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        guess: Tensor = self.network(list(inputs))
        return guess


@dataclass(frozen=True, eq=False)
class _Around(Baseline):
    """Interface of baselines that change another baseline."""

    inner: Baseline

    def modules(self) -> Mapping[str, nn.Module]:
        return self.inner.modules()

    def given(self) -> tuple[Any, ...]:
        return self.inner.given()


@dataclass(frozen=True, eq=False)
class _Summed(_Around):
    """Trains a baseline by the sum of squared errors over the site's plates, as Pyro does; varigrad uses the mean."""

    def guess(self, cost: Tensor, draw: Draw, state: State) -> Guess:
        guess = self.inner.guess(cost, draw, state)
        return guess if guess.regression is None else evolve(guess, regression=guess.regression * cost.numel())


@dataclass(frozen=True, eq=False)
class _Watched(_Around):
    """A baseline whose regression losses are recorded."""

    seen: list[Tensor]

    def guess(self, cost: Tensor, draw: Draw, state: State) -> Guess:
        guess = self.inner.guess(cost, draw, state)
        if guess.regression is not None and guess.regression.requires_grad:
            self.seen.append(guess.regression)
        return guess


def check_separate(surrogate: Tensor, regressions: list[Tensor], leaves: Mapping[str, Tensor]) -> None:
    """Raise if a parameter is trained by a baseline's loss and by the bound at once.

    Args:
        surrogate: of the whole step, the losses subtracted.
        regressions: the losses of the baselines.
        leaves: unconstrained parameters by name.

    Raises:
        BaselineError: there is such a parameter.
    """
    names = [name for name, leaf in leaves.items() if leaf.requires_grad]
    loss = torch.stack(regressions).sum()
    tensors = [leaves[name] for name in names]
    own = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    whole = torch.autograd.grad(surrogate, tensors, retain_graph=True, allow_unused=True)
    for name, regression, both in zip(names, own, whole, strict=True):
        if regression is None or both is None:
            continue
        rest = both + regression  # the surrogate has the losses with a minus
        if bool((rest.abs() > 1e-4 * (regression.abs() + both.abs())).any()):
            raise BaselineError(
                f"the parameter {name!r} is trained by a baseline's loss and by the ELBO at once",
                because="a baseline's loss is to train the baseline alone, and the ELBO only model and guide",
                try_="a network of its own for the baseline, with inputs that are detached (baseline_value does not "
                "detach them by itself)",
            )
