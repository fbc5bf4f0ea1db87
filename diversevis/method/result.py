"""The result of a unit: its images and numbers, those at the knee where a front is traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.method import images
from diversevis.method.device import precision
from diversevis.method.objective import Metric, pairwise_distances
from diversevis.method.optimize.descend import Result as Optimized
from diversevis.method.response import Responses, respond
from diversevis.method.setup import Setup

# A dead unit's response has no gradient: no image of it was optimized, and no number is invented.
MISSING_IF_DEAD = (
    "response_mean", "response_min", "response_max",
    "response_mean_scaled", "response_min_scaled", "response_max_scaled", "response_best",
    "distance_min", "distance_mean", "distance_pixels_min", "distance_pixels_mean",
)  # fmt: skip
OF_METAMERS = (
    "error_mean", "error_max", "distance_to_reference_min", "distance_to_reference_mean",
    "distance_pixels_to_reference_min", "distance_pixels_to_reference_mean",
)  # fmt: skip
# Costs under the prior of these, in `metrics.json` (docs/priors.md).
COMPARED = "images", "shuffled", "noise", "best"
OF_CROPS = "photographs", "photographs_low", "photographs_high"
IN_FRONT = "response_mean", "response_min", "distance_min", "distance_mean", "stop"


@dataclass(frozen=True, kw_only=True)
class Visualization:
    """The result of one unit; where a front is traced, that of the diversity weight at its knee."""

    unit: int
    images: Float[Tensor, "image color height width"]
    responses: Float[Tensor, " image"]  # as the network gives them, in float32
    metrics: dict[str, Any]  # None where there is no such number
    trace: dict[str, Float[Tensor, " step"]]  # the objective's terms
    interrupted: bool
    # At every diversity weight.
    front: Float[Tensor, "weight image color height width"] | None = None


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
        | {"response_best": torch.fmax(best_response, final.responses[index].max()).item()}
        | _distance_metrics("distance", final.features[index], setup.experiment.objective.metric)
        | _distance_metrics("distance_pixels", final.images[index].flatten(1), "rms")
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
    values = {"mean": responses.mean(), "min": responses.min(), "max": responses.max()}
    return {f"response_{name}{suffix}": value.item() for name, value in values.items()}


def _distance_metrics(
    name: str, features: Float[Tensor, "image feature"], metric: Metric
) -> dict[str, Any]:
    """None for a single image."""
    pairs = pairwise_distances(features[None], metric)[0]
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
    missing = MISSING_IF_DEAD + (() if setup.targets.references is None else OF_METAMERS)
    if setup.prior is not None:
        names = ["prior_cost"] if setup.prior.check is None else ["prior_cost", "prior_check_cost"]
        costs = [f"{name}_{what}" for name in names for what in (*COMPARED, *OF_CROPS)]
        missing += (*costs, "prior_response_scale")
    return [
        Visualization(
            unit=unit,
            images=x.cpu(),
            responses=responses.cpu(),
            metrics={"unit": unit} | dict.fromkeys(missing) | {"steps": 0, "stop": "dead"},
            trace={},
            interrupted=False,
        )
        for unit, x, responses in zip(units, seen.images, seen.responses, strict=True)
    ]


def at_knee(results: Sequence[Visualization], weights: Sequence[float]) -> Visualization:
    """A unit's results at all diversity weights -> the result at the knee, with the front."""
    if len(results) == 1:  # no front
        return results[0]
    table = [
        {"diversity": weight} | {name: result.metrics[name] for name in IN_FRONT}
        for weight, result in zip(weights, results, strict=True)
    ]
    index = knee(*([row[name] for row in table] for name in ("response_mean", "distance_min")))
    return replace(
        results[index],
        metrics=results[index].metrics | {"knee": weights[index], "front": table},
        front=torch.stack([result.images for result in results]),
    )


def undominated(responses: Sequence[float], distances: Sequence[float]) -> list[int]:
    """Indices of the points that no other point exceeds in both, by ascending distance."""
    order = sorted(range(len(responses)), key=lambda i: (-distances[i], -responses[i]))
    front: list[int] = []
    for i in order:
        if not front or responses[i] > responses[front[-1]]:
            front.append(i)
    return front[::-1]


def knee(responses: Sequence[float], distances: Sequence[float]) -> int:
    """Index of the point from which more distance costs more response than before.

    Both axes are scaled to the ends of the front; the knee is the undominated point furthest above
    the line between them (Satopaa et al. 2011; docs/method.md, section 9). Where no point lies
    above it, the end with the larger sum of relative response and relative distance.
    """
    front = undominated(responses, distances)
    first, last = front[0], front[-1]
    if first == last:
        return first
    # Responses fall with distance along the front: both shares run between 0 and 1.
    fall, rise = responses[first] - responses[last], distances[last] - distances[first]

    def height(i: int) -> float:
        """Above the line between the ends, in shares of the axes."""
        response = (responses[i] - responses[last]) / fall
        distance = (distances[i] - distances[first]) / rise
        return response + distance - 1

    highest = max(front, key=height)
    if height(highest) > 0:
        return highest
    return max((first, last), key=lambda i: responses[i] / abs(responses[first] or 1.0)
               + distances[i] / (distances[last] or 1.0))  # fmt: skip
