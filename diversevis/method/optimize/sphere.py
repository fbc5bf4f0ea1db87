"""Accelerated gradient ascent on the sphere of images of one norm.

Nesterov 1983 (acceleration), Journée, Nesterov, Richtárik & Sepulchre 2010 (generalized power
method), Absil, Mahony & Sepulchre 2008 (projection, retraction).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from diversevis.method.checks import check_at_least, check_positive, check_share
from diversevis.method.optimize.descend import descend
from diversevis.method.optimize.loop import (
    Images,
    Numbers,
    Problem,
    Tensors,
    Terms,
    guidance,
    sizes,
    tangent,
)

# Share of the steps with an emphasis on distances (ours); the others follow the objective itself.
GUIDED = 0.8
LEAST = 1e-30  # norm of a gradient
# Of the learning rate, under a prior: its gradient is measured after it is weighted, since noise
# of high frequency would be most of it before (ours: 54 steps then come as far as 150 of Adam).
STIFF = 0.22


@dataclass(frozen=True, kw_only=True)
class Sphere:
    """Nesterov's momentum along the sphere, with a step that falls to zero along a half cosine.

    A response is piecewise linear in the image, so that within a piece the best image of fixed norm
    is the gradient itself, and the way there is the gradient's tangential part in units of the
    gradient: 0 where nothing is left to gain. The tangential part is taken first and preconditioned
    afterwards, so that images come to rest where the objective does. (We depart here from the
    paper, which preconditions first and comes to rest up to a few percent lower.)
    """

    kind: Literal["sphere"]
    learning_rate: float  # of the first step
    momentum: float  # decay rate of the mean of the directions followed
    steps: int  # unless a unit comes to rest before
    search_steps: int  # the same for the search of a unit's best response, image by image
    # A unit is at rest when a step at the first learning rate would turn its images by less than
    # this, in radians.
    tolerance: float
    # Factor on the diversity weight at the beginning, falling to 1 at 80 % of the steps
    # (`GUIDED`), fast at first.
    emphasis: float
    # Of the smallest distance's gradient at the beginning, falling to 0 at the end: pairs at about
    # this much (of the mean distance) above the smallest are driven apart as well.
    softness: float

    def __post_init__(self) -> None:
        names = "learning_rate", "steps", "search_steps", "tolerance"
        check_positive({f"optimizer.{name}": getattr(self, name) for name in names})
        check_share({"optimizer.momentum": self.momentum})
        check_at_least(0, {"optimizer.softness": self.softness})
        check_at_least(1, {"optimizer.emphasis": self.emphasis})

    at_the_end: ClassVar[str] = "annealed"
    __call__ = descend

    def begin(self, start: Images) -> Tensors:
        infinite = torch.full((len(start),), torch.inf, device=start.device)
        return {"velocity": torch.zeros_like(start), "turn": infinite}

    def schedule(self, step: int) -> dict[str, float]:
        done = (step - 1) / self.steps
        emphasis, softness = guidance(done, GUIDED, self.emphasis, self.softness, power=2)
        pace = self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2
        guided = float(emphasis > 1)
        return {"emphasis": emphasis, "softness": softness, "guided": guided, "pace": pace}

    def finished(self, state: Tensors, now: Numbers, terms: Terms) -> Bool[Tensor, " set"]:
        # As long as distances are emphasised, and a prior is not yet at its weight, images at rest
        # may still move under the objective.
        at_rest = state["turn"] < self.tolerance
        return at_rest & (now["guided"] == 0) if {"diversity", "prior"} & {*terms} else at_rest

    def move(
        self, problem: Problem, state: Tensors, now: Numbers, raw: Images, images: Images,
        gradient: Images,
    ) -> Images:  # fmt: skip
        norm = sizes(images)
        along = tangent(images, gradient)
        if problem.precondition_stiff is None:
            direction, size = problem.precondition(along), sizes(gradient)
        else:
            direction = problem.precondition_stiff(along)
            size = sizes(direction) / STIFF
        # Finite for an image without gradient, whose direction is then 0.
        scale = (1 - self.momentum) * norm / size.clamp(min=LEAST)
        push = tangent(images, scale * direction)
        velocity = torch.add(-push, tangent(images, state["velocity"]), alpha=self.momentum)
        state["velocity"] = velocity
        moved = images + now["pace"] * torch.add(-push, velocity, alpha=self.momentum)
        turns = self.learning_rate * sizes(velocity) / norm
        state["turn"] = turns.flatten(1).amax(1)
        return problem.render(moved)
