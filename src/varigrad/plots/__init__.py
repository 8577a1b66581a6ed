"""Pictures. matplotlib lives here and nowhere else, and is imported when a picture is asked for."""

from __future__ import annotations

from collections.abc import Mapping
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
    return figure


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
    return figure


def _figure():  # type: ignore[no-untyped-def]  # noqa: ANN202 - matplotlib is optional
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
