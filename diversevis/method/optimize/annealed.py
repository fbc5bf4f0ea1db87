"""Adam on the sphere of images of one norm, with a step that falls to zero: for constraints.

The sphere optimizer (sphere.py) divides an image's gradient by its norm, so that an image whose
error is within its tolerance moves as far as any other, and leaves it. Adam's moments (Kingma & Ba
2015) remember the gradient's size. Ours: the way along the sphere, the cosine, the guidance.
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

GUIDED = 0.6  # share of the steps with an emphasis on distances (ours)


@dataclass(frozen=True, kw_only=True)
class Annealed:
    """Steps of about the same size for every pixel, in parts of the image's contrast."""

    kind: Literal["annealed"]
    learning_rate: float  # of the first step, in RMS contrasts of an image
    beta1: float  # decay rates of the moments
    beta2: float
    steps: int
    search_steps: int  # the same for the search of a unit's best response, image by image
    emphasis: float  # factor on the diversity weight at the beginning, as in `Sphere`
    softness: float  # of the smallest distance's gradient, as in `Sphere`

    def __post_init__(self) -> None:
        names = "learning_rate", "steps", "search_steps"
        check_positive({f"optimizer.{name}": getattr(self, name) for name in names})
        check_share({"optimizer.beta1": self.beta1, "optimizer.beta2": self.beta2})
        check_at_least(0, {"optimizer.softness": self.softness})
        check_at_least(1, {"optimizer.emphasis": self.emphasis})

    at_the_end: ClassVar[str] = "annealed"
    __call__ = descend

    def begin(self, start: Images) -> Tensors:
        return {"first": torch.zeros_like(start), "second": torch.zeros_like(start)}

    def schedule(self, step: int) -> dict[str, float]:
        emphasis, softness = guidance((step - 1) / self.steps, GUIDED, self.emphasis, self.softness)
        pace = self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2
        first, second = 1 - self.beta1**step, 1 - self.beta2**step  # Adam's corrections of moments
        return {"emphasis": emphasis, "softness": softness, "pace": pace, "first": first,
                "second": second}  # fmt: skip

    def finished(self, state: Tensors, now: Numbers, terms: Terms) -> Bool[Tensor, " set"]:
        return torch.zeros_like(terms["loss"], dtype=torch.bool)

    def move(
        self, problem: Problem, state: Tensors, now: Numbers, raw: Images, images: Images,
        gradient: Images,
    ) -> Images:  # fmt: skip
        direction = problem.precondition(tangent(images, gradient * sizes(images)))
        direction = tangent(images, direction)
        state["first"] = torch.lerp(direction, state["first"], self.beta1)
        state["second"] = torch.lerp(direction.square(), state["second"], self.beta2)
        first = state["first"] / now["first"]
        second = (state["second"] / now["second"]).sqrt()
        contrast = sizes(images) / math.sqrt(images[0, 0].numel())
        tiny = torch.finfo(second.dtype).tiny
        return problem.render(images - now["pace"] * contrast * first / second.clamp(min=tiny))
