"""Shift invariance: one texture of which every crop, seen through a soft mask, drives the unit.

The texture maximizes `(1-w) mean(a) + w min(a)` over the responses a to all crops. The indices are
mean and minimum over the best single image's response, and over the best response under the same
mask, which alone costs a unit part of its response. Of units that see the whole image, the crops
are circular shifts of a texture of the image's size. docs/method.md, sections 6 and 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures.ascent import Adam, ascend
from diversevis.measures.checks import check_least, ratio_or_none
from diversevis.measures.climb import SHARE, Climb
from diversevis.measures.crop_model import (
    MOST_CROPS,
    CropModel,
    crops_remembered,
    unit_bytes,
    weights_of,
)
from diversevis.measures.stimuli import SIGMA, at_norm, soft_mask
from diversevis.measures.subject import Measured, Numbers, Progress, RespondOwn, Subject, in_batches
from diversevis.measures.textures import Rolls, Windows

SINGLE_STEPS = 60  # of the best single image under a mask, from the best of several starts
START_STEPS = 15  # after which that is chosen
SINGLE_STARTS = 3  # its starts from noise, beside the unit's best image
LIMITS = (2.0, 1.0, 0.1), (64.0, 64.0, 1.0)  # of a learned mask's p, q, sigma (sides of the image)
TEXTURE_RATE = 0.1  # Adam's learning rate for the texture, as published
MASK_RATE = 0.05  # learning rate of a learned mask's parameters, with `adam`
# With `sphere`: learning rate at first, steps of the masks in a row, and of the texture between.
PREDICTED_MASK_RATE, MASK_STEPS, MASK_EVERY = 0.1, 4, 4
MODEL_BYTES = 2**28  # of the remembered crops of a batch's units
KINDS = "fixed", "learned"  # of masks


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The texture test.

    optimizer  `sphere`: up the responses to all crops that the gradients of a few predict;
               `adam`: as published, learning rate 0.1
    steps      of either (published: 700)
    minimum    w in `(1-w) mean(a) + w min(a)` over the crops
    softness   of the minimum at first, in units of mean minus smallest response: the smallest
               responses share its gradient. With `adam` there is none
    crops      shown in every step. null: with `sphere` a tenth of all, at most 103; with `adam`
               all, or 1024 for fields of over 64 pixels; with both, of shifts of the whole image,
               at most so many that a step's cost is bounded
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


class TextureSearch:
    """Finds the best textures.

    crops  of a texture: `Windows`, or `Rolls` for units that see the whole image
    best   image of each unit, from which the search for a single image under the mask starts
    noise  (count, (rows, columns)) -> standard normal images [unit, count, c, rows, columns]
    norm   root-mean-square Euclidean norm of the masked crops
    fixed  where a search with `sphere` under the fixed mask has ended
    """

    def __init__(
        self,
        settings: Shift,
        respond: RespondOwn,
        best: Float[Tensor, "unit color height width"],
        noise: Callable[[int, tuple[int, int]], Tensor],
        norm: float,
        crops: Windows | Rolls,
        fixed: tuple[CropModel, Tensor] | None = None,
    ) -> None:
        self.settings, self.respond, self.noise, self.norm = settings, respond, noise, norm
        self.best, self.device, self.crops = best, best.device, crops
        self.units, _, height, width = best.shape
        self.size = height, width
        self.corners = crops.corners
        self.fixed = fixed

    def __call__(self, generator: torch.Generator, *, learned: bool) -> dict[str, Tensor]:
        """Arrays [unit, ...] of the best textures, all units side by side.

        generator  draws crops; on the CPU
        learned    also learn the mask (p >= 2, q >= 1, sigma) of every unit; with `sphere` it goes
                   on where the search under the fixed mask has ended

        texture      grey levels, as `crops` stores it
        map          responses to the crop at every shift of the map
        parameters   p, q, and sigma (in sides of the image) of the mask
        masked       the best single image under the mask, and best_masked: the response to it
        """
        published = self.settings.optimizer == "adam"
        optimize = self._as_published if published else self._predicted
        texture, shape = optimize(generator, learned)
        masks = self.masks(shape)
        with torch.no_grad():
            corners = self.crops.map_corners
            parts = torch.split(corners, self.crops.at_once)
            responses = torch.cat([self._to_crops(texture, masks, part) for part in parts], dim=1)
        pixels = self.crops.pixels(corners[responses.argmax(1).cpu()]).to(self.device)
        crops = [x.flatten(1)[:, at] for x, at in zip(texture, pixels, strict=True)]
        masked, best_masked = self._best_masked(masks, torch.stack(crops) * masks[:, None])
        arrays = {
            "texture": self.crops.stored(self.scaled(texture, masks)),
            "map": torch.unflatten(responses, 1, self.crops.map_shape),
            "mask": masks,
            "parameters": shape.exp(),
            "masked": masked,
            "best_masked": best_masked,
        }
        return {name: values.cpu() for name, values in arrays.items()}

    def masks(self, shape: Float[Tensor, "unit 3"]) -> Float[Tensor, "unit height width"]:
        """The masks whose p, q, sigma have these logarithms."""
        return soft_mask(self.size, *shape.exp().unbind(1), device=self.device)

    def _first_shape(self) -> Float[Tensor, "unit 3"]:
        """Logarithms of the fixed mask's p, q, sigma."""
        return torch.tensor([2.0, 4.0, SIGMA], device=self.device).log().expand(self.units, 3)

    def _limited(self, shape: Float[Tensor, "unit 3"]) -> Float[Tensor, "unit 3"]:
        least, most = (torch.tensor(limit, device=self.device).log() for limit in LIMITS)
        return shape.clamp(least, most)

    def _predicted(
        self, generator: torch.Generator, learned: bool
    ) -> tuple[Tensor, Float[Tensor, "unit 3"]]:
        """Textures of the right scale, and the logarithms of the masks' parameters."""
        settings, shape = self.settings, self._first_shape()
        climb = Climb(
            fresh=crops_of_a_step(settings, self.crops), steps=settings.steps,
            minimum=settings.minimum, softness=settings.softness,
        )  # fmt: skip
        if self.fixed is None:
            masks, channels = self.masks(shape), self.best.shape[1]
            model = CropModel(self.respond, self.crops, masks, channels)
            noise = self.noise(1, self.crops.texture_size)[:, 0]
            texture = climb.begin(model, self.scaled(noise, masks), generator)
            self.fixed = model, climb(model, texture, generator)
        model, texture = self.fixed
        if learned:
            learner = LearnedMasks(self, shape)
            texture = climb(model, texture, generator, learner)
            shape, self.fixed = learner.shape, None  # the model predicts for other masks now
        return self.scaled(texture, model.masks), shape

    def _as_published(
        self, generator: torch.Generator, learned: bool
    ) -> tuple[Tensor, Float[Tensor, "unit 3"]]:
        """The same, every crop of a step through the network."""
        texture, shape = self.noise(1, self.crops.texture_size)[:, 0], self._first_shape()
        move, move_shape = Adam(TEXTURE_RATE), Adam(MASK_RATE)
        for _ in range(self.settings.steps):
            texture = texture.detach().requires_grad_(True)
            shape = shape.detach().requires_grad_(learned)
            masks = self.masks(shape)
            corners = self.draw_corners(generator)
            responses = self._to_crops(self.scaled(texture, masks), masks, corners)
            minimum = self.settings.minimum
            loss = -((1 - minimum) * responses.mean(1) + minimum * responses.amin(1)).sum()
            gradients = torch.autograd.grad(loss, [texture, shape] if learned else [texture])
            texture = move(texture.detach(), gradients[0])
            if learned:
                shape = self._limited(move_shape(shape.detach(), gradients[1]))
        shape = shape.detach()
        return self.scaled(texture.detach(), self.masks(shape)), shape

    def scaled(self, texture: Tensor, masks: Tensor) -> Tensor:
        """`texture` at the scale at which its masked crops have the RMS norm."""
        mean_square = self.crops.mean_square(texture, masks)
        return texture * (self.norm / mean_square.sqrt())

    def _to_crops(
        self, texture: Tensor, masks: Tensor, corners: Int[Tensor, "crop 2"]
    ) -> Float[Tensor, "unit crop"]:
        """Responses to the masked crops with these upper left corners."""
        # By pixel numbers: the gradient of overlapping views would need as much memory for every
        # crop as the texture has.
        numbers = self.crops.pixels(corners).flatten().to(texture.device)
        pixels = texture.flatten(2).permute(2, 0, 1).index_select(0, numbers)
        crops = pixels.reshape(len(corners), *self.size, *texture.shape[:2])
        return self.respond(crops.permute(3, 0, 4, 1, 2) * masks[:, None, None])

    def draw_corners(self, generator: torch.Generator) -> Int[Tensor, "crop 2"]:
        """Corners of the crops of one step."""
        count = crops_of_a_step(self.settings, self.crops)
        if count >= len(self.corners):
            return self.corners
        return self.corners[torch.randperm(len(self.corners), generator=generator)[:count]]

    def _best_masked(
        self, masks: Tensor, crop: Float[Tensor, "unit color height width"]
    ) -> tuple[Float[Tensor, "unit color height width"], Float[Tensor, " unit"]]:
        """Best single image under each unit's mask, at norm `norm`, and its response.

        The mask multiplies the gradient: an image stops changing where it is parallel to the masked
        gradient, that is where it is what the unit wants, seen through the mask. (A mask on the
        image alone would cost nothing: a larger image could make up for what it takes away.) The
        texture's best crop is such an image too, and is taken if it is better.
        """
        masks, norm = masks[:, None, None], self.norm
        starts = torch.cat([self.best[:, None], self.noise(SINGLE_STARTS, self.size)], dim=1)
        x = ascend(self.respond, at_norm(starts * masks, norm), norm, START_STEPS, masks)
        start, _ = self._best_of(x)
        x = ascend(self.respond, start[:, None], norm, SINGLE_STEPS, masks)
        return self._best_of(torch.cat([x, at_norm(crop[:, None], norm)], dim=1))

    def _best_of(self, images: Tensor) -> tuple[Tensor, Float[Tensor, " unit"]]:
        """Of every unit the image with the highest response, and that."""
        with torch.no_grad():
            responses, first = self.respond(images).max(1)
        return images[torch.arange(self.units, device=self.device), first], responses


class LearnedMasks:
    """Masks that follow the gradient of the predicted objective, every few steps of the textures.

    shape  logarithms of their p, q, sigma
    """

    def __init__(self, search: TextureSearch, shape: Float[Tensor, "unit 3"]) -> None:
        self.search, self.shape = search, shape
        self.move, self.calls = Adam(PREDICTED_MASK_RATE), 0

    def __call__(self, model: CropModel, texture: Tensor, done: float, softness: float) -> Tensor:
        self.calls += 1
        if self.calls % MASK_EVERY:
            return texture
        search, added = self.search, model.by_mask(texture)
        self.move.rate = PREDICTED_MASK_RATE * (1 + math.cos(math.pi * done)) / 2
        for _ in range(MASK_STEPS):
            shape = self.shape.detach().requires_grad_(True)
            masks = search.masks(shape)
            scale = search.norm / search.crops.mean_square(texture, masks).sqrt()[:, :, 0, 0]
            seen = (masks.flatten(1)[:, None] @ added.mT)[:, 0]
            responses = model.offsets[:, : model.count] + scale * seen
            weights = weights_of(responses.detach(), softness, search.settings.minimum)
            (gradient,) = torch.autograd.grad(-(weights * responses).sum(), shape)
            self.shape = search._limited(self.move(shape.detach(), gradient))
        masks = search.masks(self.shape)
        model.look_through(masks)
        return search.scaled(texture, masks)


def crops_of_a_step(settings: Shift, crops: Windows | Rolls) -> int:
    """How many crops are shown in a step."""
    if settings.crops is not None:
        return settings.crops
    if settings.optimizer == "adam":
        return crops.of_a_step
    return min(crops.of_a_step, math.ceil(SHARE * min(MOST_CROPS, len(crops.corners))))


def measure_shift(subject: Subject, progress: Progress) -> Measured:
    """The texture test of the units of the sample, under a fixed and under a learned mask."""
    settings: Shift = subject.settings["shift"]
    cut, channels = _crops(subject), len(subject.mean)
    if len(cut.corners) < 2:  # a texture needs more than one shift
        return Measured([None] * len(subject.rows), {}, dict(vars(settings)))
    shapes = {
        "texture": cut.stored(torch.zeros(channels, *cut.texture_size)).shape,
        "map": cut.map_shape, "mask": subject.size, "masked": subject.image_shape,
        "best_masked": (),
    }  # fmt: skip

    def measure_batch(batch: Subject) -> tuple[list[Numbers | None], dict[str, Tensor]]:
        best, textures = batch.best_responses(), _textures(batch)
        arrays = {f"{name}_{kind}": textures[kind][name] for kind in KINDS for name in shapes}
        arrays["best"] = best
        step = {"step": cut.step} if isinstance(cut, Rolls) else {}
        return [_unit(textures, row, y) | step for row, y in enumerate(best.tolist())], arrays

    all_shapes = {f"{name}_{kind}": shapes[name] for kind in KINDS for name in shapes}
    all_shapes["best"] = ()
    living = subject.living_sample
    at_once = min(len(cut.corners), crops_of_a_step(settings, cut))
    most = crops_remembered(cut, channels)
    if settings.optimizer == "sphere" and settings.crops is not None and at_once > most:
        raise InputError(
            f"measure.shift.crops={settings.crops}: of fields of this size {most} crops of a unit "
            "are remembered, and a step shows no more. Choose fewer, or "
            "measure.shift.optimizer=adam."
        )
    if settings.optimizer == "sphere":  # so many units that their remembered crops fit the memory
        units = max(1, MODEL_BYTES // unit_bytes(cut, channels))
        at_once = max(at_once, -(-subject.batch // units))
    measured = in_batches("shift", subject, living, at_once, all_shapes, measure_batch, progress)
    if living:  # the fixed mask is the same for all units
        measured.arrays["mask_fixed"] = measured.arrays["mask_fixed"][living[0]]
    return measured


def _crops(subject: Subject) -> Windows | Rolls:
    return Rolls(*subject.size) if subject.whole_image else Windows(*subject.size)


def _textures(batch: Subject) -> dict[str, dict[str, Tensor]]:
    """Arrays under the fixed and under learned masks."""
    best, respond = batch.best_images().to(batch.device), batch.respond_own()
    textures, reached = {}, None
    for kind in KINDS:

        def noise(count: int, size: tuple[int, int], kind: str = kind) -> Tensor:
            purpose = f"shift/{kind}/{size}"
            return torch.stack([batch.noise(unit, purpose, count, size) for unit in batch.units])

        settings: Shift = batch.settings["shift"]
        search = TextureSearch(settings, respond, best, noise, batch.norm, _crops(batch), reached)
        textures[kind] = search(batch.generator(f"shift/{kind}/crops"), learned=kind == "learned")
        reached = search.fixed
    return textures


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
