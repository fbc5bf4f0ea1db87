"""Adam with the published stopping rule (docs/method.md, sections 3 and 5)."""

from __future__ import annotations

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
    sizes,
    tangent,
)


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma & Ba 2015) as published, on parameters whose direction is the image.

    The gradient is preconditioned first and brought to the parameters afterwards, as published:
    at rest the preconditioned gradient, not the gradient itself, is along the image.
    """

    kind: Literal["adam"]
    learning_rate: float  # in units of the raw parameters' standard deviation
    beta1: float  # decay rates of the moments
    beta2: float
    epsilon: float  # floor of the denominator
    steps: int  # at most
    search_steps: int  # the same for the search of a unit's best response, image by image
    patience: int  # stop when the smoothed loss has not improved for this number of steps
    smoothing: float  # decay rate of the exponential moving average of the loss

    def __post_init__(self) -> None:
        names = "learning_rate", "steps", "search_steps", "patience"
        check_positive({f"optimizer.{name}": getattr(self, name) for name in names})
        rates = "beta1", "beta2", "smoothing"
        check_share({f"optimizer.{name}": getattr(self, name) for name in rates})
        check_at_least(0, {"optimizer.epsilon": self.epsilon})

    at_the_end: ClassVar[str] = "max_steps"
    __call__ = descend

    def begin(self, start: Images) -> Tensors:
        infinite = torch.full((len(start),), torch.inf, device=start.device)
        return {
            "first": torch.zeros_like(start),
            "second": torch.zeros_like(start),
            "average": torch.full_like(infinite, torch.nan),
            "best_average": infinite,
            "improved_at": torch.zeros_like(infinite, dtype=torch.long),
        }

    def schedule(self, step: int) -> dict[str, float]:
        first, second = 1 - self.beta1**step, 1 - self.beta2**step  # corrections of the moments
        # The objective itself is followed, as published.
        return {"emphasis": 1.0, "softness": 0.0, "first": first, "second": second}

    def finished(self, state: Tensors, now: Numbers, terms: Terms) -> Bool[Tensor, " set"]:
        loss, before = terms["loss"], state["average"]
        average = torch.where(before.isnan(), loss, torch.lerp(loss, before, self.smoothing))
        improved = average < state["best_average"]
        state["average"] = average
        state["best_average"] = torch.where(improved, average, state["best_average"])
        state["improved_at"] = torch.where(improved, now["step"], state["improved_at"])
        return now["step"] - state["improved_at"] >= self.patience

    def move(
        self, problem: Problem, state: Tensors, now: Numbers, raw: Images, images: Images,
        gradient: Images,
    ) -> Images:  # fmt: skip
        gradient = tangent(images, problem.precondition(gradient))
        gradient = gradient * (sizes(images) / sizes(raw))  # through `render` to the parameters
        state["first"] = torch.lerp(gradient, state["first"], self.beta1)
        state["second"] = torch.lerp(gradient.square(), state["second"], self.beta2)
        first = state["first"] / now["first"]
        second = state["second"] / now["second"]
        return raw - self.learning_rate * first / (second.sqrt() + self.epsilon)
