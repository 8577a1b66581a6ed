"""`Comparison`: the result of comparing estimators, as tables, a plot, a dictionary, and a recommendation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from varigrad import plots
from varigrad.diagnostics.advice import Advice
from varigrad.diagnostics.measurements import Measured
from varigrad.errors import VarigradError
from varigrad.shapes import html, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Comparison:
    """The result of `varigrad.compare`; `print` it, `.plot()` it, `.to_dict()` it.

    Attributes:
        measured: one entry for each estimator at each glob.
        reference: what biases are relative to.
        budget: gradients drawn for each estimator.
        advice: for each glob what to use, and why.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 0.7))
        >>> from varigrad.estimators import Pathwise, Score
        >>> found = vg.compare(model, guide, estimators={"z": [Pathwise(), Score()]}, budget=8)
        >>> [m.estimator for m in found.measured]
        ['Pathwise()', 'Score()']
    """

    measured: tuple[Measured, ...]
    reference: str
    budget: int
    advice: tuple[Advice, ...]

    def __getitem__(self, estimator: str) -> Measured:
        for m in self.measured:
            if m.estimator == estimator:
                return m
        raise VarigradError(
            f"no estimator is called {estimator!r} here", because=", ".join(m.estimator for m in self.measured)
        )

    @property
    def recommended(self) -> str | None:
        """The estimator advised for the first (often only) glob; None if the budget cannot tell, or none serves."""
        return self.advice[0].estimator

    def __str__(self) -> str:
        lines = [table(rows, header) + "\n" for header, rows in self._tables()]
        return "\n".join([*lines, *self._notes()])

    def _repr_html_(self) -> str:
        return html(self._tables(), self._notes())

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers, strings, lists and dictionaries; None for what is not a finite number."""
        whole = asdict(self)
        for found, m in zip(whole["measured"], self.measured, strict=True):
            found["work"] = m.work
        return {key: _plain(value) for key, value in {**whole, "recommended": self.recommended}.items()}

    def plot(self) -> Figure:
        """Variance as bars, and against the cost of a gradient. Needs matplotlib (`pip install 'varigrad[plots]'`)."""
        shown = [m for m in self.measured if m.measured]
        several = len({m.sites for m in shown}) > 1
        labels = [f"{m.sites}: {m.estimator}" if several else m.estimator for m in shown]
        return plots.noise_and_cost(
            labels,
            [m.variance for m in shown],
            [m.variance_error for m in shown],
            [m.microseconds for m in shown],
            [m.microseconds_error for m in shown],
        )

    def _tables(self) -> Iterable[tuple[Sequence[str], list[tuple[str, ...]]]]:
        header = (
            "sites",
            "estimator",
            "verdict",
            "evaluations",
            "us",
            "variance",
            "own parameters",
            "variance x s",
        )
        yield (
            header,
            [
                (m.sites, m.estimator, m.verdict, *("-",) * 5)
                if not m.measured
                else (
                    m.sites,
                    m.estimator,
                    m.verdict,
                    str(m.evaluations),
                    f"{m.microseconds:.0f}",
                    f"{m.variance:.3g} ± {m.variance_error:.1g}",
                    "-" if math.isnan(m.own_variance) else f"{m.own_variance:.3g} ± {m.own_error:.1g}",
                    f"{m.work:.2g}",
                )
                for m in self.measured
            ],
        )
        rows: list[tuple[str, ...]] = [
            (
                m.estimator,
                r.parameter,
                r.site or "-",
                f"{r.bias:.2g}",
                f"{r.z:.1f}",
                f"{r.variance:.3g} ± {r.variance_error:.1g}",
                f"{r.snr:.2g}",
            )
            for m in self.measured
            for r in m.rows
        ]
        if rows:
            yield ("estimator", "parameter", "site", "bias", "z", "variance", "signal/noise"), rows

    def _notes(self) -> list[str]:
        why = [f"{m.estimator}: {m.because}" for m in self.measured if m.because]
        about = f"{self.budget} gradients each; biases are relative to: {self.reference}"
        return [about, *why, *(f"{a.sites}: {a.text}" for a in self.advice)]


def _plain(tree: object) -> object:
    """The same with lists for tuples, and None for numbers that JSON does not have."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_plain(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
