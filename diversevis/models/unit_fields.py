"""What each unit of a vector sees of the whole image: the fields of model neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from diversevis.models.layer import Layer
from diversevis.models.probe import IMAGES_AT_ONCE, Marker, corners, native_convolutions
from diversevis.models.receptive_field import UnitField
from diversevis.models.watch import responses_at

LARGEST = 128  # pixels: fields of single units are looked for in images of up to this
DRAWS = 2  # of noise, where a nonlinearity may hide a change from a unit
SEEN = 1e-5  # of a unit's largest response: smaller changes are rounding


def unit_fields(
    root: nn.Module,
    colors: int,
    layer: Layer,
    size: tuple[int, int],
    adapt: Callable[[Tensor], Tensor] | None = None,
) -> list[UnitField | None] | None:
    """The part of the image that each unit of a vector sees; None for one that sees nothing.

    By NaN; where this goes to all units, as through products with zeros, by noise.

    root    the network, in eval mode
    colors  number of channels of its images
    size    rows and columns of its images
    adapt   turns noise into what the network takes; None: noise itself

    None for other layers, for images over 128 pixels, and where all units see all of it.
    """
    if layer.kind != "vector" or max(size) > LARGEST:
        return None
    with native_convolutions():
        at_corners = _units_that_see(root, colors, corners(size), layer, adapt, "noise")
        if bool(at_corners.all()):
            return None
        whole = UnitField(0, 0, *size)
        markers: tuple[Marker, Marker] = ("nan", "noise")
        for marker in markers:
            seen = _units_that_see(root, colors, _stripes(size), layer, adapt, marker)
            fields = _boxes(seen, size)
            if marker == "nan" and None in fields:  # swallowed
                continue
            if any(field not in (None, whole) for field in fields):
                return fields
    return None


def _units_that_see(
    root: nn.Module,
    colors: int,
    marks: Bool[Tensor, "mark height width"],
    layer: Layer,
    adapt: Callable[[Tensor], Tensor] | None,
    marker: Marker,
) -> Bool[Tensor, "mark unit"]:
    """Whether each unit of a vector sees the marked pixels."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros(len(marks), layer.channels, dtype=torch.bool)
    for _ in range(DRAWS if marker == "noise" else 1):
        base, other = torch.randn(2, colors, *marks.shape[1:], generator=generator)
        if marker == "nan":
            other = torch.full_like(other, torch.nan)
        masked = functional.pad(marks, (0, 0, 0, 0, 1, 0))  # the first image has no mark
        batches = (
            torch.where(part[:, None], other, base) for part in torch.split(masked, IMAGES_AT_ONCE)
        )
        responses = _responses(root, layer, (adapt(z) if adapt else z for z in batches))
        if marker == "nan":
            seen |= responses[1:].isnan()
        else:
            rounding = SEEN * responses.abs().amax(0)
            seen |= (responses[1:] - responses[0]).abs() > rounding
    return seen


def _responses(
    root: nn.Module, layer: Layer, batches: Iterable[Tensor]
) -> Float[Tensor, "image unit"]:
    """Of a vector, to the images of all batches."""
    parts = list[Tensor]()
    with torch.no_grad():
        for z in batches:
            responses_at(root, z, [layer.tap], lambda _, found: parts.append(found))
    return torch.cat(parts)


def _stripes(size: tuple[int, int]) -> Bool[Tensor, "mark height width"]:
    """Marks of all rows up to each, all from each on, and the same of columns."""
    marks = []
    for axis, side in enumerate(size):
        line, edge = torch.arange(side), torch.arange(side)[:, None]
        for stripes in (line <= edge, line >= edge):
            shape = (side, side, 1) if axis == 0 else (side, 1, side)
            marks.append(stripes.reshape(shape).expand(-1, *size))
    return torch.cat(marks)


def _boxes(seen: Bool[Tensor, "mark unit"], size: tuple[int, int]) -> list[UnitField | None]:
    """Of every unit, the field whose edges its sight of `_stripes` shows; None: it sees nothing."""
    height, width = size
    up_to_row, from_row, up_to_column, from_column = torch.split(
        seen, [height, height, width, width]
    )
    edges = []
    for up_to, after in ((up_to_row, from_row), (up_to_column, from_column)):
        numbers = torch.arange(len(up_to))[:, None]
        first = torch.where(up_to, numbers, len(up_to)).amin(0)
        edges.append((first, torch.where(after, numbers, -1).amax(0) - first + 1))
    (top, rows), (left, columns) = edges
    table = torch.stack([top, left, rows, columns], dim=1).tolist()
    return [UnitField(*box) if box[2] > 0 and box[3] > 0 else None for box in table]
