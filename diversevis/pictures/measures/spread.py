"""How numbers are spread over the units of a layer: histograms above, every unit below."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from diversevis.pictures import graph, page
from diversevis.pictures.measures.view import Layer
from diversevis.pictures.panels import Graph, Panel

COLORS = graph.BLUE, graph.ORANGE  # of the series
BINS = 30
LEVELS = (0.8, 0.5, 0.2)  # heights of the named units: their numbers cannot touch
FLOOR = 1e-3  # lowest end of a logarithmic axis; lower values are drawn at it
ROWS = {"nrows": 2, "sharex": True, "height_ratios": (3, 1.3)}
MARK_STEP = 0.12  # in a paper the names of marks would touch side by side
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 lie evenly, however many there are


@dataclass(frozen=True, kw_only=True)
class LayerPicture:
    """The picture of a layer.

    lines   of text that a page has under its title
    blocks  makes the blocks of the page
    panels  the same, for a paper
    """

    lines: Sequence[str]
    blocks: Callable[[], list[page.Block]]
    panels: Sequence[Panel]


def spread(
    layer: Layer,
    line: str,
    series: Mapping[str, Float[np.ndarray, " unit"]],
    *,
    label: str,
    limits: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    is_log: bool = False,
    more: Sequence[str] = (),
    above: Callable[[], list[page.Block]] = list,
    panels_above: Sequence[Panel] = (),
) -> LayerPicture | None:
    """The picture of a layer: one or two series of numbers, the most extreme units of the first
    named; None where the first has no value.

    line    what the picture shows; how many units it shows is added
    series  name and numbers of all units
    label   name of the x axis
    limits  what the x axis shows at least
    marks   (x, name) of vertical lines
    more    lines of text after these
    above   makes blocks over the graph; `panels_above` are the same for a paper
    """
    first, *_ = series.values()
    if not np.isfinite(first).any():
        return None
    shown = [values.clip(min=FLOOR) if is_log else values for values in series.values()]
    at_least = np.array([*(limits or ()), *(x for x, _ in marks)])
    draw = partial(
        _draw,
        layer,
        shown,
        label,
        marks,
        is_log,
        _limits(np.concatenate([*shown, at_least]), is_log),
    )
    legend = list(zip(series, COLORS, strict=False)) if len(series) > 1 else []

    def blocks() -> list[page.Block]:
        over = [*above(), *([page.legend(legend)] if legend else [])]
        return [*over, graph.block(draw, 900, 364, right=70, top=24, **ROWS)]

    panel = Graph(draw=partial(draw, step=MARK_STEP), legend=legend, height=44, subplots=ROWS)
    lines = [line, layer.counted(first), *more]
    return LayerPicture(lines=lines, blocks=blocks, panels=[*panels_above, panel])


def _draw(
    layer: Layer,
    shown: Sequence[Float[np.ndarray, " unit"]],
    label: str,
    marks: Sequence[tuple[float, str]],
    is_log: bool,
    limits: tuple[float, float],
    axes: Any,
    step: float = 0.0,
) -> None:
    """Histograms above, units below.

    step  how much higher every next mark's name is written, in heights of the upper axis
    """
    histograms, strip = axes
    low, high = limits
    _histograms(histograms, shown, (np.geomspace if is_log else np.linspace)(low, high, BINS + 1))
    for order, (x, name) in enumerate(marks):
        for axis in (histograms, strip):
            axis.axvline(x, color=graph.FAINT, lw=1.2, ls="--")
        histograms.text(x, 1.01 + step * order, name, ha="center", va="bottom", color=graph.FAINT,
                        fontsize=9, transform=histograms.get_xaxis_transform())  # fmt: skip
    _strip(strip, layer, shown[0])
    if is_log:
        graph.log_axis(strip, "x", low / 1.1, high * 1.1)
    else:
        rim = 0.04 * (high - low)
        strip.set_xlim(low - rim, high + rim)
    strip.set_xlabel(label)


def _histograms(
    axis: Any, series: Sequence[Float[np.ndarray, " unit"]], edges: Float[np.ndarray, " edge"]
) -> None:
    for values, color in zip(series, COLORS, strict=False):
        counts, _ = np.histogram(values[np.isfinite(values)], edges)
        counts = np.where(counts, counts, np.nan)  # no line where no unit is
        axis.stairs(counts, edges, color=color, lw=1.6)
        if values is series[0]:
            axis.stairs(counts, edges, color=color, alpha=0.3, fill=True, lw=0)
    axis.set_ylabel("units")
    axis.yaxis.get_major_locator().set_params(integer=True)


def _strip(axis: Any, layer: Layer, values: Float[np.ndarray, " unit"]) -> None:
    """Every unit at its value; heights mean nothing. The named units are ringed."""
    heights = 0.1 + 0.8 * (np.arange(len(values)) * GOLDEN % 1)
    lowest, highest = layer.extremes(values)
    for rows, side, align in ((lowest, -7, "right"), (highest, 7, "left")):
        for row, level in zip(rows, LEVELS, strict=False):
            heights[row] = level
            axis.annotate(
                str(layer.units[row]), (values[row], level), (side, 0),
                textcoords="offset points", ha=align, va="center", fontsize=9,
            )  # fmt: skip
    axis.scatter(values, heights, s=16, color=COLORS[0], alpha=0.6, linewidths=0)
    named = [*lowest, *highest]
    axis.scatter(values[named], heights[named], s=30, facecolors="none", edgecolors=COLORS[0])
    axis.set(ylim=(0, 1), yticks=[])
    axis.spines["left"].set_visible(False)


def _limits(values: Float[np.ndarray, " value"], is_log: bool) -> tuple[float, float]:
    """A range that holds every finite value and is not empty."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if is_log:
        return (low, high) if high > low * 1.01 else (low / 2, high * 2)
    return (low, high) if high - low > 1e-9 * max(1, abs(high)) else (low - 0.5, high + 0.5)
