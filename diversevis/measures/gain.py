"""Against images each made alone. METHOD.md section 8."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from diversevis.measures import diversity
from diversevis.measures.subject import (
    Measured,
    Numbers,
    Progress,
    Subject,
    finite,
    no_numbers,
    share,
)
from diversevis.method.visualize import images_alone


def measure_gain(subject: Subject, progress: Progress) -> Measured:
    """Against images each made alone, from random starts, with the same steps and norm."""
    setup, (together, responses) = subject.setup, subject.of_run()
    numbers, count = no_numbers(subject), len(subject.living)
    apart, alone_responses = torch.full_like(together, torch.nan), responses * torch.nan
    done = 0
    for places in subject.parts(setup.experiment.n):
        found = images_alone(setup, [subject.rows[place] for place in places])
        for place, one in zip(places, found, strict=True):
            if one is not None:
                apart[place], alone_responses[place] = one
                numbers[place] = _gain_numbers(
                    (together[place], responses[place]), (apart[place], alone_responses[place])
                )
        done += len(places)
        progress("gain", done, count)
    experiment = setup.experiment
    made_with = {
        "optimizer": dataclasses.asdict(experiment.optimizer),
        "precondition": experiment.precondition,
        "response": experiment.objective.response,
    }
    return Measured(numbers, {"images": apart, "responses": alone_responses}, made_with)


def _gain_numbers(together: tuple[Tensor, Tensor], alone: tuple[Tensor, Tensor]) -> Numbers:
    pairs = []
    for images, _ in (together, alone):
        distances = diversity.distance_matrix(images[None])[0]
        above = torch.triu_indices(len(images), len(images), 1)
        pairs.append(distances[above[0], above[1]])
    ours, theirs = together[1].mean().item(), alone[1].mean().item()
    several = len(pairs[0]) > 0
    found: Numbers = {}
    for name, value in (("min", torch.amin), ("mean", torch.mean)):
        batch, apart = (value(one).item() if several else math.nan for one in pairs)
        found[f"distance_{name}"] = finite(batch - apart)
        found[f"distance_{name}_alone"] = finite(apart)
    return found | {"response": share(ours, theirs), "response_mean_alone": theirs}
