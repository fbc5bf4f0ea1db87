"""Shift invariance: one texture of which every crop, seen through a soft mask, drives the unit.

The texture maximizes `(1-w) mean(a) + w min(a)` over the responses a to all crops. The indices are
mean and minimum over the best single image's response, and over the best response under the same
mask, which alone costs a unit part of its response. docs/method.md, sections 6 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from diversevis.errors import InputError
from diversevis.measures.checks import check_least, ratio_or_none
from diversevis.measures.masked import Momentum, Noise, search_masked
from diversevis.measures.stimuli import SIGMA, soft_mask
from diversevis.measures.subject import Measured, Numbers, Progress, RespondOwn, Subject, in_batches

ALL_CROPS_UP_TO = 64  # pixels of receptive field; larger ones have too many crops for every step
SOME_CROPS = 1024
LIMITS = (2.0, 1.0, 0.1), (64.0, 64.0, 1.0)  # of a learned mask's p, q, sigma (sides of the image)
TEXTURE_RATE = 0.1  # Adam's learning rate for the texture, as published
ADAM = 0.9, 0.999, 1e-8  # decay rates of the moments, floor of the denominator
MASK_RATE = 0.05  # learning rate of a learned mask's parameters
KINDS = "fixed", "learned"  # of masks


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The texture test.

    optimizer  `sphere`: momentum along the sphere of textures, the smallest responses sharing the
               minimum's gradient (softness falls to 0); `adam`: as published, learning rate 0.1
    steps      of either (published: 700)
    minimum    w in `(1-w) mean(a) + w min(a)` over the crops
    softness   of the minimum's gradient at the beginning, in units of the distance between mean and
               smallest response
    crops      drawn at random for every step; null: all, or 1024 where the receptive field is
               larger than 64 pixels. The responses in the end are to all crops.
    """

    optimizer: Literal["sphere", "adam"]
    steps: int
    minimum: float
    softness: float
    crops: int | None

    def __post_init__(self) -> None:
        check_least("measure.shift", self, steps=1, softness=0, crops=1)
        if not 0 <= self.minimum <= 1:
            raise InputError(f"measure.shift.minimum={self.minimum} must be from 0 to 1.")

    def __call__(
        self,
        respond: RespondOwn,
        best: Float[Tensor, "unit 3 height width"],
        noise: Noise,
        norm: float,
        generator: torch.Generator,
        *,
        learned: bool,
    ) -> dict[str, Tensor]:
        """Arrays [unit, ...] of the best textures, all units side by side.

        best       image of each unit, from which the search under the mask starts
        norm       root-mean-square Euclidean norm of the masked crops
        generator  draws crops; on the CPU
        learned    also learn the mask (p >= 2, q >= 1, sigma) of every unit

        texture      grey levels; the last row and column are in no crop, and 0
        map          responses to the crop at every shift
        mask         [unit, height, width]
        parameters   p, q, and sigma (in sides of the image) of the mask
        masked       the best single image under the same mask
        best_masked  the response to it
        """
        search = TextureSearch(self, respond, best, norm)
        texture, shape = search.optimize(noise, generator, learned)
        masks = _mask(shape, search.size)
        with torch.no_grad():
            responses = search.responses(texture, masks)
        down, right = torch.unravel_index(responses.flatten(1).argmax(1), responses.shape[1:])
        crops = texture.unfold(2, search.size[0], 1).unfold(3, search.size[1], 1)
        crop = crops[torch.arange(len(best), device=best.device), :, down, right] * masks[:, None]
        masked, best_masked = search_masked(respond, masks, best, crop, noise, norm)
        arrays = {
            "texture": functional.pad(search.scaled(texture, masks), (0, 1, 0, 1)),
            "map": responses,
            "mask": masks,
            "parameters": shape.exp(),
            "masked": masked,
            "best_masked": best_masked,
        }
        return {name: values.cpu() for name, values in arrays.items()}


class TextureSearch:
    """Optimizes textures [unit, 3, 2h-2, 2w-2], the pixels in the (h-1)(w-1) crops."""

    def __init__(self, settings: Shift, respond: RespondOwn, best: Tensor, norm: float) -> None:
        self.settings, self.respond, self.norm = settings, respond, norm
        self.units, self.device = len(best), best.device
        self.size = best.shape[2], best.shape[3]
        down, right = (torch.arange(side - 1) for side in self.size)
        self.corners = torch.cartesian_prod(down, right)  # upper left, of all crops

    def optimize(
        self, noise: Noise, generator: torch.Generator, learned: bool
    ) -> tuple[Tensor, Tensor]:
        """Textures of the right scale, and the logarithms of the masks' parameters [unit, 3]."""
        settings = self.settings
        rows, columns = (2 * side - 2 for side in self.size)
        texture = noise(1, (rows, columns))[:, 0]
        shape = torch.tensor([2.0, 4.0, SIGMA], device=self.device).log().expand(self.units, 3)
        least, most = (torch.tensor(limit, device=self.device).log() for limit in LIMITS)
        move = Momentum() if settings.optimizer == "sphere" else _Adam(TEXTURE_RATE)
        move_shape = _Adam(MASK_RATE)
        for step in range(settings.steps):
            done = step / settings.steps
            texture = texture.detach().requires_grad_(True)
            shape = shape.detach().requires_grad_(learned)
            masks = _mask(shape, self.size)
            corners = self.draw_corners(generator)
            responses = self._to_crops(self.scaled(texture, masks), masks, corners)
            loss = -self._objective(responses, done).sum()
            gradients = torch.autograd.grad(loss, [texture, shape] if learned else [texture])
            texture = move(texture.detach(), gradients[0], done)
            if settings.optimizer == "sphere":
                texture = self.scaled(texture, masks.detach())
            if learned:
                shape = move_shape(shape.detach(), gradients[1], done).clamp(least, most)
        shape = shape.detach()
        return self.scaled(texture.detach(), _mask(shape, self.size)), shape

    def scaled(self, texture: Tensor, masks: Tensor) -> Tensor:
        """`texture` at the scale at which its masked crops have the RMS norm."""
        # How much of a pixel all crops see together is a sum of the squared mask over a box.
        weights, (height, width) = masks.square()[:, None], self.size
        for box in ((height - 1, 1), (1, width - 1)):
            ones = torch.ones(1, 1, *box, device=self.device)
            weights = functional.conv_transpose2d(weights, ones)
        mean_square = (weights * texture.square()).sum((1, 2, 3), keepdim=True) / len(self.corners)
        return texture * (self.norm / mean_square.sqrt())

    def responses(self, texture: Tensor, masks: Tensor) -> Float[Tensor, "unit down right"]:
        """To the crop at every shift."""
        parts = torch.split(self.corners, SOME_CROPS)
        responses = torch.cat([self._to_crops(texture, masks, part) for part in parts], dim=1)
        return torch.unflatten(responses, 1, [side - 1 for side in self.size])

    def _to_crops(
        self, texture: Tensor, masks: Tensor, corners: Int[Tensor, "crop 2"]
    ) -> Float[Tensor, "unit crop"]:
        """Responses to the masked crops at `corners`."""
        # By pixel numbers: the gradient of overlapping views would need as much memory for every
        # crop as the texture has.
        (height, width), columns = self.size, texture.shape[3]
        first = corners[:, 0] * columns + corners[:, 1]
        within = (torch.arange(height)[:, None] * columns + torch.arange(width)).flatten()
        numbers = (first[:, None] + within).flatten().to(texture.device)
        pixels = texture.flatten(2).permute(2, 0, 1).index_select(0, numbers)
        crops = pixels.reshape(len(corners), height, width, *texture.shape[:2])
        return self.respond(crops.permute(3, 0, 4, 1, 2) * masks[:, None, None])

    def draw_corners(self, generator: torch.Generator) -> Int[Tensor, "crop 2"]:
        """Of the crops of one step."""
        large = max(self.size) > ALL_CROPS_UP_TO
        count = self.settings.crops or (SOME_CROPS if large else len(self.corners))
        if count >= len(self.corners):
            return self.corners
        return self.corners[torch.randperm(len(self.corners), generator=generator)[:count]]

    def _objective(self, responses: Float[Tensor, "unit crop"], done: float) -> Tensor:
        settings = self.settings
        mean = responses.mean(1)
        if settings.optimizer == "adam" or settings.softness == 0:
            smallest = responses.amin(1)
        else:
            # The weakest crop changes with every step: at first all weak crops share its gradient.
            detached = responses.detach()
            spread = detached.mean(1, keepdim=True) - detached.amin(1, keepdim=True)
            width = (settings.softness * (1 - done) * spread).clamp(min=1e-12)
            smallest = (torch.softmax(-detached / width, 1) * responses).sum(1)
        return (1 - settings.minimum) * mean + settings.minimum * smallest


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


def _mask(
    shape: Float[Tensor, "unit 3"], size: tuple[int, int]
) -> Float[Tensor, "unit height width"]:
    """The masks whose p, q, sigma have these logarithms."""
    return soft_mask(size, *shape.exp().unbind(1), device=shape.device)


def measure_shift(subject: Subject, progress: Progress) -> Measured:
    """The texture test of the units of the sample, under a fixed and under a learned mask."""
    settings: Shift = subject.settings["shift"]
    height, width = subject.size
    crops = (height - 1) * (width - 1)
    if not crops:  # a texture needs more than one shift
        return Measured([None] * len(subject.rows), {}, dict(vars(settings)))
    shapes = {"texture": (3, 2 * height - 1, 2 * width - 1), "map": (height - 1, width - 1),
              "mask": (height, width), "masked": (3, height, width), "best_masked": ()}  # fmt: skip

    def measure_batch(batch: Subject) -> tuple[list[Numbers | None], dict[str, Tensor]]:
        best, textures = batch.best_responses(), {kind: _texture(batch, kind) for kind in KINDS}
        arrays = {f"{name}_{kind}": textures[kind][name] for kind in KINDS for name in shapes}
        arrays["best"] = best
        return [_unit(textures, row, value) for row, value in enumerate(best.tolist())], arrays

    all_shapes = {f"{name}_{kind}": shapes[name] for kind in KINDS for name in shapes}
    living, crops_per_step = subject.living_sample, min(crops, settings.crops or crops)
    measured = in_batches(
        "shift", subject, living, crops_per_step, all_shapes | {"best": ()}, measure_batch, progress
    )
    if living:  # the fixed mask is the same for all units
        measured.arrays["mask_fixed"] = measured.arrays["mask_fixed"][living[0]]
    return measured


def _texture(batch: Subject, kind: str) -> dict[str, Tensor]:
    settings: Shift = batch.settings["shift"]

    def noise(count: int, size: tuple[int, int]) -> Tensor:
        purpose = f"shift/{kind}/{size}"
        return torch.stack([batch.noise(unit, purpose, count, size) for unit in batch.units])

    best, generator = batch.best_images().to(batch.device), batch.generator(f"shift/{kind}/crops")
    learned = kind == "learned"
    return settings(batch.respond_own(), best, noise, batch.norm, generator, learned=learned)


def _unit(textures: dict[str, dict[str, Tensor]], row: int, best: float) -> Numbers:
    """Numbers of the unit at `row`: the indices under both masks, and the learned mask's shape."""

    def indices(texture: dict[str, Tensor]) -> Numbers:
        mean, least = texture["map"][row].mean().item(), texture["map"][row].min().item()
        masked = texture["best_masked"][row].item()
        return {
            "mean": ratio_or_none(mean, best),
            "min": ratio_or_none(least, best),
            "mean_masked": ratio_or_none(mean, masked),
            "min_masked": ratio_or_none(least, masked),
        }

    learned = textures["learned"]
    shape = zip(("p", "q", "sigma"), learned["parameters"][row].tolist(), strict=True)
    return indices(textures["fixed"]) | {"learned": indices(learned) | dict(shape)}
