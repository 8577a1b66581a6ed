"""Every family of `torch.distributions`, with `to_event`, `mask` and `expand_by`; parameters as in torch's pages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.lean import Bernoulli as Bernoulli
from varigrad.distributions.lean import Beta as Beta
from varigrad.distributions.lean import Categorical as Categorical
from varigrad.distributions.lean import HalfCauchy as HalfCauchy
from varigrad.distributions.lean import LogNormal as LogNormal
from varigrad.distributions.lean import Normal as Normal
from varigrad.distributions.methods import Methods


class Binomial(Methods, td.Binomial):
    """Successes in `total_count` trials."""


class Cauchy(Methods, td.Cauchy):
    """Location and scale, no mean."""


class Chi2(Methods, td.Chi2):
    """Sum of `df` squared standard normals."""


class ContinuousBernoulli(Methods, td.ContinuousBernoulli):
    """On [0, 1], the normalised Bernoulli likelihood."""


class Dirichlet(Methods, td.Dirichlet):
    """On the simplex, from `concentration` `[*batch, categories]`."""


class Exponential(Methods, td.Exponential):
    """Waiting time at `rate`."""


class FisherSnedecor(Methods, td.FisherSnedecor):
    """Ratio of two scaled chi-squares."""


class Gamma(Methods, td.Gamma):
    """Positive, from `concentration` and `rate`."""


class GeneralizedPareto(Methods, td.GeneralizedPareto):
    """Exceedances over a threshold."""


class Geometric(Methods, td.Geometric):
    """Failures before the first success."""


class Gumbel(Methods, td.Gumbel):
    """Extreme values, `loc` and `scale`."""


class HalfNormal(Methods, td.HalfNormal):
    """Absolute value of a centred Normal."""


class InverseGamma(Methods, td.InverseGamma):
    """Reciprocal of a Gamma."""


class Kumaraswamy(Methods, td.Kumaraswamy):
    """On (0, 1), Beta-like with a closed CDF."""


class LKJCholesky(Methods, td.LKJCholesky):
    """Cholesky factors of correlation matrices."""


class Laplace(Methods, td.Laplace):
    """Double exponential, `loc` and `scale`."""


class LogisticNormal(Methods, td.LogisticNormal):
    """Softmax of a Normal, on the simplex."""


class LowRankMultivariateNormal(Methods, td.LowRankMultivariateNormal):
    """Normal with covariance `factor factor' + diag`."""


class MixtureSameFamily(Methods, td.MixtureSameFamily):
    """Mixture over the last batch dimension of one family."""


class Multinomial(Methods, td.Multinomial):
    """Counts of categories in `total_count` draws."""


class MultivariateNormal(Methods, td.MultivariateNormal):
    """Normal with a full covariance."""


class NegativeBinomial(Methods, td.NegativeBinomial):
    """Successes before `total_count` failures."""


class OneHotCategorical(Methods, td.OneHotCategorical):
    """A one-hot vector from `probs` or `logits`."""


class OneHotCategoricalStraightThrough(Methods, td.OneHotCategoricalStraightThrough):
    """One-hot with a (biased) straight-through `rsample`."""


class Pareto(Methods, td.Pareto):
    """Power law above `scale`."""


class Poisson(Methods, td.Poisson):
    """Counts at `rate`."""


class RelaxedBernoulli(Methods, td.RelaxedBernoulli):
    """Concrete relaxation of a Bernoulli at a temperature."""


class RelaxedOneHotCategorical(Methods, td.RelaxedOneHotCategorical):
    """Concrete relaxation of a one-hot vector at a temperature."""


class StudentT(Methods, td.StudentT):
    """Heavy-tailed, `df`, `loc`, `scale`."""


class TransformedDistribution(Methods, td.TransformedDistribution):
    """A base distribution pushed through bijections."""


class Uniform(Methods, td.Uniform):
    """Between `low` and `high`."""


class VonMises(Methods, td.VonMises):
    """Angles around `loc`."""


class Weibull(Methods, td.Weibull):
    """Positive, `scale` and `concentration`."""


class Wishart(Methods, td.Wishart):
    """Random positive-definite matrices."""

    def rsample(self, sample_shape: Any = torch.Size(), max_try_correction: int | None = None) -> Tensor:
        # torch takes its test for singular draws the wrong way round: it warns of, and redraws, the good ones.
        return self._bartlett_sampling(torch.Size(sample_shape))
