"""Numbers that are coupled across particles: every family takes a particle's numbers for that particle alone, and each
particle by itself is drawn from the family's law.
"""

import math

import pytest
import torch
from families import DRAWS, FAMILIES, assert_same_law, everything, reference_draws

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions.counter_rng import Noise
from varigrad.distributions.couplings import Coupled, Coupling
from varigrad.distributions.rng import Source
from varigrad.errors import SiteError
from varigrad.estimators import Antithetic, Pathwise, Sobol

PATHWISE = {
    name: make
    for name, make in everything().items()
    if make().has_rsample and Pathwise(coupling=Sobol()).refusal(make()) is None and "StraightThrough" not in name
}
FLATTENED = PATHWISE.pop("MixtureOfNormals")
KINDS = (Antithetic(), Sobol())


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Own(Coupling):
    """Each particle has a generator of its own; that of one has another seed, if it is `odd`."""

    def __init__(self, odd):
        self.odd, self.calls = odd, 0

    def refusal(self, particles):
        return None

    def numbers(self, source, particles, count, like, normal):
        self.calls += 1
        rows = []
        for k in range(particles):
            generator = torch.Generator().manual_seed(100 * self.calls + k + 50 * (k == self.odd))
            make = torch.randn if normal else torch.rand
            rows.append(make(count, generator=generator, dtype=like.dtype))
        return torch.stack(rows)


@pytest.mark.parametrize("lead", [(), (2,)], ids=["particles first", "lanes first"])
@pytest.mark.parametrize("name", PATHWISE)
def test_a_particle_has_its_own_numbers(name, lead):
    if name in ("Delta", "Unit"):
        pytest.skip("no random numbers")
    d = PATHWISE[name]()
    d = d.expand((*lead, 4, 3, *d.batch_shape))
    values = []
    for odd in (None, 2):
        source = Coupled(Source(), Own(odd), d.batch_shape, len(lead))
        values.append(source.draw(d, reparameterised=True).detach().movedim(len(lead), 0))
    assert torch.equal(values[0][[0, 1, 3]], values[1][[0, 1, 3]])
    assert not torch.isclose(values[0][2], values[1][2]).all()


@pytest.mark.parametrize("name", PATHWISE)
def test_each_particle_follows_the_law(name):
    d = PATHWISE[name]()
    wide = d.expand((2, DRAWS, *d.batch_shape))
    draws = Coupled(Noise(3), Antithetic(), wide.batch_shape, 0).draw(wide, reparameterised=True).detach()
    for particle in draws:
        assert_same_law(particle, reference_draws(name, d))


def test_most_families_are_coupled():
    assert len(PATHWISE) >= 40
    assert {n for n in FAMILIES if everything()[n]().has_rsample} - set(PATHWISE) <= {
        "OneHotCategoricalStraightThrough",
        "Wishart",
    }


def test_numbers_that_are_not_the_particles():
    mixture = FLATTENED().expand((4, 3))
    with pytest.raises(SiteError, match=r"random numbers of shape \(12, 1\), and its batch is \(4, 3\)"):
        Coupled(Source(), Sobol(), (4, 3), 0).draw(mixture, reparameterised=True)
    source = Coupled(Source(), Sobol(), (4, 3), 0)
    source.site = "z"
    with pytest.raises(SiteError, match=r"'z': Sobol cannot couple.*shape \(3, 4\), and its batch is \(4, 3\)"):
        source.normal((3, 4), torch.zeros(()))
    with pytest.raises(SiteError, match=r"torch.poisson draws it"):
        source._call(lambda: torch.poisson(torch.ones(4, 3)))


@pytest.mark.parametrize("normal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: type(k).__name__)
def test_numbers_have_the_law_that_is_asked_for(kind, dtype, normal):
    like = torch.empty(0, dtype=dtype)
    source = Source(torch.Generator().manual_seed(0))
    x = torch.stack([kind.numbers(source, 8, 30, like, normal) for _ in range(300)]).double()
    mean, variance = (0.0, 1.0) if normal else (0.5, 1 / 12)
    n = len(x) * x.shape[-1]
    assert x.shape == (300, 8, 30) and x.isfinite().all()
    assert normal or (x.min() >= 0 and x.max() < 1)
    assert ((x.mean((0, 2)) - mean).abs() < 5 * (variance / n) ** 0.5).all()
    assert ((x.var((0, 2)) / variance - 1).abs() < 5 * (2 / n) ** 0.5).all()
    # A particle's numbers are independent of each other, and those of one step of those of the next.
    rows = torch.corrcoef(x[:, 0].T) - torch.eye(30)
    assert rows.abs().max() < 6 / 300**0.5
    later = (x[1:, 0] - mean).mul(x[:-1, 0] - mean).mean() / variance
    assert later.abs() < 5 / n**0.5
    # Antithetic halves, or Sobol points, cancel in the mean.
    assert x.mean(1).var() < 0.5 * variance / 8


def test_more_numbers_than_sobol_has_dimensions():
    u = Source(torch.Generator().manual_seed(0)).quasi(4, 21_300, torch.empty(0, dtype=torch.float64), False)
    assert u.shape == (4, 21_300)
    assert ((4 * u).long().sort(0).values == torch.arange(4).unsqueeze(-1)).double().mean() > 0.999


def model(data):
    shift = vg.sample("shift", dist.Normal(torch.tensor(0.0), 1.0))
    with vg.plate("n", 3):
        z = vg.sample("z", dist.Gamma(torch.tensor(2.0), 1.0))
        vg.sample("x", dist.Normal(z + shift, 1.0), obs=data)


def guide(data):
    positive = dist.constraints.positive
    shift = vg.sample("shift", dist.Normal(vg.param("m", 0.3), vg.param("s", 0.7, constraint=positive)))
    with vg.plate("n", 3):
        vg.sample("z", dist.Gamma(vg.param("a", torch.ones(3), event_dim=0, constraint=positive) + shift.square(), 1.0))


DATA = torch.tensor([1.2, 0.3, 2.0], dtype=torch.float64)


def gradients(particles, coupling, count):
    config = vg.ELBO(particles, {"*": Pathwise(coupling=coupling)})
    bound = config.bind(model, guide, Source(torch.Generator().manual_seed(1))).init(DATA)
    return bound.gradients(count, DATA, seed=particles)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: type(k).__name__)
def test_sites_downstream_of_each_other(kind, double):
    """The same mean as independent particles, with less variance."""
    plain, found = gradients(8, None, 300), gradients(8, kind, 300)
    for name, wanted in gradients(200, None, 300).items():
        spread = (found[name].var(0) / len(found[name]) + wanted.var(0) / len(wanted)).sqrt()
        assert ((found[name].mean(0) - wanted.mean(0)).abs() < 5 * spread).all(), name
    total = [sum(float(g.var(0).sum()) for g in each.values()) for each in (plain, found)]
    assert total[1] < 0.8 * total[0], total


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: type(k).__name__)
def test_equal_seeds_give_equal_steps(kind, double):
    runs = []
    for _ in range(2):
        svi = vg.SVI(model, guide, vg.optim.Adam(0.02), vg.ELBO(4, {"*": Pathwise(coupling=kind)}), seed=3)
        runs.append([svi.step(DATA) for _ in range(5)])
        state = svi.state()
        after = [svi.step(DATA) for _ in range(3)]
        svi.load_state(state)
        assert [svi.step(DATA) for _ in range(3)] == after
    assert runs[0] == runs[1] and all(map(math.isfinite, runs[0]))
