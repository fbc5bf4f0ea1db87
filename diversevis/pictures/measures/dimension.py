"""Dimension: how many images' worth there is, and whether they hang together. METHOD.md 8."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.pictures.graph import BLUE, BOTTOM, FAINT, LEFT, ORANGE, canvas, drawn
from diversevis.pictures.measures.spread import Series, spread
from diversevis.pictures.measures.view import Layer, View, number, percent
from diversevis.pictures.page import Block, beside, fitted, gallery, note, page, titled

KEPT = 0.8  # of the smaller end's response: a path that keeps so much joins its two images
FEW = 12  # so many components are numbered each
SIZE = 500, 290  # pixels of a graph
TILE = 140


def picture(view: View) -> bytes:
    """The spectrum of the batch, the paths between its images, and the worst of them."""
    found, spectrum = view.measure, view.numbers("spectrum")
    row = [titled("spectrum of the batch", _bars(spectrum, found.get("participation")))]
    paths = view.numbers("paths") if "paths" in view.arrays else np.empty((0, 0))
    worst = _worst(paths)
    if worst is not None:
        names = tuple(view.arrays["pairs"][worst].tolist())
        row.append(titled("response between images", _paths(paths, worst, names)))
    lines = [
        f"Dimension. Participation ratio {number(found.get('participation'))} of at most "
        f"{len(spectrum)}: 1 where all images are one, 2 where they fill a plane"
    ]
    if worst is not None:
        lines.append(
            f"Between two images the response falls to {percent(found.get('path_min'))} of the "
            f"smaller end at worst, {percent(found.get('path_mean'))} on average; "
            f"images joined by paths above {percent(KEPT)}: {_groups(found.get('groups'))}"
        )
    blocks = [beside(row, gap=36)]
    if worst is not None and view.images is not None:
        blocks.append(_between(view, view.images, worst))
    return page(view.title, lines, blocks)


def layer_picture(layer: Layer) -> bytes | None:
    """The participation ratio of every unit."""
    ratio, islands = layer.values("participation"), layer.values("groups")
    if not np.isfinite(ratio).any():
        return None
    most = layer.arrays["spectrum"].shape[1]
    graph = spread(
        layer, [Series("participation", BLUE, ratio)], limits=(1.0, max(2.0, float(most))),
        label=f"participation ratio (1: all images are one, {most}: as different as can be)",
    )  # fmt: skip
    line = f"Dimension. Median participation ratio {number(float(np.nanmedian(ratio)))}"
    if np.isfinite(islands).any():
        whole = int((islands == 1).sum())
        line += f"; the images of {whole} units hang together in one group"
    return page(layer.title, [line, layer.counted(ratio)], [graph])


def _bars(spectrum: Float[np.ndarray, " image"], participation: float | None) -> Block:
    figure, axis = canvas(*SIZE, margins=(LEFT, 34, BOTTOM, 8))
    places = np.arange(1, len(spectrum) + 1)
    axis.bar(places, np.nan_to_num(spectrum), color=BLUE, width=0.8)
    axis.text(
        0.98, 0.94, f"participation ratio {number(participation)}",
        transform=axis.transAxes, ha="right", va="top", fontsize=11,
    )  # fmt: skip
    axis.set_xlim(0.4, len(spectrum) + 0.6)
    axis.set_ylim(0, max(0.05, 1.25 * float(np.nan_to_num(spectrum).max())))
    if len(spectrum) <= FEW:
        axis.set_xticks(places)
    axis.set_xlabel("component")
    axis.set_ylabel("share")
    return drawn(figure)


def _paths(paths: Float[np.ndarray, "pair step"], worst: int, names: tuple[int, ...]) -> Block:
    from matplotlib.collections import LineCollection

    figure, axis = canvas(*SIZE, margins=(LEFT, 34, BOTTOM, 8))
    points = paths.shape[1]
    at = np.arange(1, points + 1) / (points + 1)  # the ends themselves are left out
    lines = [np.column_stack([at, path]) for path in paths if np.isfinite(path).any()]
    alpha = max(0.03, min(0.8, 15 / len(lines)))
    axis.add_collection(LineCollection(lines, colors=FAINT, linewidths=1, alpha=alpha))
    axis.plot(at, paths[worst], color=ORANGE, lw=2)
    axis.axhline(KEPT, color=FAINT, lw=1, ls="--")
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.5, 1], ["one image", "halfway", "another"])
    lowest = int(np.nanargmin(paths[worst]))
    depth = float(paths[worst, lowest])
    axis.set_ylim(min(0, depth - 0.15) - 0.03, max(1, float(np.nanmax(paths))) * 1.05)
    axis.set_ylabel("response / smaller end's")
    axis.annotate(
        f"images {names[0]} and {names[1]}", (np.clip(at[lowest], 0.2, 0.8), depth), (0, -8),
        textcoords="offset points", ha="center", va="top", color=ORANGE,
    )  # fmt: skip
    return drawn(figure)


def _between(view: View, images: Float[Tensor, "image 3 height width"], worst: int) -> Block:
    """The ends of the worst path and the image halfway, of the same norm."""
    one, other = view.arrays["pairs"][worst].tolist()
    ends = images[[one, other]]
    middle = ends.sum(0)
    middle = middle * (ends[0].norm() / middle.norm().clamp(min=1e-12))
    shown, reduction = fitted(view.shown(torch.stack([ends[0], middle, ends[1]])), TILE)
    said = view.captions(len(images))
    captions = [f"image {one}\n{said[one]}", "halfway", f"image {other}\n{said[other]}"]
    return gallery(list(shown), captions, 3, "the worst path" + note(reduction))


def _worst(paths: Float[np.ndarray, "pair step"]) -> int | None:
    """The path that falls lowest; none where no pair has one."""
    if not paths.size or not np.isfinite(paths).any():
        return None
    return int(np.nan_to_num(paths, nan=math.inf).min(axis=1).argmin())


def _groups(groups: int | None) -> str:
    if groups is None:
        return "no value"
    return "one group, all hang together" if groups == 1 else f"{groups} groups"
