"""Natural varied images: how much of what a unit accepts occurs in photographs.

A unit accepts a crop that keeps a fraction of its best response, at equal norm. Counted are the
crops; the most different of them are compared with the run's images. docs/method.md, section 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures.checks import check_least, ratio_or_none, varies
from diversevis.measures.diversity import distance_matrix
from diversevis.measures.farthest import Search
from diversevis.measures.natural import WithBounds
from diversevis.measures.subject import Measured, Numbers, Progress, Subject
from diversevis.photographs.crops import Scissors
from diversevis.photographs.survey import survey


@dataclass(frozen=True, kw_only=True)
class Varied:
    """Which crops of photographs count, and what they must reach.

    fractions       of the best response that a crop must keep
    crops           random positions in a photograph
    side            shorter side that photographs are scaled to, in pixels; the receptive field's
                    longer one where that is larger
    least_contrast  RMS grey levels around the network's mean: flatter crops are left out
    """

    fractions: list[float]
    crops: int
    side: int
    least_contrast: float

    def __post_init__(self) -> None:
        check_least("measure.varied", self, crops=1, side=1, least_contrast=0)
        usable = all(0 < fraction <= 1 for fraction in self.fractions)
        if not usable or not self.fractions or len({*self.names}) < len(self.fractions):
            raise InputError(
                f"measure.varied.fractions={self.fractions} must be shares of the best response, "
                "all different, above 0, at most 1: [0.5,0.75]."
            )

    @property
    def names(self) -> list[str]:
        """The fractions as keys of numbers."""
        return [f"{fraction:g}" for fraction in self.fractions]


def measure_varied(subject: Subject, progress: Progress) -> Measured:
    """Which crops every unit accepts, and how different they are, compared with the run's images.

    Not in batches of units: every photograph is shown to all units at once. Memory: a bit for every
    crop, unit and fraction, of the units that accept any crop of its photograph (512 MB at most for
    10,000 photographs of 400 crops, 512 units and 2 fractions), and the chosen crops.
    Raises `InputError` without images or a folder of photographs, where no unit has a best response
    above 0, and for a network that takes no images with the channels of photographs.
    """
    settings: Varied = subject.settings["varied"]
    images, _ = subject.of_run()
    if (folder := subject.photographs) is None:
        raise InputError("analysis=varied needs a folder of photographs: natural=FOLDER.")
    scissors = Scissors(
        folder=folder, side=settings.side, mean=subject.mean, size=subject.size,
        norm=subject.norm, least_contrast=settings.least_contrast,
    )  # fmt: skip
    held, usable = survey(folder, "natural"), _usable(subject)
    best = subject.best_responses().double().numpy()
    fractions = np.array(settings.fractions)[:, None]
    search = Search(
        scissors, held.photographs, np.where(usable, fractions * np.where(usable, best, 1), np.inf),
        n=images.shape[1], crops=settings.crops, seed=subject.seed,
        report=lambda done, total: progress("varied", done, total),
    )  # fmt: skip
    respond = WithBounds(subject.respond_all(subject.batch), subject.rows)
    search(respond, subject.batch)
    silent = ~(usable & varies(respond.lowest, respond.highest).numpy())
    shape = len(settings.fractions), len(images), images.shape[1]
    chosen = search.chosen.images.reshape(*shape, *scissors.crop_shape).transpose(0, 1).contiguous()
    chosen[silent] = torch.nan
    responses = _responses(subject, chosen)
    numbers = [
        None if silent[row] else _unit(subject, settings, search, row, chosen[row], responses[row])
        for row in range(len(images))
    ]
    arrays = {"images": chosen, "responses": responses,
              "fractions": torch.tensor(settings.fractions)}  # fmt: skip
    return Measured(numbers, arrays, asdict(settings) | {"photographs": held.digest})


def _usable(subject: Subject) -> Bool[np.ndarray, " unit"]:
    """Units of whose best response a fraction can be asked for; raises `InputError` for none."""
    best = subject.best_responses()
    usable = (best > 0) & best.isfinite() & torch.tensor(subject.alive)
    if not usable.any():
        raise InputError(
            "analysis=varied counts the crops that keep a share of a unit's best response, and no "
            f"unit of this run has a best response above 0 (of {len(best)}). "
            "objective.response=max gives such responses."
        )
    return usable.numpy()


def _responses(
    subject: Subject, chosen: Float[Tensor, "unit fraction image color height width"]
) -> Float[Tensor, "unit fraction image"]:
    """Of every unit to its crops; NaN where there is none."""
    at_once = max(1, subject.batch // (chosen.shape[1] * chosen.shape[2]))
    parts = []
    for first in range(0, len(chosen), at_once):
        rows = list(range(first, min(first + at_once, len(chosen))))
        x = chosen[rows].flatten(1, 2)
        with torch.no_grad():
            answers = subject.take(rows).respond_own()(x.nan_to_num()).cpu()
        real = x.flatten(2).isfinite().all(2)
        parts.append(torch.where(real, answers, torch.nan))
    return torch.cat(parts).reshape(chosen.shape[:3])


def _unit(
    subject: Subject, settings: Varied, search: Search, row: int,
    chosen: Float[Tensor, "fraction image color height width"],
    responses: Float[Tensor, "fraction image"],
) -> Numbers:  # fmt: skip
    """Numbers of the unit at `row`."""
    photographs, crops = search.shown
    synthetic = _distances(subject.of_run()[0][row])
    by_fraction = {}
    for index, name in enumerate(settings.names):
        pair = index * len(subject.rows) + row
        count = int(responses[index].isfinite().sum())
        by_fraction[name] = {
            "crops": int(search.reached[0, pair]),
            "share": float(search.reached[0, pair] / crops),
            "photographs": int(search.reached[1, pair]),
            "images": count,
            **_compared(_distances(chosen[index, :count]), synthetic),
            "chosen": _positions(search, pair, responses[index, :count]),
        }
    keys = next(iter(by_fraction.values()))
    return {
        "best_crop": float(search.best[row]) / subject.best_responses()[row].item(),
        "photographs_shown": photographs,
        "crops_shown": crops,
        **{key: {name: of[key] for name, of in by_fraction.items()} for key in keys},
    }


def _distances(images: Float[Tensor, "image color height width"]) -> dict[str, float | None]:
    """Smallest and mean RMS difference of two images; None for fewer than two."""
    n = len(images)
    if n < 2:
        return {"min": None, "mean": None}
    distances = distance_matrix(images[None])[0][tuple(torch.triu_indices(n, n, 1))]
    return {"min": distances.min().item(), "mean": distances.mean().item()}


def _compared(
    natural: Mapping[str, float | None], synthetic: Mapping[str, float | None]
) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {}
    for key, value in natural.items():
        other = synthetic[key]
        numbers[f"distance_{key}"] = value
        numbers[f"of_synthetic_{key}"] = (
            None if value is None or other is None else ratio_or_none(value, other)
        )
    return numbers


def _positions(
    search: Search, pair: int, responses: Float[Tensor, " image"]
) -> list[dict[str, Any]]:
    """File, row, column and response of the crops that a pair has chosen."""
    where = zip(search.chosen.photographs[pair], search.chosen.corners[pair].tolist(), strict=True)
    return [
        {"file": search.photographs[number].file, "row": y, "column": x, "response": response}
        for (number, (y, x)), response in zip(where, responses.tolist(), strict=False)
    ]
