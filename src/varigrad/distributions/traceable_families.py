"""Torch families rewritten so that they never read a tensor's value, and can therefore be tracked and traced.

torch's versions always validate their inner distributions, and test or overwrite elements by mask. Both read values out
of torch, so everything after such a distribution would count as depending on them, and no step could be recorded.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical as _ExpRelaxedCategorical
from torch.distributions.utils import broadcast_all

from varigrad._torch_internals import unbroadcasted_scale_tril
from varigrad.distributions import continuous_bernoulli
from varigrad.distributions.fast_families import Beta, Categorical
from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape, join


class Binomial(Methods, td.Binomial):
    """Successes in `total_count` trials."""


class Chi2(Methods, td.Chi2):
    """Sum of `df` squared standard normals."""


class Gamma(Methods, td.Gamma):
    """Positive, from `concentration` and `rate`."""


class ContinuousBernoulli(Methods, td.ContinuousBernoulli):
    """On [0, 1], the normalised Bernoulli likelihood."""

    def __init__(
        self,
        probs: Tensor | float | None = None,
        logits: Tensor | float | None = None,
        lims: tuple[float, float] = (0.499, 0.501),
        validate_args: bool | None = None,
    ) -> None:
        # Not `bool(validate_args)`: torch looks at the values unless it is None.
        td.ContinuousBernoulli.__init__(self, probs, logits, lims, validate_args=validate_args)
        self._said(validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return continuous_bernoulli.log_density(self.logits, value)

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return continuous_bernoulli.cdf(self.logits, value)

    def icdf(self, value: Tensor) -> Tensor:
        return continuous_bernoulli.inverse_cdf(self.logits, value)


class FisherSnedecor(Methods, td.FisherSnedecor):
    """Ratio of two scaled chi-squares."""

    df1: Tensor
    df2: Tensor

    def __init__(self, df1: Tensor | float, df2: Tensor | float, validate_args: bool | None = None) -> None:
        self.df1, self.df2 = broadcast_all(df1, df2)
        self._gamma1, self._gamma2 = Gamma(self.df1 / 2, self.df1), Gamma(self.df2 / 2, self.df2)
        self._begin(self.df1.shape, torch.Size(), validate_args)

    @property
    def mean(self) -> Tensor:
        return torch.where(self.df2 > 2, self.df2 / (self.df2 - 2), torch.nan)

    @property
    def variance(self) -> Tensor:
        m, n = self.df1, self.df2
        return torch.where(n > 4, 2 * n.square() * (m + n - 2) / (m * (n - 2).square() * (n - 4)), torch.nan)


class Geometric(Methods, td.Geometric):
    """Failures before the first success."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value, probs = broadcast_all(value, self.probs)
        # No failure has probability one if success is certain: zero times the logarithm of zero is zero here.
        failure = torch.where((probs == 1) & (value == 0), 0.0, probs)
        return value * torch.log1p(-failure) + self.probs.log()


class LKJCholesky(Methods, td.LKJCholesky):
    """Cholesky factors of correlation matrices."""

    concentration: Tensor

    def __init__(self, dim: int, concentration: Tensor | float = 1.0, validate_args: bool | None = None) -> None:
        if dim < 2:
            raise ValueError(f"dim of a correlation matrix must be at least 2, got {dim}")
        self.dim = dim
        (self.concentration,) = broadcast_all(concentration)
        like = self.concentration
        # Row i below the diagonal has a squared length that is Beta(i / 2, concentration + (dim - 1 - i) / 2), where
        # torch takes i - 1/2 for i / 2: its draws do not follow its density. The first row has nothing there.
        steps = torch.arange(dim - 1, dtype=like.dtype, device=like.device) / 2
        steps = torch.cat([steps.new_zeros(1), steps])
        self._beta = Beta(steps + 0.5, (like + (dim - 2) / 2).unsqueeze(-1) - steps)
        self._begin(like.shape, torch.Size((dim, dim)), validate_args)


class LowRankMultivariateNormal(Methods, td.LowRankMultivariateNormal):
    """Normal with covariance `factor factor' + diag`."""

    def __init__(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None) -> None:
        event = loc.shape[-1:]
        if loc.dim() < 1 or cov_factor.dim() < 2 or cov_factor.shape[-2:-1] != event or cov_diag.shape[-1:] != event:
            shapes = f"{tuple(loc.shape)}, {tuple(cov_factor.shape)} and {tuple(cov_diag.shape)}"
            raise ValueError(f"loc, cov_factor and cov_diag must be [*, d], [*, d, m] and [*, d], got {shapes}")
        try:
            batch = join(loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1])
        except RuntimeError as error:
            raise ValueError(f"Incompatible batch shapes: {error}") from error
        self.loc: Tensor = loc.expand(batch + event)
        self.cov_diag: Tensor = cov_diag.expand(batch + event)
        self.cov_factor: Tensor = cov_factor.expand(batch + cov_factor.shape[-2:])
        self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag = cov_factor, cov_diag
        m = cov_factor.shape[-1]
        eye = torch.eye(m, dtype=cov_factor.dtype, device=cov_factor.device)
        scaled = cov_factor.mT / cov_diag.unsqueeze(-2)
        self._capacitance_tril = torch.linalg.cholesky(scaled @ cov_factor + eye)
        self._begin(batch, event, validate_args)


class Multinomial(Methods, td.Multinomial):
    """Counts of categories in `total_count` draws."""

    def __init__(
        self,
        total_count: int = 1,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(total_count, int):
            raise NotImplementedError("inhomogeneous total_count is not supported")
        self.total_count = total_count
        self._categorical = Categorical(probs, logits)
        self._begin(self._categorical.batch_shape, self._categorical.param_shape[-1:], validate_args)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        # Not torch's: from 2.15 on, that expands `_binomial`, which is made when it is asked for here.
        twin = self.__new__(type(self)) if _instance is None else _instance
        assert isinstance(twin, type(self))
        batch = torch.Size(batch_shape)
        twin.total_count, twin._categorical = self.total_count, self._categorical.expand(batch)
        td.Distribution.__init__(twin, batch, self.event_shape, validate_args=False)
        twin._validate_args = self._validate_args
        return self._as_told(twin)

    @property
    def _binomial(self) -> td.Binomial:  # type: ignore[override]
        return Binomial(self.total_count, probs=self.probs)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        # A category that cannot occur, and did not: zero times minus infinity is zero here.
        logits = torch.where((value == 0) & (logits == -torch.inf), 0.0, logits)
        ways = torch.lgamma(value.sum(-1) + 1) - torch.lgamma(value + 1).sum(-1)
        return ways + (logits * value).sum(-1)


class OneHotCategorical(Methods, td.OneHotCategorical):
    """A one-hot vector from `probs` or `logits`."""

    def __init__(
        self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        self._categorical = Categorical(probs, logits)
        self._begin(self._categorical.batch_shape, self._categorical.param_shape[-1:], validate_args)


class OneHotCategoricalStraightThrough(OneHotCategorical, td.OneHotCategoricalStraightThrough):
    """One-hot with a (biased) straight-through `rsample`."""


class _ExpRelaxed(Methods, _ExpRelaxedCategorical):
    """The logarithm of a relaxed one-hot vector."""

    def __init__(
        self, temperature: Tensor, probs: Tensor | None, logits: Tensor | None, validate_args: bool | None = None
    ) -> None:
        self._categorical, self.temperature = Categorical(probs, logits), temperature
        self._begin(self._categorical.batch_shape, self._categorical.param_shape[-1:], validate_args)


class RelaxedOneHotCategorical(Methods, td.RelaxedOneHotCategorical):
    """Concrete relaxation of a one-hot vector at a temperature."""

    def __init__(
        self,
        temperature: Tensor,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        base = _ExpRelaxed(temperature, probs, logits, validate_args)
        td.TransformedDistribution.__init__(self, base, td.ExpTransform(), validate_args=bool(validate_args))
        self._said(validate_args)


class RelaxedBernoulli(Methods, td.RelaxedBernoulli):
    """Concrete relaxation of a Bernoulli at a temperature."""

    def __init__(
        self,
        temperature: Tensor,
        probs: Tensor | float | None = None,
        logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        base = td.relaxed_bernoulli.LogitRelaxedBernoulli(temperature, probs, logits, validate_args=bool(validate_args))
        td.TransformedDistribution.__init__(self, base, td.SigmoidTransform(), validate_args=bool(validate_args))
        self._said(validate_args)


class StudentT(Methods, td.StudentT):
    """Heavy-tailed, `df`, `loc`, `scale`."""

    df: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        df: Tensor | float,
        loc: Tensor | float = 0.0,
        scale: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        self._chi2 = Chi2(self.df)
        self._begin(self.df.shape, torch.Size(), validate_args)

    @property
    def mean(self) -> Tensor:
        return torch.where(self.df > 1, self.loc, torch.nan)

    @property
    def variance(self) -> Tensor:
        finite = self.scale.square() * self.df / (self.df - 2)
        return torch.where(self.df > 2, finite, torch.where(self.df > 1, torch.inf, torch.nan))


class Wishart(Methods, td.Wishart):
    """Random positive-definite matrices, draws of which can be traced."""

    def __init__(
        self,
        df: Tensor | float,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        given = [p for p in (covariance_matrix, precision_matrix, scale_tril) if p is not None]
        if len(given) != 1 or given[0].dim() < 2:
            raise ValueError("Wishart takes one of covariance_matrix, precision_matrix and scale_tril, [*, d, d]")
        shape = given[0]
        df = torch.as_tensor(df, dtype=shape.dtype, device=shape.device)
        batch, event = join(shape.shape[:-2], df.shape), shape.shape[-2:]
        self.df: Tensor = df.expand(batch)
        if scale_tril is not None:
            self.scale_tril = scale_tril.expand(batch + event)
            self._unbroadcasted_scale_tril = scale_tril
        elif covariance_matrix is not None:
            self.covariance_matrix = covariance_matrix.expand(batch + event)
            self._unbroadcasted_scale_tril = torch.linalg.cholesky(covariance_matrix)
        else:
            assert precision_matrix is not None
            self.precision_matrix = precision_matrix.expand(batch + event)
            normal = td.MultivariateNormal(shape.new_zeros(event[-1:]), precision_matrix=shape, validate_args=False)
            self._unbroadcasted_scale_tril = unbroadcasted_scale_tril(normal)
        self._begin(batch, event, validate_args)
        self._prepare()

    def _prepare(self) -> None:
        """What draws need: the squared diagonal of a Bartlett factor."""
        d = self.event_shape[-1]
        place = torch.arange(d, dtype=self.df.dtype, device=self.df.device)
        self._batch_dims = [-i - 1 for i in range(len(self.batch_shape))]
        self._dist_chi2 = Chi2(self.df.unsqueeze(-1) - place)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        twin = self.__new__(type(self)) if _instance is None else _instance
        assert isinstance(twin, type(self))
        batch = torch.Size(batch_shape)
        shape = batch + self.event_shape
        twin._unbroadcasted_scale_tril = self._unbroadcasted_scale_tril.expand(shape)
        twin.df = self.df.expand(batch)
        for name in ("covariance_matrix", "precision_matrix", "scale_tril"):
            if name in self.__dict__:
                setattr(twin, name, self.__dict__[name].expand(shape))
        td.Distribution.__init__(twin, batch, self.event_shape, validate_args=False)
        twin._validate_args = self._validate_args
        twin._prepare()
        return self._as_told(twin)

    def rsample(self, sample_shape: Shape = torch.Size(), max_try_correction: int | None = None) -> Tensor:
        # torch takes its test for singular draws the wrong way round: it warns of, and redraws, the good ones.
        result: Tensor = self._bartlett_sampling(torch.Size(sample_shape))
        return result
