"""Rényi bounds: gradients against enumeration and closed forms, what the order means, what cannot be served."""

import math

import pytest
import torch
from torch import distributions as td

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import SiteError, VarigradError
from varigrad.estimators import DisARM, Enumerate, LeaveOneOut, MovingAverage, NeuralBaseline, Pathwise, Score
from varigrad.objectives.bound import BiasWarning
from varigrad.testing import PROGRAMS, exact_gradient, expected_gradient, gradient_of, largest_difference

t = torch.tensor
ORDERS = (0.0, 0.5, 2.0, -1.0)


def tuples(alpha, particles):
    """The bound by all combinations of outcomes; shares nothing with the objective."""

    def bound(p, log_w):
        total = 0.0
        for picks in torch.cartesian_prod(*[torch.arange(len(p))] * particles):
            inside = log_w[picks].mul(1 - alpha).exp().mean().log() / (1 - alpha)
            total = total + p[picks].prod() * inside
        return total

    return bound


SMALL = [
    name
    for name, case in PROGRAMS.items()
    if case.exact is None and not case.heavy and name not in ("minibatch", "subsample", "subsampled_plate")
]


def _outcomes(case):
    return expected_gradient(vg.ELBO()(case.model, case.guide).init(*case.args), *case.args, limit=5000).count


@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("name", SMALL)
def test_mean_is_the_exact_gradient(name, vectorize):
    case = PROGRAMS[name]
    count = _outcomes(case)
    if count > 16:
        pytest.skip(f"{count} outcomes, squared")
    for alpha in ORDERS if vectorize is None else ORDERS[:2]:
        for estimator in (Score(), Score(MovingAverage(0.7))):
            config = vg.Renyi(alpha, 2, {"z*": estimator}, vectorize=vectorize)
            bound = config(case.model, case.guide).init(*case.args)
            for _ in range(3):
                bound(*case.args)  # averages that are not zero
            moments = expected_gradient(bound, *case.args)
            value, gradient = exact_gradient(bound, *case.args, of=tuples(alpha, 2))
            assert largest_difference(moments.mean, gradient) < 1e-9
            assert abs(moments.value - value) < 1e-9


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_three_particles(leave_one_out):
    case = PROGRAMS["categorical"]
    bound = vg.Renyi(0.3, 3, leave_one_out=leave_one_out)(case.model, case.guide)
    value, gradient = exact_gradient(bound, of=tuples(0.3, 3))
    moments = expected_gradient(bound)
    assert largest_difference(moments.mean, gradient) < 1e-9
    assert abs(moments.value - value) < 1e-9


def test_leaving_one_out_lowers_the_variance():
    case = PROGRAMS["mixture"]
    both = [vg.Renyi(0.0, 2, {"*": Score()}, leave_one_out=choice)(case.model, case.guide) for choice in (True, False)]
    with_, without = (sum(v.sum() for v in expected_gradient(b).variance.values()) for b in both)
    assert with_ < 0.7 * without


def gaussian(mean=0.3, log_scale=-0.2):
    def model():
        z = vg.sample("z", dist.Normal(t(0.0, dtype=torch.float64), 1.0))
        vg.sample("x", dist.Normal(z, 1.0), obs=t(1.0, dtype=torch.float64))

    def guide():
        m = vg.param("m", lambda: t(mean, dtype=torch.float64))
        s = vg.param("s", lambda: t(log_scale, dtype=torch.float64)).exp()
        vg.sample("z", dist.Normal(m, s))

    return model, guide


def quadrature(alpha):
    """The bound of two particles by a grid over both."""
    grid = torch.linspace(-9, 9, 1201, dtype=torch.float64)

    def bound(parameters):
        q = td.Normal(parameters["m"], parameters["s"].exp())
        log_q = q.log_prob(grid)
        log_w = td.Normal(0.0, 1.0).log_prob(grid) + td.Normal(grid, 1.0).log_prob(t(1.0)) - log_q
        both = torch.logaddexp((1 - alpha) * log_w[:, None], (1 - alpha) * log_w) - math.log(2)
        mass = (log_q[:, None] + log_q).exp() * (grid[1] - grid[0]).square()
        return (mass * both / (1 - alpha)).sum()

    return bound


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("estimator", [Pathwise(), Score()], ids=["pathwise", "score"])
@pytest.mark.parametrize("vectorize", [True, False])
def test_gaussian_gradients(alpha, estimator, vectorize):
    """Mean over many steps against quadrature, within four and a half standard errors."""
    bound = vg.Renyi(alpha, 2, {"z": estimator}, vectorize=vectorize)(*gaussian())
    bound.draw_from(dist.Source(torch.Generator().manual_seed(0)))
    value, exact = gradient_of(bound, quadrature(alpha))
    leaves = dict(bound.named_parameters())
    rows = []
    for _ in range(1500 if vectorize else 700):
        result = bound.estimate()
        grads = torch.autograd.grad(result.surrogate, list(leaves.values()))
        rows.append(torch.stack([*grads, result.value]))
    rows = torch.stack(rows)
    wanted = torch.stack([*[exact[n] for n in leaves], t(value, dtype=torch.float64)])
    error = (rows.mean(0) - wanted).abs() / (rows.std(0) / len(rows) ** 0.5)
    assert (error < 4.5).all(), error


def test_mixed_guides():
    """A pathwise choice after a discrete one, by enumerating the one and quadrature over the other."""
    double = torch.float64

    def model():
        k = vg.sample("k", dist.Bernoulli(t(0.3, dtype=double)))
        z = vg.sample("z", dist.Normal(k, t(1.0, dtype=double)))
        vg.sample("x", dist.Normal(z, 1.0), obs=t(1.0, dtype=double))

    def guide():
        k = vg.sample("k", dist.Bernoulli(logits=vg.param("l", lambda: t(0.4, dtype=double))), estimator=Score())
        vg.sample("z", dist.Normal(vg.param("m", lambda: t(0.2, dtype=double)) + 0.5 * k, t(0.8, dtype=double)))

    grid = torch.linspace(-8, 8, 801, dtype=double)

    def exact(p):
        mass, log_w = [], []
        for k in (0.0, 1.0):
            q = td.Normal(p["m"] + 0.5 * k, 0.8).log_prob(grid)
            q = q + td.Bernoulli(logits=p["l"]).log_prob(t(k, dtype=double))
            joint = td.Bernoulli(t(0.3, dtype=double)).log_prob(t(k, dtype=double)) + td.Normal(k, 1.0).log_prob(grid)
            log_w.append(joint + td.Normal(grid, 1.0).log_prob(t(1.0)) - q)
            mass.append(q.exp() * (grid[1] - grid[0]))
        mass, log_w = torch.cat(mass), torch.cat(log_w)
        return (mass[:, None] * mass * (torch.logaddexp(log_w[:, None], log_w) - math.log(2))).sum()

    bound = vg.Renyi(0.0, 2, vectorize=True)(model, guide)
    bound.draw_from(dist.Source(torch.Generator().manual_seed(1)))
    value, gradient = gradient_of(bound, exact)
    leaves = dict(bound.named_parameters())
    rows = []
    for _ in range(3000):
        result = bound.estimate()
        rows.append(torch.stack([*torch.autograd.grad(result.surrogate, list(leaves.values())), result.value]))
    rows = torch.stack(rows)
    wanted = torch.stack([*[gradient[n] for n in leaves], t(value, dtype=double)])
    assert ((rows.mean(0) - wanted).abs() < 4.5 * rows.std(0) / len(rows) ** 0.5).all()


def test_a_partly_reparameterised_choice():
    """Sampled by rejection: the score part has the whole bound for its cost."""
    double = torch.float64

    def model():
        z = vg.sample("z", dist.Gamma(t(2.0, dtype=double), 1.0))
        vg.sample("x", dist.Normal(z, 1.0), obs=t(1.5, dtype=double))

    def guide():
        a = vg.param("a", lambda: t(1.3, dtype=double), dist.constraints.positive)
        vg.sample("z", dist.RejectionGamma(a, t(1.0, dtype=double)))

    grid = torch.linspace(-14, 4, 1201, dtype=double).exp()

    def exact(p):
        log_q = td.Gamma(p["a"], t(1.0, dtype=double)).log_prob(grid)
        log_w = td.Gamma(t(2.0, dtype=double), 1.0).log_prob(grid) + td.Normal(grid, 1.0).log_prob(t(1.5)) - log_q
        mass = log_q.exp() * grid * 18 / 1200
        return (mass[:, None] * mass * (torch.logaddexp(log_w[:, None], log_w) - math.log(2))).sum()

    bound = vg.Renyi(0.0, 2, vectorize=True)(model, guide)
    bound.draw_from(dist.Source(torch.Generator().manual_seed(2)))
    _, gradient = gradient_of(bound, exact)
    leaf = next(bound.parameters())
    rows = torch.stack([torch.autograd.grad(bound.estimate().surrogate, leaf)[0] for _ in range(2000)])
    assert (rows.mean() - gradient["a"]).abs() < 4.5 * rows.std() / len(rows) ** 0.5


# What the bound is


def test_it_approaches_the_evidence():
    evidence = td.Normal(0.0, 2.0**0.5).log_prob(t(1.0)).item()
    torch.manual_seed(0)
    few, many = (vg.Renyi(0.0, k)(*gaussian(1.5, 0.5)).evaluate(particles=300) for k in (2, 100))
    elbo = vg.ELBO(100)(*gaussian(1.5, 0.5)).evaluate(particles=20)
    assert elbo < few < many < evidence + 0.05
    exact = vg.Renyi(0.5, 3)(*gaussian(0.5, math.log(0.5**0.5)))  # the guide is the posterior
    assert exact().item() == pytest.approx(-evidence, abs=1e-6)


def test_terms_sum_to_the_bound():
    for vectorize in (True, False):
        bound = vg.Renyi(0.5, 4, vectorize=vectorize)(*gaussian())
        result = bound.estimate()
        assert sum(result.terms().values()).item() == pytest.approx(result.value.item())


def test_it_learns():
    model, guide = gaussian(-1.0, 0.5)
    fit = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), vg.Renyi(0.5, 8), seed=0).run(400)
    assert fit.parameters["m"].item() == pytest.approx(0.5, abs=0.1)
    assert fit.parameters["s"].exp().item() == pytest.approx(0.5**0.5, abs=0.1)


def test_baselines_serve():
    case = PROGRAMS["bernoulli"]
    net = torch.nn.Linear(1, 1).double()
    score = Score(MovingAverage() + NeuralBaseline(net, torch.ones(1, dtype=torch.float64)))
    for vectorize in (True, False):
        bound = vg.Renyi(0.0, 2, {"z": score}, vectorize=vectorize)(case.model, case.guide)
        moments = expected_gradient(bound)
        assert largest_difference(moments.mean, exact_gradient(bound, of=tuples(0.0, 2))[1]) < 1e-9


# What it refuses


@pytest.mark.parametrize(
    ("estimator", "because"),
    [
        (Enumerate(), "inside a logarithm"),
        (DisARM(), "inside a logarithm"),
        (LeaveOneOut(2), "inside a logarithm"),
        (LeaveOneOut(), r"share one cost here.*leave_one_out=True"),
    ],
)
def test_estimators_that_need_a_sum(estimator, because):
    case = PROGRAMS["bernoulli"]
    with pytest.raises(SiteError, match=f"'z': .* cannot serve this site under a Rényi bound; because .*{because}"):
        vg.Renyi(0.0, 2, {"z": estimator})(case.model, case.guide)


def test_sticking_the_landing_is_an_error():
    with pytest.raises(SiteError, match="has no mean of zero"):
        vg.Renyi(0.0, 2, {"z": Pathwise(sticking_the_landing=True)})(*gaussian())


def test_arguments_are_checked():
    with pytest.raises(VarigradError, match="alpha must not be 1; because the bound of order 1 is the ELBO"):
        vg.Renyi(1.0)
    for wrong in (math.inf, math.nan, "0", True):
        with pytest.raises(VarigradError, match="alpha must be a finite number"):
            vg.Renyi(wrong)
    with pytest.raises(VarigradError, match="particles must be a whole number of at least 2, got 1"):
        vg.Renyi(0.0, 1)
    with pytest.raises(VarigradError, match="must be an Estimator"):
        vg.Renyi(0.0, 2, {"z": Score})


def test_minibatches_are_warned_of():
    def model():
        with vg.plate("n", 4, subsample_size=2):
            vg.sample("z", dist.Normal(0.0, 1.0))

    with pytest.warns(BiasWarning, match="'n': is subsampled, and the logarithm of a minibatch's estimate"):
        vg.Renyi()(model, model)
