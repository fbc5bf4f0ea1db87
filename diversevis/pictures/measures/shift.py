"""Shift: the texture of which every crop drives the unit (docs/method.md, section 6)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import spread_page
from diversevis.pictures.measures.view import Layer, View, median, number, percent

TEXTURE, TILE = 240, 130  # pixels
THIN = 4  # a map that is longer than wide by more than this factor is stretched, to be visible
MAP_WIDTH, MAP_TOP, LOWEST_MAP = 400, 22, 140  # pixels; a lower map would cut its bar's name


def picture(view: View) -> page.Block:
    """Both textures, the masks over the unit's crops, and its response to every crop."""
    lines = [f"Shift. Fixed mask: {_shares(view.numbers)}"]
    if view.numbers.get("learned") is not None:
        lines.append(f"Learned mask: {_shares(view.numbers['learned'])}")
    lines.append("On the scale of a map, the line is the best image under the mask")
    blocks = [_variant(view, mask) for mask in ("fixed", "learned") if view.has(f"texture_{mask}")]
    return page.compose(view.title, lines, blocks)


def layer_picture(layer: Layer) -> page.Block | None:
    """Mean crop response of every unit, relative to its best image with and without the mask."""
    masked = layer.values("mean_masked")
    unmasked = layer.values("mean")
    series = {"of the best image under the mask": masked, "of the best image": unmasked}
    line = f"Shift. Median {number(median(masked))} of the best image under the mask"
    label, mark = "mean response of all crops, as a share (fixed mask)", "1: fully shift invariant"
    return spread_page(layer, line, series, label=label, limits=(0.0, 1.0), marks=[(1.0, mark)])


def _shares(numbers: dict[str, Any]) -> str:
    keys = "mean", "min", "mean_masked", "min_masked"
    mean, least, mean_masked, least_masked = (percent(numbers.get(key)) for key in keys)
    return (
        f"all crops reach {mean_masked} (worst {least_masked}) of the best image under the mask, "
        f"{mean} ({least}) of the best image"
    )


def _variant(view: View, mask: str) -> page.Block:
    """A row: texture with the size of a crop, mask, the image to which the crops are compared."""
    weights = view.array(f"mask_{mask}")
    texture, note = page.fitted(view.pixels(view.arrays[f"texture_{mask}"]), TEXTURE)
    if "step" in view.numbers:  # a circular shift of it is a crop
        shown, caption = texture[0], f"texture, to be shifted around{note}"
    else:
        shown = _framed(texture[0], *weights.shape)
        caption = f"texture, with the size of a crop{note}"
    grey = np.rint(255 * np.nan_to_num(weights).clip(0, 1)).astype(np.uint8)
    grey = np.dstack([grey] * 3)
    row = [
        page.captioned(shown, caption),
        page.tiles([grey], ["mask"], side=TILE),
    ]
    if view.has(f"masked_{mask}"):
        response = number(float(view.array(f"best_masked_{mask}")))
        masked = view.pixels(view.arrays[f"masked_{mask}"])
        row.append(page.tiles(masked, [f"best image under it\nresponse {response}"], side=TILE))
    if view.has(f"map_{mask}"):
        row.append(_map(view, mask))
    heading, learned = f"{mask} mask", view.numbers.get("learned")
    if mask == "learned" and learned is not None:
        p, q, sigma = (number(learned.get(name)) for name in ("p", "q", "sigma"))
        heading += f": p = {p}, q = {q}, sigma = {sigma} of the field's sides"
    return page.titled(heading, page.beside(row, 30))


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


def _map(view: View, mask: str) -> page.Block:
    """Responses over shifts, in parts of the best image's where that is above zero."""
    values, label = view.array(f"map_{mask}"), "response"
    low, high = np.nanmin(values), np.nanmax(values)
    best = float(view.array("best")) if "best" in view.arrays else math.nan
    is_share = math.isfinite(best) and best > 0
    if is_share:  # 0 and 1 are always on the scale
        values, label = values / best, "response / best image's"
        low, high = min(0, low / best), max(1, high / best)
    rows, columns = values.shape
    is_thin = max(rows, columns) > THIN * min(rows, columns)
    height = 280 if is_thin else _map_height(rows / columns)
    figure, axis = graph.canvas(MAP_WIDTH, height, right=graph.FOR_COLOR_BAR, top=MAP_TOP)
    extent = _extent(rows, columns, view.numbers.get("step"))
    colors = axis.imshow(
        np.ma.masked_invalid(values), cmap=graph.MAP, interpolation="nearest", vmin=low, vmax=high,
        extent=extent, aspect="auto" if is_thin else "equal",
    )  # fmt: skip
    axis.set(xlabel="shift right (pixels)", ylabel="shift down (pixels)")
    axis.locator_params(nbins=5, integer=True)
    bar = graph.color_bar(figure, colors, axis, label)
    masked = float(view.array(f"best_masked_{mask}")) / best if is_share else math.nan
    if math.isfinite(masked):
        bar.ax.axhline(masked, color="white", lw=3)
        bar.ax.axhline(masked, color="black", lw=1)
    return graph.drawn(figure)


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


def _map_height(rows_per_column: float) -> int:
    """Height of the figure of a map, pixels: a wide map leaves no room above and below it."""
    inside = (MAP_WIDTH - graph.LEFT - graph.FOR_COLOR_BAR) * min(rows_per_column, 1.0)
    return min(280, round(max(inside, LOWEST_MAP)) + graph.BOTTOM + MAP_TOP)
