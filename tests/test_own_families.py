"""Classes of users that declare themselves wrongly: refused, or served by an estimator that is right."""

import math

import pytest
import torch
from torch import distributions as td
from torch.distributions import constraints

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import SiteError
from varigrad.estimators import Enumerate, LeaveOneOut, Pathwise, Score

t = torch.tensor


class Own(td.Distribution):
    """A family of one parameter whose support is declared to be the real line."""

    arg_constraints: dict = {}
    support = constraints.real
    has_rsample = False

    def __init__(self, p):
        self.p = p
        super().__init__(p.shape, validate_args=False)

    def expand(self, shape, _instance=None):
        return type(self)(self.p.expand(shape))

    def sample(self, shape=()):
        with torch.no_grad():
            return self.drawn(self._extended_shape(shape))

    def rsample(self, shape=()):
        return self.drawn(self._extended_shape(shape))


class UpTo(Own):
    """Uniform on [0, p]."""

    def drawn(self, shape):
        return torch.rand(shape) * self.p

    def log_prob(self, value):
        return torch.where((value >= 0) & (value <= self.p), -self.p.log(), -math.inf)


class Step(UpTo):
    """Two levels, and where they meet moves."""

    def log_prob(self, value):
        return torch.where(value < self.p, -1.0, -2.0) - value.square() + 0 * self.p


class TwoSided(UpTo):
    """Laplace with another formula on either side: continuous where it compares."""

    def log_prob(self, value):
        return -torch.where(value < self.p, self.p - value, value - self.p) - math.log(2.0)


class Held(UpTo):
    """Exponential: the support ends where no parameter says."""

    def log_prob(self, value):
        return torch.where(value > 0, self.p.log() - self.p * value, -math.inf)


class Mixture(Own):
    """Two normals, drawn by a hard choice and declared to be reparameterised."""

    has_rsample = True

    def drawn(self, shape):
        return torch.where(torch.rand(shape) < torch.sigmoid(self.p), torch.randn(shape) + 1, torch.randn(shape) - 2)

    def log_prob(self, value):
        q = torch.sigmoid(self.p)
        return torch.log(q * torch.exp(-((value - 1) ** 2) / 2) + (1 - q) * torch.exp(-((value + 2) ** 2) / 2)) - 0.919


class Forgetful(Mixture):
    """A normal whose draw is made of numbers."""

    def drawn(self, shape):
        return torch.randn(shape) + self.p.detach()

    def log_prob(self, value):
        return -((value - self.p) ** 2) / 2 - 0.919


class Rejected(Mixture):
    """A draw that carries a gradient, and is rejected by a comparison."""

    def drawn(self, shape):
        x, y = torch.randn(shape) + self.p, torch.randn(shape) + self.p
        return torch.where(x < 0, y, x)


class Right(Forgetful):
    """A normal."""

    def drawn(self, shape):
        return torch.randn(shape) + self.p


class TwoPoints(Own):
    """p or 2p."""

    has_enumerate_support = True

    def drawn(self, shape):
        return self.p * (1 + torch.bernoulli(torch.full(shape, 0.5)))

    def enumerate_support(self, expand=True):
        return torch.stack([self.p, 2 * self.p])

    def log_prob(self, value):
        return torch.full(value.shape, 0.5).log() + 0 * self.p


class Ragged(TwoPoints):
    """Values in a shape that depends on the batch."""

    def enumerate_support(self, expand=True):
        return torch.stack([self.p.detach(), 2 * self.p.detach()])


def plan_of(family, estimator=None):
    def model():
        with vg.plate("n", 3):
            vg.sample("z", dist.Normal(t(0.0), 1.0))

    def guide():
        with vg.plate("n", 3):
            vg.sample("z", family(vg.param("p", torch.full((3,), 0.8))), estimator=estimator)

    bound = vg.ELBO()(model, guide)
    bound()
    return bound.plan()["z"]


@pytest.mark.parametrize("estimator", [None, Score(), LeaveOneOut(2)])
@pytest.mark.parametrize("family", [UpTo, Step, TwoPoints])
def test_a_support_that_moves_is_refused_whatever_is_declared(family, estimator):
    with pytest.raises(SiteError, match=f"'z': .* because the support of {family.__name__} moves with a parameter"):
        plan_of(family, estimator)


@pytest.mark.parametrize("family", [TwoSided, Held])
def test_a_density_that_compares_and_stays_is_served(family):
    assert plan_of(family).estimator.startswith("Score")


def test_a_draw_without_a_gradient_is_refused():
    with pytest.raises(
        SiteError, match=r"'z': .* Forgetful declares has_rsample = True, and what its rsample returned"
    ):
        plan_of(Forgetful)
    with pytest.raises(SiteError, match="'z': Pathwise cannot serve this site; because Mixture declares has_rsample"):
        plan_of(Mixture, Pathwise())


@pytest.mark.parametrize("family", [Mixture, Rejected])
def test_a_draw_that_compares_a_parameter_gets_the_score_function(family):
    assert plan_of(family).estimator.startswith("Score")


def test_a_draw_that_is_right_stays_pathwise():
    assert plan_of(Right).estimator == "Pathwise()"


def test_values_that_differ_within_a_batch_are_refused_by_name():
    with pytest.raises(SiteError, match=r"'z': Enumerate cannot serve this site; because Ragged\.enumerate_support"):
        plan_of(Ragged, Enumerate())
