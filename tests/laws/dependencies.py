"""Dependencies: nothing that leaves torch is lost, and dependence across the elements of a plate is noticed."""

import warnings
from functools import wraps

import numpy as np
import torch
from leaks import KINDS

import varigrad as vg
from laws.base import hold, law, logits, t
from varigrad import distributions as dist
from varigrad.estimators import (
    DisARM,
    Enumerate,
    LeaveOneOut,
    MovingAverage,
    Score,
)


def _written(write):
    def leak(z):
        buffer = torch.zeros(2)
        write(buffer, z)
        return buffer[0]

    return leak


def _scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(double)


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1


LEAKS = {
    "if": lambda z: torch.tensor(1.5) if z else torch.tensor(0.2),
    "item": lambda z: torch.tensor(2 * z.item()),
    "numpy": lambda z: torch.tensor(np.add(z.numpy(), 1.0).item()),
    "index": lambda z: torch.tensor([0.3, 1.4])[int(z)],
    "setitem": _written(lambda b, z: b.__setitem__(0, z)),
    "add_": _written(lambda b, z: b.add_(z)),
    "out": _written(lambda b, z: torch.mul(z, torch.ones(2), out=b)),
    "mask shape": lambda z: torch.tensor(float(len(torch.ones(1)[z.reshape(1).bool()]))),
    "nonzero shape": lambda z: torch.tensor(float(z.reshape(1).nonzero().shape[0])),
    "where shape": lambda z: torch.tensor(float(len(torch.where(z.reshape(1))[0]))),
    "vmap closure": lambda z: torch.func.vmap(lambda i: i * z)(torch.ones(2))[0],
    "scripted": lambda z: _scripted()(z),
    "tensor of list": lambda z: torch.tensor([z, 1.0])[0],
    "data": lambda z: torch.nn.Parameter(torch.zeros(())).data.copy_(z),
}


def leaking(leak, estimator):
    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=vg.param("s", 0.4)), estimator=estimator)
        vg.sample("b", dist.Bernoulli(logits=vg.param("t", -0.6) + leak(a)), estimator=estimator)

    def model():
        a = vg.sample("a", dist.Bernoulli(torch.tensor(0.3)))
        b = vg.sample("b", dist.Bernoulli(torch.tensor(0.6)))
        vg.sample("x", dist.Normal(leak(a) - b, 1.0), obs=torch.tensor(0.9))

    return model, guide


def double_precision(function):
    @wraps(function)
    def inside():
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            function()
        finally:
            torch.set_default_dtype(before)

    return inside


def leak_law(leak):
    return double_precision(lambda: [hold(*leaking(leak, e)) for e in (Score(MovingAverage(0.5)), LeaveOneOut(2))])


for _name, _leak in LEAKS.items():
    law(leak_law(_leak), f"leak by {_name}")


for _kind, _ways in KINDS.items():
    for _name, _leak in _ways.items():
        law(leak_law(_leak), f"way out, {_kind}: {_name}")


def by_other_ways(where):
    def model():
        a = vg.sample("a", dist.Bernoulli(torch.tensor(0.3)))
        x = torch.tensor([0.9, -0.4])
        if where == "mask":
            with vg.plate("n", 2), vg.handlers.mask(mask=torch.stack([a > 0, a < 2])):
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x)
        elif where == "scale":
            with vg.plate("n", 2), vg.handlers.scale(scale=1 + 2 * a):
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x)
        elif where == "obs":
            with vg.plate("n", 2):
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x + a)
        elif where == "factor":
            vg.factor("x", 1.3 * a)
        else:
            # The indices alone say what was drawn: the data in the statement do not.
            with vg.plate("n", 2, subsample=a.long().reshape(1)) as indices:
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x[vg.terms.provenance.untracked(indices)])

    def guide():
        vg.sample("a", dist.Bernoulli(logits=vg.param("s", 0.4)), estimator=Score())

    return model, guide


for _where in ("mask", "scale", "obs", "factor", "subsample"):
    law(double_precision(lambda where=_where: hold(*by_other_ways(where))), f"dependent {_where}")


@law
@double_precision
def a_distribution_may_hide_its_tensors():
    class Hidden(torch.distributions.Distribution):
        arg_constraints = {}
        has_rsample = False
        has_enumerate_support = True
        support = torch.distributions.constraints.boolean

        def __init__(self, logits):
            super().__init__(logits.shape, validate_args=False)
            self.box = {"logits": [logits]}

        def expand(self, batch_shape, _instance=None):
            return Hidden(self.box["logits"][0].expand(batch_shape))

        def inner(self):
            return torch.distributions.Bernoulli(logits=self.box["logits"][0])

        def sample(self, sample_shape=()):
            return self.inner().sample(sample_shape)

        def enumerate_support(self, expand=True):
            return self.inner().enumerate_support(expand)

        def log_prob(self, value):
            return self.inner().log_prob(value)

    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=vg.param("s", 0.4)))
        vg.sample("b", Hidden(vg.param("t", -0.6) + a))

    def model():
        a = vg.sample("a", dist.Bernoulli(torch.tensor(0.3)))
        b = vg.sample("b", Hidden(torch.tensor(0.2) * a))
        vg.sample("x", dist.Normal(b, 1.0), obs=torch.tensor(0.9))

    hold(model, guide)


def _cross_element(read_through, estimator):
    """Discrete sites in a plate, something outside that reads their sum, the same plate for the likelihood."""

    def guide():
        with vg.plate("n", 2):
            z = vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.tensor([0.7, -0.3]))), estimator=estimator)
        if read_through == "site":
            vg.sample("g", dist.Bernoulli(logits=vg.param("u", 0.2) + z.sum()))

    def model():
        n = vg.plate("n", 2)
        with n:
            z = vg.sample("z", dist.Bernoulli(torch.tensor([0.3, 0.6])))
        if read_through == "site":
            g = vg.sample("g", dist.Bernoulli(0.2 + 0.3 * z.sum()))
        elif read_through == "sum":
            g = z.sum()
        elif read_through == "item":
            g = torch.tensor(float(z.sum().item()))
        with n:
            if read_through == "flip":
                g = z.flip(0)
            vg.sample("x", dist.Normal(g * torch.tensor([1.0, -2.0]), 1.0), obs=torch.tensor([0.8, -1.2]))

    return model, guide


def _cross_element_law(read_through):
    def cross_element():
        for estimator in (Score(), LeaveOneOut(2), DisARM()):
            bound, _ = hold(*_cross_element(read_through, estimator))
            assert bound.plan()["z"].cross_element == ("n",)
        try:
            hold(*_cross_element(read_through, Enumerate()))
        except vg.errors.SiteError as error:
            assert "Enumerate cannot serve" in str(error)

    return double_precision(cross_element)


for _read in ("sum", "site", "item", "flip"):
    law(_cross_element_law(_read), f"cross-element dependence by {_read}")


@law
def masks_do_not_touch_what_the_draw_follows():
    """The draw of a masked choice follows its density all the same, and something that is not masked reads it."""
    mask = torch.tensor([True, False])

    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.3, 0.6)).mask(mask).to_event(1))
        vg.sample("x", dist.Normal(z.sum(-1), t(1.0)), obs=t(0.8))

    def guide():
        vg.sample("z", dist.Bernoulli(logits=logits("t", 0.7, -0.3)).mask(mask).to_event(1))

    hold(model, guide)
