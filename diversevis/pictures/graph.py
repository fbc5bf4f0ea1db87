"""Graphs as blocks of a page: curves and heat maps, drawn without a display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from diversevis.pictures.page import Block
from diversevis.pictures.trace import BLUE, FAINT, ORANGE

__all__ = [
    "BLUE", "BOTTOM", "FAINT", "GREEN", "LEFT", "MAP", "ORANGE", "boxed", "canvas", "color_bar",
    "deltas_axis", "drawn", "label_ends", "plain_ticks", "ratio_axis", "response_axis",
]  # fmt: skip

GREEN = "#009E73"  # Okabe & Ito's third
MAP = "viridis"
SHORT = -2, 3  # powers of ten from which on they are written above an axis, not at each tick
DPI = 100  # at which matplotlib's own 10 points are as tall as a page's text
LEFT, BOTTOM = 70, 50  # margins that hold short numbers and the name of an axis
APART = 0.085  # of a graph's height: labels at its right edge do not come closer


def canvas(
    width: int, height: int, *, margins: tuple[int, int, int, int] | None = None, **settings: Any
) -> tuple[Any, Any]:
    """A figure of so many pixels and its axes, without the box's upper and right side.

    margins  pixels at the left, right, bottom and top; None fits them to the labels, which takes
             as long again as the drawing: too long for a graph that every unit has
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layout = None if margins else "constrained"
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout=layout)  # type: ignore
    FigureCanvasAgg(figure)
    if margins:
        left, right, bottom, top = margins
        figure.subplots_adjust(
            left / width, bottom / height, 1 - right / width, 1 - top / height
        )  # fmt: skip
    axes = figure.subplots(**settings)
    for axis in np.atleast_1d(axes).flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def drawn(figure: Any) -> Block:
    """The figure as pixels."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def deltas_axis(axis: Any, deltas: Float[np.ndarray, " delta"]) -> None:
    """Displacements double from one to the next: an axis of their logarithm to base 2."""
    axis.set_xscale("log", base=2)
    axis.set_xlim(deltas.min() / 1.25, deltas.max() * 1.25)
    axis.set_xticks(deltas, [f"{delta:g}" for delta in deltas])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("typical displacement (pixels)")


def ratio_axis(axis: Any, values: Sequence[np.ndarray]) -> None:
    """A logarithmic y axis for ratios that always shows 1/2 to 2, with plain numbers."""
    found = np.concatenate([v[np.isfinite(v) & (v > 0)].ravel() for v in values])
    low, high = min(0.5, *found, 0.5) / 1.3, max(2.0, *found, 2.0) * 1.3
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    ticks = plain_ticks(low, high)
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_yticks([], minor=True)


def plain_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within a range; powers alone where it is wide."""
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in steps
            if low <= step * 10.0**power <= high]  # fmt: skip


def label_ends(axis: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names of curves at the right edge, (y, name, colour), moved apart where they would touch.

    The axis has its final limits."""
    to_axis = axis.transData + axis.transAxes.inverted()
    found = [
        (float(np.clip(to_axis.transform((1, y))[1], 0, 1)), name, color)
        for y, name, color in ends
        if math.isfinite(y)
    ]
    found.sort(key=lambda end: end[0])
    places: list[float] = []
    for at, _, _ in found:
        places.append(max(at, places[-1] + APART) if places else at)
    top = 1.0
    for index in reversed(range(len(places))):  # back down where they left the graph
        places[index] = min(places[index], top)
        top = places[index] - APART
    for place, (_, name, color) in zip(places, found, strict=True):
        axis.text(1.02, place, name, color=color, va="center", transform=axis.transAxes)


def color_bar(figure: Any, shown: Any, axis: Any, label: str) -> Any:
    """The colours' scale in the right margin of a heat map, 90 pixels wide."""
    pixel = 1 / figure.bbox.width
    box = axis.get_position(original=False)
    place = (box.x1 + 10 * pixel, box.y0, 14 * pixel, box.height)
    bar = figure.colorbar(shown, cax=figure.add_axes(place))
    bar.formatter.set_powerlimits(SHORT)
    bar.ax.yaxis.get_offset_text().set_horizontalalignment("left")
    bar.set_label(label)
    bar.outline.set_visible(False)
    return bar


def response_axis(axis: Any) -> None:
    """Responses have any size: short numbers, and a power of ten above the axis."""
    axis.ticklabel_format(axis="y", scilimits=SHORT)


def boxed(axis: Any) -> None:
    """A heat map has no open sides; grey is where it says nothing."""
    axis.spines[:].set_visible(False)
    axis.set_facecolor("#dddddd")
    axis.tick_params(length=2)
