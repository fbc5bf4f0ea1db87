"""Deformation: does the unit mind a smooth displacement? METHOD.md section 8, Petrini et al."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from diversevis.pictures.graph import (
    BLUE,
    BOTTOM,
    FAINT,
    GREEN,
    LEFT,
    ORANGE,
    canvas,
    deltas_axis,
    drawn,
    label_ends,
    ratio_axis,
)
from diversevis.pictures.measures.spread import Series, spread
from diversevis.pictures.measures.view import Layer, View, number, percent
from diversevis.pictures.page import Block, beside, page, tiles, titled

HEIGHT = 270  # pixels of a graph
CONTROLS = (  # array, name, colour
    ("stability", "white noise", BLUE),
    ("stability_strict", "noise of the same spectrum", ORANGE),
)


def picture(view: View) -> bytes:
    """What is kept, how it compares with noise, and what deformed images look like."""
    found = view.measure
    at, kept = found.get("delta"), found.get("kept") or {}
    share = kept.get(f"{at:g}") if at is not None else None
    white, strict = (_with_error(found, key) for key, *_ in CONTROLS)
    lines = [
        f"Deformation. Displaced by {_px(at)}, {percent(share)} of the response is kept; "
        f"R = {white} against white noise, {strict} against noise of the same spectrum",
        "R: what the deformation changes, relative to what noise of the same size changes",
        *_too_large(view),
    ]
    graphs = [titled("response kept", _kept(view)), titled("relative stability R", _ratio(view))]
    return page(view.title, lines, [beside(graphs, gap=30), *_examples(view)])


def layer_picture(layer: Layer) -> bytes | None:
    """What every unit keeps, and their relative stability."""
    white, strict = layer.values("stability"), layer.values("stability_strict")
    if not np.isfinite(white).any():
        return None
    at = next((m["delta"] for m in layer.measures if m and m.get("delta")), None)
    graph = spread(
        layer,
        [Series("white noise", BLUE, white), Series("noise of the same spectrum", ORANGE, strict)],
        label=f"relative stability R at {_px(at)}", is_log=True, limits=(0.5, 2.0),
        marks=[(1.0, "1")], sides=(1.0, "minds less than noise", "minds more"),
    )  # fmt: skip
    line = (
        f"Deformation by {_px(at)}. Median R = {number(float(np.nanmedian(white)))} "
        "against white noise"
    )
    blocks = [graph]
    if bool(layer.arrays["kept"].isfinite().any()):
        heading = "response kept (median, quartiles, every unit)"
        blocks.insert(0, titled(heading, _all_kept(layer)))
    return page(layer.title, [line, layer.counted(white)], blocks)


def _kept(view: View) -> Block:
    fit = _fit(view.numbers("kept"))
    deltas, kept = view.numbers("deltas")[fit], view.numbers("kept")[fit]
    figure, axis = canvas(460, HEIGHT, margins=(LEFT, 16, BOTTOM, 28))
    axis.axhline(1, color=FAINT, lw=1, ls="--")
    axis.axhline(0, color=FAINT, lw=0.8)
    axis.plot(deltas, kept, "o-", color=BLUE, ms=5)
    finite = kept[np.isfinite(kept)]
    axis.set_ylim(min(0, *finite, 0) - 0.04, max(1, *finite, 1) + 0.08)
    axis.set_ylabel("part of the response")
    deltas_axis(axis, deltas)
    return drawn(figure)


def _ratio(view: View) -> Block:
    fit = _fit(view.numbers("kept"))
    deltas = view.numbers("deltas")[fit]
    found = [(view.numbers(key)[fit], key, name, color) for key, name, color in CONTROLS]
    figure, axis = canvas(620, HEIGHT, margins=(LEFT, 180, BOTTOM, 28))
    for values, key, _, color in found:
        error = np.nan_to_num(view.numbers(f"{key}_error"))[fit]
        axis.errorbar(deltas, values, error, fmt="o-", color=color, ms=5, capsize=3)
    ratio_axis(axis, [values for values, *_ in found])
    deltas_axis(axis, deltas)
    axis.axhline(1, color=FAINT, lw=1, ls="--")
    axis.set_ylabel("R")
    for x, (_, _, name, color) in zip((0.0, 0.4), found, strict=True):
        axis.text(x, 1.04, name, color=color, transform=axis.transAxes)
    beyond = axis.get_yaxis_transform()
    axis.text(1.02, 1.05, "↑ minds more", color=FAINT, va="bottom", transform=beyond)
    axis.text(1.02, 0.95, "↓ minds less than noise", color=FAINT, va="top", transform=beyond)
    return drawn(figure)


def _examples(view: View) -> list[Block]:
    """The best image, then deformed ever more."""
    shown, captions = [], []
    batch, best = view.batch(), view.best()
    if batch is not None and best is not None:
        shown.append(batch[best])
        captions.append("best image")
    if view.has("deformed"):
        own = view.arrays["deformed"], view.pixels("deformed"), view.numbers("deltas")
        for x, image, delta in zip(*own, strict=True):
            if bool(x.isfinite().all()):  # a displacement may be too large for the field
                shown.append(image)
                captions.append(f"{delta:g} px")
    if not shown:
        return []
    return [tiles(np.stack(shown), captions, "the best image, deformed once at each displacement")]


def _all_kept(layer: Layer) -> Block:
    from matplotlib.collections import LineCollection

    everything = layer.numbers("kept")
    fit, alive = _fit(everything), np.isfinite(everything).any(axis=1)
    deltas, kept = layer.numbers("deltas")[fit], everything[alive][:, fit]
    units = np.array(layer.units)[alive]
    figure, axis = canvas(900, 300)
    lines = [np.column_stack([deltas, curve]) for curve in kept]
    alpha = max(0.08, min(0.5, 8 / len(kept)))
    axis.add_collection(LineCollection(lines, colors=FAINT, linewidths=0.8, alpha=alpha))
    low, middle, high = np.nanpercentile(kept, [25, 50, 75], axis=0)
    axis.fill_between(deltas, low, high, color=BLUE, alpha=0.25, lw=0)
    axis.plot(deltas, middle, "o-", color=BLUE, ms=5)
    axis.axhline(1, color=FAINT, lw=1, ls="--")
    axis.set_ylim(min(0, np.nanmin(kept)) - 0.04, max(1, np.nanmax(kept)) + 0.08)
    axis.set_ylabel("part of the response")
    deltas_axis(axis, deltas)
    lowest, highest = layer.extremes(kept[:, -1], most=1)
    names = [(float(kept[at, -1]), f"unit {units[at]}", GREEN) for at in (*lowest, *highest)]
    label_ends(axis, [*names, (float(middle[-1]), "median", BLUE)])
    return drawn(figure)


def _fit(kept: Float[np.ndarray, "*unit delta"]) -> Bool[np.ndarray, " delta"]:
    """The displacements that the receptive field takes; all where it takes none."""
    some = np.isfinite(kept).reshape(-1, kept.shape[-1]).any(axis=0)
    return some if some.any() else ~some


def _too_large(view: View) -> list[str]:
    """A line that says which displacements are missing at the end, if any are."""
    deltas = view.numbers("deltas")
    left = deltas[int(np.flatnonzero(_fit(view.numbers("kept")))[-1]) + 1 :]
    return [f"{_px(left[0])} and more is too large for this receptive field"] if len(left) else []


def _with_error(found: dict[str, Any], key: str) -> str:
    error = found.get(f"{key}_error")
    told = error is not None and math.isfinite(error)
    return number(found.get(key)) + (f" ± {error:.2g}" if told else "")


def _px(delta: float | None) -> str:
    return "an unknown number of px" if delta is None else f"{delta:g} px"
