"""Every family of `torch.distributions` with `to_event`, `mask` and `expand_by`; torch documents the parameters."""

from __future__ import annotations

from torch import distributions as td

from varigrad.distributions.fast_families import Bernoulli as Bernoulli
from varigrad.distributions.fast_families import Beta as Beta
from varigrad.distributions.fast_families import Categorical as Categorical
from varigrad.distributions.fast_families import HalfCauchy as HalfCauchy
from varigrad.distributions.fast_families import LogNormal as LogNormal
from varigrad.distributions.fast_families import Normal as Normal
from varigrad.distributions.mixin import Methods
from varigrad.distributions.traceable_families import Binomial as Binomial
from varigrad.distributions.traceable_families import Chi2 as Chi2
from varigrad.distributions.traceable_families import ContinuousBernoulli as ContinuousBernoulli
from varigrad.distributions.traceable_families import FisherSnedecor as FisherSnedecor
from varigrad.distributions.traceable_families import Gamma as Gamma
from varigrad.distributions.traceable_families import Geometric as Geometric
from varigrad.distributions.traceable_families import LKJCholesky as LKJCholesky
from varigrad.distributions.traceable_families import LowRankMultivariateNormal as LowRankMultivariateNormal
from varigrad.distributions.traceable_families import Multinomial as Multinomial
from varigrad.distributions.traceable_families import OneHotCategorical as OneHotCategorical
from varigrad.distributions.traceable_families import (
    OneHotCategoricalStraightThrough as OneHotCategoricalStraightThrough,
)
from varigrad.distributions.traceable_families import RelaxedBernoulli as RelaxedBernoulli
from varigrad.distributions.traceable_families import RelaxedOneHotCategorical as RelaxedOneHotCategorical
from varigrad.distributions.traceable_families import StudentT as StudentT
from varigrad.distributions.traceable_families import Wishart as Wishart


class Cauchy(Methods, td.Cauchy):
    """Location and scale, no mean."""


class Dirichlet(Methods, td.Dirichlet):
    """On the simplex, from `concentration` `[*batch, categories]`."""


class Exponential(Methods, td.Exponential):
    """Waiting time at `rate`."""


class GeneralizedPareto(Methods, td.GeneralizedPareto):
    """Exceedances over a threshold."""


class Gumbel(Methods, td.Gumbel):
    """Extreme values, `loc` and `scale`."""


class HalfNormal(Methods, td.HalfNormal):
    """Absolute value of a centred Normal."""


class InverseGamma(Methods, td.InverseGamma):
    """Reciprocal of a Gamma."""


class Kumaraswamy(Methods, td.Kumaraswamy):
    """On (0, 1), Beta-like with a closed CDF."""


class Laplace(Methods, td.Laplace):
    """Double exponential, `loc` and `scale`."""


class LogisticNormal(Methods, td.LogisticNormal):
    """Softmax of a Normal, on the simplex."""


class MixtureSameFamily(Methods, td.MixtureSameFamily):
    """Mixture over the last batch dimension of one family."""


class MultivariateNormal(Methods, td.MultivariateNormal):
    """Normal with a full covariance."""


class NegativeBinomial(Methods, td.NegativeBinomial):
    """Successes before `total_count` failures."""


class Pareto(Methods, td.Pareto):
    """Power law above `scale`."""


class Poisson(Methods, td.Poisson):
    """Counts whose mean and variance are `rate`."""


class TransformedDistribution(Methods, td.TransformedDistribution):
    """A base distribution pushed through bijections."""


class Uniform(Methods, td.Uniform):
    """Constant density between `low` and `high`."""


class VonMises(Methods, td.VonMises):
    """Angles around `loc`, the closer the larger `concentration`."""


class Weibull(Methods, td.Weibull):
    """Positive, `scale` and `concentration`."""
