"""Affine maps of the image plane, and images resampled by them. docs/method.md, section 9.

A map sends the point p (pixels from the centre, to the right and down) to `R E F p + t`: F is the
reflection (left and right change sides) or nothing, E the scale and stretch `exp([[a+b, c],
[c, a-b]])`, R a rotation, t a shift. An image moves with the map: what was at p is then at the new
point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

PARAMETERS = 6  # shift right, shift down, rotation, a, b, c
MOST_SHIFT = 0.5  # sides of the image
MOST_SCALE = 2.0  # no direction is enlarged or shrunk by more


class Maps(NamedTuple):
    """Affine maps and a sign of contrast.

    parameters  shift right and down (sides of the image), rotation (radians, counter-clockwise as
                one looks at the image), logarithm of the scale, the two parts of the stretch
    reflected   whether left and right change sides first
    sign        1, or -1 where the contrast is reversed
    """

    parameters: Float[Tensor, "*map 6"]
    reflected: Bool[Tensor, "*map"]
    sign: Float[Tensor, "*map"]

    def at(self, index: Tensor) -> Maps:
        """The maps at these indices of the first axis."""
        return Maps(*(values[index] for values in self))


def grid_of_maps(rotations: int, scales: Sequence[float], shifts: Sequence[float]) -> Maps:
    """All combinations, of positive sign, without stretch: [scale, reflected, rotation, shift].

    rotations  over a full turn, from 0
    shifts     to the right, left, down and up, beside none; sides of the image
    """
    turns = torch.arange(rotations) * (2 * math.pi / rotations)
    directions = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    steps = torch.cat([torch.zeros(1, 2), *(shift * directions for shift in shifts)])
    logs = torch.tensor(list(scales)).log()
    shape = len(scales), 2, rotations, len(steps)
    parameters = torch.zeros(*shape, PARAMETERS)
    parameters[..., :2] = steps
    parameters[..., 2] = turns[:, None]
    parameters[..., 3] = logs[:, None, None, None]
    reflected = torch.zeros(shape, dtype=torch.bool)
    reflected[:, 1] = True
    return Maps(parameters, reflected, torch.ones(shape))


def limited(parameters: Float[Tensor, "*map 6"]) -> Float[Tensor, "*map 6"]:
    """The nearest parameters within `MOST_SHIFT` and `MOST_SCALE`."""
    most = math.log(MOST_SCALE)
    scale = parameters[..., 3:4].clamp(-most, most)
    stretch = parameters[..., 4:]
    length = torch.linalg.vector_norm(stretch, dim=-1, keepdim=True)
    stretch = stretch * ((most - scale.abs()) / length.clamp(min=1e-12)).clamp(max=1)
    shift = parameters[..., :2].clamp(-MOST_SHIFT, MOST_SHIFT)
    return torch.cat([shift, parameters[..., 2:3], scale, stretch], dim=-1)


def matrices(maps: Maps, size: tuple[int, int]) -> Float[Tensor, "*map 2 3"]:
    """`[R E F | t]` of every map, in pixels, for images with these rows and columns."""
    forward = _rotation(maps) @ _stretch(maps, 1) @ _reflection(maps)
    return torch.cat([forward, _shift(maps, size)[..., None]], dim=-1)


def resample(
    images: Float[Tensor, "map image color height width"], maps: Maps, size: tuple[int, int]
) -> Float[Tensor, "map image color rows columns"]:
    """The images moved by their map, on a grid of `size`, centre on centre; grey (0) where there
    was no image. The sign of contrast is not applied.

    Bicubic interpolation (Keys 1981, a = -0.75): the identity returns the image. Where a map's
    scale shrinks (its stretch does not count), a pixel is the mean of 2 x 2 points as far apart as
    the pixel is wider than before, so that fine patterns turn grey instead of coarse.
    """
    n, channels, height, width = images.shape[1:]
    rows, columns = size
    device = images.device
    right = torch.arange(columns, device=device) - (columns - 1) / 2
    down = torch.arange(rows, device=device) - (rows - 1) / 2
    points = torch.stack(torch.meshgrid(right, down, indexing="xy"), dim=-1).flatten(0, 1)
    back = _reflection(maps) @ _stretch(maps, -1) @ _rotation(maps).mT
    at = (points - _shift(maps, size)[:, None]) @ back.mT  # [map, point, 2] in the image
    wider = ((-maps.parameters[:, 3]).exp() - 1).clamp(min=0) / 2
    offsets = [(0, 0)] if not bool((wider > 0).any()) else [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    sides = torch.tensor([width, height], device=device)
    total = images.new_zeros(())
    for offset in offsets:
        moved = at + wider[:, None, None] * torch.tensor(offset, device=device)
        grid = torch.unflatten(2 * moved / sides, 1, size)
        sampled = grid_sample(images.flatten(1, 2), grid, mode="bicubic", align_corners=False)
        total = total + sampled / len(offsets)
    return torch.unflatten(total, 1, (n, channels))


def _rotation(maps: Maps) -> Float[Tensor, "*map 2 2"]:
    """Counter-clockwise for the eye: the second coordinate points down."""
    cos, sin = maps.parameters[..., 2].cos(), maps.parameters[..., 2].sin()
    return torch.unflatten(torch.stack([cos, sin, -sin, cos], dim=-1), -1, (2, 2))


def _stretch(maps: Maps, power: int) -> Float[Tensor, "*map 2 2"]:
    """E to the power of 1 or -1, in closed form."""
    a, b, c = (power * maps.parameters[..., index] for index in (3, 4, 5))
    r = (b.square() + c.square() + 1e-12).sqrt()  # the root's derivative at 0 is infinite
    even, odd = a.exp() * r.cosh(), a.exp() * r.sinh() / r
    entries = [even + odd * b, odd * c, odd * c, even - odd * b]
    return torch.unflatten(torch.stack(entries, dim=-1), -1, (2, 2))


def _reflection(maps: Maps) -> Float[Tensor, "*map 2 2"]:
    first = 1 - 2 * maps.reflected.to(maps.parameters.dtype)
    return torch.diag_embed(torch.stack([first, torch.ones_like(first)], dim=-1))


def _shift(maps: Maps, size: tuple[int, int]) -> Float[Tensor, "*map 2"]:
    sides = torch.tensor([size[1], size[0]], device=maps.parameters.device)
    return maps.parameters[..., :2] * sides
