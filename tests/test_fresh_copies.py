"""Log-densities have the gradient of a fresh evaluation, whatever transforms and distributions remember."""

import functools
import gc

import pytest
import torch
from graph_harness import InC, by_graph, by_python, svi_of, taken
from torch import distributions as td

import varigrad as vg
import varigrad.compat.pyro.distributions as pdist
from varigrad import distributions as dist
from varigrad.distributions import Source, flows
from varigrad.distributions.fresh_copies import fresh
from varigrad.estimators import LeaveOneOut, MovingAverage, Pathwise, Score

t = torch.tensor


class Remembering(td.Transform):
    """Scaling by a user's class, with a memory of its own that knows nothing of gradients."""

    domain = codomain = td.constraints.positive
    bijective, sign = True, +1

    def __init__(self, power):
        super().__init__()
        self.power, self.known = power, {}

    def with_cache(self, cache_size=1):
        return self

    def _call(self, x):
        y = x.pow(self.power)
        self.known.clear()
        self.known[id(y)] = y, x
        return y

    def _inverse(self, y):
        return self.known[id(y)][1] if id(y) in self.known else y.pow(1 / self.power)

    def log_abs_det_jacobian(self, x, y):
        return (self.power * y / x).abs().log()


class Lazy(td.Distribution):
    """A user's distribution that computes something once, in whatever mode it happens to be asked."""

    arg_constraints, support, has_rsample = {}, td.constraints.positive, True

    def __init__(self, power):
        self.power = power
        super().__init__(power.shape, validate_args=False)

    @functools.cached_property
    def spread(self):
        return self.power * 1.0

    def expand(self, batch_shape, _instance=None):
        return Lazy(self.power.expand(batch_shape))

    def rsample(self, sample_shape=torch.Size()):
        return (self.spread * torch.randn(torch.Size(sample_shape) + self.power.shape)).exp()

    def sample(self, sample_shape=torch.Size()):
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value):
        return td.LogNormal(torch.zeros_like(self.spread), self.spread).log_prob(value)


def power(s, cache):
    return td.transforms.PowerTransform(s, cache_size=cache)


BASE = td.LogNormal(t(0.0), t(1.0))
# All are LogNormal(0, s).
GUIDES = {
    "torch's": lambda s: td.TransformedDistribution(BASE, [power(s, 1)]),
    "ours": lambda s: dist.TransformedDistribution(dist.LogNormal(0.0, 1.0), [power(s, 1)]),
    "Pyro's": lambda s: pdist.TransformedDistribution(pdist.LogNormal(0.0, 1.0), [power(s, 1)]),
    "composed": lambda s: td.TransformedDistribution(
        BASE, [td.ComposeTransform([power(s.sqrt(), 0), power(s.sqrt(), 0)]).with_cache()]
    ),
    "inverted": lambda s: td.TransformedDistribution(BASE, [power(1 / s, 1).inv]),
    "independent": lambda s: td.TransformedDistribution(BASE, [td.IndependentTransform(power(s, 1), 0, 1)]),
    "inside another": lambda s: td.TransformedDistribution(
        td.TransformedDistribution(BASE, [power(s, 1)]), [td.AffineTransform(0.0, 1.0, cache_size=1)]
    ),
    "an event": lambda s: dist.Independent(td.TransformedDistribution(BASE, [power(s, 1)]), 0),
    "expanded": lambda s: dist.Expanded(td.TransformedDistribution(BASE, [power(s, 1)])),
    "a user's transform": lambda s: td.TransformedDistribution(BASE, [Remembering(s)]),
    "a user's distribution": Lazy,
}
ESTIMATORS = (Pathwise(), Score(), Score(MovingAverage()), LeaveOneOut(3))


def model():
    vg.sample("z", dist.LogNormal(0.0, 1.0))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("name", GUIDES)
def test_gradients_are_those_of_a_family_that_remembers_nothing(name, estimator):
    """The same draws, and log q by a closed form: the same gradient, draw by draw."""

    def gradients(family):
        def guide():
            vg.sample("z", family(vg.param("s", t(2.0))), estimator=estimator)

        return vg.ELBO()(model, guide).gradients(30, seed=0)["s"]

    torch.testing.assert_close(gradients(GUIDES[name]), gradients(plain_twin(name)), rtol=1e-3, atol=1e-3)


def plain_twin(name):
    if name == "a user's distribution":  # takes its numbers another way than a LogNormal
        return lambda s: Fresh(s)
    return lambda s: td.TransformedDistribution(BASE, [power(s, 0)])


class Fresh(Lazy):
    spread = property(lambda self: self.power * 1.0)

    def expand(self, batch_shape, _instance=None):
        return Fresh(self.power.expand(batch_shape))


@pytest.mark.parametrize("name", ["torch's", "composed", "a user's transform", "a user's distribution"])
@pytest.mark.parametrize("estimator", [Pathwise(), Score()], ids=str)
def test_the_mean_is_the_exact_slope(name, estimator):
    """ELBO = log s - s^2 / 2 + 1/2, so its slope at 2 is -1.5."""

    def guide():
        vg.sample("z", GUIDES[name](vg.param("s", t(2.0))), estimator=estimator)

    found = vg.ELBO(particles=50)(model, guide).gradients(100, seed=0)["s"]
    assert abs(float(found.mean()) + 1.5) < 4.5 * float(found.std() / 10)


@pytest.mark.parametrize("name", ["torch's", "composed", "inside another"])
def test_compiled_steps_are_those_in_python(name):
    def guide():
        vg.sample("z", GUIDES[name](vg.param("s", t(2.0))), estimator=Score(MovingAverage()))

    with by_graph(kind=InC):
        compiled = svi_of(model, guide)
        compiled.run(20, progress=False)
        assert taken(compiled) >= 15
    with by_python():
        eager = svi_of(model, guide)
        eager.run(20, progress=False)
    pairs = zip(compiled.bound.parameters(), eager.bound.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)


# ---- objects that live outside of the program


def outside(make):
    """A parameter and a distribution of it, made once; and a function that goes on with it as a step would."""
    holder = torch.nn.Module()
    holder.s = torch.nn.Parameter(t(0.4))
    return holder, make(holder.s)


KEPT = {
    "probs": (lambda s: dist.Bernoulli(probs=s), 1.0, lambda s: 1 / s),
    "probs of torch": (lambda s: td.Bernoulli(probs=s, validate_args=False), 1.0, lambda s: 1 / s),
    "probs of Pyro": (lambda s: pdist.Bernoulli(probs=s), 0.0, lambda s: -1 / (1 - s)),
    "counts": (lambda s: dist.Binomial(3, probs=s), 2.0, lambda s: 2 / s - 1 / (1 - s)),
    "an event": (lambda s: dist.Bernoulli(probs=s).to_event(0), 1.0, lambda s: 1 / s),
    "masked": (lambda s: dist.Expanded(dist.Bernoulli(probs=s)), 1.0, lambda s: 1 / s),
    "a transform": (
        lambda s: td.TransformedDistribution(td.Exponential(t(1.0)), [td.AffineTransform(0.0, s, cache_size=1)]),
        0.7, lambda s: 0.7 / s.square() - 1 / s,
    ),
    "a user's": (Lazy, 1.7, lambda s: (t(1.7).log().square() / s.pow(3) - 1 / s)),
}  # fmt: skip


@pytest.mark.parametrize("looked", [False, True], ids=["new", "asked before"])
@pytest.mark.parametrize("name", KEPT)
def test_a_distribution_made_once_is_that_of_the_parameters_as_they_are(name, looked):
    make, value, slope = KEPT[name]
    holder, kept = outside(make)
    value = t(value)
    if looked:
        with torch.no_grad():
            kept.log_prob(value)  # what it computes now is of this step, and without gradients

    def observing():
        vg.module("h", holder)
        vg.sample("x", kept, obs=value)

    bound = vg.ELBO()(observing, lambda: None)
    for s in (0.4, 0.6, 0.3):
        with torch.no_grad():
            holder.s.fill_(s)
        holder.s.grad = None
        bound().backward()
        torch.testing.assert_close(-holder.s.grad, slope(holder.s.detach()))


@pytest.mark.parametrize("estimator", [Pathwise(), Score()], ids=str)
def test_a_users_guide_made_once_is_that_of_the_parameters_as_they_are(estimator):
    holder, kept = outside(Lazy)

    def guide():
        vg.module("h", holder)
        vg.sample("z", kept, estimator=estimator)

    bound = vg.ELBO(particles=100)(model, guide)
    for s in (0.5, 2.0):
        with torch.no_grad():
            holder.s.fill_(s)
        found = bound.gradients(60, seed=0)["h.s"]
        assert abs(float(found.mean()) - (1 / s - s)) < 4.5 * float(found.std() / 60**0.5)
    assert "spread" not in vars(kept)


# ---- the copies


def test_what_cannot_remember_is_not_copied():
    for d in (
        dist.Normal(0.0, t(1.0)), td.Gamma(1.0, 1.0), dist.LogNormal(0.0, 1.0), dist.Normal(t([0.0]), 1.0).to_event(1),
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), [td.ExpTransform()]), dist.StudentT(t(3.0)),
        dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [flows.Planar(2)]),
    ):  # fmt: skip
        assert fresh(d) is d


def test_a_copy_shares_tensors_and_keeps_nothing():
    s = t(2.0, requires_grad=True)
    for name, make in GUIDES.items():
        d = make(s)
        value = Source(torch.Generator()).draw(d)
        twin = fresh(d)
        assert type(twin) is type(d) and twin is not d
        (found,) = torch.autograd.grad(twin.log_prob(value), s)
        (right,) = torch.autograd.grad(td.LogNormal(t(0.0), s).log_prob(value), s)
        torch.testing.assert_close(found, right, msg=name)


def test_an_inverse_that_is_in_use_is_not_the_copys():
    transform = td.AffineTransform(t(1.0), t(2.0))
    inverse = transform.inv  # alive: torch finds it by a weak reference
    twin = fresh(td.TransformedDistribution(BASE, [transform.with_cache()]))
    copied = fresh(td.TransformedDistribution(BASE, [Remembering(t(2.0)), transform])).transforms[1]
    assert copied is not transform and copied.inv is not inverse and twin.transforms[0].inv is not inverse
    del inverse
    gc.collect()


def test_a_draw_without_gradients_leaves_nothing_behind():
    d = GUIDES["torch's"](t(2.0, requires_grad=True))
    value = Source(torch.Generator()).draw(d)
    assert d.transforms[0]._cached_x_y == (None, None) and not value.requires_grad


def test_probs_that_were_given_stay_and_logits_that_were_computed_go():
    for d, given in ((td.Bernoulli(probs=t(0.3)), "probs"), (td.Categorical(logits=t([0.1, 0.2])), "logits")):
        d.probs, d.logits
        assert {"probs", "logits"} & vars(fresh(d)).keys() == {given}
