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
    """The result of one unit.

    images     those at the knee, where a front is traced
    responses  as the network gives them, in float32
    metrics    numbers by name, None where there is no such number
    trace      the objective's terms at every step
    front      the images at every diversity weight, where a front is traced
    """

    unit: int
    images: Float[Tensor, "image 3 height width"]
    responses: Float[Tensor, " image"]
    metrics: dict[str, Any]
    trace: dict[str, Float[Tensor, " step"]]
    interrupted: bool
    front: Float[Tensor, "weight image 3 height width"] | None = None


def unit_metrics(
    final: Responses,
    index: int,
    response_scale: Float[Tensor, ""],
    best_response: Float[Tensor, ""],
) -> dict[str, Any]:
    """Responses and distances of the images at `index`; distances are None for a single image."""
    responses, scaled = final.responses[index], final.scaled[index] / response_scale
    metrics: dict[str, Any] = {}
    for suffix, values in (("", responses), ("_scaled", scaled)):
        metrics[f"response_mean{suffix}"] = values.mean().item()
        metrics[f"response_min{suffix}"] = values.min().item()
        metrics[f"response_max{suffix}"] = values.max().item()
    metrics["response_best"] = best_response.item()
    pixels = final.images.flatten(2)
    for name, vectors in (("distance", final.features), ("distance_pixels", pixels)):
        pairs = pairwise_distances(vectors[index : index + 1])[0]
        metrics[f"{name}_min"] = pairs.min().item() if len(pairs) else None
        metrics[f"{name}_mean"] = pairs.mean().item() if len(pairs) else None
    return metrics


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
