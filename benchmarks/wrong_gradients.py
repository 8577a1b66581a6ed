"""Two legal-looking programs whose gradient Pyro gets wrong without a word, next to the exact gradient and ours.

    python -m benchmarks.wrong_gradients          # about a minute

`cross element`: discrete sites in a plate, a global choice that reads their sum, the same plate for the likelihood.
`left torch`: a distribution that depends on a choice through `.item()`. Both models are written once, in words that
the two libraries share.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pyro
import pyro.distributions
import torch
from torch import Tensor

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import Score
from varigrad.testing import exact_gradient, expected_gradient

Program = Callable[[], None]
DRAWS = 4_000


def cross_element_plate(words: SimpleNamespace) -> tuple[Program, Program]:
    """z1, z2 in a plate; g reads z1 + z2; x1, x2 in the plate read g."""
    of = words.distributions

    def model() -> None:
        elements = words.plate("n", 2, dim=-1)
        with elements:
            z = words.sample("z", of.Bernoulli(torch.tensor([0.3, 0.6])))
        g = words.sample("g", of.Bernoulli(0.2 + 0.3 * z.sum()))
        with elements:
            words.sample("x", of.Normal(g * torch.tensor([1.0, -2.0]), 0.4), obs=torch.tensor([0.8, -1.2]))

    def guide() -> None:
        with words.plate("n", 2, dim=-1):
            z = words.sample("z", of.Bernoulli(logits=words.param("t", torch.tensor([0.7, -0.3]))))
        words.sample("g", of.Bernoulli(logits=words.param("u", torch.tensor(-2.0)) + 2 * z.sum()))

    return model, guide


def left_torch(words: SimpleNamespace) -> tuple[Program, Program]:
    """What follows depends on a, as a number."""
    of = words.distributions

    def model() -> None:
        a = words.sample("a", of.Bernoulli(torch.tensor(0.3)))
        b = words.sample("b", of.Bernoulli(torch.tensor(0.6)))
        words.sample("x", of.Normal(2 * a.item() - b, 1.0), obs=torch.tensor(0.9))

    def guide() -> None:
        a = words.sample("a", of.Bernoulli(logits=words.param("t", torch.tensor(0.4))))
        words.sample("b", of.Bernoulli(logits=words.param("u", torch.tensor(-0.6)) + 2 * a.item()))

    return model, guide


def pyros(model: Program, guide: Program) -> tuple[Tensor, Tensor]:
    """Mean of Pyro's gradients of the bound with respect to t, and its standard error."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    objective = pyro.infer.TraceGraph_ELBO()
    found = []
    for _ in range(DRAWS):
        objective.loss_and_grads(model, guide)
        leaves = [pyro.param(name).unconstrained() for name in ("t", "u")]
        assert leaves[0].grad is not None
        found.append(-leaves[0].grad.reshape(-1))
        for leaf in leaves:
            leaf.grad = None
    draws = torch.stack(found)
    return draws.mean(0), draws.std(0) / DRAWS**0.5


def main() -> None:
    torch.set_default_dtype(torch.float64)
    ours = SimpleNamespace(sample=vg.sample, param=vg.param, plate=vg.plate, distributions=dist)
    theirs = SimpleNamespace(sample=pyro.sample, param=pyro.param, plate=pyro.plate, distributions=pyro.distributions)
    print(f"d ELBO / dt; Pyro {pyro.__version__}, TraceGraph_ELBO, mean of {DRAWS} gradients")
    for name, programs in (("cross element", cross_element_plate), ("left torch", left_torch)):
        bound = vg.ELBO(estimators={"*": Score()})(*programs(ours))
        exact = exact_gradient(bound)[1]["t"].reshape(-1)
        mean = expected_gradient(bound).mean["t"].reshape(-1)
        other, error = pyros(*programs(theirs))
        for i in range(len(exact)):
            print(
                f"{name:14} exact {exact[i]:+.4f}   ours, mean {mean[i]:+.4f}   Pyro {other[i]:+.4f} +- {error[i]:.4f}"
            )


if __name__ == "__main__":
    main()
