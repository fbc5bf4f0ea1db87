"""How many directions the images fill, and whether paths join them (docs/method.md, section 8)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import LayerPicture, spread
from diversevis.pictures.measures.view import Layer, View, median, number, percent
from diversevis.pictures.panels import Graph, Panel, Tiles
from diversevis.units import counted

JOINED = 0.8  # of the smaller end's response: a path above it joins its two images
FEW = 12  # up to this number of components have a tick each
TILE = 140


def picture(view: View) -> page.Block:
    """The spectrum of the batch, the paths between its images, and the worst path."""
    bars = graph.block(partial(_bars, view), 500, 290, right=34)
    graphs, blocks = [page.titled("spectrum of the batch", bars)], []
    if view.has("paths"):
        paths = graph.block(partial(_paths, view), 500, 290, right=34)
        graphs.append(page.titled("response between images", paths))
        if ends := _halfway(view):
            blocks.append(page.tiles(*ends, "the worst path", TILE))
    return page.compose(view.title, lines(view), [page.beside(graphs, 36), *blocks])


def panels(view: View) -> list[Panel]:
    """The same, for a paper."""
    parts: list[Panel] = [Graph(draw=partial(_bars, view))]
    if view.has("paths"):
        parts.append(Graph(draw=partial(_paths, view)))
        if ends := _halfway(view):
            parts.append(Tiles(images=list(ends[0]), captions=ends[1]))
    return parts


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    said = [
        f"Dimension. Participation ratio {view.text('participation')} of at most "
        f"{len(view.array('spectrum'))}: 1 where all images are the same, 2 where they fill a plane"
    ]
    if view.has("paths"):
        lowest, mean = (percent(view.numbers.get(key)) for key in ("path_min", "path_mean"))
        groups = view.numbers.get("groups")
        said.append(
            f"Between two images the response falls to {lowest} of the smaller end at worst, "
            f"{mean} on average; groups of images joined by paths above {percent(JOINED)}: "
            + ("no value" if groups is None else str(groups))
        )
    return said


def layer_picture(layer: Layer) -> LayerPicture | None:
    """The participation ratio of every unit."""
    ratio, groups = layer.values("participation"), layer.values("groups")
    most = layer.arrays["spectrum"].shape[1]
    line = f"Dimension. Median participation ratio {number(median(ratio))}"
    if np.isfinite(groups).any():
        units = counted(int((groups == 1).sum()), "unit")
        line += f"; the images of {units} hang together in one group"
    label = f"participation ratio (1: all images are the same, {most}: as different as can be)"
    limits = 1.0, max(2.0, float(most))
    return spread(layer, line, {"participation": ratio}, label=label, limits=limits)


def _worst(paths: Float[np.ndarray, "pair step"]) -> int:
    """The pair whose path falls lowest."""
    return int(np.nan_to_num(paths, nan=math.inf).min(axis=1).argmin())


def _bars(view: View, axis: Any) -> None:
    spectrum = view.array("spectrum")
    numbers, shares = np.arange(1, len(spectrum) + 1), np.nan_to_num(spectrum)
    axis.bar(numbers, shares, color=graph.BLUE, width=0.8)
    text = f"participation ratio {view.text('participation')}"
    axis.text(0.98, 0.94, text, transform=axis.transAxes, ha="right", va="top", fontsize=11)
    if len(spectrum) <= FEW:
        axis.set_xticks(numbers)
    axis.set(xlim=(0.4, len(spectrum) + 0.6), ylim=(0, max(0.05, 1.25 * shares.max())))
    axis.set(xlabel="component", ylabel="share")


def _paths(view: View, axis: Any) -> None:
    paths = view.array("paths")
    worst = _worst(paths)
    steps = paths.shape[1]
    along = np.arange(1, steps + 1) / (steps + 1)  # the ends themselves are left out
    graph.faint_curves(axis, along, paths[np.isfinite(paths).any(axis=1)])
    axis.plot(along, paths[worst], color=graph.ORANGE, lw=2)
    axis.axhline(JOINED, color=graph.FAINT, lw=1, ls="--")
    lowest = int(np.nanargmin(paths[worst]))
    depth = float(paths[worst, lowest])
    axis.set_xticks([0, 0.5, 1], ["one image", "halfway", "another"])
    axis.set(xlim=(0, 1), ylabel="response / smaller end's")
    axis.set_ylim(min(0, depth - 0.15) - 0.03, max(1, np.nanmax(paths)) * 1.05)
    first, second = view.arrays["pairs"][worst].tolist()
    axis.annotate(
        f"images {first} and {second}", (np.clip(along[lowest], 0.2, 0.8), depth), (0, -8),
        textcoords="offset points", ha="center", va="top", color=graph.ORANGE,
    )  # fmt: skip


def _halfway(view: View) -> tuple[page.Pixels, list[str]] | None:
    """The ends of the worst path and the image halfway, of the same norm, with captions; None
    without images."""
    if view.images is None or view.responses is None:
        return None
    first, second = view.arrays["pairs"][_worst(view.array("paths"))].tolist()
    ends = view.images[[first, second]]
    middle = ends.sum(0)
    middle = middle * (ends[0].norm() / middle.norm().clamp(min=1e-12))
    shown = view.pixels(torch.stack([ends[0], middle, ends[1]]))
    captions = [
        f"image {index}\n{number(float(view.responses[index]))}" for index in (first, second)
    ]
    captions.insert(1, "halfway")
    return shown, captions
