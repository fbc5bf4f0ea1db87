"""Metamers: the photographs among the images, and the errors of the match.

docs/method.md, section 11. A photograph counts for distances, and is never moved.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diversevis.method.device import precision
from diversevis.method.objective import pairwise_distances
from diversevis.method.response import Responses, respond
from diversevis.method.result import Visualization
from diversevis.method.setup import Setup

# Part of the tolerance at which nothing more is gained (ours): images come to rest a little above
# the point where the two terms of the objective balance.
AIM = 0.9


def respond_to_references(setup: Setup, rows: Int[Tensor, " unit"]) -> Responses:
    """Responses to the photographs at `rows`, [unit, 1]: errors of 0."""
    assert setup.targets.references is not None  # noqa: S101  (of metamers alone)
    with torch.no_grad(), precision("float32"):
        seen = respond(setup, setup.targets.references[rows][:, None], rows)
    nothing = torch.zeros_like(seen.responses)  # it is rounding that is left
    return seen._replace(responses=nothing, scaled=nothing)


def beside_references(
    setup: Setup, rows: Int[Tensor, " unit"], noise: Float[Tensor, "unit image color height width"]
) -> Float[Tensor, "unit image color height width"]:
    """Where the images of metamers start: the photographs with some of the noise; else the noise.

    From noise alone, many images come to rest far from a match.
    """
    share = setup.experiment.objective.start
    if setup.targets.references is None or share is None:
        return noise
    photographs = setup.targets.references[rows][:, None]
    size = math.sqrt(noise[0, 0].numel())  # of standard normal noise
    return photographs * (size / setup.norm) + share * noise


def anchors(setup: Setup, best: Responses) -> Float[Tensor, "unit few feature"]:
    """Features of the photographs, one for every unit; none but for metamers.

    best  `respond_to_references`; of other objectives any responses
    """
    return best.features if setup.targets.references is not None else best.features[:, :0]


def with_errors(
    setup: Setup,
    result: Visualization,
    row: int,
    features: Float[Tensor, "image feature"],
    anchor: Float[Tensor, "1 feature"],
) -> Visualization:
    """The result with its errors, and the distances of its images to the photograph."""
    assert setup.targets.references is not None  # noqa: S101  (of metamers alone)
    settings, errors = setup.experiment.objective, -result.responses
    reference = setup.targets.references[row].cpu().flatten()[None]
    metrics = {"error_mean": errors.mean().item(), "error_max": errors.max().item()}
    if settings.tolerance is not None:
        metrics["error_over"] = int((errors > settings.tolerance).sum())
    pixels = result.images.flatten(1)
    for name, metric, values, fixed in (
        ("distance", settings.metric, features, anchor),
        ("distance_pixels", "rms", pixels, reference),
    ):
        away = torch.stack(
            [pairwise_distances(torch.stack([fixed[0], x])[None], metric)[0, 0] for x in values]
        )
        metrics[f"{name}_to_reference_min"] = away.min().item()
        metrics[f"{name}_to_reference_mean"] = away.mean().item()
    return replace(result, metrics=result.metrics | metrics)
