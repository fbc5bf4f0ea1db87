"""Diverse images of a batch of units: noise, calibration, optimization, measurement.

Cadena et al. 2018; METHOD.md sections 1 to 5 and 9.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diversevis import images
from diversevis.objective import Objective, Target, Terms, pairwise_distances
from diversevis.optimize import Listener, Problem, Result, live_start
from diversevis.prepare import Setting, precision
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
    """Images of norm -> what the network makes of them.

    rows  the units' places in the setting's targets, in the order of this batch
    """

    setting: Setting
    rows: Int[Tensor, " unit"]

    def __call__(
        self, x: Float[Tensor, "unit image 3 height width"], units: Int[Tensor, " unit"]
    ) -> Seen:
        """units  the place in this batch of the unit that each set of images belongs to"""
        setting, (count, n) = self.setting, x.shape[:2]
        rows = self.rows[units]
        z = images.to_network_input(x.flatten(0, 1), setting.network.weights.std)
        answer, *maps = self._through(z.contiguous(memory_format=setting.layout), rows)
        if setting.reads_out:
            responses = answer
            gain = setting.channel_gain
            scaled = responses if gain is None else responses * self._own(gain, rows)[:, None]
        else:
            channels = answer.reshape(count, n, -1)
            target = Target(
                vectors=setting.targets.vectors[rows],
                kind=setting.experiment.objective.response,
                gain=None,
            )
            responses = target(channels)
            scaled = replace(target, gain=setting.channel_gain)(channels)
        if not maps:
            features = x.flatten(2)
        elif setting.feature_gain is None:
            features = maps[0].reshape(count, n, -1)
        else:
            features = (maps[0] * setting.feature_gain[:, None, None]).reshape(count, n, -1)
        return Seen(images=x, responses=responses, scaled=scaled, features=features)

    def _own(self, gain: Tensor, rows: Tensor) -> Tensor:
        """The factor of each unit's own channel."""
        return self.setting.targets.vectors[rows] @ gain

    def _through(self, z: Tensor, rows: Tensor) -> Sequence[Tensor]:
        """The network's outputs. Images that are too many at once go through in parts, computed
        anew for the gradient instead of being kept."""
        network, each = self.setting.readout, len(z) // len(rows)
        if len(z) <= self.setting.batch:
            return network(z, rows)
        units = max(1, self.setting.batch // each)  # in a part, unless one unit is too much
        parts = [
            [checkpoint(network, part, few, use_reentrant=False) for part in torch.split(own, size)]
            for few, own in zip(torch.split(rows, units), torch.split(z, units * each), strict=True)
            for size in (len(own) if len(own) <= self.setting.batch else self.setting.batch,)
        ]
        found = []
        for output in range(len(parts[0][0])):
            axis = 1 if output == 0 and self.setting.reads_out else 0
            joined = [torch.cat([part[output] for part in own], dim=axis) for own in parts]
            found.append(torch.cat(joined))
        return found


def visualize(
    setting: Setting,
    rows: Sequence[int],
    *,
    progress: Progress | None = None,
    listener: Listener | None = None,
) -> list[Visualization]:
    """Diverse images of the units at `rows` of `setting.targets`, computed side by side.

    What a unit ends with does not depend on the others but for rounding.

    listener  told of every step of the diverse optimization; its rows are places in `rows`

    Raises `KeyboardInterrupt` if Ctrl-C comes before there are images; later it ends with them.
    """
    with precision(setting.experiment.precision):
        return _Units(setting, rows).visualize(progress, listener)


class _Units:
    """One batch of units on its way from noise to measured images."""

    def __init__(self, setting: Setting, rows: Sequence[int]) -> None:
        self.setting, self.experiment = setting, setting.experiment
        self.units = [setting.targets.units[row] for row in rows]
        self.look = Looking(
            setting=setting,
            rows=torch.tensor(list(rows), device=setting.device),
        )
        self.began = time.perf_counter()

    def visualize(
        self, progress: Progress | None, listener: Listener | None
    ) -> list[Visualization]:
        settings = self.experiment.objective

        # 1. Noise from which the response has somewhere to go.
        search_start, finds = self._start("search", settings.restarts)
        start, begins = self._start("diverse", self.experiment.n)
        alive = finds & begins
        living = alive.nonzero()[:, 0].to(self.setting.device)
        found: list[Visualization] = []
        if len(living):
            found = self._optimize(living, search_start[living], start[living], progress, listener)
        dead = (~alive).nonzero()[:, 0].to(self.setting.device)
        found += self._dead(dead, start[dead])
        order = {unit: place for place, unit in enumerate(self.units)}
        seconds = round((time.perf_counter() - self.began) / len(self.units), 3)
        return [
            replace(one, metrics=one.metrics | {"seconds": seconds})
            for one in sorted(found, key=lambda one: order[one.unit])
        ]

    def _optimize(
        self,
        living: Int[Tensor, " unit"],
        search_start: Float[Tensor, "unit restart 3 height width"],
        start: Float[Tensor, "unit image 3 height width"],
        progress: Progress | None,
        listener: Listener | None,
    ) -> list[Visualization]:
        # 2. Calibration: each unit's best response, and how far apart noise images are.
        if progress:
            progress.begin("search")
        best = self._best(living, search_start, progress)
        response_scale, distance_scale = self._scales(living, start, best)

        # 3. All images of a unit together, all units side by side.
        objective = Objective(
            diversity=self.experiment.objective.diversity,
            response_scale=response_scale,
            distance_scale=distance_scale,
        )

        def evaluate(x: Tensor, rows: Tensor, *, emphasis: float, softness: float) -> Terms:
            seen = self.look(x, living[rows])
            terms = objective.of(rows)(seen.scaled, seen.features, emphasis, softness)
            return {"response_mean": seen.responses.mean(1)} | terms

        places = living.tolist()

        def tell(step: int, rows: Sequence[int], x: Tensor, terms: Terms) -> None:
            if listener:
                listener(step, [places[row] for row in rows], x, terms)
            if progress:
                progress.step(step, rows, x, terms)

        if progress:
            progress.begin("diverse")
        result = self.experiment.optimizer(self._problem(evaluate), start, tell)

        # 4. What came of it, in plain float32 whatever the precision on the way.
        with torch.no_grad(), precision("float32"):
            seen = self.look(result.images, living)
        seen, best = (Seen(*(value.cpu() for value in one)) for one in (seen, best))
        response_scale = response_scale.cpu()
        return [
            Visualization(
                unit=self.units[place],
                images=seen.images[row],
                responses=seen.responses[row],
                metrics=_measure(row, self.units[place], seen, result, best, response_scale),
                trace={k: values[: result.steps[row], row] for k, values in result.trace.items()},
                interrupted=result.interrupted,
            )
            for row, place in enumerate(places)
        ]

    def _problem(self, evaluate: Any) -> Problem:
        setting = self.setting
        return Problem(
            evaluate=evaluate,
            render=lambda raw: images.render(raw, setting.norm),
            precondition=lambda g: images.precondition(g, self.experiment.precondition),
        )

    def _start(
        self, purpose: str, count: int
    ) -> tuple[Float[Tensor, "unit image 3 height width"], Bool[Tensor, " unit"]]:
        """Noise from all of which the response has a gradient; and which units are alive."""
        setting = self.setting

        def gradient(raw: Tensor, units: Tensor) -> Tensor:
            x = images.render(raw, setting.norm).requires_grad_(True)
            (gradients,) = torch.autograd.grad(self.look(x, units).scaled.sum(), x)
            return torch.linalg.vector_norm(gradients, dim=(2, 3, 4))

        draws = [_noise(setting, unit, purpose, count) for unit in self.units]
        return live_start(draws, gradient, rounds=ROUNDS_OF_NOISE)

    def _best(
        self,
        living: Int[Tensor, " unit"],
        start: Float[Tensor, "unit restart 3 height width"],
        progress: Progress | None,
    ) -> Seen:
        """The best of a few images per unit, each optimized by itself for the response alone."""
        units, restarts = start.shape[:2]
        owners = living.repeat_interleave(restarts)  # every image is a unit of its own

        def evaluate(x: Tensor, rows: Tensor, *, emphasis: float, softness: float) -> Terms:
            seen = self.look(x, owners[rows])
            loss = -seen.scaled[:, 0]
            return {"response_mean": seen.responses[:, 0], "loss": loss, "descent": loss}

        optimizer = self.experiment.optimizer
        search = replace(optimizer, steps=optimizer.search_steps)
        alone = start.flatten(0, 1)[:, None]
        result = search(self._problem(evaluate), alone, progress.step if progress else None)
        if result.interrupted:
            raise KeyboardInterrupt
        with torch.no_grad(), precision("float32"):
            found = self.look(result.images.reshape(start.shape), living)
        first = found.scaled.argmax(1)
        rows = torch.arange(units, device=first.device)
        return Seen(*(values[rows, first][:, None] for values in found))

    def _scales(
        self, living: Int[Tensor, " unit"], start: Tensor, best: Seen
    ) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
        """What responses and distances are divided by."""
        setting, settings = self.setting, self.experiment.objective
        one = torch.ones(len(living), device=setting.device)
        if settings.scale != "best":
            return one, one
        if settings.response == "mse":  # its best is 0; a silent layer would reach -mean(target^2)
            vectors = setting.targets.vectors[self.look.rows[living]]
            response_scale = vectors.square().mean(1)
        else:
            # Not above 0 for a unit that no image brings past its ReLU: only its size is a scale.
            response_scale = best.scaled[:, 0].abs()
            response_scale = torch.where(response_scale > 0, response_scale, one)
        if start.shape[1] == 1:
            return response_scale, one
        with torch.no_grad():
            features = self.look(images.render(start, setting.norm), living).features
            noise_distance = torch.stack([pairwise_distances(f[None]).mean() for f in features])
        noise_distance = noise_distance.float()
        return response_scale, torch.where(noise_distance > 0, noise_distance, one)

    def _dead(self, dead: Int[Tensor, " unit"], start: Tensor) -> list[Visualization]:
        """Units whose response has no gradient: noise is kept, and no number is made up."""
        if not len(dead):
            return []
        with torch.no_grad(), precision("float32"):
            seen = self.look(images.render(start, self.setting.norm), dead)
        nothing = dict.fromkeys(NOTHING_TO_REPORT) | {"steps": 0, "stop": "dead"}
        return [
            Visualization(
                unit=self.units[place],
                images=seen.images[row].cpu(),
                responses=seen.responses[row].cpu(),
                metrics={"unit": self.units[place]} | nothing,
                trace={},
                interrupted=False,
            )
            for row, place in enumerate(dead.tolist())
        ]


def _noise(
    setting: Setting, unit: int, purpose: str, count: int
) -> Callable[[], Float[Tensor, "image 3 height width"]]:
    """Draws noise from a generator of the unit's own, whatever runs beside it."""
    digest = hashlib.sha256(f"{setting.experiment.seed}/{unit}/{purpose}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    shape = (count, 3, *setting.field.size)
    return lambda: images.noise(shape, generator).to(setting.device)


def _measure(
    row: int, unit: int, seen: Seen, result: Result, best: Seen, response_scale: Tensor
) -> dict[str, Any]:
    metrics: dict[str, Any] = {"unit": unit}
    scaled = seen.scaled[row] / response_scale[row]
    for suffix, values in (("", seen.responses[row]), ("_scaled", scaled)):
        metrics[f"response_mean{suffix}"] = values.mean().item()
        metrics[f"response_min{suffix}"] = values.min().item()
        metrics[f"response_max{suffix}"] = values.max().item()
    metrics["response_best"] = best.responses[row].item()
    for name, vectors in (("distance", seen.features), ("distance_pixels", seen.images.flatten(2))):
        pairs = pairwise_distances(vectors[row : row + 1])[0]
        metrics[f"{name}_min"] = pairs.min().item() if len(pairs) else None
        metrics[f"{name}_mean"] = pairs.mean().item() if len(pairs) else None
    return metrics | {"steps": result.steps[row], "stop": result.stop[row]}
