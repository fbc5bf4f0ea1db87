"""Diversity: between a simple cell's images and a complex cell's (docs/method.md, section 8)."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import spread_page
from diversevis.pictures.measures.view import Layer, View, median, number

LARGEST = 8  # up to this number of images have numbers, and their distances are written out


def picture(view: View) -> page.Block:
    """The batch, the distances of all pairs, and the index on its scale."""
    graphs, distances = [], view.array("distances")
    if len(distances) > 1 and np.isfinite(distances).any():
        graphs.append(page.titled("distance of every pair", _matrix(distances)))
    graphs.append(page.titled("diversity index", _scale(view)))
    batch = view.batch("the batch, with its responses", is_numbered=len(distances) <= LARGEST)
    lines = [
        f"Diversity. Index {view.text('index')}: 0 is a simple cell, 1 a complex cell of "
        "the same preferred pattern",
        f"Mean distance {view.text('distance_mean')} RMS grey levels; simple cell "
        f"{view.text('distance_simple')}, complex cell {view.text('distance_complex')}",
    ]
    return page.compose(view.title, lines, [*batch, page.beside(graphs, 36)])


def layer_picture(layer: Layer) -> page.Block | None:
    """The index of every unit."""
    index = layer.values("index")
    line = f"Diversity. Median index {number(median(index))}"
    marks = [(0.0, "0: simple cell"), (1.0, "1: complex cell")]
    return spread_page(layer, line, {"index": index}, label="diversity index", marks=marks)


def _matrix(distances: Float[np.ndarray, "image image"]) -> page.Block:
    n = len(distances)
    shown = np.where(np.eye(n, dtype=bool), np.nan, distances)  # an image is no pair with itself
    figure, axis = graph.canvas(490, 390, right=graph.FOR_COLOR_BAR)
    colors = axis.imshow(np.ma.masked_invalid(shown), cmap=graph.MAP, interpolation="nearest")
    if n <= LARGEST:
        middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
        for row, column in np.argwhere(np.isfinite(shown)):
            value = shown[row, column]
            shade = "black" if value > middle else "white"
            axis.text(column, row, number(value), ha="center", va="center", fontsize=9, color=shade)
        axis.set(xticks=range(n), yticks=range(n))
    axis.set(xlabel="image", ylabel="image")
    graph.color_bar(figure, colors, axis, "RMS grey levels")
    return graph.drawn(figure)


def _scale(view: View) -> page.Block:
    """A line from simple to complex with a marker at the unit's index."""
    index = view.numbers.get("index")
    figure, axis = graph.canvas(460, 170, left=8, right=8, bottom=8)
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
    return graph.drawn(figure)
