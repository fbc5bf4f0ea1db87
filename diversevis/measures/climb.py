"""Textures that climb: from noise to a high mean response, then up what a `CropModel` predicts.

docs/method.md, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diversevis.measures.ascent import Momentum
from diversevis.measures.crop_model import CropModel

# Measured on conv2_2 of VGG-19 (docs/measures.md).
SHARE = 0.1  # of all crops, that is shown in a step
FIRST_STEPS = 16  # from noise, for the mean response to the crops shown in a step alone
INNER = 8  # steps up the predictions after every look at the network
PACE = 0.05  # of the first of these, relative to the texture's norm; falls to 0
CARRIED = 0.5  # share of a step's way that is gone again before the next look; falls to 0
LEFT = 0.04  # share of the softness that is left at the end


# Changes a model's masks; returns the textures at the norm that belongs to these. Arguments: the
# model, its textures, the share of the steps that is done, and the softness of the minimum.
Learner = Callable[[CropModel, Tensor, float, float], Tensor]


@dataclass(frozen=True, kw_only=True)
class Climb:
    """How textures climb `(1-w) mean(a) + w min(a)` over the responses a to all crops.

    fresh     crops shown in a step
    steps     number of looks at the network
    minimum   w
    softness  of the minimum at first, in units of mean minus smallest response
    """

    fresh: int
    steps: int
    minimum: float
    softness: float

    def begin(
        self, model: CropModel, texture: Tensor, generator: torch.Generator
    ) -> Float[Tensor, "unit color rows columns"]:
        """Textures of high mean response, from noise."""
        move, norm = Momentum(), _norm(model.whitened(texture))
        steps = min(FIRST_STEPS, self.steps)
        for step, corners in zip(range(steps), self._corners(model, generator), strict=False):
            x = model.whitened(texture)
            gradient = model.slope_of_mean(texture, corners)
            moved = move(_as_images(x), -_as_images(gradient), 2 / 3 * step / steps).flatten(1)
            texture = model.texture(moved * (norm / _norm(moved)))
        return texture

    def __call__(
        self,
        model: CropModel,
        texture: Float[Tensor, "unit color rows columns"],
        generator: torch.Generator,
        learn: Learner | None = None,
    ) -> Float[Tensor, "unit color rows columns"]:
        """The textures after all steps; `learn` changes the masks after each."""
        x = last = model.whitened(texture)
        for step, corners in zip(range(self.steps), self._corners(model, generator), strict=False):
            texture, done = model.texture(x), step / self.steps
            model.show(texture, corners)
            if learn is not None:
                texture = learn(model, texture, done, self._softness(done))
                x = last = model.whitened(texture)
            inner = [(step + part / INNER) / self.steps for part in range(INNER)]
            paces = [PACE * _falling(at) for at in inner]
            new = model.climb(x, paces, [self._softness(at) for at in inner], self.minimum)
            x, last = new + CARRIED * _falling(done) * (new - last), new
            x = x * (_norm(new) / _norm(x))
        return model.texture(last)

    def _softness(self, done: float) -> float:
        return self.softness * (1 - (1 - LEFT) * done)

    def _corners(
        self, model: CropModel, generator: torch.Generator
    ) -> Iterator[Int[Tensor, "crop 2"]]:
        """Crops of the next step: all in turn, in random order."""
        corners = model.crops.corners
        count, at = len(corners), 0
        order = corners[torch.randperm(count, generator=generator)]
        fresh = min(self.fresh, model.most)
        while True:
            yield order[(at + torch.arange(fresh)) % count]
            at += fresh


def _falling(done: float) -> float:
    """From 1 to 0 along a half cosine."""
    return (1 + math.cos(math.pi * done)) / 2


def _norm(x: Float[Tensor, "unit pixel"]) -> Float[Tensor, "unit 1"]:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


def _as_images(x: Float[Tensor, "unit pixel"]) -> Float[Tensor, "unit pixel 1 1"]:
    return x[:, :, None, None]
