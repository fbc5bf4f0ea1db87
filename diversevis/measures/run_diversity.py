"""Distances between a simple and a complex cell's. METHOD.md section 8."""

from __future__ import annotations

import math

import torch

from diversevis.measures import diversity
from diversevis.measures.subject import Measured, Progress, Subject, no_numbers


def measure_diversity(subject: Subject, progress: Progress) -> Measured:
    """Null where no closed form holds: a single image, or a response that is no projection."""
    experiment, (images, _) = subject.setup.experiment, subject.of_run()
    objective, n = experiment.objective, images.shape[1]
    numbers = no_numbers(subject)
    distances = torch.cat([diversity.distance_matrix(own[None]) for own in images])
    unit = subject.setup.norm / math.sqrt(images[0, 0].numel())  # of distance: grey levels
    comparable = objective.distance == "pixels" and objective.scale == "best"
    for place in subject.living if n > 1 and objective.response == "max" else []:
        weight = objective.diversity if subject.knees is None else subject.knees[place]
        ends = diversity.ends(
            n, diversity=weight if comparable else None, fraction=objective.fraction
        )
        mean = distances[place].sum().item() / (n * (n - 1))
        numbers[place] = {
            "index": diversity.index(mean / unit, ends),
            "distance_mean": mean,
            "distance_simple": ends.simple * unit,
            "distance_complex": ends.complex * unit,
        }
    progress("diversity", len(subject.living), len(subject.living))
    made_with = {"response": objective.response, "scale": objective.scale}
    return Measured(numbers, {"distances": distances}, made_with)
