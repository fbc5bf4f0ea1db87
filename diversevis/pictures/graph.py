"""Graphs as blocks of a page: the only module that makes matplotlib figures.

Margins are fixed numbers of pixels: to fit them to the labels takes as long again as the drawing,
too long for graphs that every unit has.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from diversevis.pictures.page import Block

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe & Ito: safe for the colour-blind
FAINT = "#8c8c8c"
MAP = "viridis"
POWERS = -2, 4  # powers of ten from which on they are written above an axis, not at each tick
DPI = 100  # at which matplotlib's own 10 points are as tall as a page's text
LEFT, RIGHT, BOTTOM, TOP = 80, 16, 50, 8  # margins that hold short numbers and an axis's name
FOR_COLOR_BAR = 110  # the right margin beside a heat map, pixels
LABEL_GAP = 0.085  # of a graph's height: the smallest distance of labels at its right edge


@contextlib.contextmanager
def first_import_quiet() -> Iterator[None]:
    """Without a home folder matplotlib keeps its fonts in a temporary one: no matter for a user."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def blank(width: float, height: float, dpi: int) -> Any:
    """An empty figure of this width and height in inches."""
    with first_import_quiet():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def canvas(
    width: int, height: int, *, left: int = LEFT, right: int = RIGHT, bottom: int = BOTTOM,
    top: int = TOP, **subplots: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """A figure of this size with axes within these margins (pixels), without the upper and right
    side of their boxes; `subplots` as for `Figure.subplots`."""
    figure = blank(width / DPI, height / DPI, DPI)
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    axes = figure.subplots(**subplots)
    for axis in np.atleast_1d(axes).flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def drawn(figure: Any) -> Block:
    """The figure as pixels."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def block(draw: Callable[[Any], None], width: int, height: int, **layout: Any) -> Block:
    """What `draw` draws onto the axes of a new figure, as pixels; `layout` as for `canvas`."""
    figure, axes = canvas(width, height, **layout)
    draw(axes)
    return drawn(figure)


def displacement_axis(axis: Any, displacements: Float[np.ndarray, " displacement"]) -> None:
    """A logarithmic x axis: displacements double from one to the next."""
    axis.set(xscale="log", xlabel="typical displacement (pixels)")
    axis.set_xlim(displacements.min() / 1.25, displacements.max() * 1.25)
    plain_ticks(axis.xaxis, displacements.tolist())


def log_axis(axis: Any, which: Literal["x", "y"], low: float, high: float) -> list[float]:
    """A logarithmic axis with plain numbers; returns its ticks, which are 1, 2 and 5 times powers
    of ten, or powers alone where the range is wide."""
    axis.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    factors = (1, 2, 5) if high / low < 1000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [factor * 10.0**power for power in powers for factor in factors]
    ticks = [number for number in numbers if low <= number <= high]
    plain_ticks(axis.xaxis if which == "x" else axis.yaxis, ticks)
    return ticks


def plain_ticks(xy_axis: Any, ticks: Sequence[float]) -> None:
    """Ticks at these numbers only, written as they are: no powers of ten."""
    xy_axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    xy_axis.set_ticks([], minor=True)


def label_ends(axis: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """(y, name, colour) of curves: names at the right edge, moved where they would touch."""
    axis.get_ylim()  # matplotlib fits the limits to the curves only when asked: now
    to_axis = axis.transData + axis.transAxes.inverted()
    labels = sorted((end for end in ends if math.isfinite(end[0])), key=lambda end: end[0])
    heights = [float(np.clip(to_axis.transform((1, y))[1], 0, 1)) for y, _, _ in labels]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + LABEL_GAP)
    top = 1.0
    for index in reversed(range(len(heights))):  # back down where they left the graph
        heights[index] = min(heights[index], top)
        top = heights[index] - LABEL_GAP
    for height, (_, name, color) in zip(heights, labels, strict=True):
        axis.text(1.02, height, name, color=color, va="center", transform=axis.transAxes)


def faint_curves(
    axis: Any, x: Float[np.ndarray, " point"], curves: Float[np.ndarray, "curve point"]
) -> None:
    """Many thin curves, fainter the more they are; the axis keeps its limits."""
    from matplotlib.collections import LineCollection

    lines = [np.column_stack([x, curve]) for curve in curves]
    alpha = max(0.04, min(0.6, 12 / len(lines)))
    axis.add_collection(LineCollection(lines, colors=FAINT, linewidths=1, alpha=alpha))


def color_bar(colors: Any, axis: Any, label: str) -> Any:
    """The scale of a heat map's colours in its right margin, which is `FOR_COLOR_BAR` wide; the
    map loses its frame, and is grey where it has no value."""
    axis.spines[:].set_visible(False)
    axis.set_facecolor("#dddddd")
    axis.tick_params(length=2)
    figure = axis.figure
    pixel = 1 / (figure.get_figwidth() * DPI)
    box = axis.get_position(original=False)
    room = (box.x1 + 10 * pixel, box.y0, 14 * pixel, box.height)
    bar = figure.colorbar(colors, cax=figure.add_axes(room), label=label)
    bar.formatter.set_powerlimits(POWERS)
    bar.ax.yaxis.get_offset_text().set_horizontalalignment("left")
    bar.outline.set_visible(False)
    return bar
