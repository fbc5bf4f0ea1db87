"""Phase: does the unit mind where the stripes of its best grating stand? METHOD.md section 8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from diversevis.pictures.graph import (
    BLUE,
    BOTTOM,
    FAINT,
    LEFT,
    MAP,
    ORANGE,
    boxed,
    canvas,
    color_bar,
    drawn,
    label_ends,
    plain_ticks,
    response_axis,
)
from diversevis.pictures.measures.spread import Series, spread
from diversevis.pictures.measures.view import Layer, View, listed, number
from diversevis.pictures.page import Block, beside, fitted, gallery, note, page, titled

COLORS = ("luminance", "red-green", "blue-yellow")  # the first axis of the map of gratings
SIMPLE = math.pi / 2  # F1/F0 of a half-rectified linear unit
SIDE = 150


def picture(view: View) -> bytes:
    """Gratings, the responses to them, and the tuning over phase."""
    found, fitted_to = view.measure, view.measure.get("fitted")
    lines = [f"Phase. Best grating: {verdict(found)}"]
    if fitted_to is not None:
        lines.append(f"Grating fitted to the best image: {verdict(fitted_to)}")
    above = _gratings(view)
    if view.has("map"):
        above.append(titled("best response to each grating", _map(view)))
    blocks = [beside(above, gap=36)] if above else []
    if view.has("tuning"):
        blocks.append(titled("tuning to phase (filled: rectified)", _tuning(view)))
    return page(view.title, lines, blocks)


def layer_picture(layer: Layer) -> bytes | None:
    """F1/F0 of every unit; where F0 is near zero it means little, and is left out."""
    best, weak = _told(layer.values("f1f0"), layer.measures)
    fits = [measure.get("fitted") if measure else None for measure in layer.measures]
    fitted_to, _ = _told(layer.values("fitted", "f1f0"), fits)
    if not np.isfinite(best).any():
        return None
    series = [Series("best grating", BLUE, best)]
    if np.isfinite(fitted_to).any():
        series.append(Series("fitted to the best image", ORANGE, fitted_to))
    graph = spread(
        layer, series, label="F1/F0", limits=(0.0, 2.0),
        marks=[(1.0, "1"), (SIMPLE, "π/2: half-rectified linear")],
        sides=(1.0, "complex-like", "simple-like"),
    )  # fmt: skip
    below, told = int((best < 1).sum()), int(np.isfinite(best).sum())
    lines = [
        f"Phase. F1/F0 of the best grating: {below} of {told} units below 1 (complex-like)",
        layer.counted(np.where(weak, math.nan, layer.values("f1f0"))),
    ]
    few = [unit for unit, is_weak in zip(layer.units, weak, strict=True) if is_weak]
    if few:
        lines.append(f"of these, weak (F0 near zero, F1/F0 means little): {listed(few)}")
    return page(layer.title, lines, [graph])


def _told(
    ratios: Float[np.ndarray, " unit"], found: Sequence[dict[str, Any] | None]
) -> tuple[Float[np.ndarray, " unit"], Bool[np.ndarray, " unit"]]:
    """F1/F0 without those that mean little, and which these are."""
    weak = np.array([bool(one and one.get("weak")) for one in found])
    return np.where(weak, math.nan, ratios), weak


def verdict(found: dict[str, Any]) -> str:
    """F1/F0 in words."""
    ratio = found.get("f1f0")
    if ratio is None or not math.isfinite(ratio):
        return "F1/F0 has no value"
    if found.get("weak"):
        return f"F1/F0 = {number(ratio)}, weak: F0 near zero, so that it means little"
    kind = "above 1, simple-like" if ratio > 1 else "below 1, complex-like"
    return f"F1/F0 = {number(ratio)}: {kind}"


def _gratings(view: View) -> list[Block]:
    """The two gratings and, between them, the image that one was fitted to."""
    shown, captions = [], []
    if view.has("grating"):
        shown.append(view.pixels("grating")[0])
        captions.append("best grating\n" + _described(view.measure))
    batch, best = view.batch(), view.best()
    if batch is not None and best is not None:
        shown.append(batch[best])
        captions.append(f"best image\nresponse {view.captions(len(batch))[best]}")
    if view.has("fitted_grating") and view.measure.get("fitted"):
        shown.append(view.pixels("fitted_grating")[0])
        captions.append("fitted grating\n" + _described(view.measure["fitted"]))
    if not shown:
        return []
    large, reduction = fitted(np.stack(shown), SIDE)
    return [gallery(list(large), captions, len(shown), note(reduction))]


def _described(found: dict[str, Any]) -> str:
    color = found.get("color")
    lines = [
        f"response {number(found.get('response'))}",
        f"{number(found.get('frequency'))} cycles/pixel",
        f"{number(found.get('orientation'))}°" + (f", {color}" if isinstance(color, str) else ""),
    ]
    return "\n".join(lines)


def _tuning(view: View) -> Block:
    degrees = np.rad2deg(view.numbers("phases"))
    curves = [("best grating", BLUE, view.numbers("tuning"))]
    if view.has("fitted_tuning"):
        curves.append(("fitted grating", ORANGE, view.numbers("fitted_tuning")))
    figure, axis = canvas(1000, 270, margins=(LEFT, 120, BOTTOM, 22))
    for _, color, tuning in curves:
        x, y = np.append(degrees, degrees[0] + 360), np.append(tuning, tuning[0])  # once around
        axis.fill_between(x, 0, y.clip(min=0), color=color, alpha=0.15, lw=0)
        axis.plot(x, y.clip(min=0), color=color, lw=1.6)
        axis.plot(x, y, color=color, lw=1.2, ls="--")
        axis.plot(degrees, tuning, ".", color=color, ms=5)
    axis.axhline(0, color=FAINT, lw=0.8)
    axis.set_xlim(0, 360)
    axis.set_xticks(range(0, 361, 45))
    axis.set_xlabel("phase (degrees)")
    axis.set_ylabel("response")
    response_axis(axis)
    label_ends(axis, [(float(tuning[0]), name, color) for name, color, tuning in curves])
    return drawn(figure)


def _map(view: View) -> Block:
    """Frequency x orientation of the colour that drives the unit most."""
    table, found = view.numbers("map"), view.measure
    index = COLORS.index(found["color"]) if found.get("color") in COLORS else 0
    frequencies, orientations = view.numbers("frequencies"), view.numbers("orientations")
    figure, axis = canvas(450, 280, margins=(LEFT, 90, BOTTOM, 22))
    shown = axis.pcolormesh(
        np.exp(_edges(np.log(frequencies), 0.2)), _edges(orientations, 22.5),
        np.ma.masked_invalid(table[index].T), cmap=MAP, rasterized=True,
    )  # fmt: skip
    axis.set_xscale("log")
    ticks = plain_ticks(*axis.get_xlim())
    if len(ticks) < 2:  # a small field has few frequencies
        ticks = [round(float(frequency), 3) for frequency in frequencies]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_yticks(range(0, 180, 45))
    axis.set_xlabel("cycles/pixel")
    axis.set_ylabel("orientation (degrees)")
    boxed(axis)
    if found.get("frequency") is not None and found.get("orientation") is not None:
        at = [found["frequency"]], [found["orientation"]]
        axis.scatter(*at, s=90, facecolors="none", edgecolors="white", linewidths=3)
        axis.scatter(*at, s=90, facecolors="none", edgecolors="black", linewidths=1)
    color_bar(figure, shown, axis, f"peak response, {COLORS[index]}")
    return drawn(figure)


def _edges(centers: Float[np.ndarray, " cell"], alone: float) -> Float[np.ndarray, " edge"]:
    """Cells reach halfway to their neighbours; a cell without any, `alone` to either side."""
    if len(centers) == 1:
        return np.array([centers[0] - alone, centers[0] + alone])
    between = (centers[1:] + centers[:-1]) / 2
    first, last = 2 * centers[0] - between[0], 2 * centers[-1] - between[-1]
    return np.concatenate([[first], between, [last]])
