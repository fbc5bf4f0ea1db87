"""Gain: what optimizing images together adds to optimizing each alone. METHOD.md section 8."""

from __future__ import annotations

import math

import numpy as np

from diversevis.pictures.graph import BLUE, FAINT, canvas, drawn
from diversevis.pictures.measures.view import Layer, View, number
from diversevis.pictures.page import page, tiles

KINDS = ("distance_min", "smallest distance"), ("distance_mean", "mean distance")


def picture(view: View) -> bytes:
    """The batch above, as many images made alone below."""
    found, own = view.measure, view.metrics
    together, alone = _distances(own, "distance_pixels_{}"), _distances(found, "distance_{}_alone")
    lines = [
        f"Gain. Together minus alone: {_signed(found.get('distance_min'))} in the smallest "
        f"distance, {_signed(found.get('distance_mean'))} in the mean (RMS grey levels)",
        f"Mean response together: {_times(found.get('response'))} that of the images made alone",
    ]
    blocks = []
    batch = view.batch()
    if batch is not None:
        response = f"mean response {number(own.get('response_mean'))}"
        heading = f"together: {together}, {response}"
        blocks.append(tiles(batch, view.captions(len(batch)), heading))
    responses = [number(value) for value in view.numbers("responses").tolist()]
    heading = f"each alone: {alone}, mean response {number(found.get('response_mean_alone'))}"
    blocks.append(tiles(view.pixels("images"), responses, heading))
    return page(view.title, lines, blocks)


def layer_picture(layer: Layer) -> bytes | None:
    """Distances of every unit's batch against those of its images made alone."""
    gains = {kind: layer.values(kind) for kind, _ in KINDS}
    smallest = gains["distance_min"]
    if not np.isfinite(smallest).any():
        return None
    figure, axes = canvas(960, 460, nrows=1, ncols=2)
    for axis, (kind, name) in zip(axes, KINDS, strict=True):
        alone = layer.values(f"{kind}_alone")
        _scatter(axis, layer, alone, alone + gains[kind], name)
    lowest, highest = layer.extremes(smallest)
    lines = [
        f"Gain. Median over units: {_signed(_median(smallest))} RMS grey levels in the smallest "
        f"distance, {_times(_median(layer.values('response')))} the response",
        f"Largest gain in the smallest distance: {_named(layer, smallest, highest)}; "
        f"least: {_named(layer, smallest, lowest)}",
        layer.counted(smallest),
    ]
    return page(layer.title, lines, [drawn(figure)])


def _scatter(axis, layer, alone, together, name) -> None:  # type: ignore[no-untyped-def]
    """One point per unit; above the diagonal the batch shows more."""
    both = np.concatenate([alone, together])
    top = 1.08 * max(float(np.nanmax(both, initial=0.0, where=np.isfinite(both))), 1e-6)
    axis.plot([0, top], [0, top], color=FAINT, lw=1, ls="--")
    axis.scatter(alone, together, s=18, color=BLUE, alpha=0.6, linewidths=0)
    lowest, highest = layer.extremes(together - alone, most=1)
    for places, above in ((highest, 8), (lowest, -8)):
        for at in places:
            axis.annotate(
                f"unit {layer.units[at]}", (alone[at], together[at]), (5, above),
                textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
            axis.scatter(alone[at], together[at], s=36, facecolors="none", edgecolors=BLUE)
    axis.set_xlim(0, top)
    axis.set_ylim(0, top)
    axis.set_aspect("equal")
    axis.set_xlabel(f"{name}, each alone (RMS grey levels)")
    axis.set_ylabel(f"{name}, together")


def _distances(found: dict, field: str) -> str:
    smallest, mean = found.get(field.format("min")), found.get(field.format("mean"))
    return f"smallest distance {number(smallest)}, mean {number(mean)} RMS grey levels"


def _signed(value: float | None) -> str:
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def _times(ratio: float | None) -> str:
    return f"{number(ratio)} times"


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan


def _named(layer: Layer, values: np.ndarray, places: list[int]) -> str:
    named = [f"unit {layer.units[at]} ({_signed(float(values[at]))})" for at in places]
    return ", ".join(named) or "none"
