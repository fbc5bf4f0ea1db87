"""How a number is spread over the units of a layer: a histogram above, every unit below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diversevis.pictures import graph, page
from diversevis.pictures.measures.view import Layer

BINS = 30
LEVELS = (0.8, 0.5, 0.2)  # heights of the named units: their numbers cannot touch
FLOOR = 1e-3  # lowest end of a logarithmic axis; lower values are drawn at it
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 lie evenly, however many there are


class Series(NamedTuple):
    """A number of every unit. Of a graph's series the first is filled, and its units named."""

    name: str
    color: str
    values: Float[np.ndarray, " unit"]


def spread_page(
    layer: Layer,
    line: str,
    series: Sequence[Series],
    *,
    more: Sequence[str] = (),
    above: Sequence[page.Block] = (),
    **look: Any,
) -> page.Block | None:
    """The picture of a layer: `spread` of the series, or None where the first has no value.

    line   what the picture shows; how many units it shows is added
    more   lines of text after these
    above  blocks over the graph
    look   as for `spread`
    """
    values = series[0].values
    if not np.isfinite(values).any():
        return None
    blocks = list(above)
    if len(series) > 1:
        blocks.append(page.legend([(name, color) for name, color, _ in series]))
    blocks.append(spread(layer, series, **look))
    return page.compose(layer.title, [line, layer.counted(values), *more], blocks)


def spread(
    layer: Layer,
    series: Sequence[Series],
    *,
    label: str,
    limits: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    is_log: bool = False,
) -> page.Block:
    """Histograms of the series over a strip of units, the most extreme with their numbers.

    label   name of the x axis
    limits  what the x axis shows at least
    marks   (x, name) of vertical lines
    """
    if is_log:
        series = [s._replace(values=s.values.clip(min=FLOOR)) for s in series]
    shown = [*(s.values for s in series), np.array([*(limits or ()), *(x for x, _ in marks)])]
    low, high = _limits(np.concatenate(shown), is_log)
    figure, (above, strip) = graph.canvas(
        900, 364, right=70, top=24, nrows=2, sharex=True, height_ratios=(3, 1.3)
    )
    _histograms(above, series, (np.geomspace if is_log else np.linspace)(low, high, BINS + 1))
    for x, name in marks:
        for axis in (above, strip):
            axis.axvline(x, color=graph.FAINT, lw=1.2, ls="--")
        above.text(x, 1.01, name, ha="center", va="bottom", color=graph.FAINT, fontsize=9,
                   transform=above.get_xaxis_transform())  # fmt: skip
    _strip(strip, layer, series[0])
    if is_log:
        graph.log_axis(strip, "x", low / 1.1, high * 1.1)
    else:
        rim = 0.04 * (high - low)
        strip.set_xlim(low - rim, high + rim)
    strip.set_xlabel(label)
    return graph.drawn(figure)


def _histograms(axis: Any, series: Sequence[Series], edges: Float[np.ndarray, " edge"]) -> None:
    for _, color, values in series:
        counts, _ = np.histogram(values[np.isfinite(values)], edges)
        counts = np.where(counts, counts, np.nan)  # no line where no unit is
        axis.stairs(counts, edges, color=color, lw=1.6)
        if values is series[0].values:
            axis.stairs(counts, edges, color=color, alpha=0.3, fill=True, lw=0)
    axis.set_ylabel("units")
    axis.yaxis.get_major_locator().set_params(integer=True)


def _strip(axis: Any, layer: Layer, series: Series) -> None:
    """Every unit at its value; heights mean nothing. The named units are ringed."""
    _, color, values = series
    heights = 0.1 + 0.8 * (np.arange(len(values)) * GOLDEN % 1)
    lowest, highest = layer.extremes(values)
    for rows, side, align in ((lowest, -7, "right"), (highest, 7, "left")):
        for row, level in zip(rows, LEVELS, strict=False):
            heights[row] = level
            axis.annotate(
                str(layer.units[row]), (values[row], level), (side, 0),
                textcoords="offset points", ha=align, va="center", fontsize=9,
            )  # fmt: skip
    axis.scatter(values, heights, s=16, color=color, alpha=0.6, linewidths=0)
    named = [*lowest, *highest]
    axis.scatter(values[named], heights[named], s=30, facecolors="none", edgecolors=color)
    axis.set(ylim=(0, 1), yticks=[])
    axis.spines["left"].set_visible(False)


def _limits(values: Float[np.ndarray, " value"], is_log: bool) -> tuple[float, float]:
    """A range that holds every finite value and is not empty."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if is_log:
        return (low, high) if high > low * 1.01 else (low / 2, high * 2)
    return (low, high) if high - low > 1e-9 * max(1, abs(high)) else (low - 0.5, high + 0.5)
