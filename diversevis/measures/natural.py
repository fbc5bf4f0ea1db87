"""Natural exemplars: the crops of photographs that drive each unit most, at equal norm.

METHOD.md section 8.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError
from diversevis.photographs.crops import Answered, Crops, Key, Respond, Scissors, Sheet, responses
from diversevis.photographs.files import photographs, read_ahead

# Told how many photographs are done, and of how many.
Listener = Callable[[int, int], None]
Place = tuple[str, int, int]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of every unit its best crops, best first; NaN, and no place, where there are fewer.

    images       grey levels around the network's mean, all of one norm
    places       file (relative to the folder), row and column of the crop's upper left corner, in
                 pixels of the photograph as it was looked at: upright, and scaled
    photographs  that could be read
    crops        with enough contrast, which the units were shown (before the best were moved)
    """

    images: Float[Tensor, "unit top 3 height width"]
    responses: Float[Tensor, "unit top"]
    places: tuple[tuple[Place, ...], ...]
    photographs: int
    crops: int


@dataclass(frozen=True, kw_only=True)
class Exemplars:
    """Searches a folder of photographs for the crops that drive units most, one per photograph.

    top             crops kept of each unit
    crops           positions looked at in each photograph, at random
    side            shorter side that photographs are scaled to, in pixels; the receptive field's
                    where that is larger
    least_contrast  RMS grey levels around the network's mean: flatter crops are left out, since
                    bringing them to the norm would amplify the noise of their compression
    refine          pixels by which the best crops may move, in the end, to where the response is
                    highest: all positions that near are looked at; 0: none
    """

    top: int
    crops: int
    side: int
    least_contrast: float
    refine: int

    def __call__(
        self,
        respond: Respond,
        folder: Path,
        *,
        mean: tuple[float, float, float],
        size: tuple[int, int],
        norm: float,
        seed: int,
        batch: int,
        units: int,
        progress: Listener | None = None,
    ) -> Found:
        """The best crops of every unit. A photograph's crops depend on it and the seed alone.

        respond   images [image, 3, h, w], on the CPU, of Euclidean norm `norm` -> responses
                  [image, unit], on any device; what is not finite never wins
        mean      of the network's input, in [0, 1]
        size      rows and columns of the receptive field
        batch     at most so many crops go through the network at once
        units     how many responses an image has
        progress  called after each photograph with how many are done and of how many; where the
                  best crops are moved, the photograph of each comes on top in the end

        Unreadable files are named in a warning and left out. Raises `InputError` where all are,
        and where no crop has the contrast.
        """
        scissors = Scissors(
            folder=folder, side=self.side, mean=mean, size=size, norm=norm,
            least_contrast=self.least_contrast,
        )  # fmt: skip
        files = [p.relative_to(folder).as_posix() for p in photographs(folder, "natural")]
        best: list[list[_Exemplar]] = [[] for _ in range(units)]
        seen = _Seen(progress, len(files))
        drawn = read_ahead(files, lambda file: self._draw(scissors, seed, file))
        for file, crops, answers in responses(respond, seen(drawn, scissors), batch):
            _keep_best(best, file, crops, answers, self.top)
        _refuse_none(folder, seen, self.least_contrast, size)
        read, shown = seen.read, seen.crops
        if self.refine:
            jobs = [(unit, exemplar) for unit, row in enumerate(best) for exemplar in row]
            seen.total += len(jobs)
            near = read_ahead(jobs, lambda job: self._neighbours(scissors, job[1]))
            best = _moved(best, responses(respond, seen(near, scissors), batch))
        return _found(best, self.top, size, read, shown)

    def _draw(self, scissors: Scissors, seed: int, file: str) -> Sheet:
        """A photograph and random places in it, each at most once."""
        pixels = scissors.photograph(file)
        rows, columns = scissors.positions(pixels)
        name = f"{seed}/{file}".encode("utf-8", "surrogateescape")
        generator = np.random.default_rng(int.from_bytes(hashlib.sha256(name).digest(), "big"))
        drawn = generator.choice(rows * columns, min(self.crops, rows * columns), replace=False)
        return Sheet(pixels, np.stack(np.divmod(drawn, columns), axis=1))

    def _neighbours(self, scissors: Scissors, exemplar: _Exemplar) -> Sheet:
        """Its photograph and all places at most `refine` pixels from its own."""
        pixels = scissors.photograph(exemplar.file)
        shifts = np.arange(-self.refine, self.refine + 1)
        near = np.stack(np.meshgrid(shifts, shifts, indexing="ij"), axis=-1).reshape(-1, 2)
        places = near + np.array([exemplar.row, exemplar.column])
        inside = (places >= 0) & (places < scissors.positions(pixels))
        return Sheet(pixels, places[inside.all(1)])


@dataclass(frozen=True)
class _Exemplar:
    response: float
    file: str
    row: int
    column: int
    x: Float[Tensor, "3 height width"]


class _Seen:
    """Cuts up what is read, counts it, and says so."""

    def __init__(self, progress: Listener | None, total: int) -> None:
        self.progress, self.total = progress, total
        self.done = self.read = self.crops = 0

    def __call__(
        self, sheets: Iterable[tuple[Key, Sheet | None]], scissors: Scissors
    ) -> Iterator[tuple[Key, Crops]]:
        for key, sheet in sheets:
            if sheet is not None:
                crops = scissors(sheet)
                self.read, self.crops = self.read + 1, self.crops + len(crops.x)
                yield key, crops
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.total)


def _exemplar(
    file: str, crops: Crops, answers: Float[np.ndarray, " crop"], index: int
) -> _Exemplar:
    row, column = crops.places[index].tolist()
    return _Exemplar(float(answers[index]), file, row, column, crops.x[index].clone())


def _falling(exemplar: _Exemplar) -> float:
    return -exemplar.response


def _keep_best(
    best: list[list[_Exemplar]],
    file: str,
    crops: Crops,
    answers: Float[np.ndarray, "crop unit"],
    top: int,
) -> None:
    """Takes a photograph's best crop for each unit in among its `top`; of equals the first stays,
    so that the result does not depend on chance."""
    least = np.array([row[-1].response if len(row) == top else -np.inf for row in best])
    winners = answers.argmax(0)
    for unit in np.flatnonzero(answers.max(0) > least).tolist():
        found = _exemplar(file, crops, answers[:, unit], int(winners[unit]))
        insort(best[unit], found, key=_falling)
        del best[unit][top:]


def _moved(
    best: list[list[_Exemplar]], neighbours: Iterable[Answered[tuple[int, _Exemplar]]]
) -> list[list[_Exemplar]]:
    """`best` with each exemplar where the response is highest, and in order again."""
    better: dict[tuple[int, str], _Exemplar] = {}
    for (unit, exemplar), crops, answers in neighbours:
        own = answers[:, unit]
        if own.max() > exemplar.response:
            better[unit, exemplar.file] = _exemplar(exemplar.file, crops, own, int(own.argmax()))
    return [
        sorted((better.get((unit, kept.file), kept) for kept in row), key=_falling)
        for unit, row in enumerate(best)
    ]


def _refuse_none(folder: Path, seen: _Seen, least_contrast: float, size: tuple[int, int]) -> None:
    if not seen.read:
        raise InputError(f"natural={folder}: none of its files could be read.")
    if not seen.crops:
        raise InputError(
            f"natural={folder}: no crop of {size[0]} x {size[1]} pixels has an RMS contrast of "
            f"least_contrast={least_contrast:g} grey levels or more, in {seen.read} photographs. "
            "Give others, or a lower least_contrast."
        )


def _found(
    best: Sequence[Sequence[_Exemplar]], top: int, size: tuple[int, int], read: int, shown: int
) -> Found:
    images = torch.full((len(best), top, 3, *size), torch.nan)
    answers = torch.full((len(best), top), torch.nan)
    for unit, row in enumerate(best):
        for rank, exemplar in enumerate(row):
            images[unit, rank] = exemplar.x
            answers[unit, rank] = exemplar.response
    places = tuple(tuple((e.file, e.row, e.column) for e in row) for row in best)
    return Found(images=images, responses=answers, places=places, photographs=read, crops=shown)
