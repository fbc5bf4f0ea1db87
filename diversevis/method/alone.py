"""Noise in which a response has a gradient, and images optimized alone, for the response only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diversevis.method import images
from diversevis.method.device import precision
from diversevis.method.objective import Terms
from diversevis.method.optimize.loop import Evaluate, Listener, LoopCheckpoint, Number, Problem
from diversevis.method.prior import costs_of, prior_weight
from diversevis.method.response import Responses, noise_of, respond
from diversevis.method.setup import Setup

ROUNDS_OF_NOISE = 10  # draws before a unit without gradient is reported dead
# Share of noise added to a copy of a live image: small enough that the copy is live, large enough
# that the copies do not start as identical images, whose distance has no gradient.
COPY_NOISE = 0.1
# Under a prior, of the frequencies' weights: among 0.5, 1, 1.5 and 2 it came furthest in 54 steps.
STIFF_EXPONENT = 1.5


def live_noise(
    setup: Setup, rows: Sequence[int], purpose: str, count: int
) -> tuple[Float[Tensor, "unit image color height width"], Bool[Tensor, " unit"]]:
    """Noise from all of which the response has a gradient, and which units have such noise."""
    targets = torch.tensor(list(rows), device=setup.device)

    def gradient(raw: Tensor, index: Tensor) -> Tensor:
        x = images.render(raw, setup.norm).requires_grad_(True)
        (gradients,) = torch.autograd.grad(respond(setup, x, targets[index]).scaled.sum(), x)
        return torch.linalg.vector_norm(gradients, dim=(2, 3, 4))

    draws = [noise_of(setup, setup.targets.units[row], purpose, count) for row in rows]
    return live_start(draws, gradient, rounds=ROUNDS_OF_NOISE)


def live_start(
    draws: Sequence[Callable[[], Float[Tensor, "image color height width"]]],
    gradient: Callable[[Tensor, Int[Tensor, " unit"]], Float[Tensor, "unit image"]],
    *,
    rounds: int,
) -> tuple[Float[Tensor, "unit image color height width"], Bool[Tensor, " unit"]]:
    """Return (noise images from all of which the response has a gradient, which units are alive).

    draws     for every unit a function that draws n fresh noise images
    gradient  images of some units, and their index into `draws` -> norm of every image's gradient
    rounds    how often noise is drawn before a unit is given up as dead

    Images without a gradient are replaced by those of later draws, and the last that are still
    missing by copies of live images with a little noise. A dead unit keeps its first noise.
    """
    noise = [draw() for draw in draws]  # the last of every unit
    start = list(noise)
    n = len(start[0])
    live: list[list[Tensor]] = [[] for _ in draws]
    incomplete = list(range(len(draws)))
    for _ in range(rounds):
        drawn = torch.stack([noise[unit] for unit in incomplete])
        moving = (gradient(drawn, torch.tensor(incomplete, device=drawn.device)) > 0).cpu()
        for unit, has_gradient in zip(incomplete, moving, strict=True):
            live[unit].extend(noise[unit][has_gradient])
        incomplete = [unit for unit in incomplete if len(live[unit]) < n]
        if not incomplete:
            break
        for unit in incomplete:
            noise[unit] = draws[unit]()
    for unit, of_unit in enumerate(live):
        if of_unit:
            missing = range(n - len(of_unit))
            copies = [of_unit[i % len(of_unit)] + COPY_NOISE * noise[unit][i] for i in missing]
            start[unit] = torch.stack([*of_unit, *copies][:n])
    return torch.stack(start), torch.tensor([bool(of_unit) for of_unit in live])


def optimize_alone(
    setup: Setup,
    rows: Int[Tensor, " unit"],
    start: Float[Tensor, "unit image color height width"],
    steps: int,
    listener: Listener | None = None,
    checkpoint: LoopCheckpoint | None = None,
    *,
    only_best: bool = False,
    response_scale: Float[Tensor, " unit"] | None = None,
) -> Responses:
    """Images that are all optimized alone, for the response only; raises `KeyboardInterrupt`.

    only_best       whether only the best image of a unit counts: the others stop early
    response_scale  with it, the response over it less the weighted cost under the prior
    """
    row_of_image = rows.repeat_interleave(start.shape[1])  # every image is a set of its own
    prior, weight, scale = None, prior_weight(setup), Tensor()
    if response_scale is not None and weight > 0:
        prior, scale = setup.prior, response_scale.repeat_interleave(start.shape[1])

    def evaluate(x: Tensor, index: Tensor, *, emphasis: Number, softness: Number) -> Terms:
        seen = respond(setup, x, row_of_image[index])
        loss = -seen.scaled[:, 0]
        if prior is not None:
            loss = loss / scale[index] + weight * costs_of(setup, prior, x)[:, 0]
        return {"response_mean": seen.responses[:, 0], "loss": loss, "descent": loss}

    optimizer = replace(setup.experiment.optimizer, steps=steps)
    alone = start.flatten(0, 1)[:, None]  # [unit * image, 1, c, height, width]
    problem = problem_of(setup, evaluate, stiff=prior is not None)
    if only_best:
        problem = replace(problem, rivals=start.shape[1])
    result = optimizer(problem, alone, listener, checkpoint)
    if result.interrupted:
        raise KeyboardInterrupt
    with torch.no_grad(), precision("float32"):
        return respond(setup, result.images.reshape(start.shape), rows)


def problem_of(setup: Setup, evaluate: Evaluate, *, stiff: bool) -> Problem:
    """What is optimized; stiff: whether a prior is a part of it."""
    kind = setup.experiment.precondition
    return Problem(
        evaluate=evaluate,
        render=lambda raw: images.render(raw, setup.norm),
        precondition=lambda gradient: images.precondition(gradient, kind),
        precondition_stiff=(
            (lambda gradient: images.precondition(gradient, kind, STIFF_EXPONENT))
            if stiff
            else None
        ),
        # More images go through the network in parts, whose second pass cannot be recorded.
        recorded=setup.batch if setup.experiment.cuda_graphs else 0,
    )


def images_alone(
    setup: Setup, rows: Sequence[int], response_scales: Sequence[float | None]
) -> list[tuple[Float[Tensor, "image color height width"], Float[Tensor, " image"]] | None]:
    """Control for the gain by optimizing together: (images, responses) of the units at `rows`.

    n images of every unit, from noise of their own, with as many steps as the diverse images have.
    None for a dead unit. Under a prior they are optimized with it, as the diverse images are; the
    spectrum is then that of every image instead of their mean.

    response_scales  of the units, where a prior was weighed against their responses
    """
    results: list[tuple[Tensor, Tensor] | None] = [None] * len(rows)
    with precision(setup.experiment.precision, setup.experiment.algorithms):
        start, alive = live_noise(setup, rows, "alone", setup.experiment.n)
        live = alive.nonzero()[:, 0].tolist()
        if live:
            live_rows = torch.tensor([rows[i] for i in live], device=setup.device)
            steps = setup.experiment.optimizer.steps
            scales = torch.tensor([response_scales[i] or 1.0 for i in live], device=setup.device)
            final = optimize_alone(setup, live_rows, start[live], steps, response_scale=scales)
            for i, x, responses in zip(live, final.images, final.responses, strict=True):
                results[i] = x.cpu(), responses.cpu()
    return results
