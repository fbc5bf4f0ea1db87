"""Shift: the texture of which every crop drives the unit (docs/method.md, section 6)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import LayerPicture, spread
from diversevis.pictures.measures.view import Layer, View, median, number, percent
from diversevis.pictures.panels import Graph, Panel, Tiles

TEXTURE, TILE = 240, 130  # pixels
THIN = 4  # a map that is longer than wide by more than this factor is stretched, to be visible
MAP_WIDTH, MAP_TOP, LOWEST_MAP = 400, 22, 140  # pixels; a lower map would cut its bar's name


def picture(view: View) -> page.Block:
    """Both textures, the masks over the unit's crops, and its response to every crop."""
    said = [*lines(view), "On the scale of a map, the line is the best image under the mask"]
    return page.compose(view.title, said, [_variant(view, mask) for mask in _masks(view)])


def panels(view: View) -> list[Panel]:
    """The same, for a paper."""
    parts: list[Panel] = []
    for mask in _masks(view):
        texture = view.pixels(view.arrays[f"texture_{mask}"])[0]
        images, captions, frames = [texture], ["texture"], [_crop(view, mask)]
        for image, caption in _beside_texture(view, mask):
            images.append(image)
            captions.append(caption)
            frames.append(None)
        heading = f"{mask} mask"
        parts.append(Tiles(images=images, captions=captions, frames=frames, heading=heading,
                           width=85))  # fmt: skip
        if view.has(f"map_{mask}"):
            parts.append(Graph(draw=partial(_map, view, mask)))
    return parts


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    said = [f"Shift. Fixed mask: {_shares(view.numbers)}"]
    if view.numbers.get("learned") is not None:
        said.append(f"Learned mask: {_shares(view.numbers['learned'])}")
    return said


def layer_picture(layer: Layer) -> LayerPicture | None:
    """Mean crop response of every unit, relative to its best image with and without the mask."""
    masked = layer.values("mean_masked")
    unmasked = layer.values("mean")
    series = {"of the best image under the mask": masked, "of the best image": unmasked}
    line = f"Shift. Median {number(median(masked))} of the best image under the mask"
    label, mark = "mean response of all crops, as a share (fixed mask)", "1: fully shift invariant"
    return spread(layer, line, series, label=label, limits=(0.0, 1.0), marks=[(1.0, mark)])


def _shares(numbers: dict[str, Any]) -> str:
    keys = "mean", "min", "mean_masked", "min_masked"
    mean, least, mean_masked, least_masked = (percent(numbers.get(key)) for key in keys)
    return (
        f"all crops reach {mean_masked} (worst {least_masked}) of the best image under the mask, "
        f"{mean} ({least}) of the best image"
    )


def _masks(view: View) -> list[str]:
    return [mask for mask in ("fixed", "learned") if view.has(f"texture_{mask}")]


def _variant(view: View, mask: str) -> page.Block:
    """A row: texture with the size of a crop, mask, the image to which the crops are compared."""
    texture, note = page.fitted(view.pixels(view.arrays[f"texture_{mask}"]), TEXTURE)
    crop = _crop(view, mask)
    if crop is None:  # a circular shift of it is a crop
        shown, caption = texture[0], f"texture, to be shifted around{note}"
    else:
        shown = _framed(texture[0], *crop[2:])
        caption = f"texture, with the size of a crop{note}"
    row = [page.captioned(shown, caption)]
    row += [page.tiles([image], [text], side=TILE) for image, text in _beside_texture(view, mask)]
    if view.has(f"map_{mask}"):
        height = _map_height(view, mask)
        draw = partial(_map, view, mask)
        row.append(graph.block(draw, MAP_WIDTH, height, right=graph.FOR_COLOR_BAR, top=MAP_TOP))
    heading, learned = f"{mask} mask", view.numbers.get("learned")
    if mask == "learned" and learned is not None:
        p, q, sigma = (number(learned.get(name)) for name in ("p", "q", "sigma"))
        heading += f": p = {p}, q = {q}, sigma = {sigma} of the field's sides"
    return page.titled(heading, page.beside(row, 30))


def _crop(view: View, mask: str) -> tuple[int, int, int, int] | None:
    """First row, first column, height and width of the texture's middle crop, pixels; None where
    crops are circular shifts of the texture."""
    if "step" in view.numbers:
        return None
    height, width = view.array(f"mask_{mask}").shape
    return (height - 1) // 2, (width - 1) // 2, height, width


def _beside_texture(view: View, mask: str) -> list[tuple[page.Block, str]]:
    """The mask, and the best image under it, with captions."""
    weights = view.array(f"mask_{mask}")
    grey = np.rint(255 * np.nan_to_num(weights).clip(0, 1)).astype(np.uint8)
    shown = [(np.dstack([grey] * 3), "mask")]
    if view.has(f"masked_{mask}"):
        response = number(float(view.array(f"best_masked_{mask}")))
        masked = view.pixels(view.arrays[f"masked_{mask}"])[0]
        shown.append((masked, f"best image under it\nresponse {response}"))
    return shown


def _framed(texture: page.Block, height: int, width: int) -> page.Block:
    """The texture with a thin frame, black in white, around its middle crop, whose size is given
    in pixels of the texture before it was enlarged."""
    framed = Image.fromarray(texture)
    zoom_y, zoom_x = framed.height / (2 * height - 1), framed.width / (2 * width - 1)
    top, left = round((height - 1) // 2 * zoom_y), round((width - 1) // 2 * zoom_x)
    bottom, right = top + round(height * zoom_y) - 1, left + round(width * zoom_x) - 1
    for inset, color in ((0, "white"), (1, "black")):
        if bottom - top > 2 * inset and right - left > 2 * inset:
            frame = left + inset, top + inset, right - inset, bottom - inset
            ImageDraw.Draw(framed).rectangle(frame, outline=color)
    return np.asarray(framed)


def _map(view: View, mask: str, axis: Any) -> None:
    """Responses over shifts, in parts of the best image's where that is above zero."""
    values, label = view.array(f"map_{mask}"), "response"
    low, high = np.nanmin(values), np.nanmax(values)
    best = float(view.array("best")) if "best" in view.arrays else math.nan
    is_share = math.isfinite(best) and best > 0
    if is_share:  # 0 and 1 are always on the scale
        values, label = values / best, "response / best image's"
        low, high = min(0, low / best), max(1, high / best)
    rows, columns = values.shape
    extent = _extent(rows, columns, view.numbers.get("step"))
    colors = axis.imshow(
        np.ma.masked_invalid(values), cmap=graph.MAP, interpolation="nearest", vmin=low, vmax=high,
        extent=extent, aspect="auto" if _is_thin(rows, columns) else "equal",
    )  # fmt: skip
    axis.set(xlabel="shift right (pixels)", ylabel="shift down (pixels)")
    axis.locator_params(nbins=5, integer=True)
    bar = graph.color_bar(colors, axis, label)
    masked = float(view.array(f"best_masked_{mask}")) / best if is_share else math.nan
    if math.isfinite(masked):
        bar.ax.axhline(masked, color="white", lw=3)
        bar.ax.axhline(masked, color="black", lw=1)


def _extent(rows: int, columns: int, step: int | None) -> tuple[float, float, float, float]:
    """Shifts at the left, right, lower and upper edge of a map, in pixels.

    step  between circular shifts, the first of which is 0; None for windows of a texture, of which
          the one that is framed has shift 0
    """
    if step is None:
        up, back = rows // 2 + 0.5, columns // 2 + 0.5
        return -back, columns - back, rows - up, -up
    first = -step / 2
    return first, first + columns * step, first + rows * step, first


def _is_thin(rows: int, columns: int) -> bool:
    return max(rows, columns) > THIN * min(rows, columns)


def _map_height(view: View, mask: str) -> int:
    """Height of the figure of a map, pixels: a wide map leaves no room above and below it."""
    rows, columns = view.array(f"map_{mask}").shape
    if _is_thin(rows, columns):
        return 280
    inside = (MAP_WIDTH - graph.LEFT - graph.FOR_COLOR_BAR) * min(rows / columns, 1.0)
    return min(280, round(max(inside, LOWEST_MAP)) + graph.BOTTOM + MAP_TOP)
