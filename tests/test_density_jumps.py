"""Where log-densities jump: the table of families against the fundamental theorem, and what programs make of it.

A log-density that is continuous, with the derivative that autograd says, changes from `a` to `b` by the integral of
that derivative. One that jumps, or loses its derivative, does not.
"""

import math
import warnings

import pytest
import torch
from smooth_families import SMOOTH, SMOOTH_TOO, pair
from torch import distributions as td

import varigrad as vg
import varigrad.compat.pyro.distributions as pdist
from varigrad import distributions as dist
from varigrad.distributions import flows, transforms
from varigrad.estimators import LeaveOneOut, Pathwise, Rebar, Score
from varigrad.objectives import BiasWarning
from varigrad.objectives.checks import sites
from varigrad.terms import exempt_comparisons

t = torch.tensor
LEGENDRE = [t(v) for v in __import__("numpy").polynomial.legendre.leggauss(64)]


JUMPS = {  # an edge, or a mass, that z moves over the value
    "Uniform low": (lambda d, z: d.Uniform(z, t(4.0).to(z)), 0.7, 0.5, 3),
    "Uniform high": (lambda d, z: d.Uniform(t(-1.0).to(z), z), 0.7, 0.5, 3),
    "mixture of Uniforms": (
        lambda d, z: d.MixtureSameFamily(
            d.Categorical(torch.ones(2).to(z)), d.Uniform(t([-10.0, -10.0]).to(z), torch.stack([z, z + 50], -1))
        ),
        0.7, 0.5, 3,
    ),
    "shifted and scaled Uniform": (
        lambda d, z: d.TransformedDistribution(
            d.Uniform(t(0.0).to(z), t(1.0).to(z)), [td.AffineTransform(z, 1 + z)]
        ),
        0.7, 0.5, 3,
    ),
    "Uniform in an event": (lambda d, z: d.Independent(d.Uniform(pair(z), t(4.0).to(z)), 1), [0.7, 3.9], 0.5, 3),
}  # fmt: skip
JUMPS_TOO = {
    "Delta": (lambda d, z: d.Delta(z), 0.7, 0.5, 3),
}
UNBOUNDED = {  # torch goes on beyond the edge as if there were none; where it is, it moves
    "Pareto scale": lambda d, z: d.Pareto(z, t(2.0)),
    "GeneralizedPareto loc": lambda d, z: d.GeneralizedPareto(z, t(1.0), t(0.5)),
    "shifted Exponential": lambda d, z: d.TransformedDistribution(d.Exponential(t(1.0)), [td.AffineTransform(z, 1.0)]),
}
LIBRARIES = {"torch": (td, (SMOOTH, JUMPS)), "ours": (dist, (SMOOTH | SMOOTH_TOO, JUMPS | JUMPS_TOO)),
             "Pyro's": (pdist, (SMOOTH | SMOOTH_TOO, JUMPS | JUMPS_TOO))}  # fmt: skip


def rows(kind):
    return [(library, name) for library, (_, tables) in LIBRARIES.items() for name in tables[kind]]


@pytest.fixture(autouse=True)
def _no_validation_by_torch(monkeypatch):
    # What another test has compiled with torch makes it unclear who switched the checks off, and they would stay on.
    monkeypatch.setattr(sites, "has_dynamo_disabled_validation", lambda: False)
    before = td.Distribution._validate_args
    td.Distribution.set_default_validate_args(False)
    yield
    td.Distribution.set_default_validate_args(before)


def of(library, name, kind):
    module, tables = LIBRARIES[library]
    make, value, low, high = tables[kind][name]
    return (lambda z: make(module, z)), value, float(low), float(high)


def change_and_integral(f, low, high, pieces=40):
    """How much a function changes, and the integral of the derivative that autograd gives."""
    nodes, weights = (v.double() for v in LEGENDRE)
    edges = torch.linspace(low, high, pieces + 1, dtype=torch.float64)
    half = (edges[1:] - edges[:-1]) / 2
    z = ((edges[1:] + edges[:-1]) / 2 + half * nodes.unsqueeze(-1)).flatten().requires_grad_()
    values = f(z)
    assert values.shape == z.shape
    slope = torch.autograd.grad(values.sum(), z)[0] if values.requires_grad else torch.zeros_like(z)
    ends = f(t([low, high], dtype=torch.float64)).detach()
    return float(ends[1] - ends[0]), float((slope.reshape(64, -1) * weights.unsqueeze(-1) * half).sum())


def density_in(make, value, z):
    value = torch.as_tensor(value, dtype=None if isinstance(value, int) else z.dtype)
    return make(z).log_prob(value.expand(z.shape + value.shape))


@pytest.mark.parametrize(("library", "name"), rows(0), ids=str)
def test_smooth_families_change_by_the_integral_of_their_derivative(library, name):
    make, value, low, high = of(library, name, 0)
    change, integral = change_and_integral(lambda z: density_in(make, value, z), low, high)
    # Two formulas for one function (an approximation near a limit) agree to six digits, not to all.
    assert abs(change - integral) < 2e-5 * (1 + abs(change))


@pytest.mark.parametrize(("library", "name"), rows(1), ids=str)
def test_families_that_jump_do_not(library, name):
    make, value, low, high = of(library, name, 1)
    change, integral = change_and_integral(lambda z: density_in(make, value, z), low, high)
    assert not abs(change - integral) < 1e-2


def estimator_of(z_to_site, **options):
    """What a pathwise choice gets that a site's parameter is made of."""

    def model():
        z_to_site(vg.sample("z", dist.Normal(0.0, 1.0)))

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", t(0.0)), 0.1), **options)

    return vg.ELBO()(model, guide).plan()["z"]


def observed(make, value, low, high):
    value = torch.as_tensor(value)

    def site(z):
        inside = low + (high - low) * torch.sigmoid(z)
        vg.sample("x", make(inside), obs=value)

    return site


@pytest.mark.parametrize(("library", "name"), rows(0), ids=str)
def test_smooth_families_keep_pathwise_gradients(library, name):
    plan = estimator_of(observed(*of(library, name, 0)))
    assert plan.estimator == "Pathwise()"


@pytest.mark.parametrize(("library", "name"), rows(1), ids=str)
def test_families_that_jump_get_the_score_function(library, name):
    plan = estimator_of(observed(*of(library, name, 1)))
    assert plan.estimator == "Score(baseline=MovingAverage())"
    assert "a density that jumps" in plan.why


@pytest.mark.parametrize("name", UNBOUNDED)
@pytest.mark.parametrize("library", LIBRARIES)
def test_edges_that_move_count_though_torch_does_not_stop_there(library, name):
    def site(z):
        vg.sample("x", UNBOUNDED[name](LIBRARIES[library][0], torch.sigmoid(z)), obs=t(1.5))

    assert estimator_of(site).estimator.startswith("Score")


@pytest.mark.parametrize("name", JUMPS)
def test_a_density_that_is_a_factor_jumps_as_well(name):
    make, value, low, high = of("ours", name, 1)

    def site(z):
        inside = low + (high - low) * torch.sigmoid(z)
        vg.factor("x", make(inside).log_prob(torch.as_tensor(value)))

    if name != "shifted and scaled Uniform":  # its comparison is the base's, made of the value that was mapped back
        assert estimator_of(site).estimator.startswith("Score")


@pytest.mark.parametrize(
    "name",
    [n for n in SMOOTH if n not in ("HalfCauchy", "HalfNormal", "Kumaraswamy", "logistic as a transformed Uniform")],
)
def test_a_smooth_density_that_is_a_factor_keeps_pathwise_gradients(name):
    make, value, low, high = of("ours", name, 0)

    def site(z):
        inside = low + (high - low) * torch.sigmoid(z)
        vg.factor("x", make(inside).log_prob(torch.as_tensor(value)))

    plan = estimator_of(site)
    assert plan.estimator == "Pathwise()" and not plan.leaves


# ---- the value


CONTINUOUS = {
    "Beta": lambda d: d.Beta(2.0, 3.0), "Cauchy": lambda d: d.Cauchy(0.0, 1.0),
    "Exponential": lambda d: d.Exponential(2.0), "Gamma": lambda d: d.Gamma(2.0, 3.0),
    "ContinuousBernoulli": lambda d: d.ContinuousBernoulli(0.3),
    "GeneralizedPareto": lambda d: d.GeneralizedPareto(t(0.5), t(1.0), t(0.2)), "Gumbel": lambda d: d.Gumbel(0.0, 1.0),
    "HalfCauchy": lambda d: d.HalfCauchy(t(1.0)), "HalfNormal": lambda d: d.HalfNormal(1.0),
    "InverseGamma": lambda d: d.InverseGamma(t(2.0), t(3.0)), "Kumaraswamy": lambda d: d.Kumaraswamy(2.0, 3.0),
    "Laplace": lambda d: d.Laplace(0.0, 1.0), "LogNormal": lambda d: d.LogNormal(0.0, 1.0),
    "MixtureSameFamily": lambda d: d.MixtureSameFamily(
        d.Categorical(torch.ones(2)), d.Gamma(t([1.5, 2.0]), t([1.0, 2.0]))
    ),
    "Normal": lambda d: d.Normal(0.0, 1.0), "Pareto": lambda d: d.Pareto(t(0.5), t(3.0)),
    "StudentT": lambda d: d.StudentT(4.0), "Uniform": lambda d: d.Uniform(-1.0, 2.0),
    "VonMises": lambda d: d.VonMises(0.5, 2.0), "Weibull": lambda d: d.Weibull(1.0, 1.5),
}  # fmt: skip


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_priors_keep_pathwise_gradients_where_the_guide_stays_in_their_support(library, name):
    d = LIBRARIES[library][0]

    def model():
        z = vg.sample("z", CONTINUOUS[name](d))
        vg.sample("x", dist.Normal(z, 1.0), obs=t(0.3))

    assert vg.ELBO()(model, vg.guides.AutoNormal(model)).plan()["z"].estimator == "Pathwise()"


@pytest.mark.parametrize(
    "name",
    ["Beta", "ContinuousBernoulli", "Exponential", "Gamma", "HalfCauchy", "HalfNormal", "Kumaraswamy", "Uniform"],
)
def test_a_guide_that_reaches_beyond_an_unchecked_support_gets_the_score_function(name):
    def model():
        vg.sample("z", CONTINUOUS[name](td))  # torch's validation is off: see the fixture

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", t(0.5)), 0.01))

    assert vg.ELBO()(model, guide).plan()["z"].estimator.startswith("Score")


def in_the_middle(x):
    return torch.where(x.abs() < 1, 0.25 + 0.5 / 60, 0.5 / 60).log()


class Histogram(td.Distribution):
    arg_constraints, support = {}, td.constraints.real

    def __init__(self, like=None):
        self.like = like
        super().__init__(validate_args=False)

    def log_prob(self, z):
        return in_the_middle(z)

    def sample(self, shape=torch.Size()):
        return torch.rand(shape) * 2 - 1


class Steep(td.Transform):
    """A user's transform whose slope jumps."""

    domain = codomain = td.constraints.real
    bijective, sign = True, +1

    def _call(self, x):
        return torch.where(x > 0, 2 * x, x)

    def _inverse(self, y):
        return torch.where(y > 0, y / 2, y)

    def log_abs_det_jacobian(self, x, y):
        return torch.where(x > 0, math.log(2), 0.0)


class Forgetful(Histogram):
    def log_prob(self, z):
        return -z.detach().square()


HALVES = t([0.5, 0.5])
PRIORS = {
    "a class of the user's": Histogram,
    "one that detaches": Forgetful,
    "an event of them": lambda: td.Independent(Histogram(), 0),
    "a mixture of Uniforms": lambda: dist.MixtureSameFamily(
        dist.Categorical(HALVES), dist.Uniform(t([-1.0, -30.0]), t([1.0, 30.0]))
    ),
    "torch's": lambda: td.MixtureSameFamily(td.Categorical(HALVES), td.Uniform(t([-1.0, -30.0]), t([1.0, 30.0]))),
    "masked": lambda: dist.MixtureSameFamily(
        dist.Categorical(HALVES), dist.Uniform(t([-1.0, -30.0]), t([1.0, 30.0]))
    ).mask(t(True)),
    "expanded": lambda: dist.Expanded(
        dist.MixtureSameFamily(dist.Categorical(HALVES), dist.Uniform(t([-1.0, -30.0]), t([1.0, 30.0])))
    ),
    "moved": lambda: dist.TransformedDistribution(
        dist.MixtureSameFamily(dist.Categorical(HALVES), dist.Uniform(t([-1.0, -30.0]), t([1.0, 30.0]))),
        [td.AffineTransform(0.1, 1.5)],
    ),
    "a transform whose slope jumps": lambda: dist.TransformedDistribution(
        dist.Normal(0.0, 1.0), [transforms.LeakyReLUTransform()]
    ),
    "the same inside others": lambda: dist.TransformedDistribution(
        dist.Normal(0.0, 1.0),
        [
            td.ComposeTransform([td.AffineTransform(0.5, 2.0), transforms.LeakyReLUTransform().inv]),
            td.AffineTransform(1, 2),
        ],
    ),
    "a user's transform": lambda: dist.TransformedDistribution(dist.Normal(0.0, 1.0), [Steep()]),
    "a user's transform the other way round": lambda: dist.TransformedDistribution(
        dist.Normal(0.0, 1.0), [Steep().inv]
    ),
}
SMOOTH_PRIORS = {
    "ELU": lambda: dist.TransformedDistribution(dist.Normal(0.0, 1.0), [transforms.ELUTransform().inv]),
    "tanh": lambda: dist.TransformedDistribution(dist.Normal(0.0, 1.0), [td.TanhTransform().inv]),
    "sigmoid": lambda: dist.TransformedDistribution(dist.Uniform(0.0, 1.0), [td.SigmoidTransform().inv]),
    "power": lambda: dist.TransformedDistribution(dist.Normal(0.0, 1.0), [transforms.PositivePowerTransform(3.0)]),
    "moved": lambda: dist.TransformedDistribution(dist.Normal(0.0, 1.0), [td.AffineTransform(0.1, -1.5)]),
    "a mixture": lambda: dist.MixtureSameFamily(dist.Categorical(HALVES), dist.Normal(t([-1.0, 1.0]), 1.0)),
    "two of one support": lambda: dist.MaskedMixture(t(True), dist.Normal(0.0, 1.0), dist.StudentT(3.0)),
    "improper": lambda: dist.ImproperUniform(td.constraints.real, (), ()),
}


def plan_of_prior(prior, **options):
    def model():
        vg.sample("z", prior())

    def guide():
        inside = dist.TransformedDistribution(dist.Normal(vg.param("m", t(0.3)), 0.1), [td.TanhTransform()])
        vg.sample("z", inside if options.pop("inside", False) else dist.Normal(vg.param("m", t(0.8)), 0.5), **options)

    return vg.ELBO()(model, guide).plan()["z"]


@pytest.mark.parametrize("name", PRIORS)
def test_a_value_that_crosses_a_jump_gets_the_score_function(name):
    assert plan_of_prior(PRIORS[name]).estimator == "Score(baseline=MovingAverage())"


@pytest.mark.parametrize("name", PRIORS)
def test_pathwise_by_name_is_suspect_and_warned_of(name):
    with pytest.warns(BiasWarning, match="'z': Pathwise was asked for"):
        plan = plan_of_prior(PRIORS[name], estimator=Pathwise())
    assert plan.suspect


@pytest.mark.parametrize("name", SMOOTH_PRIORS)
def test_a_value_that_crosses_no_jump_keeps_pathwise_gradients(name):
    assert plan_of_prior(SMOOTH_PRIORS[name], inside=name == "tanh").estimator == "Pathwise()"


def exact(log_p, m, s=0.5):
    """The bound's gradient by `m` under a guide Normal(m, s), by quadrature."""
    z = torch.linspace(-10, 10, 400_001, dtype=torch.float64)
    m = t(m, dtype=torch.float64, requires_grad=True)
    q = td.Normal(m, s)
    log_q = q.log_prob(z)
    bound = (log_q.exp() * (log_p(z) - log_q.detach())).sum() * (z[1] - z[0])
    return float(torch.autograd.grad(bound, m)[0])


def gradients(model, guide, n=3000):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = vg.ELBO()(model, guide).gradients(n, seed=0)["m"]
    return float(found.mean()), float(found.std() / n**0.5)


def normal_guide(m, s=0.5):
    def guide():
        vg.sample("z", dist.Normal(vg.param("m", t(m)), s))

    return guide


@pytest.mark.parametrize("case", ["histogram", "bound", "slope"])
def test_the_gradient_is_that_of_quadrature(case):
    def model():
        if case == "histogram":
            vg.sample("z", Histogram())
        elif case == "slope":
            vg.sample("z", PRIORS["a transform whose slope jumps"]())
        else:
            z = vg.sample("z", dist.Normal(2.5, 1.0))
            highs = torch.stack([z, t(50.0)])
            mixture = dist.MixtureSameFamily(dist.Categorical(HALVES), dist.Uniform(t([-10.0, -10.0]), highs))
            vg.sample("x", mixture, obs=t(2.5))

    if case == "histogram":
        m, log_p = 0.8, in_the_middle
    elif case == "slope":
        m = 0.2
        log_p = PRIORS["a transform whose slope jumps"]().log_prob
    else:
        m = 2.2

        def log_p(z):
            inside = (z > 2.5) / (z + 10).clamp(min=1e-9)
            return td.Normal(2.5, 1.0).log_prob(z) + (0.5 * inside + 0.5 / 60).log()

    mean, error = gradients(model, normal_guide(m))
    assert abs(mean - exact(log_p, m)) < 4.5 * error


def test_a_guide_whose_slope_jumps_is_biased_by_its_own_density():
    """A flow with a leaky ReLU: its log-determinant jumps where the base's draw changes sign."""
    eps = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    weight = td.Normal(0.0, 1.0).log_prob(eps).exp() * (eps[1] - eps[0])
    m = t(0.2, dtype=torch.float64, requires_grad=True)
    jump = transforms.LeakyReLUTransform()
    x = m + 0.5 * eps
    z = jump(x)
    log_q = td.Normal(m, 0.5).log_prob(x) - jump.log_abs_det_jacobian(x, z)
    (pathwise,) = torch.autograd.grad((weight * (td.Normal(0.0, 1.0).log_prob(z) - log_q)).sum(), m)

    def bound(m):
        x = m + 0.5 * eps
        log_q = td.Normal(m, 0.5).log_prob(x) - jump.log_abs_det_jacobian(x, x)
        return (weight * (td.Normal(0.0, 1.0).log_prob(jump(x)) - log_q)).sum()

    right = (bound(m.detach() + 1e-3) - bound(m.detach() - 1e-3)) / 2e-3
    assert abs(float(pathwise - right)) > 1

    def model():
        vg.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        vg.sample("z", dist.TransformedDistribution(dist.Normal(vg.param("m", t(0.2)), 0.5), [jump]))

    mean, error = gradients(model, guide)
    assert abs(mean - float(right)) < 4.5 * error


@pytest.mark.parametrize(
    "flow",
    [
        lambda: flows.Spline(2, 4), lambda: flows.Spline(2, 4, order="quadratic"), lambda: flows.spline_coupling(2),
        lambda: flows.spline_autoregressive(2), lambda: flows.affine_autoregressive(2), lambda: flows.Planar(2),
        lambda: flows.Radial(2), lambda: flows.affine_coupling(2), lambda: flows.Householder(2, 1),
        lambda: flows.Sylvester(2, 1), lambda: flows.BatchNorm(2),
    ],
)  # fmt: skip
def test_flows_are_smooth(flow):
    torch.manual_seed(1)
    flow = flow().double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(0.3)

    def density(z):
        x = torch.stack([z, 0.4 - z], -1)
        y = flow(x)
        return flow.log_abs_det_jacobian(x, y) + y[..., 0] - 0.3 * y[..., 1]

    # ReLUs and knots are corners, on either side of which the rule is exact: cut finely.
    change, integral = change_and_integral(density, -4.0, 4.0, pieces=2000)
    assert abs(change - integral) < 5e-3

    def model():
        vg.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event())

    def guide():
        own = vg.module("flow", flow.float())
        vg.sample("z", dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(), [own]))

    if not isinstance(flow, flows.Sylvester):  # which has no inverse, for values that the engine changes
        assert vg.ELBO()(model, guide).plan()["z"].estimator == "Pathwise()"


# ---- what else a support does


def test_a_point_mass_stays_pathwise():
    def model():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.factor("f", (z > 0).float())

    def guide():
        vg.sample("z", dist.Delta(vg.param("m", t(0.8))))

    bound = vg.ELBO()(model, guide)
    assert bound.plan()["z"].estimator == "Pathwise()"
    assert abs(float(bound.gradients(1)["m"]) + 0.8) < 1e-6


@pytest.mark.filterwarnings("ignore::varigrad.objectives.checks.pairs.SupportWarning")
@pytest.mark.parametrize("estimator", [None, Score(), LeaveOneOut(2)])
@pytest.mark.parametrize(
    "moving",
    [
        lambda m: dist.Uniform(-1.0, m), lambda m: dist.Uniform(m, 9.0), lambda m: td.Uniform(m, m + 1),
        lambda m: dist.Pareto(m, 2.0), lambda m: dist.AffineBeta(2.0, 2.0, m, 1.0),
        lambda m: dist.TransformedDistribution(dist.Exponential(1.0), [td.AffineTransform(m, 2.0)]),
        lambda m: td.TransformedDistribution(td.Uniform(0.0, 1.0), [td.AffineTransform(0.0, m)]),
        lambda m: dist.TransformedDistribution(dist.Uniform(-0.5, 0.5), [td.AffineTransform(m / 2, m)]),
        lambda m: td.TransformedDistribution(td.Kumaraswamy(1.0, 1.0), [td.AffineTransform(0.0, m)]),
        lambda m: td.TransformedDistribution(
            td.Uniform(0.0, 1.0), [td.transforms.PowerTransform(t(1.0)), td.AffineTransform(0.0, m)]
        ),
        lambda m: td.TransformedDistribution(
            td.Uniform(0.0, 1.0), [td.AffineTransform(0.0, m), td.transforms.PowerTransform(t(2.0))]
        ),
        lambda m: td.TransformedDistribution(
            td.Uniform(0.0, 1.0), [td.ComposeTransform([td.SigmoidTransform(), td.AffineTransform(0.0, m)])]
        ),
    ],
)  # fmt: skip
def test_a_score_function_refuses_a_support_that_moves_with_a_parameter(moving, estimator):
    def model():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.factor("f", (z > 0.3).float())

    def guide():
        vg.sample("z", moving(vg.param("m", t(1.0))), estimator=estimator)

    message = r"'z': \w+ cannot serve this site; because the support of \w+ moves"
    with pytest.raises(vg.errors.SiteError, match=message):
        vg.ELBO()(model, guide)


def test_a_score_function_takes_a_support_that_stays():
    def model():
        vg.sample("z", dist.LogNormal(0.0, 1.0))

    def guide():
        power = td.transforms.PowerTransform(vg.param("m", t(2.0)))
        scaled = [power, td.AffineTransform(0.0, vg.param("s", t(1.0)))]
        vg.sample("z", dist.TransformedDistribution(dist.LogNormal(0.0, 1.0), scaled), estimator=Score())

    assert vg.ELBO()(model, guide).plan()["z"].estimator == "Score()"


def test_a_bound_that_moves_with_a_choice_above_a_score_function():
    """Uniform(0, z1) drawn without a derivative: the moving end is the choice's above."""

    def model():
        z = vg.sample("z1", dist.LogNormal(0.0, 1.0))
        vg.sample("z2", dist.Uniform(0.0, z))

    def guide():
        z = vg.sample("z1", dist.LogNormal(vg.param("m", t(0.0)), 1.0))
        vg.sample("z2", dist.Uniform(0.0, z), estimator=Score())

    assert vg.ELBO()(model, guide).plan()["z1"].estimator.startswith("Score")


def test_jumps_between_values_of_a_discrete_choice_stop_relaxations_only():
    def model():
        z = vg.sample("z", dist.Bernoulli(0.4))
        vg.sample("x", dist.Uniform(-1.0, 2 + z), obs=t(0.3))

    def guide(estimator):
        return lambda: vg.sample("z", dist.Bernoulli(logits=vg.param("m", t(0.0))), estimator=estimator)

    vg.ELBO()(model, guide(LeaveOneOut(2)))
    with pytest.raises(vg.errors.SiteError, match="Rebar cannot serve this site"):
        vg.ELBO()(model, guide(Rebar()))


# ---- the table of harmless comparisons, and modes


def test_the_functions_in_the_table_exist():
    import importlib

    for module in exempt_comparisons.MODULES:
        importlib.import_module(module)
    for module, name in exempt_comparisons.FUNCTIONS:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = vars(found)[part]


class Passing(torch.overrides.TorchFunctionMode):
    """A mode of the user's, with a helper."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return self.helper(func, args, kwargs or {})

    def helper(self, func, args, kwargs):
        return func(*args, **kwargs)


def everything():
    factor = vg.sample("L", dist.LKJCholesky(3, 2.0))
    s = vg.sample("s", dist.StudentT(4.0, 0.0, 1.0))
    w = vg.sample("w", dist.ContinuousBernoulli(0.3))
    u = vg.sample("u", dist.Normal(0.0, 1.0))
    vg.sample("k", dist.Geometric(logits=u), obs=t(2.0))
    vg.sample("x", dist.MultivariateNormal(torch.zeros(3) + s, scale_tril=factor * (1 + w)), obs=t([1.0, 0.2, 0.3]))


@pytest.mark.parametrize("mode", ["device", "default", "passing", "both"])
def test_a_mode_in_force_changes_nothing(mode):
    def run():
        svi = vg.SVI(everything, vg.guides.AutoNormal(everything), vg.optim.Adam(lr=0.01), seed=0)
        plan = str(svi.plan())
        svi.run(20, progress=False, compile=False)
        return plan, [p.detach().clone() for p in svi.bound.parameters()]

    plan, right = run()
    assert "Score" not in plan
    if mode == "default":
        torch.set_default_device("cpu")
        try:
            other, found = run()
        finally:
            torch.set_default_device(None)
    elif mode == "both":
        with Passing(), torch.device("cpu"), Passing():
            other, found = run()
    else:
        with Passing() if mode == "passing" else torch.device("cpu"):
            other, found = run()
    assert other == plan and all(torch.equal(a, b) for a, b in zip(found, right, strict=True))


def _clamped_variance(z):
    return torch.nn.functional.gaussian_nll_loss(t(0.0), t(1.0), z * z, eps=0.5)


@pytest.mark.parametrize("function", [_clamped_variance])
def test_a_derivative_that_is_not_the_values_warns_pathwise(function):
    def model():
        vg.factor("f", function(vg.sample("z", dist.Normal(t(0.0), t(1.0)))))

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", t(0.3)), t(1.0)), estimator=Pathwise())

    with pytest.warns(BiasWarning, match="'z': Pathwise was asked for"):
        vg.ELBO()(model, guide).plan()
