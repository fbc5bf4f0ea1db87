"""Diversity: between a simple cell's images and a complex cell's (docs/method.md, section 8)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import LayerPicture, spread
from diversevis.pictures.measures.view import Layer, View, median, number
from diversevis.pictures.panels import Graph, Panel

LARGEST = 8  # up to this number of images have numbers, and their distances are written out
WRITTEN = 6  # the same of distances in a paper, where a graph is smaller beside its letters


def picture(view: View) -> page.Block:
    """The batch, the distances of all pairs, and the index on its scale."""
    graphs, distances = [], view.array("distances")
    if _are_shown(distances):
        matrix = graph.block(partial(_matrix, distances), 490, 390, right=graph.FOR_COLOR_BAR)
        graphs.append(page.titled("distance of every pair", matrix))
    scale = graph.block(partial(_scale, view), 460, 170, left=8, right=8, bottom=8)
    graphs.append(page.titled("diversity index", scale))
    batch = view.batch("the batch, with its responses", is_numbered=len(distances) <= LARGEST)
    return page.compose(view.title, lines(view), [*batch, page.beside(graphs, 36)])


def panels(view: View) -> list[Panel]:
    """The same, for a paper."""
    distances = view.array("distances")
    parts: list[Panel] = [*view.batch_panel(is_numbered=len(distances) <= LARGEST)]
    if _are_shown(distances):
        draw = partial(_matrix, distances, most_written=WRITTEN)
        parts.append(Graph(draw=draw, width=62, height=42))
    parts.append(Graph(draw=partial(_scale, view), width=62, height=22))
    return parts


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    return [
        f"Diversity. Index {view.text('index')}: 0 is a simple cell, 1 a complex cell of "
        "the same preferred pattern",
        f"Mean distance {view.text('distance_mean')} RMS grey levels; simple cell "
        f"{view.text('distance_simple')}, complex cell {view.text('distance_complex')}",
    ]


def layer_picture(layer: Layer) -> LayerPicture | None:
    """The index of every unit."""
    index = layer.values("index")
    line = f"Diversity. Median index {number(median(index))}"
    marks = [(0.0, "0: simple cell"), (1.0, "1: complex cell")]
    return spread(layer, line, {"index": index}, label="diversity index", marks=marks)


def _are_shown(distances: Float[np.ndarray, "image image"]) -> bool:
    return len(distances) > 1 and bool(np.isfinite(distances).any())


def _matrix(
    distances: Float[np.ndarray, "image image"], axis: Any, most_written: int = LARGEST
) -> None:
    n = len(distances)
    shown = np.where(np.eye(n, dtype=bool), np.nan, distances)  # an image is no pair with itself
    colors = axis.imshow(np.ma.masked_invalid(shown), cmap=graph.MAP, interpolation="nearest")
    if n <= most_written:
        middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
        for row, column in np.argwhere(np.isfinite(shown)):
            value = shown[row, column]
            shade = "black" if value > middle else "white"
            axis.text(column, row, number(value), ha="center", va="center", fontsize=9, color=shade)
    if n <= LARGEST:
        axis.set(xticks=range(n), yticks=range(n))
    axis.set(xlabel="image", ylabel="image")
    graph.color_bar(colors, axis, "RMS grey levels")


def _scale(view: View, axis: Any) -> None:
    """A line from simple to complex with a marker at the unit's index."""
    index = view.numbers.get("index")
    axis.plot([0, 1], [0, 0], color=graph.FAINT, lw=5, solid_capstyle="butt")
    for x, name in ((0, "simple"), (1, "complex")):
        axis.plot([x, x], [-0.25, 0.25], color=graph.FAINT, lw=2)
        text = f"{x}\n{name} cell\n{view.text(f'distance_{name}')} grey levels"
        axis.text(x, -0.4, text, ha="center", va="top")
    shown = [-0.25, 1.25]
    if index is not None and math.isfinite(index):
        axis.plot(index, 0.28, "v", color=graph.BLUE, ms=13)
        axis.text(index, 0.75, number(index), ha="center", color=graph.BLUE, fontsize=12)
        shown.append(index)
    axis.set(xlim=(min(shown) - 0.05, max(shown) + 0.05), ylim=(-2.2, 1.5))
    axis.set_axis_off()
