"""Measurements of an estimator in a comparison: cost, bias, and variance by parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """The measured gradient of one parameter by one estimator.

    Attributes:
        parameter: the parameter's name.
        site: the site whose distribution the parameter belongs to, "" if there is none or several.
        bias, z: the mean minus the reference where that is largest in standard errors, and how many.
        variance, variance_error: summed over the parameter's elements, and its standard error.
        snr: signal-to-noise, the length of the reference gradient over the root of the variance.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 0.7))
        >>> from varigrad.estimators import Pathwise
        >>> [measured] = vg.compare(model, guide, estimators={"z": [Pathwise()]}, budget=8).measured
        >>> [(row.parameter, row.site) for row in measured.rows]
        [('m', 'z')]
    """

    parameter: str
    site: str
    bias: float
    z: float
    variance: float
    variance_error: float
    snr: float


@dataclass(frozen=True)
class Measured:
    """The measurements of one estimator at the sites of one glob.

    Attributes:
        sites: the glob on site names.
        estimator: the estimator, as text.
        verdict: "unbiased" (as far as the draws can tell), "biased" (found so), "biased by name" (says so itself) or
            "refused".
        because: why it was refused, or what was found biased.
        evaluations: of the model, a step: lanes times particles.
        microseconds, microseconds_error: for one gradient, median over blocks, and its standard error.
        variance, variance_error: summed over all parameters, and its standard error.
        rows: one for each parameter.
        own_variance, own_error: the same of the parameters that belong to these sites alone; NaN if there are none.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 0.7))
        >>> from varigrad.estimators import Pathwise
        >>> [measured] = vg.compare(model, guide, estimators={"z": [Pathwise()]}, budget=8).measured
        >>> measured.verdict, measured.evaluations
        ('unbiased', 1)
    """

    sites: str
    estimator: str
    verdict: str
    because: str = ""
    evaluations: int = 0
    microseconds: float = math.nan
    microseconds_error: float = math.nan
    variance: float = math.nan
    variance_error: float = math.nan
    rows: tuple[Row, ...] = ()
    own_variance: float = math.nan
    own_error: float = math.nan

    @property
    def work(self) -> float:
        """Variance times seconds: what a given precision costs."""
        return self.variance * self.microseconds * 1e-6

    @property
    def measured(self) -> bool:
        """Whether the estimator could serve its sites."""
        return self.verdict != "refused"
