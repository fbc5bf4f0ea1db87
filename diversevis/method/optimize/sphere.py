"""Gradient ascent with momentum on the sphere of images of one norm.

Journée, Nesterov, Richtárik & Sepulchre 2010 (generalized power method), Absil, Mahony & Sepulchre
2008 (projection, retraction).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diversevis.method.optimize.loop import (
    Images,
    Keep,
    Listener,
    Problem,
    Result,
    Terms,
    descend,
    sizes,
    tangent,
)

GUIDED = 0.6  # of the steps: as long does the emphasis on distances last


@dataclass(frozen=True, kw_only=True)
class Sphere:
    """Momentum along the sphere, with a step that a cosine brings to zero.

    A response is piecewise linear in the image, so that within a piece the best image of fixed norm
    is the gradient itself, and the way there is the gradient's part along the sphere in units of
    the whole gradient: 0 where nothing is left to gain. The part along the sphere is taken first
    and preconditioned afterwards, so that images come to rest where the objective does. (Published:
    the other way round, which comes to rest up to a few percent lower.)

    learning_rate  of the first step
    momentum       decay rate of the mean of the directions followed
    steps          so many, unless a unit comes to rest before
    search_steps   the same for the search of a unit's best response, image by image
    tolerance      a unit is at rest when a step at the first learning rate would turn its images by
                   less than this, in radians
    emphasis       how many times over the distances' weight counts at the beginning, falling to 1
                   at 60 % of the steps
    softness       of the smallest distance's gradient at the beginning, falling to 0 at the end:
                   pairs this much (of the mean distance) above the closest one move apart with it
    """

    kind: Literal["sphere"]
    learning_rate: float
    momentum: float
    steps: int
    search_steps: int
    tolerance: float
    emphasis: float
    softness: float

    def __call__(
        self,
        problem: Problem,
        start: Images,
        listener: Listener | None = None,
        keep: Keep | None = None,
    ) -> Result:
        """Minimise `loss` of every unit from `start`; Ctrl-C ends with what there is."""
        return descend(problem, start, _Moves(self, problem, start), self.steps, listener, keep)


class _Moves:
    at_the_end = "annealed"

    def __init__(self, settings: Sphere, problem: Problem, start: Images) -> None:
        self.settings, self.problem = settings, problem
        self.state: dict[str, Tensor] = {
            "velocity": torch.zeros_like(start),
            "turn": torch.full((len(start),), torch.inf, device=start.device),
        }

    def guidance(self, step: int) -> tuple[float, float]:
        settings, done = self.settings, (step - 1) / self.settings.steps
        extra = (settings.emphasis - 1) * max(0.0, 1 - done / GUIDED)
        return 1 + extra, settings.softness * (1 - done)

    def move(self, step: int, raw: Images, images: Images, gradient: Images) -> Images:
        settings, state = self.settings, self.state
        tiny = torch.finfo(gradient.dtype).tiny
        norm = sizes(images)
        gradient = gradient / sizes(gradient).clamp(min=tiny)  # an image may have none for a while
        direction = self.problem.precondition(tangent(images, gradient))
        direction = norm * tangent(images, direction)
        velocity = settings.momentum * tangent(images, state["velocity"])
        state["velocity"] = velocity - (1 - settings.momentum) * direction
        pace = settings.learning_rate * (1 + math.cos(math.pi * step / settings.steps)) / 2
        moved = images + pace * state["velocity"]
        turns = settings.learning_rate * sizes(state["velocity"]) / norm
        state["turn"] = turns.flatten(1).amax(1)
        return self.problem.render(moved)

    def finished(self, step: int, terms: Terms) -> Tensor:
        guided = "diversity" in terms and self.guidance(step)[0] > 1
        at_rest = self.state["turn"] < self.settings.tolerance
        return at_rest & (not guided)
