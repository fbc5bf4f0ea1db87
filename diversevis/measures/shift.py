"""Shift invariance: one texture of which every crop, seen through a soft mask, drives the unit.

METHOD.md section 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from diversevis.measures.stimuli import SIGMA, soft_mask

# images [unit, image, 3, h, w] -> responses of every unit to its own, [unit, image]; differentiable
RespondOwn = Callable[[Tensor], Tensor]

MOMENTUM = 0.8  # of textures' and masked images' moves, as of the images' (optimizer=sphere)
FIRST_STEP = 2.0  # likewise
ALL_CROPS_UP_TO = 64  # pixels of receptive field; for larger ones every step draws some of them
SOME_CROPS = 1024
SINGLE_STEPS = 60  # of the search for the best single image under a mask
SINGLE_STARTS = 3  # its starts from noise, beside the unit's best image
LIMITS = (2.0, 1.0, 0.1), (64.0, 64.0, 1.0)  # of a learned mask's p, q, sigma (sides of the image)
ADAM = 0.9, 0.999, 1e-8  # decay rates of the moments, floor of the denominator
MASK_RATE = 0.05  # learning rate of a learned mask's parameters


@dataclass(frozen=True, kw_only=True)
class Texture:
    """What one kind of mask came to, for every unit.

    texture      grey levels; the last row and column are in no crop, and 0
    mask         one per unit; p, q, sigma: its parameters, sigma in sides of the image
    responses    to the crop at every shift
    masked       the best single image under the same mask, and the response to it
    """

    texture: Float[Tensor, "unit 3 rows columns"]
    mask: Float[Tensor, "unit height width"]
    p: Float[Tensor, " unit"]
    q: Float[Tensor, " unit"]
    sigma: Float[Tensor, " unit"]
    responses: Float[Tensor, "unit down right"]
    masked: Float[Tensor, "unit 3 height width"]
    masked_response: Float[Tensor, " unit"]


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The texture test.

    optimizer  `sphere`: momentum along the sphere of textures, the smallest responses sharing the
               minimum's gradient (softness falls to 0); `adam`: as published, learning rate 0.1
    steps      of either (published: 700)
    minimum    w in `(1-w) mean(a) + w min(a)` over the crops
    softness   of the minimum's gradient at the beginning, in units of the distance between mean and
               smallest response
    crops      drawn at random for each step; null: all, unless the receptive field is larger
               than 64 pixels, for which it is 1024. In the end all are looked at.
    """

    optimizer: Literal["sphere", "adam"]
    steps: int
    minimum: float
    softness: float
    crops: int | None

    def __call__(
        self,
        respond: RespondOwn,
        best: Float[Tensor, "unit 3 height width"],
        noise: Callable[[int, tuple[int, int]], Float[Tensor, "unit count 3 rows columns"]],
        norm: float,
        generator: torch.Generator,
        *,
        learned: bool,
    ) -> Texture:
        """The best texture of every unit, all units side by side.

        best       each unit's best image, from which the search under the mask starts
        noise      (count, (rows, columns)) -> standard normal images, drawn for each unit apart
        norm       root-mean-square Euclidean norm of the masked crops
        generator  chooses crops; on the CPU
        learned    also learn the mask (p >= 2, q >= 1, sigma) of each unit
        """
        work = _Work(self, respond, best, norm)
        texture, shape = work.optimize(noise, generator, learned)
        masks = _mask(shape, work.size, best.device)
        with torch.no_grad():
            responses = work.responses(texture, masks)
            crop = work.best_crop(texture, masks, responses)
        masked, masked_response = best_masked(respond, masks, best, crop, noise, norm)
        p, q, sigma = (value.cpu() for value in _parameters(shape))
        return Texture(
            texture=functional.pad(work.scaled(texture, masks), (0, 1, 0, 1)).cpu(),
            mask=masks.cpu(),
            p=p,
            q=q,
            sigma=sigma,
            responses=responses.cpu(),
            masked=masked.cpu(),
            masked_response=masked_response.cpu(),
        )


class _Work:
    """Textures [unit, 3, 2h-2, 2w-2]: what the (h-1)(w-1) crops reach."""

    def __init__(self, settings: Shift, respond: RespondOwn, best: Tensor, norm: float) -> None:
        self.settings, self.respond, self.norm = settings, respond, norm
        self.units, self.device = len(best), best.device
        self.size = best.shape[2], best.shape[3]
        down, right = (torch.arange(side - 1) for side in self.size)
        self.places = torch.cartesian_prod(down, right)

    def optimize(
        self,
        noise: Callable[[int, tuple[int, int]], Tensor],
        generator: torch.Generator,
        learned: bool,
    ) -> tuple[Tensor, Tensor]:
        """Textures of the right scale, and the masks' free parameters [unit, 3]."""
        settings = self.settings
        rows, columns = (2 * side - 2 for side in self.size)
        texture = noise(1, (rows, columns))[:, 0]
        shape = torch.tensor([2.0, 4.0, SIGMA], device=self.device).log().expand(self.units, 3)
        least, most = (torch.tensor(limit, device=self.device).log() for limit in LIMITS)
        masks = _mask(shape, self.size, self.device)
        move = _Momentum() if settings.optimizer == "sphere" else _Adam(0.1)
        move_shape = _Adam(MASK_RATE)
        for step in range(settings.steps):
            done = step / settings.steps
            texture = texture.detach().requires_grad_(True)
            shape = shape.detach().requires_grad_(learned)
            if learned:
                masks = _mask(shape, self.size, self.device)
            chosen = self._chosen(generator)
            responses = self._to_crops(self.scaled(texture, masks), masks, chosen)
            loss = -self._objective(responses, done).sum()
            gradients = torch.autograd.grad(loss, [texture, shape] if learned else [texture])
            texture = move(texture.detach(), gradients[0], done)
            if settings.optimizer == "sphere":
                texture = self.scaled(texture, masks.detach())
            if learned:
                shape = move_shape(shape.detach(), gradients[1], done).clamp(least, most)
        shape = shape.detach()
        return self.scaled(texture.detach(), _mask(shape, self.size, self.device)), shape

    def scaled(self, texture: Tensor, masks: Tensor) -> Tensor:
        """`texture` at the scale at which its masked crops have the RMS norm."""
        weights = masks.square()[:, None]  # how much of each pixel all crops see: a sum over a box
        for axis, side in enumerate(self.size):
            box = [1, 1, 1, 1]
            box[2 + axis] = side - 1
            weights = functional.conv_transpose2d(weights, torch.ones(box, device=self.device))
        mean_square = (weights * texture.square()).sum((1, 2, 3), keepdim=True) / len(self.places)
        return texture * (self.norm / mean_square.sqrt())

    def responses(self, texture: Tensor, masks: Tensor) -> Float[Tensor, "unit down right"]:
        """To the crop at every shift."""
        found = [
            self._to_crops(texture, masks, some) for some in torch.split(self.places, SOME_CROPS)
        ]
        return torch.unflatten(torch.cat(found, dim=1), 1, [side - 1 for side in self.size])

    def best_crop(
        self, texture: Tensor, masks: Tensor, responses: Float[Tensor, "unit down right"]
    ) -> Float[Tensor, "unit 3 height width"]:
        """The masked crop that drives each unit most."""
        height, width = self.size
        places = self.places[responses.flatten(1).argmax(1).cpu()]
        crops = [
            one[:, down : down + height, right : right + width]
            for one, (down, right) in zip(texture, places.tolist(), strict=True)
        ]
        return torch.stack(crops) * masks[:, None]

    def _to_crops(
        self, texture: Tensor, masks: Tensor, places: Int[Tensor, "crop 2"]
    ) -> Float[Tensor, "unit crop"]:
        # Pixels by their numbers: the gradient of overlapping windows would be as large as all.
        (height, width), columns = self.size, texture.shape[3]
        first = places[:, 0] * columns + places[:, 1]
        within = (torch.arange(height)[:, None] * columns + torch.arange(width)).flatten()
        numbers = (first[:, None] + within).flatten().to(texture.device)
        pixels = texture.flatten(2).permute(2, 0, 1).index_select(0, numbers)
        crops = pixels.reshape(len(places), height, width, *texture.shape[:2])
        return self.respond(crops.permute(3, 0, 4, 1, 2) * masks[:, None, None])

    def _chosen(self, generator: torch.Generator) -> Int[Tensor, "crop 2"]:
        """The crops of one step."""
        large = max(self.size) > ALL_CROPS_UP_TO
        count = self.settings.crops or (SOME_CROPS if large else len(self.places))
        if count >= len(self.places):
            return self.places
        return self.places[torch.randperm(len(self.places), generator=generator)[:count]]

    def _objective(self, responses: Float[Tensor, "unit crop"], done: float) -> Tensor:
        settings = self.settings
        mean = responses.mean(1)
        if settings.optimizer == "adam" or settings.softness == 0:
            smallest = responses.amin(1)
        else:
            seen = responses.detach()
            spread = seen.mean(1, keepdim=True) - seen.amin(1, keepdim=True)
            width = (settings.softness * (1 - done) * spread).clamp(min=1e-12)
            smallest = (torch.softmax(-seen / width, 1) * responses).sum(1)
        return (1 - settings.minimum) * mean + settings.minimum * smallest


class _Momentum:
    """A step along the mean of the latest directions, in units of the texture's own size, that a
    cosine brings to zero; whoever calls brings the norm back."""

    def __init__(self) -> None:
        self.velocity: Tensor | float = 0.0

    def __call__(self, value: Tensor, gradient: Tensor, done: float) -> Tensor:
        tiny = torch.finfo(gradient.dtype).tiny
        size, steepness = (
            torch.linalg.vector_norm(one.flatten(1), dim=1)[:, None, None, None]
            for one in (value, gradient)
        )
        direction = gradient * (size / steepness.clamp(min=tiny))
        self.velocity = MOMENTUM * self.velocity - (1 - MOMENTUM) * direction
        pace = FIRST_STEP * (1 + math.cos(math.pi * done)) / 2
        return value + pace * self.velocity


class _Adam:
    """Kingma & Ba 2015."""

    def __init__(self, rate: float) -> None:
        self.rate, self.step = rate, 0
        self.first: Tensor | float = 0.0
        self.second: Tensor | float = 0.0

    def __call__(self, value: Tensor, gradient: Tensor, done: float) -> Tensor:
        beta1, beta2, floor = ADAM
        self.step += 1
        self.first = beta1 * self.first + (1 - beta1) * gradient
        self.second = beta2 * self.second + (1 - beta2) * gradient.square()
        first = self.first / (1 - beta1**self.step)
        second = self.second / (1 - beta2**self.step)
        return value - self.rate * first / (second.sqrt() + floor)


def best_masked(
    respond: RespondOwn,
    masks: Float[Tensor, "unit height width"],
    best: Float[Tensor, "unit 3 height width"],
    crop: Float[Tensor, "unit 3 height width"],
    noise: Callable[[int, tuple[int, int]], Float[Tensor, "unit count 3 rows columns"]],
    norm: float,
) -> tuple[Float[Tensor, "unit 3 height width"], Float[Tensor, " unit"]]:
    """Best single image under each unit's mask, at norm `norm`, and its response.

    The mask multiplies the gradient: images come to rest where they are along the masked gradient,
    that is where they are what the unit wants, seen through the mask. (Multiplied with the image
    alone it would cost nothing: whatever it takes away, a larger image could make up for.) The
    texture's best crop, brought to the norm, is such an image too, and is taken if it is better.
    """
    size = masks.shape[1], masks.shape[2]
    masks = masks[:, None, None]

    def on_sphere(x: Tensor) -> Tensor:
        return x * (norm / torch.linalg.vector_norm(x, dim=(2, 3, 4), keepdim=True))

    x = on_sphere(torch.cat([best[:, None], noise(SINGLE_STARTS, size)], dim=1) * masks)
    move, starts = _Momentum(), x.shape[1]
    for step in range(SINGLE_STEPS):
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(-respond(x).sum(), x)
        x, gradient = x.detach(), gradient * masks
        along = (x * gradient).sum((2, 3, 4), keepdim=True) / norm**2
        moved = move(x.flatten(0, 1), (gradient - along * x).flatten(0, 1), step / SINGLE_STEPS)
        x = on_sphere(torch.unflatten(moved, 0, (-1, starts)))
    x = torch.cat([x, on_sphere(crop[:, None])], dim=1)
    with torch.no_grad():
        responses = respond(x)
    first = responses.argmax(1)
    rows = torch.arange(len(x), device=x.device)
    return x[rows, first], responses[rows, first]


def _parameters(shape: Float[Tensor, "unit 3"]) -> tuple[Tensor, Tensor, Tensor]:
    """p, q, sigma from their logarithms."""
    p, q, sigma = shape.exp().unbind(1)
    return p, q, sigma


def _mask(
    shape: Float[Tensor, "unit 3"], size: tuple[int, int], device: torch.device
) -> Float[Tensor, "unit height width"]:
    return soft_mask(size, *_parameters(shape), device=device)
