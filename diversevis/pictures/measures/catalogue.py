"""Pictures of the measures: a unit's, and a layer's. They are drawn from a run's files alone.

The module of every measure has `picture(view)` and `layer_picture(layer)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diversevis.pictures.measures import (
    deformation,
    dimension,
    diversity,
    gain,
    natural,
    phase,
    shift,
)
from diversevis.pictures.measures.view import SHARED, Layer, View
from diversevis.pictures.page import png

MEASURES = {
    "gain": gain, "phase": phase, "shift": shift, "deformation": deformation,
    "diversity": diversity, "dimension": dimension, "natural": natural,
}  # fmt: skip
INDICES = {  # the number that units are ordered by
    "gain": "distance_min", "phase": "f1f0", "shift": "mean", "deformation": "stability",
    "diversity": "index", "dimension": "participation", "natural": "of_synthetic",
}  # fmt: skip


def extremes(
    name: str, units_metrics: Sequence[dict[str, Any]], rows: Sequence[int], most: int
) -> list[int]:
    """Up to `most` of these rows: half with the lowest, half with the highest index."""
    indices = {row: units_metrics[row][name].get(INDICES[name]) for row in rows}
    order = sorted((row for row in rows if indices[row] is not None), key=lambda row: indices[row])
    if len(order) <= most:
        return list(rows)[:most]
    return sorted(order[: most // 2] + order[len(order) - (most - most // 2) :])


def picture(
    name: str,
    record: dict[str, Any],
    metrics: dict[str, Any],
    arrays: dict[str, Tensor],
    row: int,
    images: Float[Tensor, "image 3 height width"] | None,
    responses: Float[Tensor, " image"] | None,
) -> bytes:
    """One measure of one unit that is not dead, as a PNG file.

    arrays  the measure's file, with all units; this unit is at `row`

    The others are as in `View`.
    """
    unit_arrays = {key: x if key in SHARED else x[row] for key, x in arrays.items()}
    view = View(
        record=record, metrics=metrics, numbers=metrics[name], arrays=unit_arrays,
        images=images, responses=responses,
    )  # fmt: skip
    return png(MEASURES[name].picture(view))


def layer_picture(
    name: str,
    record: dict[str, Any],
    units_metrics: Sequence[dict[str, Any]],
    arrays: dict[str, Tensor],
) -> bytes | None:
    """One measure of all units of a run, as a PNG file; None for a single unit, or where no unit
    has a value."""
    if len(units_metrics) < 2:
        return None
    layer = Layer(
        record=record,
        units=[metrics["unit"] for metrics in units_metrics],
        numbers=[metrics.get(name) for metrics in units_metrics],
        arrays=arrays,
    )
    block = MEASURES[name].layer_picture(layer)
    return None if block is None else png(block)
