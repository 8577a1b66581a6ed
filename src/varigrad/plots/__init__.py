"""Plots of losses, estimators' noise and cost, and gradient noise; matplotlib is imported only when a plot is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def losses(values: Tensor, title: str = "") -> Figure:
    """Losses, `[steps]`, against the steps, with a running mean."""
    figure, axes = _figure()
    steps = range(1, len(values) + 1)
    axes.plot(steps, values.numpy(), color="0.75", linewidth=0.7, label="each step")
    window = max(1, len(values) // 50)
    if window > 1:
        smooth = values.unfold(0, window, 1).nanmean(-1)
        axes.plot(range(window, len(values) + 1), smooth.numpy(), label=f"mean of {window}")
        axes.legend()
    axes.set(xlabel="step", ylabel="loss = -ELBO", title=title)
    result: Figure = figure
    return result


def curves(
    series: Mapping[str, tuple[Tensor, Tensor]], xlabel: str, ylabel: str, title: str = "", log: str = ""
) -> Figure:
    """Several curves in one picture.

    Args:
        series: `label -> (x, y)`, each `[points]`; y may be `[runs, points]`, drawn as median and middle 80 %.
        log: axes with a logarithmic scale, "x", "y" or "xy".
    """
    figure, axes = _figure()
    for label, (x, y) in series.items():
        if y.dim() == 1:
            axes.plot(x.numpy(), y.numpy(), label=label)
            continue
        middle = y.nanmedian(0).values
        (line,) = axes.plot(x.numpy(), middle.numpy(), label=label)
        low, high = y.nanquantile(0.1, 0), y.nanquantile(0.9, 0)
        axes.fill_between(x.numpy(), low.numpy(), high.numpy(), color=line.get_color(), alpha=0.2, linewidth=0)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.legend()
    result: Figure = figure
    return result


def noise_and_cost(
    labels: Sequence[str],
    variances: Sequence[float],
    errors: Sequence[float],
    microseconds: Sequence[float],
    slack: Sequence[float],
) -> Figure:
    """Gradient estimators: their variances as bars with standard errors, and against the cost; on the dashed line,
    variance x time is that of the best.

    Args:
        slack: standard errors of the microseconds.
    """
    figure, bars = _figure(1, 2)
    places = range(len(labels))
    plane = figure.add_subplot(1, 2, 2)
    plane.spines[["top", "right"]].set_visible(False)
    colours = [f"C{i % 10}" for i in places]
    bars.barh(places, variances, xerr=errors, color=colours)
    bars.set_yticks(places, labels)
    bars.invert_yaxis()
    plane.set_xlim(0, 1.5 * max(microseconds, default=1.0))  # room for the labels
    for axes, along in ((bars, bars.set_xscale), (plane, plane.set_yscale)):
        if all(v > 0 for v in variances):
            along("log")
        axes.tick_params(labelsize=8)
    for x, y, error, wide, colour, label in zip(microseconds, variances, errors, slack, colours, labels, strict=True):
        plane.errorbar([x], [y], xerr=[wide], yerr=[error], fmt="o", color=colour)
        plane.annotate(label, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=7)
    if microseconds and all(v > 0 for v in variances):
        least = min(v * us for v, us in zip(variances, microseconds, strict=True))
        low, high = min(microseconds) / 2, 1.5 * max(microseconds)
        costs = [low * (high / low) ** (i / 20) for i in range(21)]
        plane.plot(costs, [least / c for c in costs], color="0.8", linestyle="--", zorder=0)
    bars.set(xlabel="variance of the gradient, all parameters")
    plane.set(xlabel="microseconds a gradient", ylabel="variance")
    result: Figure = figure
    return result


def gradient_noise(
    steps: Sequence[int], shares: Mapping[str, Sequence[float]], snrs: Mapping[str, Sequence[float]]
) -> Figure:
    """Draw where a gradient's noise comes from, and its signal-to-noise, against the steps.

    Args:
        steps: at which step each look was taken.
        shares: the share of the noise, by site.
        snrs: the ratio of signal to noise, by name.
    """
    figure, axes = _figure(1, 2)
    plane = figure.add_subplot(1, 2, 2)
    plane.spines[["top", "right"]].set_visible(False)
    for picture, curves_of in ((axes, shares), (plane, snrs)):
        for label, values in curves_of.items():
            mark = "." if len(steps) < 30 else ""
            picture.plot(steps, values, label=label, marker=mark, color=None if label in shares else "0.3")
    axes.set(xlabel="step", ylabel="share of the gradient's noise")
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), max(1.0, axes.get_ylim()[1]))
    plane.set(xlabel="step", ylabel="signal/noise")
    plane.set_ylim(bottom=0.0)
    plane.legend(fontsize=7)
    result: Figure = figure
    return result


def _figure(rows: int = 1, columns: int = 1):  # type: ignore[no-untyped-def]  # noqa: ANN202 - matplotlib is optional
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 + 3 * columns, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(rows, columns, 1)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
