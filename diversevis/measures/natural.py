"""Natural exemplars: crops of photographs that drive a unit most; docs/method.md, section 8."""

from __future__ import annotations

import dataclasses
import logging
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures.checks import check_least, ratio_or_none, varies
from diversevis.measures.subject import Measured, Numbers, Progress, Subject
from diversevis.photographs.crops import Answered, Crops, Key, Respond, Scissors, Sheet, responses
from diversevis.photographs.files import read_ahead
from diversevis.photographs.survey import Photograph, survey
from diversevis.units import counted

LOG = logging.getLogger("diversevis")

LEAST_SYNTHETIC = 0.01  # of the best response: images that drive a unit less are no measure

Position = tuple[str, int, int]  # file, row, column
Report = Callable[[int, int], None]  # arguments: how many photographs are done, of how many


@dataclass(frozen=True, kw_only=True)
class BestCrops:
    """Best crops of every unit, best first; NaN, and no position, where there are fewer than `top`.

    images       grey levels around the network's mean, all of one norm
    positions    file (relative to the folder), row and column of the crop's upper left corner, in
                 pixels of the photograph when upright and scaled
    photographs  number that could be read
    crops        number with enough contrast that the units were shown, without those of `refine`
    """

    images: Float[Tensor, "unit top color height width"]
    responses: Float[Tensor, "unit top"]
    positions: tuple[tuple[Position, ...], ...]
    photographs: int
    crops: int


@dataclass(frozen=True)
class Exemplar:
    """A crop, and the response of one unit to it."""

    response: float
    file: str
    row: int
    column: int
    x: Float[Tensor, "color height width"]


@dataclass(frozen=True, kw_only=True)
class Exemplars:
    """Searches a folder of photographs for the crops that drive units most, one per photograph.

    top             best crops of a unit that are reported
    crops           random positions in a photograph
    side            shorter side that photographs are scaled to, in pixels; the receptive field's
                    longer one where that is larger
    least_contrast  RMS grey levels around the network's mean: flatter crops are left out, since
                    bringing them to the norm would amplify the noise of their compression
    refine          pixels by which the best crops may move, in the end, to where the response is
                    highest: all positions in reach are tried; 0: none
    """

    top: int
    crops: int
    side: int
    least_contrast: float
    refine: int

    def __post_init__(self) -> None:
        check_least("measure.natural", self, top=1, crops=1, side=1, least_contrast=0, refine=0)

    def __call__(
        self,
        respond: Respond,
        scissors: Scissors,
        *,
        seed: int,
        batch: int,
        units: int,
        progress: Report = lambda done, total: None,
    ) -> BestCrops:
        """Best crops of every unit. A photograph's crops depend on its pixels and the seed alone.

        respond   takes images on the CPU; responses that are not finite never win
        scissors  made with `side` and `least_contrast` of these settings
        batch     upper bound on the crops that go through the network at once
        units     number of responses to an image
        progress  called after every photograph with how many are done and of how many; refining
                  adds one photograph per exemplar to the total

        The photographs come in the order of their pixels' digests: file names change nothing.
        Raises `InputError` where none can be read, and where no crop has the contrast.
        """
        photographs = survey(scissors.folder, "natural").photographs
        best: list[list[Exemplar]] = [[] for _ in range(units)]
        cut = CutAndCount(scissors, progress, len(photographs))
        drawn = read_ahead(
            photographs, lambda photograph: scissors.draw(photograph, crops=self.crops, seed=seed)
        )
        for photograph in responses(respond, cut(drawn), batch):
            _update_best(best, photograph, self.top)
        cut.refuse_none()
        count = {"photographs": cut.photographs, "crops": cut.crops}
        if self.refine:
            self._refine(respond, scissors, best, cut, batch)
            for row in best:
                row.sort(key=_descending)
        images = torch.full((units, self.top, *scissors.crop_shape), torch.nan)
        answers_to_best = torch.full((units, self.top), torch.nan)
        for unit, row in enumerate(best):
            for rank, exemplar in enumerate(row):
                images[unit, rank], answers_to_best[unit, rank] = exemplar.x, exemplar.response
        positions = tuple(tuple((e.file, e.row, e.column) for e in row) for row in best)
        return BestCrops(images=images, responses=answers_to_best, positions=positions, **count)

    def _refine(
        self,
        respond: Respond,
        scissors: Scissors,
        best: list[list[Exemplar]],
        cut: CutAndCount,
        batch: int,
    ) -> None:
        """Move the best crops to where they drive their units most.

        A photograph is read once for all its exemplars, and a crop near several is shown once.
        """
        jobs = _by_photograph(best, max(1, batch // (2 * self.refine + 1) ** 2))
        cut.total += len(jobs)
        near = read_ahead(
            jobs, lambda job: self._neighbours(scissors, [best[unit][rank] for unit, rank in job])
        )
        for job, crops, answers in responses(respond, cut(near), batch):
            for unit, rank in job:
                exemplar = best[unit][rank]
                away = np.abs(crops.corners - np.array([exemplar.row, exemplar.column]))
                within = np.flatnonzero((away <= self.refine).all(1))
                moved = _best_crop(exemplar.file, crops, answers[:, unit], within)
                if moved.response > exemplar.response:
                    best[unit][rank] = moved

    def _neighbours(self, scissors: Scissors, exemplars: Sequence[Exemplar]) -> Sheet:
        """The photograph of these exemplars, and all positions at most `refine` pixels away."""
        pixels = scissors.photograph(exemplars[0].file)
        shifts = np.arange(-self.refine, self.refine + 1)
        near = np.stack(np.meshgrid(shifts, shifts, indexing="ij"), axis=-1).reshape(-1, 2)
        at = np.array([(exemplar.row, exemplar.column) for exemplar in exemplars])
        corners = np.unique((at[:, None] + near).reshape(-1, 2), axis=0)
        inside = (corners >= 0) & (corners < scissors.positions(pixels))
        return Sheet(pixels, corners[inside.all(1)])


class CutAndCount:
    """Cuts crops out of photographs as they are read, counts both, and reports progress."""

    def __init__(self, scissors: Scissors, progress: Report, total: int) -> None:
        self.scissors, self.progress, self.total = scissors, progress, total
        self.done = self.photographs = self.crops = 0

    def __call__(self, sheets: Iterable[tuple[Key, Sheet]]) -> Iterator[tuple[Key, Crops]]:
        for key, sheet in sheets:
            crops = self.scissors(sheet)
            self.photographs += 1
            self.crops += len(crops.x)
            yield key, crops
            self.done += 1
            self.progress(self.done, self.total)

    def refuse_none(self) -> None:
        """Raises `InputError` where no crop had the contrast."""
        scissors = self.scissors
        if not self.crops:
            height, width = scissors.size
            raise InputError(
                f"natural={scissors.folder}: no crop of {height} x {width} pixels has an RMS "
                f"contrast of least_contrast={scissors.least_contrast:g} grey levels or more, in "
                f"{counted(self.photographs, 'photograph')}. Give others, or a lower "
                "least_contrast."
            )


def _by_photograph(best: list[list[Exemplar]], most: int) -> list[tuple[tuple[int, int], ...]]:
    """Unit and rank of all exemplars, those of a photograph together, at most so many at once."""
    of_file: dict[str, list[tuple[int, int]]] = {}
    for unit, row in enumerate(best):
        for rank, exemplar in enumerate(row):
            of_file.setdefault(exemplar.file, []).append((unit, rank))
    jobs = []
    for pairs in of_file.values():
        # Neighbours in the photograph share crops.
        pairs.sort(key=lambda pair: (best[pair[0]][pair[1]].row, best[pair[0]][pair[1]].column))
        jobs += [tuple(pairs[at : at + most]) for at in range(0, len(pairs), most)]
    return jobs


def _best_crop(
    file: str,
    crops: Crops,
    answers: Float[np.ndarray, " crop"],
    within: Int[np.ndarray, " some"] | None = None,
) -> Exemplar:
    """The crop with the highest answer, of those `within`."""
    index = int(answers.argmax() if within is None else within[answers[within].argmax()])
    row, column = crops.corners[index].tolist()
    # A copy, which does not hold all crops of the photograph in memory.
    return Exemplar(float(answers[index]), file, row, column, crops.x[index].clone())


def _descending(exemplar: Exemplar) -> float:
    return -exemplar.response


def _update_best(best: list[list[Exemplar]], photograph: Answered[Photograph], top: int) -> None:
    """Add a photograph's best crop for every unit to its `top`, if it is good enough.

    Of equal responses the earlier photograph stays: the result does not depend on chance.
    """
    shown, crops, answers = photograph
    least = np.array([row[-1].response if len(row) == top else -np.inf for row in best])
    for unit in np.flatnonzero(answers.max(0) > least).tolist():
        insort(best[unit], _best_crop(shown.file, crops, answers[:, unit]), key=_descending)
        del best[unit][top:]


def measure_natural(subject: Subject, progress: Progress) -> Measured:
    """Best crops of every unit, and how their response compares with that to the run's images.

    Not in batches of units: every photograph is read once, and shown to all units.
    Raises `InputError` without a folder of photographs, and for a network that takes no images with
    the channels of photographs.
    """
    settings: Exemplars = subject.settings["natural"]
    if (folder := subject.photographs) is None:
        raise InputError("analysis=natural needs a folder of photographs: natural=FOLDER.")
    respond = WithBounds(subject.respond_all(subject.batch), subject.rows)
    scissors = Scissors(
        folder=folder, side=settings.side, mean=subject.mean, size=subject.size,
        norm=subject.norm, least_contrast=settings.least_contrast,
    )  # fmt: skip
    best = settings(
        respond, scissors, seed=subject.seed, batch=subject.batch, units=len(subject.rows),
        progress=lambda done, total: progress("natural", done, total),
    )  # fmt: skip
    silent = ~(torch.tensor(subject.alive) & varies(respond.lowest, respond.highest))
    best.images[silent], best.responses[silent] = torch.nan, torch.nan
    numbers = [_unit(subject, best, row) for row in range(len(subject.rows))]
    held = survey(folder, "natural")
    if held.words:
        LOG.info("%s: %s", folder, held.words)  # for the run's log: it was said before the run
    made_with = dataclasses.asdict(settings) | {"photographs": held.digest}
    return Measured(numbers, {"images": best.images, "responses": best.responses}, made_with)


class WithBounds:
    """Responses of some units to images; remembers the lowest and highest of every unit."""

    def __init__(self, respond: Respond, rows: Sequence[int]) -> None:
        self.respond, self.rows = respond, list(rows)
        self.lowest = torch.full((len(rows),), torch.inf)
        self.highest = -self.lowest

    def __call__(self, x: Float[Tensor, "image color height width"]) -> Float[Tensor, "image unit"]:
        answers = self.respond(x)[:, self.rows].cpu()
        self.lowest = torch.fmin(self.lowest, answers.amin(0))
        self.highest = torch.fmax(self.highest, answers.amax(0))
        return answers


def _unit(subject: Subject, best: BestCrops, row: int) -> Numbers | None:
    """Numbers of the unit at `row`; None without any crop."""
    answers = best.responses[row][~best.responses[row].isnan()]
    if not len(answers):
        return None
    largest = answers.max().item()
    return {
        "response_max": largest,
        "response_mean": answers.mean().item(),
        "of_synthetic": _of_synthetic(subject, row, largest),
        "photographs": best.photographs,
        "crops": best.crops,
        "exemplars": [
            {"file": file, "row": y, "column": x, "response": response}
            for (file, y, x), response in zip(best.positions[row], answers.tolist(), strict=True)
        ],
    }


def _of_synthetic(subject: Subject, row: int, response: float) -> float | None:
    """A response over the mean response to the run's images of the unit at `row`; None without
    images, and where these hardly drive the unit: the ratio would mean nothing."""
    if subject.responses is None:
        return None
    synthetic = subject.responses[row].mean().item()
    if synthetic < LEAST_SYNTHETIC * subject.best_responses()[row].item():
        return None
    return ratio_or_none(response, synthetic)
