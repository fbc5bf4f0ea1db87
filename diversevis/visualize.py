"""Diverse images of one unit: noise, calibration, optimization, measurement.

Cadena et al. 2018; METHOD.md sections 1 to 5.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis import images
from diversevis.objective import Objective, Target, Terms, pairwise_distances
from diversevis.optimize import OnStep, Result, live_start
from diversevis.prepare import Setting, full_precision
from diversevis.progress import Progress

ROUNDS_OF_NOISE = 10  # draws before a unit without gradient is reported dead
NOTHING_TO_REPORT = (
    "response_mean", "response_min", "response_max",
    "response_mean_scaled", "response_min_scaled", "response_max_scaled", "response_best",
    "distance_min", "distance_mean", "distance_pixels_min", "distance_pixels_mean",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Visualization:
    """What one unit ended with: images [n, 3, h, w], responses [n] and everything about them."""

    unit: int
    images: Float[Tensor, "image 3 height width"]
    responses: Float[Tensor, " image"]
    metrics: dict[str, Any]
    trace: dict[str, Float[Tensor, " step"]]
    interrupted: bool


class Seen(NamedTuple):
    """A batch as the network sees it, every field [unit, image, ...]."""

    images: Float[Tensor, "unit image 3 height width"]
    responses: Float[Tensor, "unit image"]  # in the network's own units
    scaled: Float[Tensor, "unit image"]  # channels scaled as `objective.scale` says
    features: Float[Tensor, "unit image feature"]  # what distances are taken in


@dataclass(frozen=True, kw_only=True)
class Looking:
    """Raw images -> what the network makes of them.

    target         responses in the network's own units
    scaled_target  with channels scaled as `objective.scale` says
    """

    setting: Setting
    target: Target
    scaled_target: Target

    def __call__(self, raw: Float[Tensor, "unit image 3 height width"]) -> Seen:
        setting, (units, n) = self.setting, raw.shape[:2]
        x = images.render(raw, setting.norm, setting.experiment.precondition)
        y, *maps = setting.module(
            images.to_network_input(x.flatten(0, 1), setting.network.weights.std)
        )
        channels = y.reshape(units, n, -1)
        if not maps:
            features = x.flatten(2)
        elif setting.feature_gain is None:
            features = maps[0].reshape(units, n, -1)
        else:
            features = (maps[0] * setting.feature_gain[:, None, None]).reshape(units, n, -1)
        return Seen(
            images=x,
            responses=self.target(channels),
            scaled=self.scaled_target(channels),
            features=features,
        )


@full_precision()
def visualize(
    setting: Setting,
    row: int,
    *,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
) -> Visualization:
    """Diverse images of the unit at `row` of `setting.targets`.

    on_step  told of every step of the diverse optimization

    Raises `KeyboardInterrupt` if Ctrl-C comes before there are images; later it ends with them.
    """
    experiment, settings = setting.experiment, setting.experiment.objective
    began = time.perf_counter()
    unit = setting.targets.units[row]
    vector = setting.targets.vectors[row : row + 1].to(setting.device)
    target = Target(vectors=vector, kind=settings.response, gain=None)
    scaled_target = replace(target, gain=setting.channel_gain)
    look = Looking(setting=setting, target=target, scaled_target=scaled_target)

    # 1. Noise from which the response has somewhere to go.
    search_start = _start(setting, look, unit, "search", settings.restarts)
    start = _start(setting, look, unit, "diverse", experiment.n)
    if search_start is None or start is None:
        return _dead(setting, look, unit, began)

    # 2. Calibration: the unit's best response, and how far apart noise images are.
    if progress:
        progress.begin(unit, "search")
    best = _best(setting, look, search_start, progress)
    response_scale, distance_scale = _scales(setting, look, start, best)

    # 3. All images together.
    objective = Objective(
        diversity=settings.diversity,
        response_scale=response_scale,
        distance_scale=distance_scale,
    )

    def evaluate(raw: Tensor) -> Terms:
        seen = look(raw)
        terms = objective(seen.scaled, seen.features)
        return {"response_mean": seen.responses.mean(1)} | terms

    def tell(step: int, raw: Tensor, terms: Terms) -> None:
        for listener in (on_step, progress.step if progress else None):
            if listener:
                listener(step, raw, terms)

    if progress:
        progress.begin(unit, "diverse")
    result = experiment.optimizer(evaluate, start, tell)

    # 4. What came of it.
    with torch.no_grad():
        seen = look(result.raw)
    return Visualization(
        unit=unit,
        images=seen.images[0].cpu(),
        responses=seen.responses[0].cpu(),
        metrics=_measure(unit, seen, result, best, response_scale)
        | {"seconds": round(time.perf_counter() - began, 3)},
        trace={name: values[: result.steps[0], 0] for name, values in result.trace.items()},
        interrupted=result.interrupted,
    )


def _noise(setting: Setting, unit: int, purpose: str, count: int) -> Callable[[], Tensor]:
    """Draws noise from a generator of the unit's own, whatever runs beside it."""
    digest = hashlib.sha256(f"{setting.experiment.seed}/{unit}/{purpose}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    shape = (1, count, 3, *setting.field.size)
    return lambda: images.noise(shape, generator).to(setting.device)


def _start(
    setting: Setting, look: Looking, unit: int, purpose: str, count: int
) -> Float[Tensor, "unit image 3 height width"] | None:
    """Noise from all of which the response has a gradient; None for a dead unit."""

    def gradient(raw: Tensor) -> Tensor:
        raw = raw.clone().requires_grad_(True)
        (gradients,) = torch.autograd.grad(look(raw).scaled.sum(), raw)
        return torch.linalg.vector_norm(gradients, dim=(2, 3, 4))[0]

    draw = _noise(setting, unit, purpose, count)
    return live_start(draw, gradient, rounds=ROUNDS_OF_NOISE)


def _best(setting: Setting, look: Looking, start: Tensor, progress: Progress | None) -> Seen:
    """The best of a few images, each optimized by itself for the response alone.

    start  [1, image, 3, h, w]
    """

    def evaluate(raw: Tensor) -> Terms:  # every image is a unit of its own: [image, 1, 3, h, w]
        seen = look(raw.transpose(0, 1))
        return {"response_mean": seen.responses[0], "loss": -seen.scaled[0]}

    steps = setting.experiment.objective.search_steps
    search = replace(setting.experiment.optimizer, steps=steps)
    result = search(evaluate, start.transpose(0, 1), progress.step if progress else None)
    if result.interrupted:
        raise KeyboardInterrupt
    with torch.no_grad():
        found = look(result.raw.transpose(0, 1))
    first = found.scaled[0].argmax()
    return Seen(*(values[:, first : first + 1] for values in found))


def _scales(
    setting: Setting, look: Looking, start: Tensor, best: Seen
) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
    """What responses and distances are divided by."""
    settings, one = setting.experiment.objective, torch.ones(1, device=setting.device)
    if settings.scale != "best":
        return one, one
    if settings.response == "mse":  # its best is 0; a silent layer would reach -mean(target^2)
        response_scale = look.target.vectors.square().mean(1)
    else:
        # Not above 0 for a unit that no image brings past its ReLU: then only its size is a scale.
        response_scale = best.scaled[:, 0].abs()
        response_scale = torch.where(response_scale > 0, response_scale, one)
    if start.shape[1] == 1:
        return response_scale, one
    with torch.no_grad():
        noise_distance = pairwise_distances(look(start).features).mean(1).float()
    return response_scale, torch.where(noise_distance > 0, noise_distance, one)


def _measure(
    unit: int, seen: Seen, result: Result, best: Seen, response_scale: Tensor
) -> dict[str, Any]:
    metrics: dict[str, Any] = {"unit": unit}
    for suffix, values in (("", seen.responses), ("_scaled", seen.scaled / response_scale)):
        metrics[f"response_mean{suffix}"] = values.mean().item()
        metrics[f"response_min{suffix}"] = values.min().item()
        metrics[f"response_max{suffix}"] = values.max().item()
    metrics["response_best"] = best.responses.item()
    for name, vectors in (("distance", seen.features), ("distance_pixels", seen.images.flatten(2))):
        pairs = pairwise_distances(vectors)[0]
        metrics[f"{name}_min"] = pairs.min().item() if len(pairs) else None
        metrics[f"{name}_mean"] = pairs.mean().item() if len(pairs) else None
    return metrics | {"steps": result.steps[0], "stop": result.stop[0]}


def _dead(setting: Setting, look: Looking, unit: int, began: float) -> Visualization:
    """A unit whose response has no gradient: noise is kept, and no number is made up."""
    draw = _noise(setting, unit, "diverse", setting.experiment.n)
    with torch.no_grad():
        seen = look(draw())
    seconds = round(time.perf_counter() - began, 3)
    return Visualization(
        unit=unit,
        images=seen.images[0].cpu(),
        responses=seen.responses[0].cpu(),
        metrics={"unit": unit}
        | dict.fromkeys(NOTHING_TO_REPORT)
        | {"steps": 0, "stop": "dead", "seconds": seconds},
        trace={},
        interrupted=False,
    )
