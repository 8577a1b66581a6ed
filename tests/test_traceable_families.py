"""Every family stays inside torch, is recorded as it runs, and checks what it was told to check."""

import inspect

import numpy as np
import pytest
import torch
from graph_harness import InC, Uncompiled, by_graph, by_python, svi_of, taken
from smooth_families import SMOOTH, SMOOTH_TOO
from torch import distributions as td

import varigrad as vg
import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.distributions as pdist
from varigrad import distributions as dist
from varigrad.distributions import Source, constraints
from varigrad.errors import ConstraintError, SiteError, SupportError
from varigrad.language.runtime import run
from varigrad.objectives.checks import sites
from varigrad.objectives.checks.sites import is_unchecked
from varigrad.terms.provenance import Escapes, track_provenance, untracked

t = torch.tensor
FAMILIES = SMOOTH | SMOOTH_TOO
POSITIVE = constraints.positive


def in_double(row):
    make, value, low, high = row
    value = torch.as_tensor(value, dtype=None if isinstance(value, int) else torch.float64)
    return make, value, (low + high) / 2


# ---- inside torch


@pytest.mark.parametrize("library", [dist, pdist], ids=["ours", "Pyro's"])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_family_takes_a_value_out_of_torch_by_its_own_code(library, name):
    make, value, middle = in_double(FAMILIES[name])
    escapes = Escapes()
    z = track_provenance(t([middle] * 3, dtype=torch.float64), frozenset("z"), escapes)

    def program():
        d = make(library, z)
        d = d.expand((2, *d.batch_shape))
        assert vg.get_provenance(d.log_prob(value)) == {"z"}
        for moment in moments:
            getattr(d, moment)

    moments = list(moments_of(make(library, untracked(z))))
    run(program, (), (), {})  # no handler of errors stands around it, which would let the value leave
    assert not escapes.provenance


def moments_of(d):
    """Which of them a family has."""
    for moment in ("mean", "variance", "support"):
        try:
            getattr(d, moment)
        except (NotImplementedError, AttributeError):
            continue
        yield moment


BESIDE_A_PLATE = {
    "StudentT": (lambda z: dist.StudentT(4.0, z, 1.0), [0.8, 1.2, 0.3]),
    "FisherSnedecor": (lambda z: dist.FisherSnedecor(1 + z, 2.0), [0.8, 1.2, 0.3]),
    "RelaxedBernoulli": (lambda z: dist.RelaxedBernoulli(t(0.5), logits=z), [0.2, 0.5, 0.7]),
    "Multinomial": (lambda z: dist.Multinomial(2, logits=z.unsqueeze(-1) * t([0.0, 1.0])), [[1.0, 1.0]] * 3),
    "OneHotCategorical": (lambda z: dist.OneHotCategorical(logits=z.unsqueeze(-1) * t([0.0, 1.0])), [[1.0, 0.0]] * 3),
    "DiscreteHMM": (
        lambda z: dist.DiscreteHMM(
            torch.zeros(2), torch.eye(2), dist.Normal(z[..., None, None] * t([0.0, 1.0]), 1.0), duration=5
        ),
        [[0.1, 0.3, 1.0, 0.8, 0.2]] * 3,
    ),
    "GaussianHMM": (
        lambda z: dist.GaussianHMM(
            dist.Normal(z.unsqueeze(-1), 1.0).to_event(1),
            torch.eye(1),
            dist.Normal(torch.zeros(1), 1.0).to_event(1),
            torch.eye(1),
            dist.Normal(torch.zeros(1), 1.0).to_event(1),
            duration=5,
        ),
        [[[0.1], [0.3], [1.0], [0.8], [0.2]]] * 3,
    ),
    "Wishart": (lambda z: dist.Wishart(3 + z, torch.eye(2)), [[[1.0, 0.0], [0.0, 1.0]]] * 3),
    "LowRankMultivariateNormal": (
        lambda z: dist.LowRankMultivariateNormal(z.unsqueeze(-1) + torch.zeros(2), torch.ones(2, 1), torch.ones(2)),
        [[1.0, 0.0]] * 3,
    ),
}


@pytest.mark.parametrize("name", BESIDE_A_PLATE)
def test_beside_a_discrete_plate_costs_stay_element_by_element(name):
    make, value = BESIDE_A_PLATE[name]

    def model():
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(0.4))
            vg.sample("x", make(z), obs=t(value))

    def guide():
        with vg.plate("n", 3):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.zeros(3))))

    with by_graph():
        svi = svi_of(model, guide)
        svi.run(12, progress=False)
        assert taken(svi) > 5
    plan = svi.plan()["z"]
    assert plan.cross_element == () and not plan.leaves


# ---- recorded: as a guide with parameters, and as a prior under an automatic guide


class Learnt:
    """Parameters of a guide."""

    @staticmethod
    def real(name, value):
        return vg.param(name, t(value))

    @staticmethod
    def positive(name, value):
        return vg.param(name, t(value), constraint=POSITIVE)

    @staticmethod
    def triangle(name):
        return vg.param(name, torch.eye(2), constraint=constraints.lower_cholesky)


class Held:
    """The same as constants, of a model."""

    real = positive = staticmethod(lambda name, value: t(value))
    triangle = staticmethod(lambda name: torch.eye(2))


GUIDES = {
    "AffineBeta": lambda p: dist.AffineBeta(p.positive("a", 2.0), p.positive("b", 3.0), t(0.0), t(2.0)),
    "AsymmetricLaplace": lambda p: dist.AsymmetricLaplace(p.real("a", 0.3), p.positive("b", 1.0), p.positive("c", 1.0)),
    "Bernoulli": lambda p: dist.Bernoulli(logits=p.real("a", 0.3)),
    "Beta": lambda p: dist.Beta(p.positive("a", 2.0), p.positive("b", 3.0)),
    "BetaBinomial": lambda p: dist.BetaBinomial(p.positive("a", 2.0), p.positive("b", 3.0), 4),
    "Binomial": lambda p: dist.Binomial(3, logits=p.real("a", 0.3)),
    "Categorical": lambda p: dist.Categorical(logits=p.real("a", [0.3, 0.1, 0.0])),
    "Cauchy": lambda p: dist.Cauchy(p.real("a", 0.3), p.positive("b", 1.0)),
    "Chi2": lambda p: dist.Chi2(p.positive("a", 3.0)),
    "ContinuousBernoulli": lambda p: dist.ContinuousBernoulli(logits=p.real("a", 0.3)),
    "Dirichlet": lambda p: dist.Dirichlet(p.positive("a", [2.0, 3.0])),
    "DirichletMultinomial": lambda p: dist.DirichletMultinomial(p.positive("a", [2.0, 3.0]), 3),
    "DiscreteHMM": lambda p: dist.DiscreteHMM(
        p.real("a", [0.3, 0.1]),
        p.real("b", [[0.3, 0.1], [0.0, 0.5]]),
        dist.Normal(p.real("c", [0.0, 1.0]), 1.0),
        duration=3,
    ),
    "Exponential": lambda p: dist.Exponential(p.positive("a", 1.0)),
    "FisherSnedecor": lambda p: dist.FisherSnedecor(p.positive("a", 3.0), p.positive("b", 5.0)),
    "FoldedDistribution": lambda p: dist.FoldedDistribution(dist.Normal(p.real("a", 0.3), p.positive("b", 1.0))),
    "Gamma": lambda p: dist.Gamma(p.positive("a", 2.0), p.positive("b", 3.0)),
    "GammaPoisson": lambda p: dist.GammaPoisson(p.positive("a", 2.0), p.positive("b", 3.0)),
    "GaussianHMM": lambda p: dist.GaussianHMM(
        dist.Normal(p.real("a", [0.3, 0.1]), 1.0).to_event(1),
        p.real("b", [[0.3, 0.1], [0.0, 0.5]]),
        dist.Normal(torch.zeros(2), p.positive("c", [1.0, 0.5])).to_event(1),
        torch.ones(2, 1),
        dist.Normal(torch.zeros(1), 1.0).to_event(1),
        duration=3,
    ),
    "GeneralizedPareto": lambda p: dist.GeneralizedPareto(t(0.0), p.positive("b", 3.0), p.positive("a", 0.2)),
    "Geometric": lambda p: dist.Geometric(logits=p.real("a", 0.3)),
    "Gumbel": lambda p: dist.Gumbel(p.real("a", 0.3), p.positive("b", 1.0)),
    "HalfCauchy": lambda p: dist.HalfCauchy(p.positive("b", 1.0)),
    "HalfNormal": lambda p: dist.HalfNormal(p.positive("b", 1.0)),
    "InverseGamma": lambda p: dist.InverseGamma(p.positive("a", 2.0), p.positive("b", 3.0)),
    "Kumaraswamy": lambda p: dist.Kumaraswamy(p.positive("a", 2.0), p.positive("b", 3.0)),
    "LKJ": lambda p: dist.LKJ(3, p.positive("a", 2.0)),
    "LKJCholesky": lambda p: dist.LKJCholesky(3, p.positive("a", 2.0)),
    "Laplace": lambda p: dist.Laplace(p.real("a", 0.3), p.positive("b", 1.0)),
    "LogNormal": lambda p: dist.LogNormal(p.real("a", 0.3), p.positive("b", 1.0)),
    "LogNormalNegativeBinomial": lambda p: dist.LogNormalNegativeBinomial(
        p.positive("a", 2.0), p.real("b", 0.3), p.positive("c", 0.3)
    ),
    "Logistic": lambda p: dist.Logistic(p.real("a", 0.3), p.positive("b", 1.0)),
    "LogisticNormal": lambda p: dist.LogisticNormal(p.real("a", [0.3, 0.1]), p.positive("b", [1.0, 1.0])),
    "LowRankMultivariateNormal": lambda p: dist.LowRankMultivariateNormal(
        p.real("a", [0.3, 0.1]), p.real("b", [[1.0], [1.0]]), p.positive("c", [1.0, 1.0])
    ),
    "MixtureOfNormals": lambda p: dist.MixtureOfNormals(
        p.real("a", [[0.3], [0.1]]), p.positive("b", [[1.0], [1.0]]), p.real("c", [0.1, 0.3])
    ),
    "MixtureSameFamily": lambda p: dist.MixtureSameFamily(
        dist.Categorical(logits=p.real("a", [0.3, 0.1])), dist.Normal(p.real("b", [0.3, 0.1]), 1.0)
    ),
    "Multinomial": lambda p: dist.Multinomial(3, logits=p.real("a", [0.3, 0.1])),
    "MultivariateNormal": lambda p: dist.MultivariateNormal(p.real("a", [0.3, 0.1]), scale_tril=p.triangle("b")),
    "MultivariateStudentT": lambda p: dist.MultivariateStudentT(
        p.positive("c", 4.0), p.real("a", [0.3, 0.1]), torch.eye(2)
    ),
    "NegativeBinomial": lambda p: dist.NegativeBinomial(p.positive("b", 3.0), logits=p.real("a", 0.3)),
    "Normal": lambda p: dist.Normal(p.real("a", 0.3), p.positive("b", 1.0)),
    "OneHotCategorical": lambda p: dist.OneHotCategorical(logits=p.real("a", [0.3, 0.1])),
    "OrderedLogistic": lambda p: dist.OrderedLogistic(p.real("a", 0.3), t([0.0, 1.0])),
    "Pareto": lambda p: dist.Pareto(t(1.0), p.positive("b", 3.0)),
    "Poisson": lambda p: dist.Poisson(p.positive("b", 3.0)),
    "ProjectedNormal": lambda p: dist.ProjectedNormal(p.real("a", [0.3, 0.1, 0.2])),
    "RejectionGamma": lambda p: dist.RejectionGamma(1 + p.positive("a", 2.0), p.positive("b", 3.0)),
    "RelaxedBernoulli": lambda p: dist.RelaxedBernoulli(t(0.7), logits=p.real("a", 0.3)),
    "RelaxedOneHotCategorical": lambda p: dist.RelaxedOneHotCategorical(t(0.7), logits=p.real("a", [0.3, 0.1])),
    "SkewLogistic": lambda p: dist.SkewLogistic(p.real("a", 0.3), p.positive("b", 1.0), p.positive("c", 1.0)),
    "SoftAsymmetricLaplace": lambda p: dist.SoftAsymmetricLaplace(
        p.real("a", 0.3), p.positive("b", 1.0), p.positive("c", 1.0)
    ),
    "SoftLaplace": lambda p: dist.SoftLaplace(p.real("a", 0.3), p.positive("b", 1.0)),
    "StudentT": lambda p: dist.StudentT(p.positive("c", 4.0), p.real("a", 0.3), p.positive("b", 1.0)),
    "TransformedDistribution": lambda p: dist.TransformedDistribution(
        dist.Normal(p.real("a", 0.3), p.positive("b", 1.0)), [td.ExpTransform(), td.AffineTransform(0.0, 2.0)]
    ),
    "VonMises": lambda p: dist.VonMises(p.real("a", 0.3), p.positive("b", 1.0)),
    "VonMises3D": lambda p: dist.VonMises3D(p.real("a", [0.3, 0.1, 0.2])),
    "Weibull": lambda p: dist.Weibull(p.positive("a", 2.0), p.positive("b", 3.0)),
    "Wishart": lambda p: dist.Wishart(p.positive("a", 4.0), scale_tril=p.triangle("b")),
    "ZeroInflatedPoisson": lambda p: dist.ZeroInflatedPoisson(p.positive("a", 2.0), gate_logits=p.real("b", 0.3)),
    "ZeroInflatedNegativeBinomial": lambda p: dist.ZeroInflatedNegativeBinomial(
        p.positive("a", 2.0), logits=p.real("c", 0.3), gate_logits=p.real("b", 0.3)
    ),
}
DISCRETE = (
    "Bernoulli", "BetaBinomial", "Binomial", "Categorical", "DirichletMultinomial", "GammaPoisson", "Geometric",
    "LogNormalNegativeBinomial", "Multinomial", "NegativeBinomial", "OneHotCategorical", "OrderedLogistic", "Poisson",
    "ZeroInflatedPoisson", "ZeroInflatedNegativeBinomial",
)  # fmt: skip
WITHOUT_A_MAP = ("ProjectedNormal", "VonMises3D", "Wishart")  # to their supports, from unconstrained values


def steps_by_graph_and_in_python(name, guide, kind=Uncompiled):
    def model():
        z = vg.sample("z", GUIDES[name](Held))
        vg.factor("f", -(0.3 * z.float() - 0.1).square().sum())

    with by_graph(kind=kind):
        recorded = svi_of(model, guide(model))
        recorded.run(8, progress=False)
        assert taken(recorded) >= 4
    with by_python():
        eager = svi_of(model, guide(model))
        eager.run(8, progress=False)
    for a, b in zip(recorded.bound.parameters(), eager.bound.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GUIDES)
def test_every_family_is_recorded_as_a_guide(name):
    steps_by_graph_and_in_python(name, lambda model: lambda: vg.sample("z", GUIDES[name](Learnt)))


@pytest.mark.parametrize("name", [n for n in GUIDES if n not in (*DISCRETE, *WITHOUT_A_MAP)])
def test_every_family_is_recorded_as_a_prior_under_an_automatic_guide(name):
    steps_by_graph_and_in_python(name, vg.guides.AutoNormal)


@pytest.mark.parametrize("dim", [2, 4])
def test_cholesky_factors_of_correlations_are_compiled(dim):
    def model():
        factor = vg.sample("L", dist.LKJCholesky(dim, 2.0))
        vg.factor("f", -((factor[1, 0] - 0.3) ** 2))

    with by_graph(kind=InC):
        compiled = svi_of(model, vg.guides.AutoNormal(model))
        compiled.run(12, progress=False)
        assert taken(compiled) >= 6
    with by_python():
        eager = svi_of(model, vg.guides.AutoNormal(model))
        eager.run(12, progress=False)
    for a, b in zip(compiled.bound.parameters(), eager.bound.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---- draws of correlations


@pytest.mark.parametrize("kind", [dist.LKJCholesky, pdist.LKJCholesky, td.LKJCholesky])
@pytest.mark.parametrize(("dim", "eta"), [(2, 0.5), (3, 1.0), (5, 0.7)])
def test_correlations_have_the_variance_of_their_density(kind, dim, eta):
    """Each is 2 Beta(a, a) - 1 with a = eta + (dim - 2) / 2, of variance 1 / (2 a + 1). torch's own draws are not."""
    n = 40_000
    tril = Source(torch.Generator().manual_seed(0)).draw(kind(dim, t(eta)).expand((n,)))
    squares = (tril @ tril.mT).square()[:, *np.tril_indices(dim, -1)]
    right = 1 / (2 * eta + dim - 1)
    assert bool(((squares.mean(0) - right).abs() < 5 * squares.std(0) / n**0.5).all())


# ---- validation


class Told:
    """A library whose families are all told the same."""

    def __init__(self, library, validate_args):
        self.library, self.validate_args = library, validate_args

    def __getattr__(self, name):
        kind = getattr(self.library, name)

        def make(*args, **kwargs):
            takes = inspect.signature(kind.__init__).parameters
            told = (
                {"validate_args": self.validate_args} if {"validate_args", "kwargs", "options"} & takes.keys() else {}
            )
            return kind(*args, **kwargs, **told)

        return make


@pytest.mark.parametrize("library", [dist, pdist, td], ids=["ours", "Pyro's", "torch"])
@pytest.mark.parametrize("name", FAMILIES)
def test_unchecked_is_what_was_said_to_be(library, name):
    if library is td and name in SMOOTH_TOO:
        return
    make, _, middle = in_double(FAMILIES[name])
    z = t([middle] * 3, dtype=torch.float64)
    silent = name in ("Unit", "Delta's density")  # with nothing to check
    for said, unchecked in ((False, not silent), (None, False)):
        d = make(Told(library, said), z)
        assert is_unchecked(d) is unchecked and is_unchecked(d.expand((2, *d.batch_shape))) is unchecked


ODD = ([-0.7, 1.7, 2.5], [0.7, -1.7, -2.5], [0.0, 0.0, 0.0], [torch.inf, torch.inf, torch.inf], [1.0, 0.0, 1.0])


@pytest.mark.parametrize("library", [dist, pdist], ids=["ours", "Pyro's"])
@pytest.mark.parametrize("name", SMOOTH)
def test_values_outside_of_a_support_have_torchs_density_if_unchecked(library, name):
    make, _, middle = in_double(SMOOTH[name])
    z = t([middle] * 3, dtype=torch.float64)
    ours, torchs = make(Told(library, False), z), make(Told(td, False), z)
    for odd in ODD:
        value = t(odd, dtype=torch.float64)
        value = value.reshape(3, *(1,) * len(ours.event_shape)).expand(3, *ours.event_shape)
        found = []
        for d in (ours, torchs):
            try:
                found.append(d.log_prob(value))
            except (RuntimeError, ValueError) as error:
                found.append(type(error))
        if isinstance(found[0], torch.Tensor) and isinstance(found[1], torch.Tensor):
            torch.testing.assert_close(*found, equal_nan=True)
        else:
            assert found[0] is found[1]


def loss_of(prior, value):
    def model():
        vg.sample("x", prior, obs=value)
        vg.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", t(0.0)), 1.0))

    with torch.no_grad():
        return vg.ELBO()(model, guide).terms()["x"]


@pytest.mark.parametrize("kind", [dist.Exponential, pdist.Exponential, td.Exponential])
@pytest.mark.parametrize("everywhere", [False, True])
def test_an_unchecked_observation_is_taken_as_it_is(kind, everywhere, monkeypatch):
    if everywhere:
        # What another test has compiled with torch makes it unclear who switched the checks off, and they stay on.
        monkeypatch.setattr(sites, "has_dynamo_disabled_validation", lambda: False)
        td.Distribution.set_default_validate_args(False)
        try:
            found = loss_of(kind(t(2.0)), t(-1.0))
        finally:
            td.Distribution.set_default_validate_args(True)
    else:
        found = loss_of(kind(t(2.0), validate_args=False), t(-1.0))
    torch.testing.assert_close(found, t(2.0).log() + 2)
    with pytest.raises((SupportError, ValueError, SiteError), match=r"support|Exponential"):
        loss_of(kind(t(2.0)), t(-1.0))


@pytest.mark.parametrize("kind", [dist.Normal, pdist.Normal, td.Normal, dist.StudentT, td.StudentT])
def test_unchecked_parameters_are_taken_as_they_are(kind):
    args = (t(0.0), t(-2.0)) if "Normal" in kind.__name__ else (t(3.0), t(0.0), t(-2.0))
    assert not bool(loss_of(kind(*args, validate_args=False), t(-1.0)).isfinite())
    with pytest.raises((ConstraintError, ValueError), match="scale"):
        loss_of(kind(*args), t(-1.0))


def test_zero_inflated_counts_are_checked():
    with pytest.raises(SupportError, match="'x': the observation has 1 of 1 values outside the support"):
        loss_of(dist.ZeroInflatedPoisson(t(2.0), gate=t(0.3)), t(-1.0))
    with pytest.raises(SupportError, match="'x': the observation has 1 of 1 values outside the support"):
        loss_of(dist.Expanded(dist.Poisson(t(2.0))), t(-1.0))


def test_a_mixture_has_the_values_of_any_of_its_components():
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Uniform(t([0.0, 4.0]), t([1.0, 5.0])))
    for value in (0.5, 4.5):
        torch.testing.assert_close(loss_of(mixture, t(value)), t(0.5).log())
    with pytest.raises(SupportError, match="outside the support of MixtureSameFamily"):
        loss_of(mixture, t(2.0))


def test_a_guide_may_reach_beyond_an_unchecked_support():
    def model(d):
        return lambda: vg.sample("z", d.Exponential(t(2.0), validate_args=False))

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", t(3.0)), 1.0))

    for d in (dist, pdist, td):
        assert vg.ELBO()(model(d), guide).plan()["z"].estimator.startswith("Score")


# ---- values of other kinds

COMPLEX = t(1 + 2j)
WRONG = {
    "complex observation": (
        lambda z, s: s.sample("x", dist.Normal(z, 1.0), obs=COMPLEX),
        r"'x': the observation is complex \(torch.complex64\)",
    ),
    "complex vector": (
        lambda z, s: s.sample("x", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), obs=COMPLEX * torch.ones(2)),
        "'x': the observation is complex",
    ),
    "complex parameter": (
        lambda z, s: s.sample("x", dist.Normal(z * COMPLEX, 1.0), obs=t(1.0)),
        "'x': parameter 'loc' of Normal is complex",
    ),
    "text observed": (
        lambda z, s: s.sample("x", dist.Normal(z, 1.0), obs="abc"), "'x': obs must be a tensor or a number, got str",
    ),
    "words observed": (
        lambda z, s: s.sample("x", dist.Normal(z, 1.0), obs=np.array(["a"])),
        "'x': obs must be a tensor or a number, got ndarray",
    ),
    "text as a factor": (lambda z, s: s.factor("f", "x"), "'f': log_factor must be a tensor or a number, got str"),
    "nothing as a factor": (
        lambda z, s: s.factor("f", None), "'f': log_factor must be a tensor or a number, got NoneType",
    ),
    "complex factor": (lambda z, s: s.factor("f", z * COMPLEX), "'f': its log-factor is complex"),
}  # fmt: skip


@pytest.mark.parametrize("statements", [vg, pyro], ids=["native", "Pyro's"])
@pytest.mark.parametrize("name", WRONG)
def test_values_of_other_kinds_are_refused_by_name(name, statements):
    statement, message = WRONG[name]

    def model():
        statement(vg.sample("z", dist.Normal(0.0, 1.0)), statements)

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", t(0.0)), 1.0))

    with pytest.raises(SiteError, match=message):
        vg.ELBO()(model, guide)


def test_conditions_of_other_kinds_are_refused_by_name():
    def model():
        vg.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(SiteError, match="'x': its value must be a tensor or a number, got str"):
        vg.handlers.condition(model, {"x": "abc"})()


class Phase(td.Distribution):
    """A user's distribution of complex numbers, with a real density."""

    arg_constraints, support = {}, None

    def log_prob(self, value):
        return -value.abs().square()


def test_a_users_class_may_have_complex_values():
    torch.testing.assert_close(loss_of(Phase(), COMPLEX), t(-5.0))


class Confused(Phase):
    def log_prob(self, value):
        return -(value**2)


def test_a_complex_density_is_refused_by_name():
    with pytest.raises(SiteError, match="'x': the log-density of its Confused is complex"):
        loss_of(Confused(), COMPLEX)
