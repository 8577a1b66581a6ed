r"""History of measurements of gradient noise: signal-to-noise ratio, shares by site, and quality of baselines.

Each measurement draws two independent gradients :math:`g, g'` at the same parameters. So the means of :math:`\langle g,
g' \rangle` and :math:`|g - g'|^2 / 2` are the squared length of the mean gradient and its variance; changes of the
parameters between two measurements affect neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from varigrad import plots
from varigrad.objectives.gradient_draws import DIRECT
from varigrad.shapes import html, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT = 1000
"""How many looks are kept; beyond that, every other one of the older half goes."""

LINES = 8
"""How many sites a picture shows, and parameters a table: those with most of the noise."""


@dataclass(frozen=True)
class NoiseSnapshot:
    """The numbers of one measurement of the gradient's noise.

    Attributes:
        step: how many steps had been taken.
        sites: `site -> (signal, noise, covariance with the whole gradient)` of its part; `""` is what comes by no draw.
        parameters: `name -> (signal, noise)` of the whole gradient's elements.
        costs: `site -> (mean of (cost - baseline)^2, variance of the cost)` where there is a baseline.
    """

    step: int
    sites: Mapping[str, tuple[float, float, float]]
    parameters: Mapping[str, tuple[float, float]]
    costs: Mapping[str, tuple[float, float]]

    @property
    def finite(self) -> bool:
        """Whether all numbers of the look are finite."""
        return all(
            math.isfinite(x) for kind in (self.sites, self.parameters, self.costs) for v in kind.values() for x in v
        )


@dataclass(frozen=True)
class NoiseOf:
    """The part of a site, or of a parameter, in the gradient and its noise.

    Attributes:
        share, share_error: of the gradient's variance, half of every covariance included, with its standard error;
            shares sum to one, and one is negative where it takes away noise of the others.
        alone: the variance of this part alone, in units of the whole gradient's.
        snr: signal-to-noise, the length of the part's mean over the root of its variance.
        r_squared: the share of the cost's variance that the baseline explains: 1 for a perfect one, 0 for the costs'
            own mean, below 0 for a worse constant; None where there is no baseline.
    """

    name: str
    share: float
    share_error: float
    alone: float
    snr: float
    r_squared: float | None = None


@dataclass
class NoiseHistory:
    """All measurements of a run (and of those that it resumes); `print` it, `.plot()` it, `.to_dict()` it.

    Attributes:
        reach: figures are averages over about so many looks, the newest counting most.
        failed, reason: looks that found something not finite, or an error, and what was the matter with the last one.
        cost: the share of the processor's time that the looks took in the last run.
    """

    reach: int = 10
    looks: list[NoiseSnapshot] = field(default_factory=list)
    failed: int = 0
    reason: str = ""
    cost: float = math.nan

    def add(self, look: NoiseSnapshot) -> None:
        """Keep a look; count it as failed if it is not finite."""
        if not look.finite:
            self.fail("a gradient or a cost was not finite")
            return
        self.looks.append(look)
        if len(self.looks) > KEPT:
            del self.looks[1 : KEPT // 2 : 2]

    def fail(self, reason: str) -> None:
        """Count a look as failed."""
        self.failed += 1
        self.reason = reason

    @property
    def snr(self) -> float:
        """The signal-to-noise ratio of the whole gradient."""
        whole = self._whole()
        return _ratio_of_lengths(self._mean(whole[:, 0]), self._mean(whole[:, 1]))

    @property
    def sites(self) -> tuple[NoiseOf, ...]:
        """The noise by site, most first; `""` stands for what the terms have at fixed draws."""
        whole = self._whole()[:, 1]
        found = []
        for name in self._names("sites"):
            signal, noise, covariance = self._columns("sites", name, 3)
            error, spread = (self._mean(c) for c in self._columns("costs", name, 2))
            share, share_error = self._ratio(covariance, whole)
            alone = _quotient(self._mean(noise), self._mean(whole))
            snr = _ratio_of_lengths(self._mean(signal), self._mean(noise))
            known = any(name in look.costs for look in self.looks)
            r_squared = 1 - _quotient(error, spread) if known else None
            found.append(NoiseOf(name, share, share_error, alone, snr, r_squared))
        return tuple(sorted(found, key=lambda n: -n.share))

    @property
    def parameters(self) -> tuple[NoiseOf, ...]:
        """The noise by parameter, most first."""
        whole = self._whole()[:, 1]
        found = []
        for name in self._names("parameters"):
            signal, noise = self._columns("parameters", name, 2)
            share, error = self._ratio(noise, whole)
            found.append(NoiseOf(name, share, error, share, _ratio_of_lengths(self._mean(signal), self._mean(noise))))
        return tuple(sorted(found, key=lambda n: -n.share))

    @property
    def note(self) -> str:
        """The figures in a few words, for a progress bar."""
        if not self.looks:
            return "no look at the noise" if not self.failed else "no finite look at the noise"
        top = self.sites[0] if self.sites else None
        where = "" if top is None else f", {_percent(top.share)} of the noise from {shown_site(top.name)}"
        return f"signal/noise {self.snr:.2g}{where}"

    def __str__(self) -> str:
        lines = [table(rows, header) + "\n" for header, rows in self._tables()]
        return "\n".join([*lines, *self._notes()])

    def _repr_html_(self) -> str:
        return html(self._tables(), self._notes())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dictionaries."""
        return {
            "snr": self.snr,
            "sites": [asdict(s) for s in self.sites],
            "parameters": [asdict(p) for p in self.parameters],
            **self.state(),
        }

    def plot(self) -> Figure:
        """Shares of the noise, and signal-to-noise, against the steps.

        Needs matplotlib (`pip install 'varigrad[plots]'`).
        """
        steps = [look.step for look in self.looks]
        names = [s.name for s in self.sites[:LINES]]
        whole = list(self._running(self._whole()[:, 1]))
        shares, snrs = {}, {"whole gradient": self._snr_history(self._whole().T)}
        for name in names:
            columns = self._columns("sites", name, 3)
            shares[shown_site(name)] = [_quotient(c, w) for c, w in zip(self._running(columns[2]), whole, strict=True)]
            snrs[shown_site(name)] = self._snr_history(columns)
        return plots.gradient_noise(steps, shares, snrs)

    def state(self) -> dict[str, Any]:
        """The history as plain data, for a run that goes on later."""
        return {"looks": [asdict(look) for look in self.looks], "failed": self.failed, "reason": self.reason}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> NoiseHistory:
        """The history that `state` was called of."""
        return cls(
            looks=[NoiseSnapshot(**look) for look in state["looks"]], failed=state["failed"], reason=state["reason"]
        )

    def _tables(self) -> list[tuple[Sequence[str], list[tuple[str, ...]]]]:
        if not self.looks:
            return []
        sites: list[tuple[str, ...]] = [
            (
                shown_site(s.name),
                _with_error(s),
                _percent(s.alone),
                _snr(s),
                "-" if s.r_squared is None else f"{s.r_squared:.2f}",
            )
            for s in self.sites
        ]
        parameters: list[tuple[str, ...]] = [(p.name, _with_error(p), _snr(p)) for p in self.parameters[:LINES]]
        return [
            (("site", "share of the noise", "alone", "signal/noise", "baseline R2"), sites),
            (("parameter", "share of the noise", "signal/noise"), parameters),
        ]

    def _notes(self) -> list[str]:
        notes = []
        if self.looks:
            first, last = self.looks[0].step, self.looks[-1].step
            notes.append(
                f"signal/noise of the whole gradient: {self.snr:.2g}; {len(self.looks)} looks between steps {first} "
                f"and {last}, two gradients each, averaged over about the last {min(self.reach, len(self.looks))}"
            )
        else:
            notes.append("no look at the gradient's noise has been taken")
        if not math.isnan(self.cost):
            notes.append(f"they took {100 * self.cost:.1f} % of the run's processor time")
        more = len(self._names("parameters")) - LINES
        if more > 0:
            notes.append(f"{more} more parameters have less of the noise: .parameters")
        if self.failed:
            notes.append(f"{self.failed} looks were of no use, the last because {self.reason}")
        return notes

    def _names(self, kind: str) -> list[str]:
        return list(dict.fromkeys(name for look in self.looks for name in getattr(look, kind)))

    def _columns(self, kind: str, name: str, width: int) -> Tensor:
        """The numbers of one site or parameter, `[width, looks]`; zero where a look has not met it."""
        rows = [getattr(look, kind).get(name, (0.0,) * width) for look in self.looks]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, width).T

    def _whole(self) -> Tensor:
        """Signal and noise of the whole gradient, `[looks, 2]`."""
        rows = [[sum(v[i] for v in look.parameters.values()) for i in (0, 1)] for look in self.looks]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)

    @property
    def _weights(self) -> Tensor:
        """The weights of the looks, `[looks]`; they sum to one."""
        age = torch.arange(len(self.looks) - 1, -1, -1, dtype=torch.float64)
        weights = (1 - 1 / self.reach) ** age
        return weights / weights.sum()

    def _mean(self, column: Tensor) -> float:
        return float((self._weights * column).sum()) if len(column) else math.nan

    def _ratio(self, above: Tensor, below: Tensor) -> tuple[float, float]:
        """Quotient of two means, and its standard error (NaN after one look)."""
        ratio = _quotient(self._mean(above), self._mean(below))
        square = float(self._weights.square().sum())
        if square > 0.999:
            return ratio, math.nan
        # To first order, of the residuals' mean over the lower mean; weighted looks count as 1 / square.
        residual = float((self._weights * (above - ratio * below)).square().sum()) / (1 - square)
        return ratio, _quotient(math.sqrt(residual), self._mean(below))

    def _running(self, column: Tensor) -> Iterator[float]:
        """The average as it was at each look, up to a factor that all columns share."""
        total = 0.0
        for value in column.tolist():
            total = (1 - 1 / self.reach) * total + value
            yield total

    def _snr_history(self, columns: Tensor) -> list[float]:
        pairs = zip(self._running(columns[0]), self._running(columns[1]), strict=True)
        return [_ratio_of_lengths(signal, noise) for signal, noise in pairs]


def shown_site(name: str) -> str:
    """The name of a site as it is printed."""
    return "(terms at fixed draws)" if name == DIRECT else name


def _quotient(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan


def _ratio_of_lengths(signal: float, noise: float) -> float:
    """The root of signal over noise; an estimated signal below zero is none."""
    if math.isnan(signal):
        return math.nan
    return math.sqrt(max(signal, 0.0) / noise) if noise > 0 else math.inf


def _percent(share: float) -> str:
    return f"{round(100 * share) if math.isfinite(share) else share} %"


def _with_error(of: NoiseOf) -> str:
    return f"{_percent(of.share)} ± {'-' if math.isnan(of.share_error) else round(100 * of.share_error)}"


def _snr(of: NoiseOf) -> str:
    return "no noise" if of.snr > 1e6 else f"{of.snr:.2g}"
