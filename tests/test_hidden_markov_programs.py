"""Hidden Markov distributions in programs: compiled steps, plates, supports, missing data, Pyro's names."""

import pytest
import torch
from graph_harness import InC, Uncompiled, by_graph, by_python, specializations, svi_of, taken

import varigrad as vg
import varigrad.compat.pyro.distributions as pdist
from varigrad import distributions as dist
from varigrad.distributions import constraints
from varigrad.distributions.support_edges import edges_of
from varigrad.errors import ShapeError, SupportError

t = torch.tensor


def parts(s):
    unit = dist.Normal(s, 1.0).to_event(1)
    return unit, vg.param("m", 0.3 * torch.eye(2)), unit, torch.ones(2, 1), dist.Normal(torch.zeros(1), 1.0).to_event(1)


def discrete(s, steps):
    return dist.DiscreteHMM(torch.zeros(2), vg.param("m", torch.eye(2)), dist.Normal(s, 1.0), duration=steps)


def gaussian(s, steps):
    return dist.GaussianHMM(*parts(s), duration=steps)


def student(s, steps):
    return dist.GammaGaussianHMM(dist.Gamma(t(2.0), t(1.5)), *parts(s), duration=steps)


def program(make, steps=5):
    noise = torch.randn(steps, generator=torch.Generator().manual_seed(0))

    def model():
        s = vg.sample("s", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        d = make(s, steps)
        vg.sample("y", d, obs=noise.reshape(d.event_shape))

    return model


def steps_agree(model, kind, count=10):
    with by_graph(kind=kind):
        recorded = svi_of(model, vg.guides.AutoNormal(model))
        recorded.run(count, progress=False)
        assert taken(recorded) >= count // 2
    with by_python():
        eager = svi_of(model, vg.guides.AutoNormal(model))
        eager.run(count, progress=False)
    for a, b in zip(recorded.bound.parameters(), eager.bound.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    return recorded


@pytest.mark.parametrize("make", [discrete, gaussian, student])
def test_steps_are_recorded_and_agree_with_python(make):
    steps_agree(program(make), Uncompiled)


def test_steps_are_compiled_and_agree_with_python():
    steps_agree(program(discrete), InC)


def test_a_long_chain_is_a_short_graph():
    """A thousand times, sixteen states: about twenty products of matrices, not a thousand of vectors."""

    def model():
        s = vg.sample("s", dist.Normal(torch.zeros(16), 1.0).to_event(1))
        m = vg.param("m", torch.eye(16))
        observed = torch.linspace(-1.0, 1.0, 1000)
        vg.sample("y", dist.DiscreteHMM(torch.zeros(16), m, dist.Normal(s, 1.0), duration=1000), obs=observed)

    svi = steps_agree(model, Uncompiled, 5)
    (form,) = specializations(svi)
    assert form.step.traced.graph.size < 1500


def loss_of(d, value):
    def model():
        vg.sample("y", d, obs=t(value))
        vg.sample("s", dist.Normal(0.0, 1.0))

    def guide():
        vg.sample("s", dist.Normal(vg.param("l", t(0.0)), 1.0))

    return svi_of(model, guide).step()


def test_missing_data_in_a_program():
    """Any number stands for what is missing, also one that no state makes; NaN is refused, as everywhere."""
    mask = t([True, False, True])

    def loss(value, mask):
        law = dist.Poisson(t([1.0, 4.0]))
        return loss_of(dist.DiscreteHMM(torch.zeros(2), torch.eye(2), law, duration=3, mask=mask), value)

    assert loss([1.0, -7.0, 2.0], mask) == loss([1.0, 3.0, 2.0], mask)
    assert loss([1.0, 3.0, 2.0], None) != loss([1.0, 3.0, 2.0], mask)
    with pytest.raises(SupportError, match="outside the support of DiscreteHMM"):
        loss([1.0, -7.0, 2.0], None)
    with pytest.raises(SupportError, match="NaN, infinite and impossible values"):
        loss([1.0, torch.nan, 2.0], mask)


def test_a_program_needs_the_duration():
    d = dist.DiscreteHMM(torch.zeros(2), torch.eye(2), dist.Normal(t([0.0, 1.0]), 1.0))
    with pytest.raises(ShapeError, match=r"the observation has shape \(3,\), the event shape is \(1,\)"):
        loss_of(d, [0.1, 0.2, 0.3])


def test_supports_and_where_densities_jump():
    low = t([0.0, 4.0], requires_grad=True)
    d = dist.DiscreteHMM(torch.zeros(2), torch.zeros(2, 2), dist.Uniform(low, low + 1), duration=2)
    value = t([[0.5, 4.5], [0.5, 2.0]])
    assert torch.equal(d.support.check(value), t([True, False]))
    assert d.log_prob(value)[0].isfinite() and d.log_prob(value)[1] == -torch.inf
    edges = edges_of(d)
    assert edges.inside and any(mover is d.observation_dist.low for mover in edges.moving)
    smooth = dist.DiscreteHMM(torch.zeros(2), torch.zeros(2, 2), dist.Normal(low, 1.0), duration=2)
    assert not edges_of(smooth).inside and not edges_of(smooth).moving
    vectors = dist.DiscreteHMM(torch.zeros(2), torch.eye(2), dist.Normal(torch.zeros(2, 3), 1.0).to_event(1))
    assert vectors.support.event_dim == 2
    assert gaussian(torch.zeros(2), 3).support.base_constraint is constraints.real


def test_independent_chains_are_their_sum():
    start, step, error = (dist.Normal(torch.randn(2, 4, *s, 1), 1.0).to_event(1) for s in ((), (1,), (3,)))
    base = dist.GaussianHMM(start, torch.randn(4, 1, 1, 1), step, torch.eye(1), error)
    d = dist.IndependentHMM(base)
    assert (d.batch_shape, d.event_shape, d.duration) == ((2,), (3, 4), 3)
    value = d.rsample((5,))
    assert value.shape == (5, 2, 3, 4)
    each = torch.zeros(5, 2)
    for i in range(4):
        law = dist.GaussianHMM(
            dist.Normal(start.base_dist.loc[:, i], 1.0).to_event(1),
            base.transition_matrix[i],
            dist.Normal(step.base_dist.loc[:, i], 1.0).to_event(1),
            torch.eye(1),
            dist.Normal(error.base_dist.loc[:, i], 1.0).to_event(1),
        )
        each = each + law.log_prob(value[..., i].unsqueeze(-1))
    torch.testing.assert_close(d.log_prob(value), each)
    wide = d.expand((6, 2))
    assert wide.sample().shape == (6, 2, 3, 4) and wide.log_prob(value[0]).shape == (6, 2)
    assert d.support.check(value).shape == (5, 2)
    with pytest.raises(ValueError, match=r"the event shape \[time, 1\], got \[2, 4\] and \[3\]"):
        dist.IndependentHMM(dist.Normal(torch.zeros(2, 4, 3), 1.0).to_event(1))


PYRO = {
    "DiscreteHMM": lambda d: d.DiscreteHMM(torch.zeros(2), torch.eye(2), d.Normal(t([0.0, 1.0]), 1.0), duration=3),
    "GaussianHMM": lambda d: d.GaussianHMM(*parts_of(d), duration=3),
    "GammaGaussianHMM": lambda d: d.GammaGaussianHMM(d.Gamma(t(2.0), t(1.5)), *parts_of(d), duration=3),
    "LinearHMM": lambda d: d.LinearHMM(*parts_of(d), duration=3),
}


def parts_of(d):
    unit = d.Normal(torch.zeros(2), 1.0).to_event(1)
    return unit, 0.5 * torch.eye(2), unit, torch.eye(2), unit


@pytest.mark.parametrize("name", PYRO)
def test_pyros_names(name):
    ours, theirs = (PYRO[name](library) for library in (dist, pdist))
    assert isinstance(theirs, type(ours)) and theirs.event_dim == len(ours.event_shape)
    assert theirs.expand((4,)).shape() == (4, *ours.event_shape)
    torch.manual_seed(0)
    value = theirs.expand_by((4,))()
    torch.manual_seed(0)
    assert torch.equal(value, ours.expand_by((4,)).sample())
    if name != "LinearHMM":
        assert torch.equal(theirs.log_prob(value), ours.log_prob(value))
        assert theirs.mask(False).log_prob(value).abs().sum() == 0
