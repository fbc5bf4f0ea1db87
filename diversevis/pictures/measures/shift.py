"""Shift: the texture of which every crop drives the unit. METHOD.md section 6."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from diversevis.pictures.graph import (
    BLUE,
    BOTTOM,
    LEFT,
    MAP,
    ORANGE,
    boxed,
    canvas,
    color_bar,
    drawn,
)
from diversevis.pictures.measures.spread import Series, spread
from diversevis.pictures.measures.view import Layer, View, number, percent
from diversevis.pictures.page import Block, beside, captioned, fitted, note, page, titled

TEXTURE, TILE = 240, 130  # pixels
THIN = 4  # a map so many times longer than wide is stretched, to be seen at all


def picture(view: View) -> bytes:
    """Both textures, what the unit sees them through, and its response to every crop."""
    blocks = [
        _variant(view, which)
        for which in ("fixed", "learned")
        if view.has(f"texture_{which}")
    ]  # fmt: skip
    lines = [f"Shift. Fixed mask: {_said(view.measure)}"]
    if view.measure.get("learned") is not None:
        lines.append(f"Learned mask: {_said(view.measure['learned'])}")
    lines.append("On the scale of a map, the line is the best image under the mask")
    return page(view.title, lines, blocks)


def layer_picture(layer: Layer) -> bytes | None:
    """Mean crop response of every unit, relative to its best image with and without the mask."""
    masked, plain = layer.values("mean_masked"), layer.values("mean")
    if not np.isfinite(masked).any():
        return None
    graph = spread(
        layer,
        [
            Series("of the best image under the mask", BLUE, masked),
            Series("of the best image", ORANGE, plain),
        ],
        label="mean response of all crops, as a share (fixed mask)",
        limits=(0.0, 1.0), marks=[(1.0, "1: fully shift invariant")],
    )  # fmt: skip
    line = f"Shift. Median {number(float(np.nanmedian(masked)))} of the best image under the mask"
    return page(layer.title, [line, layer.counted(masked)], [graph])


def _said(found: dict[str, Any]) -> str:
    mean, least = percent(found.get("mean_masked")), percent(found.get("min_masked"))
    return (
        f"all crops reach {mean} (worst {least}) of the best image under the mask, "
        f"{percent(found.get('mean'))} ({percent(found.get('min'))}) of the best image"
    )


def _heading(view: View, which: str) -> str:
    """The mask, with what was learned of its shape."""
    learned = view.measure.get("learned")
    if which == "fixed" or learned is None:
        return f"{which} mask"
    p, q, sigma = (number(learned.get(name)) for name in ("p", "q", "sigma"))
    return f"learned mask: p = {p}, q = {q}, sigma = {sigma} of the field's side"


def _variant(view: View, which: str) -> Block:
    """One row: texture with the size of a crop, mask, the image the crops are compared with."""
    height, width = view.arrays[f"mask_{which}"].shape
    texture, reduction = fitted(view.pixels(f"texture_{which}"), TEXTURE)
    framed = _framed(texture[0], height, width)
    shown, captions = [framed], [f"texture, with the size of a crop{note(reduction)}"]
    mask = view.numbers(f"mask_{which}")
    grey = np.rint(255 * np.nan_to_num(mask).clip(0, 1)).astype(np.uint8)
    shown.append(fitted(grey[None, :, :, None].repeat(3, axis=-1), TILE)[0][0])
    captions.append("mask")
    if view.has(f"masked_{which}"):
        shown.append(fitted(view.pixels(f"masked_{which}"), TILE)[0][0])
        response = number(float(view.numbers(f"best_masked_{which}")))
        captions.append(f"best image under it\nresponse {response}")
    row = [captioned(*one) for one in zip(shown, captions, strict=True)]
    responses = view.numbers(f"map_{which}")
    if responses.size and np.isfinite(responses).any():
        row.append(_map(responses, view, which))
    return titled(_heading(view, which), beside(row, gap=30))


def _framed(
    texture: UInt8[np.ndarray, "rows columns 3"], height: int, width: int
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The texture with a thin frame, black in white, around its middle crop."""
    framed = texture.copy()
    rows, columns = texture.shape[:2]
    zoom_y, zoom_x = rows / (2 * height - 1), columns / (2 * width - 1)
    top, left = round((height - 1) // 2 * zoom_y), round((width - 1) // 2 * zoom_x)
    bottom, right = top + round(height * zoom_y) - 1, left + round(width * zoom_x) - 1
    for inset, shade in ((0, 255), (1, 0)):
        t, b, le, r = top + inset, bottom - inset, left + inset, right - inset
        if b > t and r > le:
            framed[[t, b], le : r + 1] = shade
            framed[t : b + 1, [le, r]] = shade
    return framed


def _map(responses: Float[np.ndarray, "down right"], view: View, which: str) -> Block:
    """Responses over shifts, in parts of the best image's where that is above zero."""
    best = float(view.numbers("best")) if "best" in view.arrays else math.nan
    is_share = math.isfinite(best) and best > 0
    values = responses / best if is_share else responses
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    figure, axis = canvas(380, 280, margins=(LEFT, 90, BOTTOM, 22))
    rows, columns = values.shape
    up, back = rows // 2 + 0.5, columns // 2 + 0.5  # no shift: the crop that is framed
    shown = axis.imshow(
        np.ma.masked_invalid(values), cmap=MAP, interpolation="nearest",
        vmin=min(0, low) if is_share else low, vmax=max(1, high) if is_share else high,
        extent=(-back, columns - back, rows - up, -up),
        aspect="equal" if max(rows, columns) <= THIN * min(rows, columns) else "auto",
    )  # fmt: skip
    axis.set_xlabel("shift right (pixels)")
    axis.set_ylabel("shift down (pixels)")
    axis.locator_params(nbins=5, integer=True)
    boxed(axis)
    label = "response / best image's" if is_share else "response"
    bar = color_bar(figure, shown, axis, label)
    masked = float(view.numbers(f"best_masked_{which}")) / best if is_share else math.nan
    if math.isfinite(masked):
        bar.ax.axhline(masked, color="white", lw=3)
        bar.ax.axhline(masked, color="black", lw=1)
    return drawn(figure)
