"""Families with one number in them, in which their log-density is smooth."""

import math

import torch
from torch import distributions as td

t = torch.tensor
EYE = torch.eye(2)


def pair(z):
    return torch.stack([z, 1 - z], -1)


def matrix(z):
    return z[..., None, None] * EYE.to(z)


def chain(d, z):
    """The parameters of a linear chain of two hidden numbers, of which their sum is seen."""
    step, error = (d.Normal(m.unsqueeze(-2), 1 + z[..., None, None]).to_event(1) for m in (pair(z), z.unsqueeze(-1)))
    start = d.Normal(pair(z), 1 + z.unsqueeze(-1)).to_event(1)
    return start, matrix(z).unsqueeze(-3), step, torch.ones(2, 1).to(z), error


# name -> (a family with one number z in it, a value, from where to where z goes). Of torch, and of ours and Pyro's.
SMOOTH = {
    "Bernoulli probs": (lambda d, z: d.Bernoulli(probs=z), 1.0, 0.2, 0.9),
    "Bernoulli logits": (lambda d, z: d.Bernoulli(logits=z), 0.0, -2, 2),
    "Beta": (lambda d, z: d.Beta(z, 1 + z), 0.3, 0.5, 3),
    "Binomial probs": (lambda d, z: d.Binomial(4, probs=z), 2.0, 0.2, 0.9),
    "Binomial logits": (lambda d, z: d.Binomial(4, logits=z), 2.0, -2, 2),
    "Categorical probs": (lambda d, z: d.Categorical(pair(z)), 1, 0.2, 0.9),
    "Categorical logits": (lambda d, z: d.Categorical(logits=pair(z)), 1, -2, 2),
    "Cauchy": (lambda d, z: d.Cauchy(z, 1 + z), 0.7, 0.2, 3),
    "Chi2": (lambda d, z: d.Chi2(z), 0.7, 0.5, 3),
    "ContinuousBernoulli probs": (lambda d, z: d.ContinuousBernoulli(probs=z), 0.3, 0.1, 0.9),
    "ContinuousBernoulli logits": (lambda d, z: d.ContinuousBernoulli(logits=z), 0.3, -2, 2),
    "Dirichlet": (lambda d, z: d.Dirichlet(pair(z) + 1), [0.3, 0.7], 0.5, 1.5),
    "Exponential": (lambda d, z: d.Exponential(z), 0.7, 0.5, 3),
    "FisherSnedecor": (lambda d, z: d.FisherSnedecor(z, 1 + z), 0.7, 0.5, 3),
    "Gamma": (lambda d, z: d.Gamma(z, 1 + z), 0.7, 0.5, 3),
    "Geometric probs": (lambda d, z: d.Geometric(probs=z), 2.0, 0.2, 0.9),
    "Geometric logits": (lambda d, z: d.Geometric(logits=z), 2.0, -2, 2),
    "Gumbel": (lambda d, z: d.Gumbel(z, 1 + z), 0.7, 0.5, 3),
    "HalfCauchy": (lambda d, z: d.HalfCauchy(z), 0.7, 0.5, 3),
    "HalfNormal": (lambda d, z: d.HalfNormal(z), 0.7, 0.5, 3),
    "InverseGamma": (lambda d, z: d.InverseGamma(z, 1 + z), 0.7, 0.5, 3),
    "Kumaraswamy": (lambda d, z: d.Kumaraswamy(z, 1 + z), 0.3, 0.5, 3),
    "LKJCholesky": (lambda d, z: d.LKJCholesky(2, z), [[1.0, 0.0], [0.6, 0.8]], 0.5, 3),
    "Laplace": (lambda d, z: d.Laplace(z, 3.5 + z), 0.7, -1.3, 2.7),
    "LogNormal": (lambda d, z: d.LogNormal(z, 1 + z), 0.7, 0.5, 3),
    "LogisticNormal": (lambda d, z: d.LogisticNormal(pair(z), pair(z)), [0.2, 0.3, 0.5], 0.2, 0.8),
    "LowRankMultivariateNormal": (
        lambda d, z: d.LowRankMultivariateNormal(pair(z), z[..., None, None] * torch.ones(2, 1).to(z), 1 + pair(z)),
        [0.5, -0.3], 0.2, 0.9,
    ),
    "MixtureSameFamily": (
        lambda d, z: d.MixtureSameFamily(d.Categorical(pair(z)), d.Normal(pair(2 * z), 1 + pair(z))), 0.7, 0.2, 0.8,
    ),
    "Multinomial probs": (lambda d, z: d.Multinomial(3, pair(z)), [2.0, 1.0], 0.2, 0.9),
    "Multinomial logits": (lambda d, z: d.Multinomial(3, logits=pair(z)), [2.0, 1.0], -2, 2),
    "MultivariateNormal covariance": (lambda d, z: d.MultivariateNormal(pair(z), matrix(z)), [0.5, -0.3], 0.5, 3),
    "MultivariateNormal precision": (
        lambda d, z: d.MultivariateNormal(pair(z), precision_matrix=matrix(z)), [0.5, -0.3], 0.5, 3,
    ),
    "MultivariateNormal tril": (lambda d, z: d.MultivariateNormal(pair(z), scale_tril=matrix(z)), [0.5, -0.3], 0.5, 3),
    "NegativeBinomial": (lambda d, z: d.NegativeBinomial(z, logits=z), 2.0, 0.5, 3),
    "NegativeBinomial probs": (lambda d, z: d.NegativeBinomial(2.0, probs=z), 2.0, 0.2, 0.9),
    "Normal": (lambda d, z: d.Normal(z, 1 + z), 0.7, 0.5, 3),
    "OneHotCategorical": (lambda d, z: d.OneHotCategorical(pair(z)), [0.0, 1.0], 0.2, 0.9),
    "Pareto alpha": (lambda d, z: d.Pareto(t(0.5).to(z), z), 0.7, 0.5, 3),
    "Poisson": (lambda d, z: d.Poisson(z), 2.0, 0.5, 3),
    "RelaxedBernoulli": (lambda d, z: d.RelaxedBernoulli(1 + z, logits=z), 0.3, -0.5, 2),
    "RelaxedOneHotCategorical": (
        lambda d, z: d.RelaxedOneHotCategorical(t(0.5).to(z), logits=pair(z)), [0.3, 0.7], -2, 2,
    ),
    "StudentT": (lambda d, z: d.StudentT(z, z, 1 + z), 0.7, 0.5, 3),
    "TransformedDistribution": (
        lambda d, z: d.TransformedDistribution(
            d.Normal(z, t(1.0).to(z)), [td.SigmoidTransform(), td.AffineTransform(0.0, 1.0)]
        ),
        0.3, -2, 2,
    ),
    "logistic as a transformed Uniform": (
        lambda d, z: d.TransformedDistribution(
            d.Uniform(t(0.0).to(z), t(1.0).to(z)), [td.SigmoidTransform().inv, td.AffineTransform(z, 1 + z)]
        ),
        0.7, 0.5, 3,
    ),
    "power of a LogNormal": (
        lambda d, z: d.TransformedDistribution(d.LogNormal(t(0.0).to(z), 1.0), [td.transforms.PowerTransform(z)]),
        0.7, 0.5, 3,
    ),
    "VonMises": (lambda d, z: d.VonMises(z, z), 0.7, 0.5, 3),
    "Weibull": (lambda d, z: d.Weibull(z, 1 + z), 0.7, 0.5, 3),
    "Wishart": (lambda d, z: d.Wishart(1.5 + z, matrix(z)), [[1.0, 0.3], [0.3, 2.0]], 0.6, 3),
}  # fmt: skip


SMOOTH_TOO = {  # what torch has not
    "AffineBeta": (lambda d, z: d.AffineBeta(z, 1 + z, t(0.0).to(z), t(2.0).to(z)), 0.3, 0.5, 3),
    "AsymmetricLaplace": (lambda d, z: d.AsymmetricLaplace(z, 4 + z, 4 + z), 0.7, -1.3, 2.7),
    "BetaBinomial": (lambda d, z: d.BetaBinomial(z, 1 + z, 4), 2.0, 0.5, 3),
    "DirichletMultinomial": (lambda d, z: d.DirichletMultinomial(1 + pair(z), 3), [2.0, 1.0], 0.2, 0.9),
    "DiscreteHMM": (
        lambda d, z: d.DiscreteHMM(
            pair(z), matrix(z).unsqueeze(-3), d.Normal(pair(z).unsqueeze(-2), 1 + z[..., None, None]), duration=3
        ),
        [0.3, -0.7, 0.2], 0.2, 0.9,
    ),
    "FoldedDistribution": (lambda d, z: d.FoldedDistribution(d.Normal(z, 1 + z)), 0.7, 0.5, 3),
    "GammaGaussianHMM": (
        lambda d, z: d.GammaGaussianHMM(d.Gamma(z, 1 + z), *chain(d, z), duration=3), [[0.3], [0.7], [0.1]], 0.5, 3,
    ),
    "GammaPoisson": (lambda d, z: d.GammaPoisson(z, 1 + z), 2.0, 0.5, 3),
    "GaussianHMM": (lambda d, z: d.GaussianHMM(*chain(d, z), duration=3), [[0.3], [0.7], [0.1]], 0.5, 3),
    "LKJ": (lambda d, z: d.LKJ(2, z), [[1.0, 0.3], [0.3, 1.0]], 0.5, 3),
    "LogNormalNegativeBinomial": (lambda d, z: d.LogNormalNegativeBinomial(t(3.0).to(z), z, z), 2.0, 0.5, 2),
    "Logistic": (lambda d, z: d.Logistic(z, 1 + z), 0.7, 0.5, 3),
    "MaskedMixture": (
        lambda d, z: d.MaskedMixture(t(True), d.Normal(z, 1 + z), d.Normal(1 + z, 2 + z)), 0.7, 0.5, 3,
    ),
    "MultivariateStudentT": (lambda d, z: d.MultivariateStudentT(z, pair(z), matrix(z)), [0.5, -0.3], 0.5, 3),
    "NanMaskedNormal": (lambda d, z: d.NanMaskedNormal(z, 1 + z), 0.7, 0.5, 3),
    "NanMaskedMultivariateNormal": (
        lambda d, z: d.NanMaskedMultivariateNormal(pair(z), matrix(z)), [0.5, math.nan], 0.5, 3,
    ),
    "OrderedLogistic": (lambda d, z: d.OrderedLogistic(z, t([0.0, 1.0]).to(z)), 1, -2, 3),
    "ProjectedNormal": (lambda d, z: d.ProjectedNormal(pair(z)), [0.6, 0.8], -1, 2),
    "SkewLogistic": (lambda d, z: d.SkewLogistic(z, 1 + z, 1 + z), 0.7, 0.5, 3),
    "SoftAsymmetricLaplace": (lambda d, z: d.SoftAsymmetricLaplace(z, 1 + z, 1 + z, 1 + z), 0.7, 0.5, 3),
    "SoftLaplace": (lambda d, z: d.SoftLaplace(z, 1 + z), 0.7, 0.5, 3),
    "VonMises3D": (lambda d, z: d.VonMises3D(torch.stack([z, z, z], -1)), [0.6, 0.8, 0.0], 0.001, 2),
    "Unit": (lambda d, z: d.Unit(z), [], -1, 1),
    "Delta's density": (lambda d, z: d.Delta(t(0.5).to(z).expand(z.shape), z), 0.5, -1, 1),
    "ZeroInflatedPoisson": (lambda d, z: d.ZeroInflatedPoisson(z, gate_logits=z), 0.0, 0.5, 3),
}  # fmt: skip
