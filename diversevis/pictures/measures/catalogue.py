"""Pictures of the measures: one per unit, and one of a whole layer. Needs no network.

Each module of a measure has `picture` and `layer_picture`; `page` and `graph` draw for all.
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

__all__ = ["extremes", "layer_picture", "picture"]

MEASURES = {
    "gain": gain, "phase": phase, "shift": shift, "deformation": deformation,
    "diversity": diversity, "dimension": dimension, "natural": natural,
}  # fmt: skip
INDICES = {  # what units are ordered by
    "gain": "distance_min", "phase": "f1f0", "shift": "mean", "deformation": "stability",
    "diversity": "index", "dimension": "participation", "natural": "of_synthetic",
}  # fmt: skip


def extremes(
    name: str, units_metrics: Sequence[dict[str, Any]], rows: Sequence[int], most: int
) -> list[int]:
    """Of the units at `rows`, so many: half with the lowest, half with the highest index."""
    found = {row: units_metrics[row][name].get(INDICES[name]) for row in rows}
    order = sorted((row for row in rows if found[row] is not None), key=lambda row: found[row])
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
    """`analysis/<name>_unit0012.png`: one measure of one unit that is not dead.

    record     what `run.json` holds
    metrics    the unit's entry of `metrics.json`; `metrics[name]` is the measure's
    arrays     the measure's file, of all units; this one is at `row`
    images     the unit's own batch, in grey levels around the network's mean, and responses to
               it; None where there is no run
    """
    own = {key: value if key in SHARED else value[row] for key, value in arrays.items()}
    view = View(
        record=record, metrics=metrics, measure=metrics[name], arrays=own,
        images=images, responses=responses,
    )  # fmt: skip
    return MEASURES[name].picture(view)


def layer_picture(
    name: str,
    record: dict[str, Any],
    units_metrics: Sequence[dict[str, Any]],
    arrays: dict[str, Tensor],
) -> bytes | None:
    """One measure of all units of a run; None for a single unit, or where no unit has a value."""
    if len(units_metrics) < 2:
        return None
    layer = Layer(
        record=record,
        units=[metrics["unit"] for metrics in units_metrics],
        measures=[metrics.get(name) for metrics in units_metrics],
        arrays=arrays,
    )
    return MEASURES[name].layer_picture(layer)
