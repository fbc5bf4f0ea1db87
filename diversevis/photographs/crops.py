"""Crops of photographs at equal norm, and a network's responses to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from diversevis.photographs.files import read, upright

# x [image, 3, h, w] (grey levels around the network's mean) -> responses [image, unit]
Respond = Callable[[Tensor], Tensor]

Key = TypeVar("Key")


@dataclass(frozen=True)
class Sheet:
    """A photograph and where to cut it: rows and columns of upper left corners."""

    pixels: UInt8[np.ndarray, "rows columns 3"]
    places: Int[np.ndarray, "crop 2"]


@dataclass(frozen=True)
class Crops:
    """What was cut out of one photograph, in grey levels around the network's mean, and where."""

    x: Float[Tensor, "crop 3 height width"]
    places: Int[np.ndarray, "crop 2"]


# Whatever a photograph was read for, its crops, and the responses to them.
Answered = tuple[Key, Crops, Float[np.ndarray, "crop unit"]]


@dataclass(frozen=True, kw_only=True)
class Scissors:
    """Opens the photographs of a folder and cuts crops out of them.

    side            shorter side of a photograph, in pixels; more where the crops need it
    mean            of the network's input, in [0, 1]
    size            rows and columns of a crop
    norm            Euclidean, of a crop
    least_contrast  RMS grey levels around the network's mean, before the crop is brought to `norm`
    """

    folder: Path
    side: int
    mean: tuple[float, float, float]
    size: tuple[int, int]
    norm: float
    least_contrast: float

    def photograph(self, file: str) -> UInt8[np.ndarray, "rows columns 3"]:
        """Upright and scaled; the network's mean shows through what is transparent.

        Raises `Unreadable`.
        """
        red, green, blue = (min(255, max(0, round(255 * value))) for value in self.mean)
        as_rgb = partial(upright, side=max(self.side, *self.size), ground=(red, green, blue))
        return np.array(read(self.folder / file, as_rgb))

    def positions(self, pixels: UInt8[np.ndarray, "rows columns 3"]) -> tuple[int, int]:
        """In how many rows and columns a crop can begin."""
        return pixels.shape[0] - self.size[0] + 1, pixels.shape[1] - self.size[1] + 1

    def __call__(self, sheet: Sheet) -> Crops:
        """The crops that have the contrast, at equal norm."""
        middle = 255 * torch.tensor(self.mean)[:, None, None]
        planes = torch.from_numpy(sheet.pixels).permute(2, 0, 1).float() - middle
        windows = planes.unfold(1, self.size[0], 1).unfold(2, self.size[1], 1)
        rows, columns = torch.from_numpy(sheet.places).unbind(1)
        x = windows.permute(1, 2, 0, 3, 4)[rows, columns]
        norms = torch.linalg.vector_norm(x, dim=(1, 2, 3))
        least = self.least_contrast * math.sqrt(3 * self.size[0] * self.size[1])
        kept = (norms >= least) & (norms > 0)
        if not kept.all():  # rarely: large crops are copied as seldom as can be
            x, norms = x[kept], norms[kept]
        return Crops(x.mul_((self.norm / norms)[:, None, None, None]), sheet.places[kept.numpy()])


def responses(
    respond: Respond, crops: Iterable[tuple[Key, Crops]], batch: int
) -> Iterator[Answered[Key]]:
    """Every photograph's crops with the responses to them; what is not finite becomes -infinity.

    At most `batch` crops go through the network at once; photographs share a batch, since the few
    crops of each would leave the network idle.
    """
    group: list[tuple[Key, Crops]] = []
    count = 0
    for key, cut in crops:
        if group and count + len(cut.x) > batch:
            yield from _answer(respond, group, batch)
            group, count = [], 0
        group.append((key, cut))
        count += len(cut.x)
    yield from _answer(respond, group, batch)


def _answer(
    respond: Respond, group: Sequence[tuple[Key, Crops]], batch: int
) -> Iterator[Answered[Key]]:
    ends = np.cumsum([len(cut.x) for _, cut in group])
    if not len(ends) or ends[-1] == 0:  # the network is not asked about nothing
        return
    x = torch.cat([cut.x for _, cut in group])
    with torch.no_grad():
        answers = [respond(x[at : at + batch]).float().cpu() for at in range(0, len(x), batch)]
    found = torch.cat(answers).numpy()
    parts = np.split(np.where(np.isfinite(found), found, -np.inf), ends[:-1])
    for (key, cut), part in zip(group, parts, strict=True):
        if len(part):
            yield key, cut, part
