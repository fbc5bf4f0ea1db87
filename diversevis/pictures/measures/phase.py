"""Phase: does the response depend on the phase of a grating (docs/method.md, section 8)?"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from diversevis.measures.stimuli import color_axes
from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import LayerPicture, spread
from diversevis.pictures.measures.view import Layer, View, listed, number
from diversevis.pictures.panels import Graph, Panel, Tiles

SIMPLE = math.pi / 2  # F1/F0 of a half-rectified linear unit (docs/method.md, section 8)
TILE = 150


def picture(view: View) -> page.Block:
    """Gratings, the responses to them, and the tuning over phase."""
    shown = _gratings(view)
    above = [page.tiles(*zip(*shown, strict=True), side=TILE)] if shown else []
    if view.has("map"):
        map_block = graph.block(partial(_map, view), 470, 280, right=graph.FOR_COLOR_BAR, top=22)
        above.append(page.titled("best response to each grating", map_block))
    blocks = [page.beside(above, 36)] if above else []
    if view.has("tuning"):
        tuning = graph.block(partial(_tuning, view), 1000, 270, right=120, top=22)
        blocks.append(page.titled("tuning to phase (filled: rectified)", tuning))
    return page.compose(view.title, lines(view), blocks)


def panels(view: View) -> list[Panel]:
    """The same, for a paper."""
    parts: list[Panel] = []
    if shown := _gratings(view):
        images, captions = zip(*shown, strict=True)
        parts.append(Tiles(images=images, captions=captions, width=25 * len(images)))
    if view.has("map"):
        parts.append(Graph(draw=partial(_map, view), width=60))
    if view.has("tuning"):
        parts.append(Graph(draw=partial(_tuning, view)))
    return parts


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    said = [f"Phase. Best grating: {verdict(view.numbers)}"]
    if view.numbers.get("fitted") is not None:
        said.append(f"Grating fitted to the best image: {verdict(view.numbers['fitted'])}")
    return said


def layer_picture(layer: Layer) -> LayerPicture | None:
    """F1/F0 of every unit; where F0 is near zero it means little, and is left out."""
    best, weak = _unless_weak(layer)
    fits = [(entry or {}).get("fitted") for entry in layer.numbers]
    fitted, _ = _unless_weak(replace(layer, numbers=fits))
    series = {"best grating": best}
    if np.isfinite(fitted).any():
        series["fitted to the best image"] = fitted
    below, count = (best < 1).sum(), np.isfinite(best).sum()
    line = f"Phase. F1/F0 of the best grating: {below} of {count} units below 1 (complex-like)"
    more = [f"of these, weak (F0 near zero, F1/F0 means little): {listed(weak)}"] if weak else []
    marks = [(1.0, "complex-like ← 1 → simple-like"), (SIMPLE, "π/2: half-rectified linear")]
    return spread(
        layer, line, series, label="F1/F0", limits=(0.0, 2.0), marks=marks,
        more=more,
    )  # fmt: skip


def _unless_weak(layer: Layer) -> tuple[Float[np.ndarray, " unit"], list[int]]:
    """F1/F0 of every unit, NaN where it is weak; and the weak units."""
    weak = layer.values("weak") == 1
    return np.where(weak, math.nan, layer.values("f1f0")), np.array(layer.units)[weak].tolist()


def verdict(grating: dict[str, Any]) -> str:
    """F1/F0 in words."""
    ratio = grating.get("f1f0")
    if ratio is None or not math.isfinite(ratio):
        return "F1/F0 has no value"
    if grating.get("weak"):
        return f"F1/F0 = {number(ratio)}, weak: F0 near zero, so that it means little"
    kind = "above 1, simple-like" if ratio > 1 else "below 1, complex-like"
    return f"F1/F0 = {number(ratio)}: {kind}"


def _gratings(view: View) -> list[tuple[page.Block, str]]:
    """Both gratings with captions, and between them the image to which the second was fitted."""
    return [
        *_grating(view, "grating", "best grating", view.numbers),
        *view.best_image(),
        *_grating(view, "fitted_grating", "fitted grating", view.numbers.get("fitted")),
    ]


def _grating(view: View, key: str, name: str, grating: Any) -> list[tuple[page.Block, str]]:
    """A grating, captioned with response, frequency, orientation and colour; nothing without it."""
    if not grating or not view.has(key):
        return []
    keys = "response", "frequency", "orientation"
    response, frequency, orientation = (number(grating.get(key)) for key in keys)
    caption = f"{name}\nresponse {response}\n{frequency} cycles/pixel\n{orientation}°"
    if isinstance(grating.get("color"), str):  # of the fitted grating it is a vector
        caption += f", {grating['color']}"
    return [(view.pixels(view.arrays[key])[0], caption)]


def _tuning(view: View, axis: Any) -> None:
    degrees = np.rad2deg(view.array("phases"))
    curves = [("best grating", graph.BLUE, view.array("tuning"))]
    if view.has("fitted_tuning"):
        curves.append(("fitted grating", graph.ORANGE, view.array("fitted_tuning")))
    for _, color, tuning in curves:
        x, y = np.append(degrees, degrees[0] + 360), np.append(tuning, tuning[0])  # once around
        axis.fill_between(x, 0, y.clip(min=0), color=color, alpha=0.15, lw=0)
        axis.plot(x, y.clip(min=0), color=color, lw=1.6)
        axis.plot(x, y, color=color, lw=1.2, ls="--")
        axis.plot(degrees, tuning, ".", color=color, ms=5)
    axis.axhline(0, color=graph.FAINT, lw=0.8)
    axis.set(xlim=(0, 360), xticks=range(0, 361, 45))
    axis.set(xlabel="phase (degrees)", ylabel="response")
    axis.ticklabel_format(axis="y", scilimits=graph.POWERS)
    graph.label_ends(axis, [(float(tuning[0]), name, color) for name, color, tuning in curves])


def _map(view: View, axis: Any) -> None:
    """Frequency x orientation, in the colour that drives the unit most."""
    grating, strengths = view.numbers, view.array("map")
    names = list(color_axes(len(strengths)))
    color = names.index(grating["color"]) if grating.get("color") in names else 0
    frequencies, orientations = view.array("frequencies"), view.array("orientations")
    colors = axis.pcolormesh(
        np.exp(_edges(np.log(frequencies), 0.2)), _edges(orientations, 22.5),
        np.ma.masked_invalid(strengths[color].T), cmap=graph.MAP, rasterized=True,
    )  # fmt: skip
    if len(graph.log_axis(axis, "x", *axis.get_xlim())) < 2:  # a small field has few frequencies
        graph.plain_ticks(axis.xaxis, [round(float(frequency), 3) for frequency in frequencies])
    axis.set(yticks=range(0, 180, 45), xlabel="cycles/pixel", ylabel="orientation (degrees)")
    if grating.get("frequency") is not None and grating.get("orientation") is not None:
        best = [grating["frequency"]], [grating["orientation"]]
        axis.scatter(*best, s=90, facecolors="none", edgecolors="white", linewidths=3)
        axis.scatter(*best, s=90, facecolors="none", edgecolors="black", linewidths=1)
    graph.color_bar(colors, axis, f"peak response, {names[color]}")


def _edges(centers: Float[np.ndarray, " cell"], half: float) -> Float[np.ndarray, " edge"]:
    """Cells reach halfway to their neighbours; a single cell, by `half` to either side."""
    if len(centers) == 1:
        return np.array([centers[0] - half, centers[0] + half])
    outer = [2 * centers[0] - centers[1], *centers, 2 * centers[-1] - centers[-2]]
    return (np.array(outer[1:]) + outer[:-1]) / 2
