"""Natural exemplars: the crops of photographs that drive the unit most. METHOD.md section 8."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np

from diversevis.pictures.graph import BLUE
from diversevis.pictures.measures.spread import Series, spread
from diversevis.pictures.measures.view import Layer, View, number, percent
from diversevis.pictures.page import CAPTION, page, shortened, tile_side, tiles


def picture(view: View) -> bytes:
    """The best crops above, the synthetic images below."""
    found = view.measure
    lines = [
        f"Natural exemplars. Best crop of {_count(found.get('crops'))} in "
        f"{_count(found.get('photographs'))} photographs: "
        f"response {number(found.get('response_max'))}; mean of those shown "
        f"{number(found.get('response_mean'))}"
    ]
    if found.get("of_synthetic") is not None:
        lines.append(
            f"The best crop reaches {percent(found['of_synthetic'])} of the synthetic images' "
            "mean response, at equal norm"
        )
    blocks = []
    if view.has("images"):
        real = view.arrays["images"].flatten(1).isfinite().all(1).numpy()  # fewer crops than asked
        responses = view.numbers("responses")[real]
        exemplars = (found.get("exemplars") or [])[: len(responses)]
        width = max(tile_side(len(responses)), 70)
        names = [_named(one, width) for one in exemplars] + [""] * len(responses)
        captions = [f"{number(float(r))}\n{n}" for r, n in zip(responses, names, strict=False)]
        blocks.append(tiles(view.pixels("images")[real], captions, "natural"))
    batch = view.batch()
    if batch is not None:
        blocks.append(tiles(batch, view.captions(len(batch)), "synthetic"))
    return page(view.title, lines, blocks)


def layer_picture(layer: Layer) -> bytes | None:
    """The best crop's response relative to the synthetic images', of every unit; the response
    itself where there are none."""
    share, label = layer.values("of_synthetic"), "best crop's response / synthetic images'"
    marks, limits = [(1.0, "1: as good as synthetic")], (0.0, 1.0)
    is_share = bool(np.isfinite(share).any())
    if not is_share:
        share, label, marks = layer.values("response_max"), "best crop's response", []
    if not np.isfinite(share).any():
        return None
    graph = spread(
        layer, [Series("natural", BLUE, share)], label=label, marks=marks,
        limits=limits if is_share else None,
    )  # fmt: skip
    line = f"Natural exemplars. Median {number(float(np.nanmedian(share)))} ({label})"
    return page(layer.title, [line, layer.counted(share)], [graph])


def _named(exemplar: dict[str, Any], width: int) -> str:
    return shortened(PurePath(exemplar["file"]).name, CAPTION, width)


def _count(number_of: int | None) -> str:
    return "-" if number_of is None else f"{number_of:,}".replace(",", " ")
