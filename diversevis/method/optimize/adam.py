"""Adam with the published stopping rule (METHOD.md sections 3 and 5)."""

from __future__ import annotations

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


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam as published (Kingma & Ba 2015), on parameters whose direction is the image.

    The gradient is preconditioned first and brought to the parameters afterwards, as published:
    at rest the preconditioned gradient, not the gradient itself, is along the image.

    learning_rate  step size in units of the raw parameters' standard deviation
    beta1, beta2, epsilon  decay rates of the moments, floor of the denominator
    steps          at most so many
    search_steps   the same for the search of a unit's best response, image by image
    patience       stop when the smoothed loss has not improved for so many steps
    smoothing      decay rate of the exponential moving average of the loss
    """

    kind: Literal["adam"]
    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    steps: int
    search_steps: int
    patience: int
    smoothing: float

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
    at_the_end = "max_steps"

    def __init__(self, settings: Adam, problem: Problem, start: Images) -> None:
        self.settings, self.problem = settings, problem
        none = torch.full((len(start),), torch.inf, device=start.device)
        self.state: dict[str, Tensor] = {
            "first": torch.zeros_like(start),
            "second": torch.zeros_like(start),
            "average": torch.full_like(none, torch.nan),
            "best_average": none,
            "improved_at": torch.zeros_like(none, dtype=torch.long),
        }

    def guidance(self, step: int) -> tuple[float, float]:
        return 1.0, 0.0

    def move(self, step: int, raw: Images, images: Images, gradient: Images) -> Images:
        settings, state = self.settings, self.state
        gradient = tangent(images, self.problem.precondition(gradient))
        gradient = gradient * (sizes(images) / sizes(raw))
        state["first"] = torch.lerp(gradient, state["first"], settings.beta1)
        state["second"] = torch.lerp(gradient.square(), state["second"], settings.beta2)
        first = state["first"] / (1 - settings.beta1**step)
        second = state["second"] / (1 - settings.beta2**step)
        return raw - settings.learning_rate * first / (second.sqrt() + settings.epsilon)

    def finished(self, step: int, terms: Terms) -> Tensor:
        state, loss = self.state, terms["loss"]
        average = torch.lerp(loss, state["average"], self.settings.smoothing)
        state["average"] = torch.where(state["average"].isnan(), loss, average)
        improved = state["average"] < state["best_average"]
        state["best_average"] = torch.where(improved, state["average"], state["best_average"])
        state["improved_at"] = torch.where(improved, step, state["improved_at"])
        return step - state["improved_at"] >= self.settings.patience
