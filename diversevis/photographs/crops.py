"""Crops of photographs at equal norm, and a network's responses to them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from diversevis.photographs.files import check_channels, shown
from diversevis.photographs.survey import Photograph

# Images [image, c, h, w] (grey levels around the network's mean) -> responses [image, unit].
Respond = Callable[[Tensor], Tensor]

Key = TypeVar("Key")


@dataclass(frozen=True)
class Sheet:
    """A photograph, and rows and columns of the upper left corners of the crops to cut."""

    pixels: UInt8[np.ndarray, "rows columns color"]
    corners: Int[np.ndarray, "crop 2"]


@dataclass(frozen=True)
class Crops:
    """Crops of one photograph, in grey levels around the network's mean, and their corners."""

    x: Float[Tensor, "crop color height width"]
    corners: Int[np.ndarray, "crop 2"]


# The key under which a photograph was read, its crops, and the responses to them.
Answered = tuple[Key, Crops, Float[np.ndarray, "crop unit"]]


@dataclass(frozen=True, kw_only=True)
class Scissors:
    """Opens the photographs of a folder and cuts crops out of them.

    side            shorter side of a photograph, in pixels; the crop's longer one if that is larger
    mean            of the network's input, in [0, 1]: 3 numbers for RGB, or 1 for grey
    size            rows and columns of a crop
    norm            Euclidean, of a crop
    least_contrast  RMS grey levels around the network's mean, before the crop is brought to `norm`

    Raises `InputError` for other channels.
    """

    folder: Path
    side: int
    mean: tuple[float, ...]
    size: tuple[int, int]
    norm: float
    least_contrast: float

    def __post_init__(self) -> None:
        check_channels(
            len(self.mean),
            f"natural={self.folder}",
            "leave out natural exemplars and varied images",
        )

    @property
    def crop_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a crop."""
        return len(self.mean), *self.size

    def photograph(self, file: str) -> UInt8[np.ndarray, "rows columns color"]:
        """Upright and scaled, grey where the network takes a single channel (`shown`)."""
        return shown(self.folder / file, side=max(self.side, *self.size), mean=self.mean)

    def positions(self, pixels: UInt8[np.ndarray, "rows columns color"]) -> tuple[int, int]:
        """Number of rows and of columns in which a crop can begin."""
        return pixels.shape[0] - self.size[0] + 1, pixels.shape[1] - self.size[1] + 1

    def draw(self, photograph: Photograph, *, crops: int, seed: int) -> Sheet:
        """A photograph and random positions in it, all different: at most `crops`. They depend on
        its pixels and the seed alone."""
        pixels = self.photograph(photograph.file)
        rows, columns = self.positions(pixels)
        start = hashlib.sha256(f"{seed}/{photograph.digest}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(start, "big"))
        drawn = generator.choice(rows * columns, min(crops, rows * columns), replace=False)
        return Sheet(pixels, np.stack(np.divmod(drawn, columns), axis=1))

    def __call__(self, sheet: Sheet) -> Crops:
        """The crops with enough contrast, at equal norm."""
        middle = 255 * torch.tensor(self.mean)[:, None, None]
        planes = torch.from_numpy(sheet.pixels).permute(2, 0, 1).float() - middle
        windows = planes.unfold(1, self.size[0], 1).unfold(2, self.size[1], 1)
        rows, columns = torch.from_numpy(sheet.corners).unbind(1)
        x = windows.permute(1, 2, 0, 3, 4)[rows, columns]
        norms = torch.linalg.vector_norm(x, dim=(1, 2, 3))
        least = self.least_contrast * math.sqrt(math.prod(self.crop_shape))
        enough = (norms >= least) & (norms > 0)
        if not enough.all():  # only then: selecting copies the crops, which may be large
            x, norms = x[enough], norms[enough]
        scaled = x.mul_((self.norm / norms)[:, None, None, None])
        return Crops(scaled, sheet.corners[enough.numpy()])


def responses(
    respond: Respond, crops: Iterable[tuple[Key, Crops]], batch: int
) -> Iterator[Answered[Key]]:
    """Every photograph's crops with the responses to them; -infinity for those not finite.

    At most `batch` crops go through the network at once. Photographs share a batch, since the few
    crops of a single photograph would not fill the device.
    """
    group: list[tuple[Key, Crops]] = []
    count = 0
    for key, of_photograph in crops:
        if group and count + len(of_photograph.x) > batch:
            yield from _show(respond, group, batch)
            group, count = [], 0
        group.append((key, of_photograph))
        count += len(of_photograph.x)
    yield from _show(respond, group, batch)


def _show(respond: Respond, group: list[tuple[Key, Crops]], batch: int) -> Iterator[Answered[Key]]:
    ends = np.cumsum([len(crops.x) for _, crops in group])
    if not len(ends) or ends[-1] == 0:  # no crop has the contrast; networks refuse empty batches
        return
    x = torch.cat([crops.x for _, crops in group])
    with torch.no_grad():
        parts = [respond(x[at : at + batch]).float().cpu() for at in range(0, len(x), batch)]
    answers = torch.cat(parts).numpy()
    per_photograph = np.split(np.where(np.isfinite(answers), answers, -np.inf), ends[:-1])
    for (key, crops), of_photograph in zip(group, per_photograph, strict=True):
        if len(of_photograph):
            yield key, crops, of_photograph
