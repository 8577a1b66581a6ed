"""What a user's `log_prob` may do inside: hooks are named, steps are refused to relaxations, statements to all."""

import re

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import SiteError
from varigrad.estimators import GumbelSoftmax, Rebar, Score

ONE = torch.ones((), dtype=torch.float64)
RELAXED = [Rebar(train=False), GumbelSoftmax()]


class Hooked(dist.Normal):
    """A hook on its location."""

    def log_prob(self, value):
        loc = self.loc * 1
        if loc.requires_grad:
            loc.register_hook(lambda gradient: 0 * gradient)
        return -0.5 * (value - loc) ** 2


class HookedPrior(dist.Bernoulli):
    """A hook on its value."""

    def log_prob(self, value):
        value = value * 1
        if value.requires_grad:
            value.register_hook(lambda gradient: 0 * gradient)
        return 0.5 * value


class Compared(dist.Bernoulli):
    def log_prob(self, value):
        return 0.5 * (value > 0.5)


class Detached(dist.Bernoulli):
    def log_prob(self, value):
        return 0.5 * value.detach()


class Divided(dist.Bernoulli):
    def log_prob(self, value):
        return (value - 0.5) / (value - 0.5).abs()


class Overwritten(dist.Bernoulli):
    def log_prob(self, value):
        value = value * 1
        value.data.fill_(0.3)
        return 0.5 * value


def coin(prior, estimator):
    def model():
        vg.sample("z", prior(0.4 * ONE))

    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("m", 0.3 * ONE)), estimator=estimator)

    return vg.ELBO()(model, guide)


def regression(likelihood, estimator=None):
    def model():
        z = vg.sample("z", dist.Normal(0 * ONE, ONE))
        vg.sample("x", likelihood(z, ONE), obs=0.7 * ONE)

    def guide():
        given = {} if estimator is None else {"estimator": estimator}
        vg.sample("z", dist.Normal(vg.param("m", 0.3 * ONE), 0.8 * ONE), **given)

    return vg.ELBO()(model, guide)


@pytest.mark.parametrize(
    "make", [lambda: regression(Hooked), lambda: coin(HookedPrior, Rebar(train=False))], ids=["pathwise", "Rebar"]
)
def test_a_hook_is_what_the_plan_relies_on(make):
    (sentence,) = make().plan().relies_on[1:]
    assert re.fullmatch(r"'z': register_hook at test_inside_densities.py:\d+ leaves the gradient as it is", sentence)


@pytest.mark.parametrize("estimator", RELAXED, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("prior", [Compared, Detached, Divided, Overwritten])
def test_what_is_no_smooth_function_is_refused_to_relaxations(prior, estimator):
    with pytest.raises(SiteError, match=f"'z': {type(estimator).__name__} cannot serve this site"):
        coin(prior, estimator)


class Drawing(dist.Normal):
    def log_prob(self, value):
        return super().log_prob(value) + vg.sample("inner", dist.Bernoulli(0.4 * ONE))


class Weighing(dist.Normal):
    def log_prob(self, value):
        vg.factor("inner", ONE)
        return super().log_prob(value)


@pytest.mark.parametrize("estimator", [None, Score()])
@pytest.mark.parametrize("likelihood", [Drawing, Weighing])
def test_a_statement_inside_a_density_is_refused(likelihood, estimator):
    text = "'x': the log-density of its distribution makes the statement 'inner'; because .* its term would be lost"
    with pytest.raises(SiteError, match=text):
        regression(likelihood, estimator)
