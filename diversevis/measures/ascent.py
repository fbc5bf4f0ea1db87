"""Steps along a gradient, for textures, single images and masks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.measures.stimuli import at_norm

MOMENTUM = 0.8
FIRST_STEP = 2.0


class Momentum:
    """A step along the mean of the latest directions, relative to the value's norm; a cosine brings
    its length, `first` at the start, to zero. The caller brings the norm back."""

    def __init__(self, first: float = FIRST_STEP) -> None:
        self.first, self.velocity = first, torch.zeros(())

    def __call__(self, value: Tensor, gradient: Tensor, done: float) -> Tensor:
        size, steepness = (
            torch.linalg.vector_norm(x.flatten(1), dim=1)[:, None, None, None]
            for x in (value, gradient)
        )
        # The ratio stays finite: of a unit that responds to nothing, the gradient is 0.
        direction = gradient * (size / steepness.clamp(min=1e-30))
        self.velocity = MOMENTUM * self.velocity - (1 - MOMENTUM) * direction
        pace = self.first * (1 + math.cos(math.pi * done)) / 2
        return value + pace * self.velocity


def ascend(
    respond: Callable[[Tensor], Tensor],
    start: Float[Tensor, "unit image color height width"],
    norm: float,
    steps: int,
    masks: Float[Tensor, "unit 1 1 height width"] | float = 1.0,
) -> Float[Tensor, "unit image color height width"]:
    """Images of norm `norm` after steps along the sphere that raise the responses [unit, image];
    `masks` multiply the gradient."""
    x, move = start, Momentum()
    for step in range(steps):
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(-respond(x).sum(), x)
        x, gradient = x.detach(), gradient * masks
        along = (x * gradient).sum((2, 3, 4), keepdim=True) / norm**2
        tangent = (gradient - along * x).flatten(0, 1)
        x = at_norm(move(x.flatten(0, 1), tangent, step / steps).reshape(x.shape), norm)
    return x


class Adam:
    """Kingma & Ba 2015."""

    def __init__(self, rate: float) -> None:
        self.rate, self.step = rate, 0
        self.first = self.second = torch.zeros(())

    def __call__(self, value: Tensor, gradient: Tensor) -> Tensor:
        beta1, beta2, floor = 0.9, 0.999, 1e-8  # decay rates of the moments, floor of the root
        self.step += 1
        self.first = beta1 * self.first + (1 - beta1) * gradient
        self.second = beta2 * self.second + (1 - beta2) * gradient.square()
        first = self.first / (1 - beta1**self.step)
        second = self.second / (1 - beta2**self.step)
        return value - self.rate * first / (second.sqrt() + floor)
