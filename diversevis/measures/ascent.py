"""Steps along a gradient, for textures, single images and masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOMENTUM = 0.8  # as of the images' steps (optimizer=sphere)
FIRST_STEP = 2.0  # likewise


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


class Adam:
    """Kingma & Ba 2015."""

    def __init__(self, rate: float) -> None:
        self.rate, self.step = rate, 0
        self.first = self.second = torch.zeros(())

    def __call__(self, value: Tensor, gradient: Tensor, done: float) -> Tensor:
        beta1, beta2, floor = 0.9, 0.999, 1e-8  # decay rates of the moments, floor of the root
        self.step += 1
        self.first = beta1 * self.first + (1 - beta1) * gradient
        self.second = beta2 * self.second + (1 - beta2) * gradient.square()
        first = self.first / (1 - beta1**self.step)
        second = self.second / (1 - beta2**self.step)
        return value - self.rate * first / (second.sqrt() + floor)
