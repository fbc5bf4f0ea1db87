"""Bipartite: which part of the best image may show a shifting texture? (docs/method.md, section
10; after Ding et al. 2026, Nature Neuroscience, s41593-026-02213-3)"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import LayerPicture, spread
from diversevis.pictures.measures.view import NO_NUMBER, Layer, View, median, number, percent
from diversevis.pictures.panels import Graph, Panel, Tiles

TILE = 170  # pixels
LINE = (213, 94, 0)  # of the boundary: orange, as the model in the graph


def picture(view: View) -> page.Block:
    """Best image, boundary and texture; the curve; images with crops of the texture."""
    row = [page.tiles([image], [text], side=TILE) for image, text in _parts(view)]
    curve = graph.block(partial(_curve, view), 560, 300, right=190, top=12)
    blocks = [page.beside(row, 24), page.titled("response against the share that varies", curve)]
    if shown := _examples(view):
        images, captions = zip(*shown, strict=True)
        blocks.append(page.tiles(images, captions, heading=_heading(view)))
    return page.compose(view.title, lines(view), blocks)


def panels(view: View) -> list[Panel]:
    """The same, for a paper."""
    images, captions = zip(*_parts(view), strict=True)
    size = max(image.shape[0] for image in images[:3])  # of the image with the boundary, enlarged
    zoom = size // images[0].shape[0]
    images = [image if len(image) == size else page.enlarge(image, zoom) for image in images]
    parts: list[Panel] = [Tiles(images=images, captions=captions, width=85)]
    parts.append(Graph(draw=partial(_curve, view)))
    if shown := _examples(view):
        images, captions = zip(*shown, strict=True)
        parts.append(Tiles(images=images, captions=captions, heading=_heading(view)))
    return parts


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    side = view.numbers.get("side")
    where = "no side" if side is None else f"at {side:.0f}° (0°: right, 90°: up)"
    said = [
        f"Bipartite. Index {view.text('index')}: 0 is a linear unit, 0.25 an ideal complex cell, "
        "1 accepts a shifting texture in any part. Its growth with contrast alone gives "
        f"{view.text('index_contrast')}",
        f"Share of the free part {view.text('share')}, {where}. Where "
        f"{percent(view.numbers.get('boundary'))} varies, the mean response is "
        f"{percent(view.numbers.get('mean'))} of the best image's, to the worst crop "
        f"{percent(view.numbers.get('min'))}",
    ]
    if view.numbers.get("weak"):
        said.append(
            f"Weak: the model misses the curve by {view.text('misfit')}; distrust the share"
        )
    return said


def layer_picture(layer: Layer) -> LayerPicture | None:
    """Index of every unit, with the known values of simple, bipartite and complex units."""
    index, share = layer.values("index"), layer.values("share")
    line = f"Bipartite. Median index {number(median(index))}, median share {number(median(share))}"
    marks = [(0.0, "linear"), (0.25, "complex"), (0.5, "q = 1/4"), (0.793, "1/2"), (1.0, "all")]
    series = {"index": index, "share of the free part": share}
    return spread(
        layer, line, series, label="bipartite index", limits=(0.0, 1.0), marks=marks,
        more=["q: index of known units with this share of their best image's energy in a part "
              "that is free"],
    )  # fmt: skip


def _heading(view: View) -> str:
    share = view.numbers.get("boundary")
    return f"texture in {percent(share)} of the energy, response / best image's"


def _parts(view: View) -> list[tuple[page.Block, str]]:
    """The best image with the boundary, its envelope, and the texture, with captions."""
    best = view.pixels(view.arrays["best_image"])[0]
    envelope = np.nan_to_num(view.array("mask")).clip(0, 1)
    fixed = np.nan_to_num(view.array("fixed"), nan=1.0).clip(0, 1)
    zones = np.rint(255 * envelope[..., None] * np.where(fixed[..., None] < 0.5, [1, 0.6, 0.2], 1))
    response = number(float(view.array("best")))
    # Where no side has a meaning, the boundary has none; what varies in the examples is shown.
    free = "varies below" if view.numbers.get("side") is None else "the free side"
    return [
        (best, f"best image\nresponse {response}"),
        (_with_boundary(best, fixed), f"orange: {free}"),
        (zones.astype(np.uint8), "amplitude,\norange: may vary"),
        (view.pixels(view.arrays["texture"])[0], "texture"),
    ]


def _with_boundary(image: page.Block, fixed: Any) -> page.Block:
    """The image with the rim of the free part's pixels drawn over it, enlarged to a tile."""
    zoom = max(1, TILE // max(fixed.shape))
    drawn = Image.fromarray(image.repeat(zoom, 0).repeat(zoom, 1))
    pen, free = ImageDraw.Draw(drawn), fixed < 0.5
    for row, column in np.argwhere(free):
        top, left = row * zoom, column * zoom
        bottom, right = top + zoom - 1, left + zoom - 1
        for (down, over), edge in (
            ((-1, 0), (left, top, right, top)), ((1, 0), (left, bottom, right, bottom)),
            ((0, -1), (left, top, left, bottom)), ((0, 1), (right, top, right, bottom)),
        ):  # fmt: skip
            y, x = row + down, column + over
            if 0 <= y < free.shape[0] and 0 <= x < free.shape[1] and not free[y, x]:
                pen.line(edge, fill=LINE, width=max(1, zoom // 4))
    return np.asarray(drawn)


def _examples(view: View) -> list[tuple[page.Block, str]]:
    """Images with crops of the texture, and the responses to them relative to the best."""
    if not view.has("examples"):
        return []
    best, responses = float(view.array("best")), view.array("example_responses")
    captions = [percent(value / best) if best > 0 else NO_NUMBER for value in responses]
    return list(zip(view.pixels(view.arrays["examples"]), captions, strict=True))


def _curve(view: View, axis: Any) -> None:
    """The unit's curve, that of its contrast alone, and the fitted model of a bipartite unit."""
    shares, curve = view.array("energy_shares"), view.array("curve")
    # Earlier runs have no contrast; their model is that of linear growth.
    contrast = view.array("contrast") if "contrast" in view.arrays else np.sqrt(1 - shares)
    squares = contrast.clip(0) ** 2  # straight between the shares, as the measure takes them
    fine = np.linspace(0, 1, 201)
    ends = []
    if np.isfinite(contrast).all():
        axis.plot(fine, np.interp(fine, shares, squares) ** 0.5, color=graph.FAINT, lw=1.2, ls="--")
        ends.append((float(contrast[-1].clip(0)), "less contrast instead", graph.FAINT))
    if np.isfinite(curve).any():
        falling = np.maximum.accumulate(np.nan_to_num(curve)[::-1])[::-1]
        axis.plot(shares, curve, color=graph.BLUE, lw=1, alpha=0.5)
        axis.plot(shares, falling, "o-", color=graph.BLUE, ms=4)
        ends.append((float(falling[-1]), "at least this share", graph.BLUE))
    q, kept = view.numbers.get("share"), view.numbers.get("kept")
    if q is not None and kept is not None:
        model = kept * np.interp(np.clip(fine - q, 0, 1), shares, squares) ** 0.5
        axis.plot(fine, model, color=graph.ORANGE, lw=1.4)
        ends.append((float(model[-1]), f"model, q = {q:.2g}", graph.ORANGE))
        axis.axvline(q, color=graph.ORANGE, lw=0.8, ls=":")
    axis.set(
        xlim=(0, 1), xlabel="share of the energy that varies", ylabel="response / best image's"
    )
    axis.set_ylim(bottom=min(0.0, float(np.nanmin([0.0, *curve]))))
    graph.label_ends(axis, ends)
