"""The network as it is published, read at one unit's position.

A unit that looks at the interior of an image needs no network without padding: on the smallest
canvas in which its receptive field lies wholly, the padded network gives exactly its response.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diversevis.errors import InputError
from diversevis.models.layer import Layer
from diversevis.models.receptive_field import ReceptiveField
from diversevis.models.watch import as_maps, responses_at

MOST_CLASS_TOKENS = 16  # class and register tokens before the tokens of the image's patches

Pair = tuple[int, int]


class Place(NamedTuple):
    """Where an image lies on its canvas, and which unit of the map looks at it.

    canvas  rows and columns of the network's input
    corner  row and column of the image's first pixel
    unit    row and column in the map; of tokens, the number and 0; None: mean over all of them
    """

    canvas: Pair
    corner: Pair
    unit: Pair | None


class NotReached(Exception):
    """A forward pass did not come to a layer."""


class PlainNetwork(nn.Module):
    """The responses of all channels of a layer at one position, and further layers' features.

    root      the network, with its published padding
    adapt     turns z into what the network takes; None: z itself
    layer     whose responses are read
    place     of the image and of the unit
    features  earlier layers, each with the rows and columns of its map that are returned

    It takes z [image, color, h, w] and returns the target [image, channel, 1, 1], then the
    features [image, channel, rows, columns], after their nonlinearity.
    """

    def __init__(
        self,
        root: nn.Module,
        adapt: Callable[[Tensor], Tensor] | None,
        layer: Layer,
        place: Place,
        features: Sequence[tuple[Layer, tuple[slice, slice]]] = (),
        stop: bool = True,
    ) -> None:
        super().__init__()
        self.root, self.adapt, self.layer, self.place = root, adapt, layer, place
        self.features, self.stop = list(features), stop

    def forward(self, z: Float[Tensor, "image color h w"]) -> tuple[Tensor, ...]:
        return self.on_canvas(self.canvas_of(z))

    def canvas_of(self, z: Tensor) -> Float[Tensor, "image color height width"]:
        """The canvases with the images in their places, and 0 around them."""
        (height, width), (top, left) = self.place.canvas, self.place.corner
        around = left, width - left - z.shape[3], top, height - top - z.shape[2]
        return functional.pad(z, around) if any(around) else z

    def on_canvas(self, z: Float[Tensor, "image color height width"]) -> tuple[Tensor, ...]:
        """The same for whole canvases, whatever lies around the images."""
        *features, target = self.maps(z)
        parts = [
            values[:, :, rows, columns]
            for values, (_, (rows, columns)) in zip(features, self.features, strict=True)
        ]
        return self._at_unit(target), *parts

    def maps(self, z: Float[Tensor, "image color height width"]) -> list[Tensor]:
        """Complete maps [image, channel, rows, columns]: the features, then the target's."""
        if self.adapt is not None:
            z = self.adapt(z)
        layers = [*(layer for layer, _ in self.features), self.layer]
        found: dict[int, Tensor] = {}
        taps = [layer.tap for layer in layers]
        rectified = [i for i, layer in enumerate(layers[:-1]) if layer.is_rectified]
        responses_at(self.root, z, taps, found.__setitem__, stop=self.stop, rectified=rectified)
        for index, layer in enumerate(layers):
            if index not in found:
                raise NotReached(f"layer {layer.name} is not reached for images of this size")
            if len(found[index]) != len(z):
                shape = list(found[index].shape)
                raise NotReached(f"layer {layer.name} returns {shape} for {len(z)} images")
        # Under autocast responses are less precise than the images.
        maps = [as_maps(found[index], layer.kind) for index, layer in enumerate(layers)]
        return [values.to(z.dtype) for values in maps]

    def to_the_end(self, z: Tensor) -> None:
        """A complete forward pass, as a user of the network makes it."""
        z = self.canvas_of(z)
        self.root(z if self.adapt is None else self.adapt(z))

    def _at_unit(
        self, maps: Float[Tensor, "image channel rows columns"]
    ) -> Float[Tensor, "image channel 1 1"]:
        if self.place.unit is None:
            return maps.mean((2, 3), keepdim=True)
        row, column = self.place.unit
        return maps[:, :, row : row + 1, column : column + 1]


class OwnChannel(nn.Module):
    """The responses of every unit to its own images, from those of all channels.

    It takes z (images sorted by unit, equally many per unit) and rows [unit], the index of every
    unit's direction, and returns [unit, image], then the features.
    """

    def __init__(self, network: nn.Module, directions: Float[Tensor, "row channel"]) -> None:
        super().__init__()
        self.network = network
        self.directions: Tensor
        self.register_buffer("directions", directions)

    def forward(self, z: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        target, *features = self.network(z)
        by_unit = target.reshape(len(rows), -1, target.shape[1])
        return torch.einsum("uic,uc->ui", by_unit, self.directions[rows]), *features


class AllChannels(nn.Module):
    """The responses of all channels [image, channel, 1, 1]; takes z and rows, as readouts do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        return self.network(z)


def smallest_place(field: ReceptiveField) -> Place:
    """The smallest canvas with a unit whose field lies wholly inside."""
    units = [
        period * math.ceil(max(0, -offset) / step)
        for period, step, offset in zip(field.period, field.step, field.offset, strict=True)
    ]
    corner = _first_pixels(field, units)
    canvas = [begin + size for begin, size in zip(corner, field.size, strict=True)]
    return Place((canvas[0], canvas[1]), corner, (units[0], units[1]))


def central_place(field: ReceptiveField, canvas: Pair) -> Place | None:
    """The unit nearest to the middle of a canvas; None if the canvas is too small."""
    units = [
        period * math.floor(((side - size) / 2 - offset) / step)
        for side, size, period, step, offset in zip(
            canvas, field.size, field.period, field.step, field.offset, strict=True
        )
    ]
    corner = _first_pixels(field, units)
    fits = all(
        begin >= 0 and begin + size <= side
        for begin, size, side in zip(corner, field.size, canvas, strict=True)
    )
    return Place(canvas, corner, (units[0], units[1])) if fits else None


def units_inside(field: ReceptiveField, place: Place, size: Pair) -> tuple[slice, slice]:
    """Rows and columns of the units of a map whose fields lie inside the image at `place`."""
    slices = []
    for axis in (0, 1):
        begin, end = place.corner[axis], place.corner[axis] + size[axis]
        step, offset, side = field.step[axis], field.offset[axis], field.size[axis]
        first = field.period[axis] * math.ceil((begin - offset) / step)
        last = field.period[axis] * math.floor((end - side - offset) / step)
        slices.append(slice(max(0, first), last + 1))
    return slices[0], slices[1]


def _first_pixels(field: ReceptiveField, units: Sequence[int]) -> Pair:
    rows, columns = (
        unit // period * step + offset
        for unit, period, step, offset in zip(
            units, field.period, field.step, field.offset, strict=True
        )
    )
    return rows, columns


def unit_of(
    layer: Layer,
    shape: tuple[int, ...],
    size: Pair,
    position: Sequence[int] | None,
    token: str | int | None,
) -> Pair | None:
    """Row and column of the unit that is read, in maps of `shape` [rows, columns].

    Raises `InputError` for a position or token that the layer does not have.
    """
    rows, columns = shape
    if position is not None and not layer.kind.startswith("maps"):
        kind = {"vector": "a single vector", "tokens": "tokens (token=...)"}[layer.kind]
        raise InputError(
            f"position=[{position[0]},{position[1]}]: layer {layer.name} is {kind}, not a map. "
            "Leave position out."
        )
    if token is not None and layer.kind != "tokens":
        kind = "a single vector" if layer.kind == "vector" else "a map (position=[row,column])"
        raise InputError(
            f"token={token}: layer {layer.name} is {kind}, not tokens. Leave token out."
        )
    if layer.kind == "vector":
        return 0, 0
    if layer.kind == "tokens":
        return _token(layer, rows, size, token)
    row, column = position or (rows // 2, columns // 2)
    if not (0 <= row < rows and 0 <= column < columns):
        raise InputError(
            f"position=[{row},{column}]: the map of layer {layer.name} has {rows} rows and "
            f"{columns} columns for an image of {size[0]} x {size[1]} pixels."
        )
    return row, column


def _token(layer: Layer, tokens: int, size: Pair, token: str | int | None) -> Pair | None:
    """The number of the token, and 0; None for the mean over the image's tokens."""
    classes, grid = _grid(tokens, size)
    chosen = token if token is not None else "cls" if classes else "centre"
    numbers = {"centre": classes + grid[0] // 2 * grid[1] + grid[1] // 2}
    if classes:
        numbers["cls"] = 0
    number = chosen if isinstance(chosen, int) else numbers.get(chosen, -1)
    if chosen == "mean":
        return None
    if 0 <= number < tokens:
        return number, 0
    has = f"{tokens} tokens, {'the first for the class' if classes else 'none for the class'}"
    raise InputError(
        f"token={token}: layer {layer.name} has {has}. Choose cls (where there is one), centre, "
        f"mean or a number from 0 to {tokens - 1}."
    )


def _grid(tokens: int, size: Pair) -> tuple[int, Pair]:
    """Number of tokens before those of the image's patches, and the patches' rows and columns."""
    for classes in range(min(MOST_CLASS_TOKENS, tokens - 1) + 1):
        patches = tokens - classes
        rows = round(math.sqrt(patches * size[0] / size[1]))
        if rows and patches % rows == 0 and rows * size[1] == patches // rows * size[0]:
            return classes, (rows, patches // rows)
    return 0, (tokens, 1)
