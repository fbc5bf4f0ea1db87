"""Responses to all crops of a texture, predicted from the gradients of a few shown at a time.

A network of rectified sums is linear in pieces: a crop's response, linear around the crop that was
shown last, holds for textures nearby. Between two looks at the network the textures climb these
predictions for all crops, which needs no pass through the network. docs/method.md, section 6.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diversevis.measures.subject import RespondOwn
from diversevis.measures.textures import Rolls, Windows

MOST_BYTES = 2**27  # of a unit's remembered crops; of small fields all crops fit
MOST_CROPS = 1024
FEWEST_CROPS = 16
LEAST_WEIGHT = 0.003  # of a pixel, of the largest: a mask may leave nothing of the corners


def crops_remembered(crops: Windows | Rolls, channels: int) -> int:
    """How many crops of a unit are predicted: all, or as many as fit the memory."""
    most = max(FEWEST_CROPS, MOST_BYTES // _crop_bytes(crops, channels))
    return min(len(crops.corners), MOST_CROPS, most)


def unit_bytes(crops: Windows | Rolls, channels: int) -> int:
    """Memory of the crops of a unit that are remembered."""
    most = crops_remembered(crops, channels)
    return most * (_crop_bytes(crops, channels) + 4 * most)


def _crop_bytes(crops: Windows | Rolls, channels: int) -> int:
    return 4 * channels * (math.prod(crops.texture_size) + crops.height * crops.width)


class CropModel:
    """Predictions of the responses of several units, each to the crops of its texture.

    A texture is described by its whitened pixels, flat: each is multiplied by the root of what all
    crops see of it, so that textures of one norm lie on a sphere.

    respond  crops of every unit [unit, crop, color, height, width] -> its responses [unit, crop]
    masks    through which the crops are seen, [unit, height, width]
    channels of a crop
    """

    def __init__(
        self, respond: RespondOwn, crops: Windows | Rolls, masks: Tensor, channels: int
    ) -> None:
        self.respond, self.crops = respond, crops
        self.units, self.channels, self.device = len(masks), channels, masks.device
        self.most, self.count, self.next = crops_remembered(crops, channels), 0, 0
        pixels = channels * math.prod(crops.texture_size)
        inside = channels * crops.height * crops.width

        def nothing(*shape: int) -> Tensor:
            return torch.zeros(self.units, self.most, *shape, device=self.device)

        # Of the response by the crop and by the whitened texture; dot products of the latter.
        self.gradients, self.slopes = nothing(inside), nothing(pixels)
        self.products, self.offsets = nothing(self.most), nothing()
        self.pixels = torch.zeros(self.most, inside, dtype=torch.long, device=self.device)
        self.look_through(masks)

    def look_through(self, masks: Float[Tensor, "unit height width"]) -> None:
        """Predict for these masks; textures are whitened otherwise from here on."""
        self.masks = masks
        weights = self.crops.weights(masks).expand(-1, -1, *self.crops.texture_size)
        least = LEAST_WEIGHT * weights.amax((1, 2, 3), keepdim=True)
        self.root = (weights + least).sqrt()
        if known := self.count:
            self._keep_slopes(torch.arange(known, device=self.device))
            slopes = self.slopes[:, :known]
            self.products[:, :known, :known] = slopes @ slopes.mT

    def whitened(self, texture: Float[Tensor, "unit color rows columns"]) -> Tensor:
        return (texture * self.root).flatten(1)

    def texture(self, x: Float[Tensor, "unit pixel"]) -> Tensor:
        return torch.unflatten(x, 1, (self.channels, *self.crops.texture_size)) / self.root

    def show(self, texture: Tensor, corners: Int[Tensor, "crop 2"]) -> None:
        """Show the units these crops of their textures, and remember them for the oldest."""
        slots = (self.next + torch.arange(len(corners), device=self.device)) % self.most
        self.next = (self.next + len(corners)) % self.most
        self.count = min(self.most, self.count + len(corners))
        self.pixels[slots] = pixels = self._pixels(corners)
        self.gradients[:, slots], self.offsets[:, slots] = self._look(texture, pixels)
        self._keep_slopes(slots)
        slopes = self.slopes[:, : self.count]
        products = self.slopes[:, slots] @ slopes.mT
        self.products[:, slots, : self.count] = products
        self.products[:, : self.count, slots] = products.mT

    def slope_of_mean(self, texture: Tensor, corners: Int[Tensor, "crop 2"]) -> Tensor:
        """Gradient of the mean response to these crops by the whitened texture, [unit, pixel]."""
        pixels = self._pixels(corners)
        gradients, _ = self._look(texture, pixels)
        return self._slopes(gradients, pixels).mean(1)

    def _pixels(self, corners: Int[Tensor, "crop 2"]) -> Int[Tensor, "crop pixel"]:
        """Numbers of a flat texture's values, of all colours, that are in the crops."""
        numbers = self.crops.pixels(corners).flatten(1).to(self.device)
        colors = torch.arange(self.channels, device=self.device)[:, None]
        return (numbers[:, None] + colors * math.prod(self.crops.texture_size)).flatten(1)

    def _look(
        self, texture: Tensor, pixels: Int[Tensor, "crop pixel"]
    ) -> tuple[Float[Tensor, "unit crop pixel"], Float[Tensor, "unit crop"]]:
        """Gradients by the masked crops, and what is added to their products with the crops."""
        shape = self.channels, self.crops.height, self.crops.width
        crops = torch.unflatten(_picked(texture, pixels), 2, shape) * self.masks[:, None, None]
        crops = crops.detach().requires_grad_(True)
        responses = self.respond(crops)
        (gradients,) = torch.autograd.grad(responses.sum(), crops)
        offsets = responses.detach() - (gradients * crops.detach()).sum((2, 3, 4))
        return gradients.flatten(2), offsets

    def _keep_slopes(self, slots: Int[Tensor, " crop"]) -> None:
        self.slopes[:, slots] = self._slopes(self.gradients[:, slots], self.pixels[slots])

    def _slopes(
        self, gradients: Float[Tensor, "unit crop pixel"], pixels: Int[Tensor, "crop pixel"]
    ) -> Float[Tensor, "unit crop texture_pixel"]:
        """Gradients by the whitened texture."""
        seen = gradients * self.masks.flatten(1).repeat(1, self.channels)[:, None]
        slopes = seen.new_zeros(self.units, len(pixels), self.slopes.shape[2])
        slopes.scatter_(2, pixels.expand(self.units, -1, -1), seen)
        return slopes.div_(self.root.flatten(1).repeat(1, self.channels)[:, None])

    def climb(
        self,
        x: Float[Tensor, "unit pixel"],
        paces: list[float],
        softness: list[float],
        minimum: float,
    ) -> Float[Tensor, "unit pixel"]:
        """Whitened textures of the norm of `x` after steps that raise the predicted objective.

        paces     lengths of the steps, relative to the norm
        softness  of the minimum in every step (`weights_of`)
        minimum   weight of the minimum; the mean has the rest
        """
        # All steps go along sums of slopes: weights of these say where they lead.
        known = self.count
        slopes, products = self.slopes[:, :known], self.products[:, :known, :known]
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        from_start = (x[:, None] @ slopes.mT)[:, 0]
        scale, moved, gained = torch.ones_like(norm), *2 * (torch.zeros_like(from_start),)
        for pace, soft in zip(paces, softness, strict=True):
            responses = self.offsets[:, :known] + scale * from_start + gained
            weights = weights_of(responses, soft, minimum)
            change = (weights[:, None] @ products)[:, 0]  # a row: a column takes ten times as long
            size = (weights * change).sum(1, keepdim=True).clamp(min=1e-30).sqrt()
            moved, gained = (
                moved + pace * norm / size * weights,
                gained + pace * norm / size * change,
            )
            square = (scale * norm).square() + (moved * (2 * scale * from_start + gained)).sum(
                1, keepdim=True
            )
            back = norm / square.clamp(min=1e-30).sqrt()
            scale, moved, gained = scale * back, moved * back, gained * back
        return scale * x + (moved[:, None] @ slopes)[:, 0]

    def by_mask(
        self, texture: Float[Tensor, "unit color rows columns"]
    ) -> Float[Tensor, "unit crop height_width"]:
        """What every pixel of a unit's mask adds to the predicted responses to its crops."""
        seen = _picked(texture, self.pixels[: self.count])
        added = self.gradients[:, : self.count] * seen
        return torch.unflatten(added, 2, (self.channels, -1)).sum(2)


def _picked(texture: Tensor, pixels: Int[Tensor, "crop pixel"]) -> Float[Tensor, "unit crop pixel"]:
    """Values of the textures in the crops, not masked."""
    picked = texture.flatten(1).index_select(1, pixels.flatten())
    return picked.reshape(len(texture), *pixels.shape)


def weights_of(
    responses: Float[Tensor, "unit crop"], softness: float, minimum: float
) -> Float[Tensor, "unit crop"]:
    """Gradient of `(1-w) mean + w min` by the responses, where the smallest share the minimum's.

    softness  in units of mean minus smallest response; 0: only the smallest has it
    """
    spread = responses.mean(1, keepdim=True) - responses.amin(1, keepdim=True)
    of_minimum = torch.softmax(-responses / (softness * spread).clamp(min=1e-12), 1)
    return (1 - minimum) / responses.shape[1] + minimum * of_minimum
