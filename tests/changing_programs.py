"""Programs in which something changes in the middle of a run, so that a first look does not tell all of it."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad.objectives.bound import Bound

f64 = torch.float64
DATA = torch.tensor([0.8, -1.2, 0.3], dtype=f64)
LOGITS = torch.tensor([0.7, -0.3, 0.2], dtype=f64)
ON = torch.tensor(1.0, dtype=f64)


@dataclass
class Changing:
    """A program before and after a change: `change(bound)` makes it, `before` and `after` are the arguments.

    Attributes:
        seen: whether the change, or what it leads to, can be seen at once; else a look at step 10 finds it.
    """

    model: Callable[..., None]
    change: Callable[[Bound], None] = lambda bound: None
    before: tuple[Any, ...] = ()
    after: tuple[Any, ...] = ()
    seen: bool = True


def guide_with(estimator):
    """Three coins in a plate."""

    def guide(*args):
        with vg.plate("n", 3):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", LOGITS)), estimator=estimator)

    return guide


def coins(mean):
    """A model of three coins whose readings have the mean that a function of the coins (and the arguments) gives."""

    def model(*args):
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(torch.full((3,), 0.4, dtype=f64)))
            vg.sample("x", dist.Normal(mean(z, *args), 1.0), obs=DATA)

    return model


def filled(name, value):
    """Give a parameter another value."""

    def change(bound):
        with torch.no_grad():
            dict(bound.named_parameters())[name].fill_(value)

    return change


def of_module(net, mean):
    """The same with a module's help."""
    return coins(lambda z, *args: mean(vg.module("net", net), z, *args))


class Buffered(nn.Module):
    """A gate that is a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("gate", torch.zeros((), dtype=f64))

    def forward(self, z):
        return z + self.gate * z.sum(-1, keepdim=True)


def gate():
    return Changing(coins(lambda z: z + vg.param("gate", torch.zeros((), dtype=f64)) * z.sum()), filled("gate", 0.5))


def layer_scale():
    scale = torch.zeros(3, dtype=f64)
    return Changing(coins(lambda z: z + vg.param("scale", scale) * z.flip(-1)), filled("scale", 0.5))


def last_layer_of_zeros():
    net = nn.Linear(3, 3, bias=False).double()
    nn.init.zeros_(net.weight)
    return Changing(of_module(net, lambda net, z: z + net(z)), filled("net.weight", 0.5))


def eval_to_train():
    norm = nn.BatchNorm1d(1, momentum=0.0).double().eval()
    model = of_module(norm, lambda norm, z: 2 * norm(z.reshape(-1, 1)).reshape(z.shape))
    return Changing(model, lambda bound: norm.train() and None)


class CoupledInTraining(nn.Module):
    """Keeps nothing from run to run, so that no value leaves torch in either mode."""

    def forward(self, z):
        return z + z.sum(-1, keepdim=True) if self.training else z


def eval_to_train_without_averages():
    net = CoupledInTraining().eval()
    return Changing(of_module(net, lambda net, z: net(z)), lambda bound: net.train() and None)


def bland_minibatch():
    mean = coins(lambda z, m: z + m * z.sum(-1, keepdim=True))
    return Changing(mean, before=(0 * ON,), after=(ON,))


def other_shape():
    mean = coins(lambda z, w: z + (z.sum(-1, keepdim=True) if len(w) > 1 else 0.0))
    return Changing(mean, before=(ON.expand(1),), after=(ON.expand(2),))


def other_number():
    mean = coins(lambda z, deep: z + (z.sum(-1, keepdim=True) if deep else 0.0))
    return Changing(mean, before=(False,), after=(True,))


def branch_with_a_site():
    state = {"on": False}

    def model():
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(torch.full((3,), 0.4, dtype=f64)))
            vg.sample("x", dist.Normal(z, 1.0), obs=DATA)
            if state["on"]:
                vg.sample("y", dist.Normal(2 * z.flip(-1), 1.0), obs=DATA)

    return Changing(model, lambda bound: state.update(on=True))


def frozen_gate():
    gate = nn.Module()
    gate.weight = nn.Parameter(torch.zeros((), dtype=f64), requires_grad=False)

    def change(bound):
        gate.weight.requires_grad_(True)
        filled("net.weight", 0.5)(bound)

    return Changing(of_module(gate, lambda net, z: z + net.weight * z.sum(-1, keepdim=True)), change)


def dropout_that_opens():
    drop = nn.Dropout(1.0)
    model = of_module(drop, lambda drop, z: z + drop(z.sum(-1, keepdim=True)))
    return Changing(model, lambda bound: setattr(drop, "p", 0.0))


def buffer_that_is_overwritten():
    net = Buffered()
    return Changing(of_module(net, lambda net, z: net(z)), lambda bound: net.gate.fill_(0.5) and None)


def number_in_a_closure():
    state = {"gate": 0.0}
    return Changing(coins(lambda z: z + state["gate"] * z.sum(-1, keepdim=True)), lambda bound: state.update(gate=0.5))


def branch_on_a_number():
    state = {"on": False}
    mean = coins(lambda z: z + z.sum(-1, keepdim=True) if state["on"] else z)
    return Changing(mean, lambda bound: state.update(on=True))


def option_of_an_operation():
    """The same operations, and as many, before and after."""
    along = ContextVar("along", default=-1)
    mean = coins(lambda z: z.unsqueeze(-1).sum(along.get(), keepdim=True).expand(*z.shape, 1).squeeze(-1))
    return Changing(mean, lambda bound: along.set(-2), seen=False)


def through_another_site():
    gate = torch.zeros((), dtype=f64)

    def model():
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(torch.full((3,), 0.4, dtype=f64)))
            b = vg.sample("b", dist.Bernoulli(torch.full((3,), 0.4, dtype=f64)))
            vg.sample("x", dist.Normal(z + vg.param("gate", gate) * b.flip(-1), 1.0), obs=DATA)

    return Changing(model, filled("gate", 0.5))


def guide_of(case, estimator):
    """The guide that goes with a case of `CASES`."""
    if case != "through_another_site":
        return guide_with(estimator)

    def guide():
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(logits=vg.param("t", LOGITS)), estimator=estimator)
            vg.sample("b", dist.Bernoulli(logits=2 * z - 1), estimator=estimator)

    return guide


CASES = {
    build.__name__: build
    for build in (
        gate, layer_scale, last_layer_of_zeros, eval_to_train, eval_to_train_without_averages, bland_minibatch,
        other_shape, other_number, branch_with_a_site, frozen_gate, dropout_that_opens, buffer_that_is_overwritten,
        number_in_a_closure, branch_on_a_number, option_of_an_operation, through_another_site,
    )
}  # fmt: skip
