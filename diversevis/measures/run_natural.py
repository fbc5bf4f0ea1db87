"""Natural exemplars. METHOD.md section 8."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures import phase
from diversevis.measures.subject import Measured, Progress, Subject, no_numbers, share
from diversevis.method.response import LookingAtAll
from diversevis.photographs.files import names_and_sizes


def measure_natural(subject: Subject, progress: Progress) -> Measured:
    setup, experiment = subject.setup, subject.setup.experiment
    settings = experiment.measure.natural
    if experiment.natural is None:
        raise InputError("analysis=natural needs a folder of photographs: natural=FOLDER.")
    folder = Path(experiment.natural).expanduser()
    respond = _Watched(LookingAtAll(setup), subject.rows)
    found = settings(
        respond,
        folder,
        mean=setup.network.weights.mean,
        size=setup.field.size,
        norm=setup.norm,
        seed=experiment.seed,
        batch=setup.batch,
        units=len(subject.rows),
        progress=lambda done, total: progress("natural", done, total),
    )
    numbers, images, responses_of = no_numbers(subject), found.images, found.responses
    silent = set(range(len(subject.rows))) - set(subject.living) | respond.constant()
    images[list(silent)], responses_of[list(silent)] = torch.nan, torch.nan
    for place in range(len(subject.rows)):
        responses = responses_of[place][~responses_of[place].isnan()]
        if not len(responses):
            continue
        synthetic = None if subject.responses is None else subject.responses[place].mean().item()
        largest = responses.max().item()
        numbers[place] = {
            "response_max": largest,
            "response_mean": responses.mean().item(),
            "of_synthetic": None if synthetic is None else share(largest, synthetic),
            "photographs": found.photographs,
            "crops": found.crops,
            "exemplars": [
                {"file": file, "row": row, "column": column, "response": response}
                for (file, row, column), response in zip(
                    found.places[place], responses.tolist(), strict=True
                )
            ],
        }
    digest = names_and_sizes(folder, "natural")
    made_with = dataclasses.asdict(settings) | {"photographs": digest}
    return Measured(numbers, {"images": images, "responses": responses_of}, made_with)


class _Watched:
    """Responses of some units to images, remembering between which values they were."""

    def __init__(self, respond: LookingAtAll, rows: Sequence[int]) -> None:
        self.respond, self.rows = respond, list(rows)
        self.lowest = torch.full((len(rows),), torch.inf)
        self.highest = -self.lowest

    def __call__(self, x: Tensor) -> Tensor:
        responses = self.respond(x)[:, self.rows].cpu()
        self.lowest = torch.fmin(self.lowest, responses.amin(0))
        self.highest = torch.fmax(self.highest, responses.amax(0))
        return responses

    def constant(self) -> set[int]:
        """Units that answered the same to everything."""
        size = torch.maximum(self.lowest.abs(), self.highest.abs())
        return set((self.highest - self.lowest <= phase.CONSTANT * size).nonzero()[:, 0].tolist())
