"""Receptive fields, asked of the network itself: which pixels change which units?

NaN in the rows from k on makes a unit NaN if and only if it looks at one of them, through any
operation and any control flow. All layers share a pass, and several stripes of NaN make a batch.
Where an operation swallows NaN, other noise in its place changes the units instead.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from diversevis.models.layer import Layer
from diversevis.models.receptive_field import ReceptiveField
from diversevis.models.watch import as_maps, responses_at

Marker = Literal["nan", "noise"]
# Sides of the images with stripes, until a field's edges show: those of fields up to 1.4 sides do.
CANVASES = 64, 128, 256
ENOUGH = 128  # pixels: fields of up to 180 pixels show
IMAGES_AT_ONCE = 16
CORNER = 8  # the corners that a unit must see to see the whole image are 1/8 of its sides
COARSEST = 32  # units per side of a coarser map that was enlarged
MOVE = 32  # pixels by which an image is moved: a multiple of most strides
CLOSE = 1e-3  # of responses that move along, relative to the largest
STRONG = 10.0  # standard deviation of noise that takes the place of NaN


@contextlib.contextmanager
def native_convolutions() -> Iterator[None]:
    """Without oneDNN and NNPACK: implementations that work in tiles (Winograd, FFT) spread NaN to
    units that do not see it."""
    library: Any = torch.backends.mkldnn
    before, library.enabled = library.enabled, False
    try:
        with torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        library.enabled = before


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
        self, layers: Sequence[Layer], size: tuple[int, int], *, thorough: bool = True
    ) -> list[ReceptiveField | None]:
        """The receptive field of every layer of maps; None for units that see the whole image, or
        whose field depends on their position.

        size      rows and columns of images for which the network is known to run
        thorough  look for fields of over 180 pixels, too, which takes longest
        """
        fields: list[ReceptiveField | None] = [None] * len(layers)
        left = [i for i, layer in enumerate(layers) if layer.kind.startswith("maps")]
        canvases = [(min(side, size[0]), min(side, size[1])) for side in CANVASES]
        if not thorough:  # the whole size only if it is the only one that the network takes
            canvases = [canvas for canvas in canvases if max(canvas) <= ENOUGH] or [size]
            canvases += [size] * (not any(self._runs(c, layers, left) for c in canvases))
        for canvas in dict.fromkeys(canvases):
            found = self._fields_on(canvas, layers, left)
            left = [i for i in left if i not in found]
            for i, field in found.items():
                fields[i] = field
        if self.marker == "nan" and (left := self._swallow(size, layers, left)):
            noisy = replace(self, marker="noise")
            shown = noisy.fields([layers[i] for i in left], size, thorough=thorough)
            for i, field in zip(left, shown, strict=True):
                fields[i] = field
        return fields

    def _swallow(
        self, size: tuple[int, int], layers: Sequence[Layer], which: Sequence[int]
    ) -> list[int]:
        """Layers that are not NaN though all pixels are."""
        if not which:
            return []
        seen = self._seen(torch.ones(1, *size, dtype=torch.bool), layers, which)
        return [i for i in which if not seen[i].any()]

    def see_everything(self, layers: Sequence[Layer], size: tuple[int, int]) -> list[bool]:
        """Of every layer, whether its units at either corner see the opposite corner."""
        seen = self._seen(corners(size), layers, range(len(layers)))
        return [bool(seen[i][0, -1, -1] and seen[i][1, 0, 0]) for i in range(len(layers))]

    def _runs(self, canvas: tuple[int, int], layers: Sequence[Layer], which: Sequence[int]) -> bool:
        try:
            self._shapes(canvas, layers, which)
        except Exception:  # networks can raise anything
            return False
        return True

    def _fields_on(
        self, canvas: tuple[int, int], layers: Sequence[Layer], which: Sequence[int]
    ) -> dict[int, ReceptiveField | None]:
        """Fields whose edges show on images of this size; None where they depend on the unit."""
        if not which or not self._runs(canvas, layers, which):
            return {}
        shapes = self._shapes(canvas, layers, which)
        steps = {i: self._step(canvas, shapes[i]) for i in which if min(shapes[i]) > 2}
        steps = {i: step for i, step in steps.items() if step < min(canvas) // 5}
        if not steps:
            return {}
        reach = 2 * max(steps.values()) + 1  # two edges of every layer are among so many pixels
        edges = self._edges(canvas, layers, list(steps), reach)
        fields: dict[int, ReceptiveField | None] = {}
        for i in steps:
            with contextlib.suppress(_Unseen):  # a larger image may show its edges
                fields[i] = _field(*(_axis(*edges[i][axis]) for axis in (0, 1)))
        moved = self._move_along(canvas, layers, fields)
        return {i: field if i in moved else None for i, field in fields.items()}

    def _move_along(
        self,
        canvas: tuple[int, int],
        layers: Sequence[Layer],
        fields: Mapping[int, ReceptiveField | None],
    ) -> set[int]:
        """Layers whose responses move along where the image is moved."""
        which = [i for i, field in fields.items() if field is not None]
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(1, self.colors, *canvas, generator=generator)
        z = torch.cat([z, z.roll((MOVE, MOVE), (2, 3))])
        moved = set[int]()

        def each(index: int, response: Tensor) -> None:
            first, second = as_maps(response, layers[which[index]].kind)
            field, before, after = fields[which[index]], [slice(None)], [slice(None)]
            assert field is not None  # noqa: S101  (see above)
            for axis, side in enumerate(canvas):
                step, units = round(MOVE / field.stride[axis]), first.shape[1 + axis]
                unit = max(0, (units - step) // 2)
                before.append(slice(unit, unit + 1))
                after.append(slice(unit + step, unit + step + 1))
                if MOVE % field.step[axis] or field.size[axis] + MOVE > side:
                    moved.add(which[index])  # this image is too small to tell
            a, b = first[tuple(before)], second[tuple(after)]
            if a.shape == b.shape and torch.allclose(
                a, b, rtol=CLOSE, atol=CLOSE * float(a.abs().max())
            ):
                moved.add(which[index])

        if which:
            with torch.no_grad():
                responses_at(self.root, z, [layers[i].tap for i in which], each)
        return moved

    def _shapes(
        self, canvas: tuple[int, int], layers: Sequence[Layer], which: Sequence[int]
    ) -> dict[int, tuple[int, int]]:
        seen = self._seen(torch.zeros(1, *canvas, dtype=torch.bool), layers, which)
        return {i: (seen[i].shape[1], seen[i].shape[2]) for i in which}

    def _step(self, canvas: tuple[int, int], shape: tuple[int, int]) -> int:
        """Upper bound on the pixels between fields in maps of this shape (with little padding).

        After a coarser map was enlarged, several units have one field: so many more pixels.
        """
        steps = [math.ceil(side / units) for side, units in zip(canvas, shape, strict=True)]
        return max(*steps, max(canvas) // COARSEST)

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


def marker_for(root: nn.Module) -> Marker:
    """NaN, but noise for deformable convolutions, which read memory at the positions that they
    calculate: NaN positions end the process."""
    deforms = any("deform" in type(module).__name__.lower() for module in root.modules())
    return "noise" if deforms else "nan"


def corners(size: tuple[int, int]) -> Bool[Tensor, "2 height width"]:
    """The upper left and the lower right corner, marked."""
    (height, width), corner = size, tuple(max(1, side // CORNER) for side in size)
    marks = torch.zeros(2, height, width, dtype=torch.bool)
    marks[0, : corner[0], : corner[1]] = True
    marks[1, height - corner[0] :, width - corner[1] :] = True
    return marks


class _Unseen(Exception):
    """Too few edges of fields were seen."""


def _axis(first: Mapping[int, int], last: Mapping[int, int]) -> Axis | None:
    """From the first and last pixels of units' fields; None where these differ in size or are not
    equally spaced.

    Raises `_Unseen`.
    """
    lines = _line(first), _line(last)
    if lines[0] is None or lines[1] is None or lines[0][1:] != lines[1][1:]:
        return None
    (begin, step, units), (end, _, _) = lines
    sizes = {end(unit) - begin(unit) + 1 for unit in range(units)}
    return Axis(sizes.pop(), begin(0), step, units) if len(sizes) == 1 else None


def _line(edge: Mapping[int, int]) -> tuple[Callable[[int], int], int, int] | None:
    """(unit -> edge, pixels per step, units per step) for edges that are equally spaced."""
    by_edge: dict[int, list[int]] = {}
    for unit, pixel in sorted(edge.items()):
        by_edge.setdefault(pixel, []).append(unit)
    pixels = sorted(by_edge)
    if len(pixels) < 2:
        raise _Unseen
    step, units = pixels[1] - pixels[0], len(by_edge[pixels[0]])
    origin = by_edge[pixels[0]][0]

    def at(unit: int) -> int:
        return pixels[0] + (unit - origin) // units * step

    return (at, step, units) if all(at(unit) == pixel for unit, pixel in edge.items()) else None


def _field(rows: Axis | None, columns: Axis | None) -> ReceptiveField | None:
    if rows is None or columns is None:
        return None
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
