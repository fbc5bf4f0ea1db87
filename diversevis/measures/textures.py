"""The crops of a texture: every window of a larger one, or every circular shift of a canvas.

Both say which crops there are, how many go into a step, and at which scale they have a norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

ALL_CROPS_UP_TO = 64  # pixels of receptive field; larger ones have too many crops for every step
SOME_CROPS = 1024
# Where the crop is the network's input, a crop costs a pass through the whole network. Bounds on
# the pixels of all crops: of a step, and of the map at the end, which needs no gradient.
STEP_PIXELS = 2**18  # 64 crops of 64 x 64
MAP_PIXELS = 2**24  # all shifts of 64 x 64, 324 of 224 x 224
FEWEST_CROPS = 8  # of a step, for images of 182 x 182 and more


@dataclass(frozen=True)
class Windows:
    """Crops of h x w pixels of a texture of 2h-2 x 2w-2, one for every shift by whole pixels."""

    height: int
    width: int

    @property
    def texture_size(self) -> tuple[int, int]:
        return 2 * self.height - 2, 2 * self.width - 2

    @property
    def map_shape(self) -> tuple[int, int]:
        return self.height - 1, self.width - 1

    @property
    def corners(self) -> Int[Tensor, "crop 2"]:
        """Rows and columns where crops begin."""
        return torch.cartesian_prod(*(torch.arange(side) for side in self.map_shape))

    @property
    def map_corners(self) -> Int[Tensor, "crop 2"]:
        """Those of the crops of the map."""
        return self.corners

    @property
    def of_a_step(self) -> int:
        """Number of crops in a step, and at once in the map, where no setting says it."""
        large = max(self.height, self.width) > ALL_CROPS_UP_TO
        return SOME_CROPS if large else math.prod(self.map_shape)

    @property
    def at_once(self) -> int:
        """Upper bound on the crops of the map that are shown together."""
        return SOME_CROPS

    def pixels(self, corners: Int[Tensor, "crop 2"]) -> Int[Tensor, "crop height width"]:
        """Numbers of the texture's pixels, row by row, that are in the crops."""
        columns = self.texture_size[1]
        first = corners[:, 0] * columns + corners[:, 1]
        within = torch.arange(self.height)[:, None] * columns + torch.arange(self.width)
        return first[:, None, None] + within

    def mean_square(
        self,
        texture: Float[Tensor, "unit color rows columns"],
        masks: Float[Tensor, "unit height width"],
    ) -> Float[Tensor, "unit 1 1 1"]:
        """Squared norm of the masked crops, mean over all of them."""
        weights, crops = self.weights(masks), math.prod(self.map_shape)
        return (weights * texture.square()).sum((1, 2, 3), keepdim=True) / crops

    def weights(
        self, masks: Float[Tensor, "unit height width"]
    ) -> Float[Tensor, "unit 1 rows columns"]:
        """How much of the square of every pixel all masked crops hold together."""
        weights, (rows, columns) = masks.square()[:, None], self.map_shape
        for box in ((rows, 1), (1, columns)):  # sums of the squared mask over a box
            all_ones = torch.ones(1, 1, *box, device=masks.device)
            weights = functional.conv_transpose2d(weights, all_ones)
        return weights

    def stored(self, texture: Tensor) -> Tensor:
        """With another row and column of 0, which are in no crop, for the published shape."""
        return functional.pad(texture, (0, 1, 0, 1))


@dataclass(frozen=True)
class Rolls:
    """Circular shifts of a texture of h x w pixels: windows that go on at its other side.

    step  pixels between neighbouring shifts of the map
    """

    height: int
    width: int

    @property
    def texture_size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def step(self) -> int:
        """1, or more for large images; odd, so that units with strides see all phases of these."""
        step = 1
        while math.prod(self._map_shape(step)) * self.height * self.width > MAP_PIXELS:
            step += 2
        return step

    @property
    def map_shape(self) -> tuple[int, int]:
        return self._map_shape(self.step)

    def _map_shape(self, step: int) -> tuple[int, int]:
        return -(-self.height // step), -(-self.width // step)

    @property
    def corners(self) -> Int[Tensor, "crop 2"]:
        """Row and column of the texture that come to the upper left corner, for all shifts."""
        return torch.cartesian_prod(torch.arange(self.height), torch.arange(self.width))

    @property
    def map_corners(self) -> Int[Tensor, "crop 2"]:
        """Those of the shifts of the map."""
        rows, columns = (torch.arange(0, side, self.step) for side in self.texture_size)
        return torch.cartesian_prod(rows, columns)

    @property
    def of_a_step(self) -> int:
        """Number of shifts in a step where no setting says it."""
        area = self.height * self.width
        return min(area, max(FEWEST_CROPS, STEP_PIXELS // area))

    @property
    def at_once(self) -> int:
        """Upper bound on the shifts of the map that are shown together."""
        return self.of_a_step

    def pixels(self, corners: Int[Tensor, "crop 2"]) -> Int[Tensor, "crop height width"]:
        """Numbers of the texture's pixels, row by row, that are in the crops."""
        rows = (corners[:, :1] + torch.arange(self.height)) % self.height
        columns = (corners[:, 1:] + torch.arange(self.width)) % self.width
        return rows[:, :, None] * self.width + columns[:, None, :]

    def mean_square(
        self,
        texture: Float[Tensor, "unit color rows columns"],
        masks: Float[Tensor, "unit height width"],
    ) -> Float[Tensor, "unit 1 1 1"]:
        """Squared norm of the masked crops, mean over all of them: every pixel of the texture is
        behind every pixel of the mask once."""
        return self.weights(masks) * texture.square().sum((1, 2, 3), keepdim=True)

    def weights(self, masks: Float[Tensor, "unit height width"]) -> Float[Tensor, "unit 1 1 1"]:
        """Mean square of the mask: the share of every pixel's square that a crop holds."""
        return masks.square().mean((1, 2))[:, None, None, None]

    def stored(self, texture: Tensor) -> Tensor:
        """As it is."""
        return texture


# Steps of the R2 sequence (Roberts 2018): powers of the inverse of the root of x^3 = x + 1.
EVENLY = 0.7548776662466927, 0.5698402909980532


@dataclass(frozen=True)
class Torus:
    """Crops of h x w pixels of a texture of 2h-2 x 2w-2 that goes on at its other side.

    Over all shifts every pixel of a crop sees every pixel of the texture once.
    """

    height: int
    width: int

    @property
    def texture_size(self) -> tuple[int, int]:
        return max(1, 2 * self.height - 2), max(1, 2 * self.width - 2)

    def corners(self, count: int, start: tuple[float, float]) -> Int[Tensor, "crop 2"]:
        """`count` rows and columns where crops begin, spread evenly; all, if there are no more.

        start  position of the first, in sides of the texture
        """
        rows, columns = self.texture_size
        if count >= rows * columns:
            return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        number = torch.arange(count, dtype=torch.float64)
        at = [
            ((first + step * number) % 1 * side).long() % side
            for first, step, side in zip(start, EVENLY, (rows, columns), strict=True)
        ]
        return torch.stack(at, dim=1)

    def cut(
        self, texture: Float[Tensor, "unit color rows columns"], corners: Int[Tensor, "crop 2"]
    ) -> Float[Tensor, "unit crop color height width"]:
        """The crops with these upper left corners, minus their mean.

        A linear unit's mean response to them is 0, whatever it prefers and whichever they are.
        """
        (rows, columns), device = self.texture_size, texture.device
        down = (corners[:, :1] + torch.arange(self.height)) % rows
        right = (corners[:, 1:] + torch.arange(self.width)) % columns
        pixels = (down[:, :, None] * columns + right[:, None, :]).flatten().to(device)
        # By pixel numbers, as the shift measure does: views would need much memory for gradients.
        chosen = texture.flatten(2).permute(2, 0, 1).index_select(0, pixels)
        crops = chosen.reshape(len(corners), self.height, self.width, *texture.shape[:2])
        crops = crops.permute(3, 0, 4, 1, 2)
        return crops - crops.mean(1, keepdim=True)
