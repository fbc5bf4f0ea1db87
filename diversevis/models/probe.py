"""Receptive fields, asked of the network itself: which pixels change which units?

NaN in the rows from k on makes a unit NaN if and only if it looks at one of them, through any
operation and any control flow. All layers share a pass, and several stripes of NaN make a batch.
Where an operation swallows NaN, other noise in its place changes the units instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from diversevis.models.layer import Layer
from diversevis.models.receptive_field import ReceptiveField
from diversevis.models.watch import as_maps, responses_at

Marker = Literal["nan", "noise"]
CANVASES = 64, 128, 256  # sides of the images with stripes, until a field's edges show
IMAGES_AT_ONCE = 16
CORNER = 8  # the corners that a unit must see to see the whole image are 1/8 of its sides
STRONG = 10.0  # standard deviation of noise that takes the place of NaN


class Axis(NamedTuple):
    """Fields along one axis: the unit `r` sees `size` pixels from `first + r * step / units` on,
    where `units` neighbouring units (more than 1 after upsampling) begin at the same pixel."""

    size: int
    first: int
    step: int
    units: int


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Asks a network for the fields of layers.

    root      in eval mode, with weights of any values that give finite responses
    colors    number of channels of its images
    marker    what is put in place of pixels; where `nan` shows no field, `noise` is tried as well
    """

    root: nn.Module
    colors: int
    marker: Marker = "nan"

    def fields(
        self, layers: Sequence[Layer], limit: tuple[int, int]
    ) -> list[ReceptiveField | None]:
        """The receptive field of every layer; None for units that see the whole image, or whose
        field depends on their position.

        limit  rows and columns of the largest image, for which the network is known to run
        """
        fields: list[ReceptiveField | None] = [None] * len(layers)
        maps = [i for i, layer in enumerate(layers) if layer.kind.startswith("maps")]
        bounded = self._bounded(layers, maps, limit) if maps else []
        for side in CANVASES:
            canvas = min(side, limit[0]), min(side, limit[1])
            if bounded and (canvas != limit or side == CANVASES[0]):
                found = self._fields_on(canvas, layers, bounded)
                bounded = [i for i in bounded if i not in found]
                for i, field in found.items():
                    fields[i] = field
        for i, field in self._fields_on(limit, layers, bounded).items():
            fields[i] = field
        if self.marker == "nan" and (left := [i for i in bounded if fields[i] is None]):
            noisy = replace(self, marker="noise").fields([layers[i] for i in left], limit)
            for i, shown in zip(left, noisy, strict=True):
                fields[i] = shown
        return fields

    def _bounded(
        self, layers: Sequence[Layer], which: Sequence[int], limit: tuple[int, int]
    ) -> list[int]:
        """Layers whose units at a corner do not all see the opposite corner."""
        (height, width), corner = limit, tuple(max(1, side // CORNER) for side in limit)
        marks = torch.zeros(2, height, width, dtype=torch.bool)
        marks[0, : corner[0], : corner[1]] = True
        marks[1, height - corner[0] :, width - corner[1] :] = True
        seen = self._seen(marks, layers, which)
        return [i for i in which if not (seen[i][0, -1, -1] and seen[i][1, 0, 0])]

    def _fields_on(
        self, canvas: tuple[int, int], layers: Sequence[Layer], which: Sequence[int]
    ) -> dict[int, ReceptiveField]:
        """Fields whose edges show on images of this size."""
        if not which:
            return {}
        try:
            shapes = self._shapes(canvas, layers, which)
        except Exception:  # the network does not take images of this size
            return {}
        steps = {i: self._step(canvas, shapes[i]) for i in which if min(shapes[i]) > 2}
        steps = {i: step for i, step in steps.items() if step < min(canvas) // 5}
        if not steps:
            return {}
        reach = 2 * max(steps.values()) + 2  # two edges of every layer are among so many pixels
        edges = self._edges(canvas, layers, list(steps), reach)
        found = {}
        for i in steps:
            rows, columns = (_axis(*edges[i][axis]) for axis in (0, 1))
            if rows is not None and columns is not None:
                found[i] = _field(rows, columns)
        return found

    def _shapes(
        self, canvas: tuple[int, int], layers: Sequence[Layer], which: Sequence[int]
    ) -> dict[int, tuple[int, int]]:
        seen = self._seen(torch.zeros(1, *canvas, dtype=torch.bool), layers, which)
        return {i: (seen[i].shape[1], seen[i].shape[2]) for i in which}

    def _step(self, canvas: tuple[int, int], shape: tuple[int, int]) -> int:
        """Upper bound on the stride of maps of this shape."""
        return max(math.ceil(side / (units - 1)) for side, units in zip(canvas, shape, strict=True))

    def _edges(
        self, canvas: tuple[int, int], layers: Sequence[Layer], which: Sequence[int], reach: int
    ) -> dict[int, tuple[tuple[dict[int, int], dict[int, int]], ...]]:
        """Of every layer and axis: first and last pixel of the fields of some units, where these
        lie among `reach` pixels far from the border."""
        marks, starts = [], []
        for axis, side in enumerate(canvas):
            start = min(3 * side // 4, side - reach - 2)
            starts.append(start)
            line = torch.arange(side)
            shape = (1, -1, 1) if axis == 0 else (1, 1, -1)
            edge = start + torch.arange(reach + 1)[:, None, None]
            marks.append((line.reshape(shape) >= edge).expand(-1, *canvas))
            marks.append((line.reshape(shape) <= side - 1 - edge).expand(-1, *canvas))
        seen = self._seen(torch.cat(marks), layers, which)
        edges = {}
        for i in which:
            parts = torch.split(seen[i], reach + 1)
            middle_row, middle_column = (length // 2 for length in seen[i].shape[1:])
            lines = [p[:, :, middle_column] for p in parts[:2]]
            lines += [p[:, middle_row, :] for p in parts[2:]]
            last_rows, first_rows, last_columns, first_columns = map(_last_seen, lines)
            edges[i] = tuple(
                (
                    {unit: side - 1 - start - k for unit, k in first.items()},
                    {unit: start + k for unit, k in last.items()},
                )
                for side, start, first, last in (
                    (canvas[0], starts[0], first_rows, last_rows),
                    (canvas[1], starts[1], first_columns, last_columns),
                )
            )
        return edges

    def _seen(
        self,
        marks: Bool[Tensor, "image height width"],
        layers: Sequence[Layer],
        which: Sequence[int],
    ) -> dict[int, Bool[Tensor, "image rows columns"]]:
        """Whether each unit of the layers sees the marked pixels of each image."""
        taps = [layers[i].tap for i in which]
        generator = torch.Generator().manual_seed(0)
        shape = self.colors, *marks.shape[1:]
        base, other = torch.randn(2, *shape, generator=generator)
        other = torch.full_like(other, torch.nan) if self.marker == "nan" else STRONG * other
        parts: dict[int, list[Tensor]] = {i: [] for i in which}

        def each(index: int, response: Tensor) -> None:
            maps = as_maps(response, layers[which[index]].kind)
            changed = maps.isnan() if self.marker == "nan" else maps[1:] != maps[:1]
            parts[which[index]].append(changed.any(1))

        with torch.no_grad():
            for part in torch.split(marks, IMAGES_AT_ONCE):
                z = torch.where(part[:, None], other, base)
                if self.marker == "noise":
                    z = torch.cat([base[None], z])
                responses_at(self.root, z, taps, each)
        return {i: torch.cat(found) for i, found in parts.items()}


def _last_seen(line: Bool[Tensor, "mark unit"]) -> dict[int, int]:
    """unit -> the last mark that it sees, for units that see one and do not see the next.

    The marks grow smaller; empty where a unit sees one after having missed another.
    """
    count = line.sum(0)
    if not bool((line == (torch.arange(len(line))[:, None] < count)).all()):
        return {}
    inside = (count > 0) & (count < len(line))
    return {unit: int(count[unit]) - 1 for unit in inside.nonzero()[:, 0].tolist()}


def _axis(first: Mapping[int, int], last: Mapping[int, int]) -> Axis | None:
    """From the first and last pixels of units' fields; None where they are not equally spaced."""
    lines = _line(first), _line(last)
    if lines[0] is None or lines[1] is None or lines[0][1:] != lines[1][1:]:
        return None
    (begin, step, units), (end, _, _) = lines
    at_zero = begin(0), end(0)
    return Axis(at_zero[1] - at_zero[0] + 1, at_zero[0], step, units)


def _line(edge: Mapping[int, int]) -> tuple[Callable[[int], int], int, int] | None:
    """(unit -> edge, pixels per step, units per step) for edges that are equally spaced."""
    by_edge: dict[int, list[int]] = {}
    for unit, pixel in sorted(edge.items()):
        by_edge.setdefault(pixel, []).append(unit)
    pixels = sorted(by_edge)
    if len(pixels) < 2:
        return None
    step, units = pixels[1] - pixels[0], len(by_edge[pixels[0]])
    origin = by_edge[pixels[0]][0]

    def at(unit: int) -> int:
        return pixels[0] + (unit - origin) // units * step

    return (at, step, units) if all(at(unit) == pixel for unit, pixel in edge.items()) else None


def _field(rows: Axis, columns: Axis) -> ReceptiveField:
    strides = [
        axis.step // axis.units if axis.step % axis.units == 0 else axis.step / axis.units
        for axis in (rows, columns)
    ]
    return ReceptiveField(
        size=(rows.size, columns.size),
        stride=(strides[0], strides[1]),
        offset=(rows.first, columns.first),
        period=(rows.units, columns.units),
    )
