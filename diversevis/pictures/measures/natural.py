"""The crops of photographs that drive the unit most (docs/method.md, section 8)."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import PurePath
from typing import Any

import numpy as np

from diversevis.pictures import page
from diversevis.pictures.measures.spread import LayerPicture, spread
from diversevis.pictures.measures.view import NO_NUMBER, Layer, View, median, number, percent
from diversevis.pictures.panels import Panel, Tiles

NAME_WIDTH = 70  # pixels that a file's name has at least, under however small an image


def picture(view: View) -> page.Block:
    """The best crops above, the synthetic images below."""
    crops = [_crops(view)] if view.has("images") else []
    return page.compose(view.title, lines(view), [*crops, *view.batch("synthetic")])


def panels(view: View) -> list[Panel]:
    """The same, for a paper: without the names of the photographs."""
    parts: list[Panel] = []
    if view.has("images"):
        images, responses = _shown(view)
        parts.append(Tiles(images=list(images), captions=responses, heading="natural"))
    return [*parts, *view.batch_panel("synthetic")]


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    said = [
        f"Natural exemplars. Best crop of {_count(view, 'crop')} in "
        f"{_count(view, 'photograph')}: response {view.text('response_max')}; "
        f"mean of those shown {view.text('response_mean')}"
    ]
    share = view.numbers.get("of_synthetic")
    if share is not None:
        text = "of the synthetic images' mean response, at equal norm"
        said.append(f"The best crop reaches {percent(share)} {text}")
    return said


def layer_picture(layer: Layer) -> LayerPicture | None:
    """The best crop's response of every unit, relative to the synthetic images' if there are."""
    values, label = layer.values("of_synthetic"), "best crop's response / synthetic images'"
    look: dict[str, Any] = {"marks": [(1.0, "1: as good as synthetic")], "limits": (0.0, 1.0)}
    if not np.isfinite(values).any():
        values, label, look = layer.values("response_max"), "best crop's response", {}
    line = f"Natural exemplars. Median {number(median(values))} ({label})"
    return spread(layer, line, {"natural": values}, label=label, **look)


def _crops(view: View) -> page.Block:
    """Crops with their responses and the names of their photographs."""
    images, responses = _shown(view)
    width = max(page.tile_side(len(responses)), NAME_WIDTH)
    exemplars = (view.numbers.get("exemplars") or [])[: len(responses)]
    names = [_caption_name(exemplar["file"], width) for exemplar in exemplars]
    captions = ["\n".join(lines) for lines in zip_longest(responses, names, fillvalue="")]
    return page.tiles(images, captions, "natural")


def _shown(view: View) -> tuple[page.Pixels, list[str]]:
    """The crops and the responses to them."""
    images = view.arrays["images"]
    real = images.flatten(1).isfinite().all(1)  # photographs may have fewer crops than asked for
    responses = [number(value) for value in view.array("responses")[real.numpy()].tolist()]
    return view.pixels(images[real]), responses


def _caption_name(file: str, width: int) -> str:
    """The file's name without its folder, as text of at most this width in pixels."""
    return page.shortened(PurePath(file).name, page.CAPTION, width)


def _count(view: View, noun: str) -> str:
    """`1 photograph`, `12 000 photographs`."""
    count = view.numbers.get(f"{noun}s")
    if count is None:
        return f"{NO_NUMBER} {noun}s"
    return f"{count:,} {noun}".replace(",", " ") + ("" if count == 1 else "s")
