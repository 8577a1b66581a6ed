"""Where a cost or a density jumps, no gradient is taken through the draw."""

import warnings

import torch

import varigrad as vg
from laws.base import law, logits, t
from varigrad import distributions as dist
from varigrad.errors import SiteError
from varigrad.estimators import (
    Score,
)


@law
def a_kinked_choice_is_not_pathwise():
    def guide():
        vg.sample("z", dist.Normal(logits("m", 0.3), t(1.0)))

    for kink in (lambda z: (z > 0).to(z.dtype), lambda z: 1.0 if z > 0 else 0.0, torch.round):

        def model(kink=kink):
            z = vg.sample("z", dist.Normal(t(0.0), t(1.0)))
            vg.sample("x", dist.Normal(kink(z), t(1.0)), obs=t(0.8))

        plan = vg.ELBO()(model, guide).plan()
        assert plan["z"].estimator.startswith("Score("), plan["z"]


@law
def a_density_that_jumps_is_not_pathwise():
    class Histogram(torch.distributions.Distribution):
        arg_constraints, support = {}, dist.constraints.real

        def log_prob(self, z):
            return torch.where(z.abs() < 1, 0.5, 0.1).log()

    halves = dist.Categorical(t([0.5, 0.5]))
    jumps = {
        "a class of the user's": lambda z: Histogram(validate_args=False),
        "a mixture": lambda z: dist.MixtureSameFamily(halves, dist.Uniform(t([-1.0, -9.0]), t([1.0, 9.0]))),
        "a slope": lambda z: dist.TransformedDistribution(
            dist.Normal(t(0.0), 1.0), [dist.transforms.LeakyReLUTransform()]
        ),
        "beyond a support": lambda z: dist.HalfNormal(t(1.0), validate_args=False),
    }
    moves = {
        "an end": lambda z: dist.Uniform(-1.0, 2 + z, validate_args=False),
        "an end of a mixture": lambda z: dist.MixtureSameFamily(
            halves, dist.Uniform(t(-9.0), torch.stack([z, z + 9])), validate_args=False
        ),
        "a scale": lambda z: dist.Pareto(z.exp(), 2.0, validate_args=False),
        "an image": lambda z: dist.TransformedDistribution(
            dist.Exponential(t(1.0)), [torch.distributions.AffineTransform(z, 2.0)], validate_args=False
        ),
    }
    smooth = {
        "counts": lambda z: dist.Binomial(3, logits=z),
        "a tail": lambda z: dist.Pareto(t(0.1), z.exp()),
        "a scaled image": lambda z: dist.TransformedDistribution(
            dist.Exponential(t(1.0)), [torch.distributions.AffineTransform(t(0.0), z.exp())]
        ),
        "two tails": lambda z: dist.AsymmetricLaplace(z, 1.0, 2.0),
    }

    def guide():
        vg.sample("z", dist.Normal(logits("m", 0.3), t(1.0)))

    for name, family in (jumps | moves | smooth).items():

        def model(name=name, family=family):
            if name in jumps:
                vg.sample("z", family(None))
            else:
                vg.sample("x", family(vg.sample("z", dist.Normal(t(0.0), t(1.0)))), obs=t(2.0))

        plan = vg.ELBO()(model, guide).plan()
        assert plan["z"].estimator.startswith("Pathwise" if name in smooth else "Score("), (name, plan["z"])
        with torch.device("cpu"):
            assert vg.ELBO()(model, guide).plan()["z"] == plan["z"], name


@law
def a_uniform_as_a_factor_is_a_jump_and_a_geometric_is_not():
    def guide():
        vg.sample("z", dist.Normal(logits("m", 0.3), t(1.0)))

    for family, estimator in (
        (lambda z: dist.Uniform(-1.0, 2 + z), "Score("),
        (lambda z: dist.Geometric(logits=z), "Pathwise"),
    ):

        def model(family=family):
            vg.factor("f", family(vg.sample("z", dist.Normal(t(0.0), t(1.0)))).log_prob(t(2.0)))

        plan = vg.ELBO()(model, guide).plan()["z"]
        assert plan.estimator.startswith(estimator), plan
        with torch.device("cpu"):
            assert vg.ELBO()(model, guide).plan()["z"] == plan


@law
def a_score_function_wants_a_support_that_stays():
    def model():
        vg.factor("f", (vg.sample("z", dist.Normal(t(0.0), t(1.0))) > 0).to(torch.float64))

    def guide():
        vg.sample("z", dist.Uniform(-1.0, 1 + logits("m", 0.3).exp()), estimator=Score())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            vg.ELBO()(model, guide)
        except SiteError as error:
            assert "moves with a parameter" in str(error)
        else:
            raise AssertionError("a score function over moving ends")

    def point():
        vg.sample("z", dist.Delta(logits("m", 0.3)))

    assert vg.ELBO()(model, point).plan()["z"].estimator == "Pathwise()"
