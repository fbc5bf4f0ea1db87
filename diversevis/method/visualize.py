"""The method: diverse images of a batch of units (Cadena et al. 2018).

    noise -> search for the best response -> scales -> optimize together -> score

`visualize` calls these five steps in order, and they stand below it in the same order
(docs/method.md, sections 1 to 5 and 9). What is rewarded stands in objective.py, how images move in
optimize/, what a unit answers in response.py. A row is an index into the setup's targets.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diversevis.method import images
from diversevis.method.alone import live_noise, optimize_alone, problem_of
from diversevis.method.anchors import (
    AIM,
    anchors,
    beside_references,
    respond_to_references,
    with_errors,
)
from diversevis.method.device import precision
from diversevis.method.objective import Objective, Terms, pairwise_distances
from diversevis.method.optimize.descend import Result
from diversevis.method.optimize.loop import Listener, Number, PhaseCheckpoints, StepProgress
from diversevis.method.prior import costs_of, measure_costs, prior_weight
from diversevis.method.response import Responses, respond
from diversevis.method.result import Visualization, at_knee, dead_units, unit_result
from diversevis.method.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The units at `rows` of the setup's targets, and who is informed about them."""

    setup: Setup
    rows: Sequence[int]
    progress: StepProgress | None
    listener: Listener | None
    checkpoints: PhaseCheckpoints | None


class Noise(NamedTuple):
    """Start images of the live units, all with a gradient; and the dead units, which have none."""

    rows: Int[Tensor, " unit"]
    search: Float[Tensor, "unit restart color height width"]
    together: Float[Tensor, "unit image color height width"]
    dead: list[Visualization]


class Scales(NamedTuple):
    """What responses and distances are divided by in the objective."""

    response: Float[Tensor, " unit"]
    distance: Float[Tensor, " unit"]


def visualize(
    setup: Setup,
    rows: Sequence[int],
    *,
    progress: StepProgress | None = None,
    listener: Listener | None = None,
    checkpoint: PhaseCheckpoints | None = None,
) -> list[Visualization]:
    """Diverse images of the units at `rows` of `setup.targets`, computed side by side.

    The result of a unit does not depend on the other units but for rounding.

    listener    called after every step of the diverse optimization, with indices into `rows`
    checkpoint  stores the state between steps, and may hold a state to continue from

    Raises `KeyboardInterrupt` if Ctrl-C comes before there are images (later it ends with these),
    `Stopped` where the system asked this process to end.
    """
    began = time.perf_counter()
    batch = Batch(
        setup=setup, rows=rows, progress=progress, listener=listener, checkpoints=checkpoint
    )
    with precision(setup.experiment.precision, setup.experiment.algorithms):
        noise = draw_noise(batch)
        results = noise.dead
        if len(noise.rows):
            best = search_best(batch, noise)
            scales = measure_scales(batch, noise, best)
            optimized = optimize_together(batch, noise, best, scales)
            results = results + score(batch, noise, best, scales, optimized)
    seconds = checkpoint.seconds if checkpoint else time.perf_counter() - began
    return _in_order(batch, results, seconds)


def draw_noise(batch: Batch) -> Noise:
    """Step 1: noise images, drawn again where the response has no gradient."""
    setup, experiment = batch.setup, batch.setup.experiment
    restarts, n = experiment.objective.restarts, experiment.n
    search, alive_in_search = live_noise(setup, batch.rows, "search", restarts)
    together, alive_together = live_noise(setup, batch.rows, "diverse", n)
    alive = (alive_in_search & alive_together).to(setup.device)  # [unit]
    rows = torch.tensor(list(batch.rows), device=setup.device)
    return Noise(
        rows=rows[alive],
        search=search[alive],
        together=together[alive],
        dead=dead_units(setup, rows[~alive], together[~alive]),
    )


def search_best(batch: Batch, noise: Noise) -> Responses:
    """Step 2: the best of several images, all optimized alone for the response, [unit, 1].

    Of metamers nothing is searched for: the best image is the photograph itself.
    """
    setup, checkpoints, progress = batch.setup, batch.checkpoints, batch.progress
    if progress:
        progress.begin("search")
    if checkpoints and (remembered := checkpoints.recall()) is not None:
        return Responses(**remembered)
    if setup.targets.references is not None:
        best = respond_to_references(setup, noise.rows)
    else:
        steps = setup.experiment.optimizer.search_steps
        tell = progress.step if progress else None
        checkpoint = checkpoints.of("search") if checkpoints else None
        start = noise.search
        final = optimize_alone(setup, noise.rows, start, steps, tell, checkpoint, only_best=True)
        index = final.scaled.argmax(1)  # of [unit, restart]
        units = torch.arange(len(index), device=index.device)
        best = Responses(*(values[units, index][:, None] for values in final))
    if checkpoints:
        checkpoints.remember(best._asdict())
    return best


def measure_scales(batch: Batch, noise: Noise, best: Responses) -> Scales:
    """Step 3: the size of the best response, and the mean distance between noise images, [unit].

    They make the diversity weight mean the same for every unit (docs/method.md, section 4).
    """
    setup, settings = batch.setup, batch.setup.experiment.objective
    ones = torch.ones(len(noise.rows), device=setup.device)
    if settings.scale != "best":
        return Scales(ones, ones)
    if settings.response == "match":  # relative errors
        response_scale = ones
    elif settings.response == "mse":  # its best is 0; a silent layer would reach -mean(target^2)
        response_scale = setup.targets.vectors[noise.rows].square().mean(1)
    else:
        # Below 0 for a unit that no image drives past its ReLU: only the size serves as a scale.
        response_scale = best.scaled[:, 0].abs()
        response_scale = torch.where(response_scale > 0, response_scale, ones)
    fixed = anchors(setup, best)
    if fixed.shape[1] + noise.together.shape[1] == 1:  # a single image has no distance
        return Scales(response_scale, ones)
    with torch.no_grad(), precision("float32"):
        features = respond(setup, images.render(noise.together, setup.norm), noise.rows).features
        features = torch.cat([fixed, features], dim=1)
        means = [pairwise_distances(f[None], settings.metric).mean() for f in features]
        distances = torch.stack(means).float()
    return Scales(response_scale, torch.where(distances > 0, distances, ones))


def optimize_together(batch: Batch, noise: Noise, best: Responses, scales: Scales) -> Result:
    """Step 4: all images of a unit together; all units and diversity weights side by side."""
    setup, checkpoints = batch.setup, batch.checkpoints
    objective = _objective(setup, best, scales)  # [unit * weight]
    begun = beside_references(setup, noise.rows, noise.together)
    rows, start, fixed = _per_weight(setup, noise.rows, begun, anchors(setup, best))

    def evaluate(x: Tensor, index: Tensor, *, emphasis: Number, softness: Number) -> Terms:
        seen = respond(setup, x, rows[index])
        features = seen.features
        if fixed.shape[1]:
            features = torch.cat([fixed[index], features], dim=1)
        costs = costs_of(setup, setup.prior, x) if setup.prior else None
        terms = objective.of(index)(seen.scaled, features, emphasis, softness, costs)
        return {"response_mean": seen.responses.mean(1)} | terms

    if batch.progress:
        batch.progress.begin("diverse")
    checkpoint = checkpoints.of("diverse") if checkpoints else None
    optimizer = setup.experiment.optimizer
    problem = problem_of(setup, evaluate, stiff=prior_weight(setup) > 0)
    return optimizer(problem, start, _listener(batch, rows), checkpoint)


def score(
    batch: Batch, noise: Noise, best: Responses, scales: Scales, optimized: Result
) -> list[Visualization]:
    """Step 5: responses and distances of the final images, and the front's knee for every unit.

    Computed in plain float32, whatever the precision of the steps before.
    """
    setup, weights = batch.setup, batch.setup.experiment.objective.weights
    fixed, size = anchors(setup, best), len(weights)
    repeated = _per_weight(setup, noise.rows, best.responses[:, 0], scales.response, fixed)
    with torch.no_grad(), precision("float32"):
        final = respond(setup, optimized.images, repeated[0])
    final = Responses(*(values.cpu() for values in final))
    costs = measure_costs(
        setup, repeated[0], optimized.images, _per_weight(setup, noise.together, best.images)
    )
    rows, best_responses, response_scales, fixed = (values.cpu() for values in repeated)
    results = []  # [unit * weight]
    for i, row in enumerate(rows.tolist()):
        result = unit_result(setup, row, i, final, optimized, best_responses[i], response_scales[i])
        if setup.targets.references is not None:
            result = with_errors(setup, result, row, final.features[i], fixed[i])
        if costs is not None:
            scale = {"prior_response_scale": response_scales[i].item()}
            result = replace(result, metrics=result.metrics | costs[i] | scale)
        results.append(result)
    return [at_knee(results[i : i + size], weights) for i in range(0, len(results), size)]


def _objective(setup: Setup, best: Responses, scales: Scales) -> Objective:
    """The objective of every unit at every diversity weight, [unit * weight]."""
    settings = setup.experiment.objective
    best_scaled, response_scale, distance_scale = _per_weight(setup, best.scaled[:, 0], *scales)
    weights = torch.tensor(settings.weights, device=setup.device)
    enough = None
    if settings.response == "match" and settings.tolerance is not None:
        enough = torch.full_like(response_scale, -AIM * settings.tolerance)
    if settings.fraction is not None:
        # Not fraction * best, so that a best response below 0 has its threshold below it as well.
        enough = best_scaled - (1 - settings.fraction) * response_scale
    return Objective(
        diversity=weights.repeat(len(best.images)),
        response_scale=response_scale,
        distance_scale=distance_scale,
        enough=enough,
        metric=settings.metric,
        prior=prior_weight(setup),
    )


def _per_weight(setup: Setup, *values: Tensor) -> list[Tensor]:
    """[unit, ...] -> [unit * weight, ...]: every unit once per diversity weight of the front."""
    weights = setup.experiment.objective.weights
    return [value.repeat_interleave(len(weights), dim=0) for value in values]


def _listener(batch: Batch, rows: Int[Tensor, " set"]) -> Listener:
    """Informs listener and progress of every step; the listener by index into `batch.rows`."""
    positions = [batch.rows.index(row) for row in rows.tolist()]

    def tell(step: int, index: Sequence[int], x: Tensor, terms: Terms) -> None:
        if batch.listener:
            batch.listener(step, [positions[i] for i in index], x, terms)
        if batch.progress:
            batch.progress.step(step, index, x, terms)

    return tell


def _in_order(
    batch: Batch, results: Sequence[Visualization], seconds: float
) -> list[Visualization]:
    """The results in the order of `batch.rows`, with the seconds that a unit took on average."""
    by_unit = {result.unit: result for result in results}
    of_unit = {"seconds": round(seconds / len(batch.rows), 3)}
    ordered = [by_unit[batch.setup.targets.units[row]] for row in batch.rows]
    return [replace(result, metrics=result.metrics | of_unit) for result in ordered]
