"""How one number is spread over the units of a layer: a histogram above, every unit below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diversevis.pictures.graph import FAINT, canvas, drawn, plain_ticks
from diversevis.pictures.measures.view import Layer
from diversevis.pictures.page import Block

BINS = 30
LEVELS = (0.8, 0.5, 0.2)  # where the named units stand: their numbers cannot touch
FLOOR = 1e-3  # a logarithmic axis begins here at the latest; what is below stands on it


class Series(NamedTuple):
    """A number of every unit; the first series of a graph is the one whose units are named."""

    name: str
    color: str
    values: Float[np.ndarray, " unit"]


def spread(
    layer: Layer,
    series: Sequence[Series],
    *,
    label: str,
    limits: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    sides: tuple[float, str, str] | None = None,
    is_log: bool = False,
    width: int = 900,
) -> Block:
    """Histograms of the series over a strip of units, the most extreme with their numbers.

    limits  what is shown at least
    marks   (x, name) of each line
    sides   x, and what it means to stand at its left and at its right
    """
    series = [s._replace(values=s.values.clip(min=FLOOR)) if is_log else s for s in series]
    low, high = _limits([s.values for s in series], limits, [x for x, _ in marks], is_log)
    edges = (np.geomspace if is_log else np.linspace)(low, high, BINS + 1)
    figure, axes = canvas(width, 420, nrows=2, ncols=1, sharex=True, height_ratios=(3, 1.3))
    above, strip = axes
    for one in series:
        _histogram(above, one, edges, is_filled=one is series[0])
    for x, name in marks:
        for axis in axes:
            axis.axvline(x, color=FAINT, lw=1.2, ls="--")
        above.annotate(name, (x, 1.01), xycoords=above.get_xaxis_transform(), ha="center",
                       va="bottom", color=FAINT, fontsize=9)  # fmt: skip
    if sides:
        x, left, right = sides
        for text, align in ((f"← {left}   ", "right"), (f"   {right} →", "left")):
            above.annotate(text, (x, 1.09), xycoords=above.get_xaxis_transform(), ha=align,
                           va="bottom", fontsize=11)  # fmt: skip
    if len(series) > 1:
        above.legend(
            loc="lower left", bbox_to_anchor=(0, 1.18), ncols=len(series), borderpad=0,
            frameon=False, labelcolor="linecolor", handlelength=1.2,
        )  # fmt: skip
    above.set_ylabel("units")
    above.yaxis.get_major_locator().set_params(integer=True)
    _strip(strip, layer, series[0])
    _ticks(strip, label, (low, high), is_log)
    return drawn(figure)


def _histogram(axis: Any, one: Series, edges: np.ndarray, *, is_filled: bool) -> None:
    counts, _ = np.histogram(one.values[np.isfinite(one.values)], edges)
    counts = np.where(counts, counts, np.nan)  # no line where no unit is
    axis.stairs(counts, edges, color=one.color, lw=1.6, label=one.name)
    if is_filled:
        axis.stairs(counts, edges, color=one.color, alpha=0.3, fill=True, lw=0)


def _strip(axis: Any, layer: Layer, one: Series) -> None:
    """Every unit at its value; heights mean nothing. The named ones are ringed."""
    values = one.values
    heights = 0.1 + 0.8 * (np.arange(len(values)) * 0.618034 % 1)  # spread evenly, always alike
    lowest, highest = layer.extremes(values)
    for places, side, align in ((lowest, -7, "right"), (highest, 7, "left")):
        for place, level in zip(places, LEVELS, strict=False):
            heights[place] = level
            axis.annotate(
                str(layer.units[place]), (values[place], level), (side, 0),
                textcoords="offset points", ha=align, va="center", fontsize=9,
            )  # fmt: skip
    axis.scatter(values, heights, s=16, color=one.color, alpha=0.6, linewidths=0)
    named = [*lowest, *highest]
    axis.scatter(values[named], heights[named], s=30, facecolors="none", edgecolors=one.color)
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)


def _ticks(axis: Any, label: str, limits: tuple[float, float], is_log: bool) -> None:
    low, high = limits
    if is_log:
        axis.set_xscale("log")
        axis.set_xlim(low / 1.1, high * 1.1)
        ticks = plain_ticks(low, high)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xticks([], minor=True)
    else:
        rim = 0.04 * (high - low)
        axis.set_xlim(low - rim, high + rim)
    axis.set_xlabel(label)


def _limits(
    values: Sequence[np.ndarray],
    limits: tuple[float, float] | None,
    marks: Sequence[float],
    is_log: bool,
) -> tuple[float, float]:
    """A range with every value and mark in it, and never an empty one."""
    finite = np.concatenate([v[np.isfinite(v)] for v in values])
    found = np.concatenate([finite, np.array([*(limits or ()), *marks], dtype=float)])
    low, high = float(found.min()), float(found.max())
    if is_log:
        return (low, high) if high > low * 1.01 else (low / 2, high * 2)
    return (low, high) if high - low > 1e-9 * max(1, abs(high)) else (low - 0.5, high + 0.5)
