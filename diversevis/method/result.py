"""The result of a unit: its images, and the numbers that are reported for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.method import images
from diversevis.method.device import precision
from diversevis.method.objective import pairwise_distances
from diversevis.method.optimize.loop import Result as Optimized
from diversevis.method.response import Responses, respond
from diversevis.method.setup import Setup

# A dead unit's response has no gradient: no image of it was optimized, and no number is invented.
MISSING_IF_DEAD = (
    "response_mean", "response_min", "response_max",
    "response_mean_scaled", "response_min_scaled", "response_max_scaled", "response_best",
    "distance_min", "distance_mean", "distance_pixels_min", "distance_pixels_mean",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Visualization:
    """The result of one unit; where a front is traced, that of the diversity weight at its knee."""

    unit: int
    images: Float[Tensor, "image 3 height width"]
    responses: Float[Tensor, " image"]  # as the network gives them, in float32
    metrics: dict[str, Any]  # None where there is no such number
    trace: dict[str, Float[Tensor, " step"]]  # the objective's terms
    interrupted: bool
    front: Float[Tensor, "weight image 3 height width"] | None = None  # at every diversity weight


def unit_result(
    setup: Setup,
    row: int,
    index: int,
    final: Responses,
    optimized: Optimized,
    best_response: Float[Tensor, ""],
    response_scale: Float[Tensor, ""],
) -> Visualization:
    """The result of the unit at `row` of the targets, whose images stand at `index` of `final`."""
    unit, steps = setup.targets.units[row], optimized.steps[index]
    scaled = final.scaled[index] / response_scale
    metrics = (
        {"unit": unit}
        | _response_metrics("", final.responses[index])
        | _response_metrics("_scaled", scaled)
        | {"response_best": best_response.item()}
        | _distance_metrics("distance", final.features[index])
        | _distance_metrics("distance_pixels", final.images[index].flatten(1))
        | {"steps": steps, "stop": optimized.stop[index]}
    )
    return Visualization(
        unit=unit,
        images=final.images[index],
        responses=final.responses[index],
        metrics=metrics,
        trace={name: terms[:steps, index] for name, terms in optimized.trace.items()},
        interrupted=optimized.interrupted,
    )


def _response_metrics(suffix: str, responses: Float[Tensor, " image"]) -> dict[str, Any]:
    return {
        f"response_mean{suffix}": responses.mean().item(),
        f"response_min{suffix}": responses.min().item(),
        f"response_max{suffix}": responses.max().item(),
    }


def _distance_metrics(name: str, features: Float[Tensor, "image feature"]) -> dict[str, Any]:
    """None for a single image."""
    pairs = pairwise_distances(features[None])[0]
    return {
        f"{name}_min": pairs.min().item() if len(pairs) else None,
        f"{name}_mean": pairs.mean().item() if len(pairs) else None,
    }


def dead_units(setup: Setup, rows: Tensor, noise: Tensor) -> list[Visualization]:
    """Units whose response has no gradient: they keep their noise, and have no metrics."""
    if not len(rows):
        return []
    with torch.no_grad(), precision("float32"):
        seen = respond(setup, images.render(noise, setup.norm), rows)
    units = [setup.targets.units[row] for row in rows.tolist()]
    return [
        Visualization(
            unit=unit,
            images=x.cpu(),
            responses=responses.cpu(),
            metrics={"unit": unit} | dict.fromkeys(MISSING_IF_DEAD) | {"steps": 0, "stop": "dead"},
            trace={},
            interrupted=False,
        )
        for unit, x, responses in zip(units, seen.images, seen.responses, strict=True)
    ]
