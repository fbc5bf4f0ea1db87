"""Diversity: between a simple cell's images and a complex cell's. METHOD.md section 8."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from diversevis.pictures.graph import (
    BLUE,
    BOTTOM,
    FAINT,
    LEFT,
    MAP,
    boxed,
    canvas,
    color_bar,
    drawn,
)
from diversevis.pictures.measures.spread import Series, spread
from diversevis.pictures.measures.view import Layer, View, number
from diversevis.pictures.page import ONE_ROW, Block, beside, page, tiles, titled

LARGEST = 8  # distances are written into a matrix of up to so many images


def picture(view: View) -> bytes:
    """The batch, all its pairwise distances, and where their mean stands."""
    found, blocks = view.measure, []
    batch = view.batch()
    if batch is not None:
        captions = view.captions(len(batch))
        if len(batch) <= ONE_ROW:
            captions = [f"image {at}\n{caption}" for at, caption in enumerate(captions)]
        blocks.append(tiles(batch, captions, "the batch, with its responses"))
    distances = view.numbers("distances")
    row = []
    if len(distances) > 1 and np.isfinite(distances).any():
        row.append(titled("distance of every pair", _matrix(distances)))
    row.append(titled("diversity index", _scale(found)))
    lines = [
        f"Diversity. Index {number(found.get('index'))}: 0 is a simple cell, 1 a complex cell of "
        "the same preferred pattern",
        f"Mean distance {number(found.get('distance_mean'))} RMS grey levels; simple cell "
        f"{number(found.get('distance_simple'))}, complex cell "
        f"{number(found.get('distance_complex'))}",
    ]
    return page(view.title, lines, [*blocks, beside(row, gap=36)])


def layer_picture(layer: Layer) -> bytes | None:
    """The index of every unit."""
    index = layer.values("index")
    if not np.isfinite(index).any():
        return None
    graph = spread(
        layer, [Series("index", BLUE, index)], label="diversity index", limits=(0.0, 1.0),
        marks=[(0.0, "0: simple cell"), (1.0, "1: complex cell")],
    )  # fmt: skip
    line = f"Diversity. Median index {number(float(np.nanmedian(index)))}"
    return page(layer.title, [line, layer.counted(index)], [graph])


def _matrix(distances: Float[np.ndarray, "image image"]) -> Block:
    n = len(distances)
    shown = np.where(np.eye(n, dtype=bool), np.nan, distances)  # an image is no pair with itself
    figure, axis = canvas(490, 390, margins=(LEFT, 90, BOTTOM, 8))
    heat = axis.imshow(np.ma.masked_invalid(shown), cmap=MAP, interpolation="nearest")
    if n <= LARGEST:
        middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
        for row, column in np.argwhere(np.isfinite(shown)):
            value = shown[row, column]
            shade = "black" if value > middle else "white"
            axis.text(column, row, number(value), ha="center", va="center", fontsize=9, color=shade)
        axis.set_xticks(range(n))
        axis.set_yticks(range(n))
    axis.set_xlabel("image")
    axis.set_ylabel("image")
    boxed(axis)
    color_bar(figure, heat, axis, "RMS grey levels")
    return drawn(figure)


def _scale(found: dict[str, Any]) -> Block:
    """A line from simple to complex with a marker at the unit's index."""
    index = found.get("index")
    index = math.nan if index is None else float(index)
    finite = [index] if math.isfinite(index) else []
    figure, axis = canvas(460, 170, margins=(8, 8, 8, 8))
    axis.plot([0, 1], [0, 0], color=FAINT, lw=5, solid_capstyle="butt")
    ends = (0, "simple cell", "distance_simple"), (1, "complex cell", "distance_complex")
    for x, name, field in ends:
        axis.plot([x, x], [-0.25, 0.25], color=FAINT, lw=2)
        text = f"{x}\n{name}\n{number(found.get(field))} grey levels"
        axis.text(x, -0.4, text, ha="center", va="top")
    for at in finite:
        axis.plot([at], [0.28], "v", color=BLUE, ms=13)
        axis.text(at, 0.75, number(at), ha="center", va="bottom", color=BLUE, fontsize=12)
    axis.set_xlim(min(-0.25, *finite, 0) - 0.05, max(1.25, *finite, 1) + 0.05)
    axis.set_ylim(-2.2, 1.5)
    axis.set_axis_off()
    return drawn(figure)
