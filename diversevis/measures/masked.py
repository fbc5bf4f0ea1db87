"""The best single image of a unit, seen through a soft mask; docs/method.md, section 6."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.measures.stimuli import at_norm
from diversevis.measures.subject import RespondOwn

# Arguments: count and (rows, columns); standard normal images [unit, count, 3, rows, columns].
Noise = Callable[[int, tuple[int, int]], Tensor]

MOMENTUM = 0.8  # of textures' and masked images' steps, as of the images' (optimizer=sphere)
FIRST_STEP = 2.0  # likewise
STEPS = 60
STARTS = 3  # from noise, beside the unit's best image


class Momentum:
    """A step along the mean of the latest directions, relative to the value's norm; a cosine brings
    its length to zero. The caller brings the norm back."""

    def __init__(self) -> None:
        self.velocity: Tensor | float = 0.0

    def __call__(self, value: Tensor, gradient: Tensor, done: float) -> Tensor:
        tiny = torch.finfo(gradient.dtype).tiny
        size, steepness = (
            torch.linalg.vector_norm(x.flatten(1), dim=1)[:, None, None, None]
            for x in (value, gradient)
        )
        direction = gradient * (size / steepness.clamp(min=tiny))
        self.velocity = MOMENTUM * self.velocity - (1 - MOMENTUM) * direction
        pace = FIRST_STEP * (1 + math.cos(math.pi * done)) / 2
        return value + pace * self.velocity


def search_masked(
    respond: RespondOwn,
    masks: Float[Tensor, "unit height width"],
    best: Float[Tensor, "unit 3 height width"],
    crop: Float[Tensor, "unit 3 height width"],
    noise: Noise,
    norm: float,
) -> tuple[Float[Tensor, "unit 3 height width"], Float[Tensor, " unit"]]:
    """Best single image under each unit's mask, at norm `norm`, and its response.

    The mask multiplies the gradient: an image stops changing where it is parallel to the masked
    gradient, that is where it is what the unit wants, seen through the mask. (A mask on the image
    alone would cost nothing: a larger image could make up for what it takes away.) The texture's
    best crop, brought to the norm, is such an image too, and is taken if it is better.
    """
    size = masks.shape[1], masks.shape[2]
    masks = masks[:, None, None]
    x = at_norm(torch.cat([best[:, None], noise(STARTS, size)], dim=1) * masks, norm)
    move, starts = Momentum(), x.shape[1]
    for step in range(STEPS):
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(-respond(x).sum(), x)
        x, gradient = x.detach(), gradient * masks
        along = (x * gradient).sum((2, 3, 4), keepdim=True) / norm**2
        moved = move(x.flatten(0, 1), (gradient - along * x).flatten(0, 1), step / STEPS)
        x = at_norm(torch.unflatten(moved, 0, (-1, starts)), norm)
    x = torch.cat([x, at_norm(crop[:, None], norm)], dim=1)
    with torch.no_grad():
        responses = respond(x)
    first = responses.argmax(1)
    rows = torch.arange(len(x), device=x.device)
    return x[rows, first], responses[rows, first]
