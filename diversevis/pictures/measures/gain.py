"""Gain of optimizing images together, over each alone (docs/method.md, section 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import LayerPicture
from diversevis.pictures.measures.view import Layer, View, median, number
from diversevis.pictures.panels import Graph, Panel, Tiles


def picture(view: View) -> page.Block:
    """The batch above, the images made alone below."""
    summary = _summary(view.metrics, "distance_pixels_{}", "response_mean")
    together = view.batch(f"together: {summary}")
    heading = f"each alone: {_summary(view.numbers, 'distance_{}_alone', 'response_mean_alone')}"
    alone = page.tiles(*_alone(view), heading)
    return page.compose(view.title, lines(view), [*together, alone])


def panels(view: View) -> list[Panel]:
    """The same, for a paper."""
    images, captions = _alone(view)
    alone = Tiles(images=list(images), captions=captions, heading="each alone")
    return [*view.batch_panel("together"), alone]


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    gain = view.numbers
    return [
        f"Gain. Together minus alone: {_signed(gain.get('distance_min'))} in the smallest "
        f"distance, {_signed(gain.get('distance_mean'))} in the mean (RMS grey levels)",
        f"Mean response together: {view.text('response')} times that of the images made alone",
    ]


def _alone(view: View) -> tuple[page.Pixels, list[str]]:
    """The images made alone, and the responses to them."""
    responses = [number(value) for value in view.array("responses").tolist()]
    return view.pixels(view.arrays["images"]), responses


def layer_picture(layer: Layer) -> LayerPicture | None:
    """Distances of every unit's batch against those of its images made alone."""
    smallest = layer.values("distance_min")
    if not np.isfinite(smallest).any():
        return None
    draws = [partial(_scatter, layer, "distance_min", "smallest distance"),
             partial(_scatter, layer, "distance_mean", "mean distance")]  # fmt: skip
    lowest, highest = layer.extremes(smallest)
    lines = [
        f"Gain. Median over units: {_signed(median(smallest))} RMS grey levels in the smallest "
        f"distance, {number(median(layer.values('response')))} times the response",
        f"Largest gain in the smallest distance: {_named(layer, smallest, highest)}; "
        f"least: {_named(layer, smallest, lowest)}",
        layer.counted(smallest),
    ]
    return LayerPicture(
        lines=lines,
        blocks=lambda: [page.beside([graph.block(draw, 490, 452) for draw in draws])],
        panels=[Graph(draw=draw, height=55) for draw in draws],
    )


def _scatter(layer: Layer, key: str, name: str, axis: Any) -> None:
    """A point per unit; above the diagonal the batch shows more."""
    alone, gain = layer.values(f"{key}_alone"), layer.values(key)
    together = alone + gain
    values = np.concatenate([alone, together])
    top = 1.08 * max(float(np.nanmax(values, initial=0.0, where=np.isfinite(values))), 1e-6)
    axis.plot([0, top], [0, top], color=graph.FAINT, lw=1, ls="--")
    axis.scatter(alone, together, s=18, color=graph.BLUE, alpha=0.6, linewidths=0)
    lowest, highest = layer.extremes(gain, most=1)
    for row in (*highest, *lowest):
        point, text_at = (alone[row], together[row]), (5, 8 if row in highest else -8)
        axis.scatter(*point, s=36, facecolors="none", edgecolors=graph.BLUE)
        axis.annotate(f"unit {layer.units[row]}", point, text_at, textcoords="offset points",
                      va="center", fontsize=9)  # fmt: skip
    axis.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    axis.set(xlabel=f"{name}, each alone (RMS grey levels)", ylabel=f"{name}, together")


def _summary(numbers: Mapping[str, Any], distance_key: str, response_key: str) -> str:
    keys = distance_key.format("min"), distance_key.format("mean"), response_key
    smallest, mean, response = (number(numbers.get(key)) for key in keys)
    return f"smallest distance {smallest}, mean {mean} RMS grey levels, mean response {response}"


def _signed(value: float | None) -> str:
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def _named(layer: Layer, values: Float[np.ndarray, " unit"], rows: Sequence[int]) -> str:
    named = [f"unit {layer.units[row]} ({_signed(float(values[row]))})" for row in rows]
    return ", ".join(named) or "none"
