"""Diverse images of a batch of units: noise, calibration, optimization, measurement.

Cadena et al. 2018; METHOD.md sections 1 to 5 and 9.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diversevis.experiment.progress import Progress
from diversevis.method import images
from diversevis.method.device import precision
from diversevis.method.front import knee
from diversevis.method.objective import Objective, Terms, pairwise_distances
from diversevis.method.optimize.loop import Keep, Listener, Problem, Result
from diversevis.method.optimize.start import live_start
from diversevis.method.response import Looking, Seen, noise_of
from diversevis.method.setup import Setup
from diversevis.runs.checkpoints import Keeper

ROUNDS_OF_NOISE = 10  # draws before a unit without gradient is reported dead
NOTHING_TO_REPORT = (
    "response_mean", "response_min", "response_max",
    "response_mean_scaled", "response_min_scaled", "response_max_scaled", "response_best",
    "distance_min", "distance_mean", "distance_pixels_min", "distance_pixels_mean",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Visualization:
    """What one unit ended with: images [n, 3, h, w], responses [n] and everything about them.

    front  the images at every weight, where the front is traced; `images` are those at its knee
    """

    unit: int
    images: Float[Tensor, "image 3 height width"]
    responses: Float[Tensor, " image"]
    metrics: dict[str, Any]
    trace: dict[str, Float[Tensor, " step"]]
    interrupted: bool
    front: Float[Tensor, "weight image 3 height width"] | None = None


def visualize(
    setup: Setup,
    rows: Sequence[int],
    *,
    progress: Progress | None = None,
    listener: Listener | None = None,
    keeper: Keeper | None = None,
) -> list[Visualization]:
    """Diverse images of the units at `rows` of `setting.targets`, computed side by side.

    What a unit ends with does not depend on the others but for rounding.

    listener  told of every step of the diverse optimization; its rows are places in `rows`
    keeper    keeps the state between steps, and may have one to go on from

    Raises `KeyboardInterrupt` if Ctrl-C comes before there are images; later it ends with them.
    `Stopped` where the system asked this process to end.
    """
    with precision(setup.experiment.precision):
        return _Units(setup, rows, keeper).visualize(progress, listener)


def images_alone(
    setup: Setup, rows: Sequence[int]
) -> list[tuple[Float[Tensor, "image 3 height width"], Float[Tensor, " image"]] | None]:
    """Of the units at `rows`: n images each optimized by itself, from noise of its own, with the
    steps that the diverse images have; and their responses. None for a dead unit."""
    with precision(setup.experiment.precision):
        units = _Units(setup, rows)
        start, alive = units.start("alone", setup.experiment.n)
        living = alive.nonzero()[:, 0].to(setup.device)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        if len(living):
            steps = setup.experiment.optimizer.steps
            seen = units.alone(living, start[living], steps, None)
            for place, row in enumerate(living.tolist()):
                found[row] = seen.images[place].cpu(), seen.responses[place].cpu()
    return [found.get(row) for row in range(len(rows))]


class _Units:
    """One batch of units on its way from noise to measured images."""

    def __init__(self, setup: Setup, rows: Sequence[int], keeper: Keeper | None = None) -> None:
        self.setup, self.experiment, self.keeper = setup, setup.experiment, keeper
        self.units = [setup.targets.units[row] for row in rows]
        self.look = Looking(
            setup=setup,
            rows=torch.tensor(list(rows), device=setup.device),
        )
        self.began = time.perf_counter()

    def visualize(
        self, progress: Progress | None, listener: Listener | None
    ) -> list[Visualization]:
        settings = self.experiment.objective

        # 1. Noise from which the response has somewhere to go.
        search_start, finds = self.start("search", settings.restarts)
        start, begins = self.start("diverse", self.experiment.n)
        alive = finds & begins
        living = alive.nonzero()[:, 0].to(self.setup.device)
        found: list[Visualization] = []
        if len(living):
            found = self._optimize(living, search_start[living], start[living], progress, listener)
        dead = (~alive).nonzero()[:, 0].to(self.setup.device)
        found += self._dead(dead, start[dead])
        order = {unit: place for place, unit in enumerate(self.units)}
        whole = self.keeper.seconds if self.keeper else time.perf_counter() - self.began
        seconds = round(whole / len(self.units), 3)
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
        best = self._recalled() or self._best(living, search_start, progress)
        if self.keeper:
            self.keeper.remember(best._asdict())
        scales = self._scales(living, start, best)

        # 3. All images of a unit together, all units (and weights of a front) side by side.
        weights = self.experiment.objective.weights
        repeated = [
            value.repeat_interleave(len(weights), dim=0)
            for value in (living, start, best.scaled[:, 0], *scales)
        ]
        owners, start, best_scaled, response_scale, distance_scale = repeated
        fraction = self.experiment.objective.fraction
        objective = Objective(
            diversity=torch.tensor(weights, device=owners.device).repeat(len(living)),
            response_scale=response_scale,
            distance_scale=distance_scale,
            # For a best response below 0, as much below it as for one above.
            enough=None if fraction is None else best_scaled - (1 - fraction) * response_scale,
        )

        def evaluate(x: Tensor, rows: Tensor, *, emphasis: float, softness: float) -> Terms:
            seen = self.look(x, owners[rows])
            terms = objective.of(rows)(seen.scaled, seen.features, emphasis, softness)
            return {"response_mean": seen.responses.mean(1)} | terms

        places = owners.tolist()

        def tell(step: int, rows: Sequence[int], x: Tensor, terms: Terms) -> None:
            if listener:
                listener(step, [places[row] for row in rows], x, terms)
            if progress:
                progress.step(step, rows, x, terms)

        if progress:
            progress.begin("diverse")
        keep = self.keeper.of("diverse") if self.keeper else None
        result = self.experiment.optimizer(self._problem(evaluate), start, tell, keep)

        # 4. What came of it, in plain float32 whatever the precision on the way.
        with torch.no_grad(), precision("float32"):
            seen = self.look(result.images, owners)
        seen, best = (Seen(*(value.cpu() for value in one)) for one in (seen, best))
        response_scale = response_scale.cpu()
        found = []
        for row, place in enumerate(places):
            own = best.responses[row // len(weights), 0].item()
            found.append(
                Visualization(
                    unit=self.units[place],
                    images=seen.images[row],
                    responses=seen.responses[row],
                    metrics=_measure(row, self.units[place], seen, result, own, response_scale),
                    trace={k: v[: result.steps[row], row] for k, v in result.trace.items()},
                    interrupted=result.interrupted,
                )
            )
        if len(weights) == 1:
            return found
        each = len(weights)
        return [_knee(found[i : i + each], weights) for i in range(0, len(found), each)]

    def _problem(self, evaluate: Any) -> Problem:
        setup = self.setup
        return Problem(
            evaluate=evaluate,
            render=lambda raw: images.render(raw, setup.norm),
            precondition=lambda g: images.precondition(g, self.experiment.precondition),
        )

    def start(
        self, purpose: str, count: int
    ) -> tuple[Float[Tensor, "unit image 3 height width"], Bool[Tensor, " unit"]]:
        """Noise from all of which the response has a gradient; and which units are alive."""
        setup = self.setup

        def gradient(raw: Tensor, units: Tensor) -> Tensor:
            x = images.render(raw, setup.norm).requires_grad_(True)
            (gradients,) = torch.autograd.grad(self.look(x, units).scaled.sum(), x)
            return torch.linalg.vector_norm(gradients, dim=(2, 3, 4))

        draws = [noise_of(setup, unit, purpose, count) for unit in self.units]
        return live_start(draws, gradient, rounds=ROUNDS_OF_NOISE)

    def _recalled(self) -> Seen | None:
        """The best images that an earlier process has found."""
        kept = self.keeper.recall() if self.keeper else None
        return None if kept is None else Seen(**kept)

    def _best(
        self,
        living: Int[Tensor, " unit"],
        start: Float[Tensor, "unit restart 3 height width"],
        progress: Progress | None,
    ) -> Seen:
        """The best of a few images per unit, each optimized by itself for the response alone."""
        steps = self.experiment.optimizer.search_steps
        keep = self.keeper.of("search") if self.keeper else None
        found = self.alone(living, start, steps, progress, keep)
        first = found.scaled.argmax(1)
        rows = torch.arange(len(first), device=first.device)
        return Seen(*(values[rows, first][:, None] for values in found))

    def alone(
        self,
        living: Int[Tensor, " unit"],
        start: Float[Tensor, "unit image 3 height width"],
        steps: int,
        progress: Progress | None,
        keep: Keep | None = None,
    ) -> Seen:
        """Images each optimized by itself for the response, in so many steps."""
        owners = living.repeat_interleave(start.shape[1])  # every image is a unit of its own

        def evaluate(x: Tensor, rows: Tensor, *, emphasis: float, softness: float) -> Terms:
            seen = self.look(x, owners[rows])
            loss = -seen.scaled[:, 0]
            return {"response_mean": seen.responses[:, 0], "loss": loss, "descent": loss}

        climb = replace(self.experiment.optimizer, steps=steps)
        images_of = start.flatten(0, 1)[:, None]
        tell = progress.step if progress else None
        result = climb(self._problem(evaluate), images_of, tell, keep)
        if result.interrupted:
            raise KeyboardInterrupt
        with torch.no_grad(), precision("float32"):
            return self.look(result.images.reshape(start.shape), living)

    def _scales(
        self, living: Int[Tensor, " unit"], start: Tensor, best: Seen
    ) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
        """What responses and distances are divided by."""
        setup, settings = self.setup, self.experiment.objective
        one = torch.ones(len(living), device=setup.device)
        if settings.scale != "best":
            return one, one
        if settings.response == "mse":  # its best is 0; a silent layer would reach -mean(target^2)
            vectors = setup.targets.vectors[self.look.rows[living]]
            response_scale = vectors.square().mean(1)
        else:
            # Not above 0 for a unit that no image brings past its ReLU: only its size is a scale.
            response_scale = best.scaled[:, 0].abs()
            response_scale = torch.where(response_scale > 0, response_scale, one)
        if start.shape[1] == 1:
            return response_scale, one
        with torch.no_grad():
            features = self.look(images.render(start, setup.norm), living).features
            noise_distance = torch.stack([pairwise_distances(f[None]).mean() for f in features])
        noise_distance = noise_distance.float()
        return response_scale, torch.where(noise_distance > 0, noise_distance, one)

    def _dead(self, dead: Int[Tensor, " unit"], start: Tensor) -> list[Visualization]:
        """Units whose response has no gradient: noise is kept, and no number is made up."""
        if not len(dead):
            return []
        with torch.no_grad(), precision("float32"):
            seen = self.look(images.render(start, self.setup.norm), dead)
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


def _knee(found: Sequence[Visualization], weights: Sequence[float]) -> Visualization:
    """What a unit came to at every weight -> its images at the knee, and the front as a table."""
    names = "response_mean", "response_min", "distance_min", "distance_mean", "stop"
    table = [
        {"diversity": weight} | {name: one.metrics[name] for name in names}
        for weight, one in zip(weights, found, strict=True)
    ]
    place = knee(*([row[name] for row in table] for name in ("response_mean", "distance_min")))
    best = found[place]
    return replace(
        best,
        metrics=best.metrics | {"knee": weights[place], "front": table},
        front=torch.stack([one.images for one in found]),
    )


def _measure(
    row: int, unit: int, seen: Seen, result: Result, best: float, response_scale: Tensor
) -> dict[str, Any]:
    metrics: dict[str, Any] = {"unit": unit}
    scaled = seen.scaled[row] / response_scale[row]
    for suffix, values in (("", seen.responses[row]), ("_scaled", scaled)):
        metrics[f"response_mean{suffix}"] = values.mean().item()
        metrics[f"response_min{suffix}"] = values.min().item()
        metrics[f"response_max{suffix}"] = values.max().item()
    metrics["response_best"] = best
    for name, vectors in (("distance", seen.features), ("distance_pixels", seen.images.flatten(2))):
        pairs = pairwise_distances(vectors[row : row + 1])[0]
        metrics[f"{name}_min"] = pairs.min().item() if len(pairs) else None
        metrics[f"{name}_mean"] = pairs.mean().item() if len(pairs) else None
    return metrics | {"steps": result.steps[row], "stop": result.stop[row]}
