"""Metamers' control: the same photographs matched by a network with random weights.

Are images that look unlike the photograph a property of what the network has learned, or of any
network of its kind? After Feather et al. 2023; docs/method.md, section 11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures.checks import finite_or_none
from diversevis.measures.diversity import distance_matrix
from diversevis.measures.subject import Measured, Numbers, Progress, Subject

NAME = "metamers"


class Control(NamedTuple):
    """What a network of the same kind with random weights makes of the same photographs.

    images   its metamers, made with the settings of the run
    crops    of the photographs
    errors   relative, of its match, in [0, 1] and above
    crossed  errors of its metamers in the trained network, and of the trained network's in it
    """

    images: Float[Tensor, "unit image color height width"]
    crops: Float[Tensor, "unit color height width"]
    errors: Float[Tensor, "unit image"]
    crossed: tuple[Float[Tensor, "unit image"], Float[Tensor, "unit image"]]


MakeControl = Callable[[Float[Tensor, "unit image color height width"]], Control]


def measure_metamers(subject: Subject, progress: Progress) -> Measured:
    """Errors and distances of the control, per photograph.

    Raises `InputError` for a run of another objective, and a network without random weights.
    """
    images, _ = subject.of_run()
    if subject.control is None:
        raise InputError(
            "it compares metamers with those of a network with random weights: it is for runs with "
            "objective=metamers"
        )
    control: Control = subject.control(images)
    progress(NAME, len(images), len(images))
    numbers: list[Numbers | None] = [
        _numbers(control, row) if subject.alive[row] else None for row in range(len(images))
    ]
    arrays = {
        "images": control.images, "reference": control.crops, "errors": control.errors,
        "errors_of_random": control.crossed[0], "errors_of_trained": control.crossed[1],
    }  # fmt: skip
    return Measured(numbers, arrays, {"weights": "random"})


def _numbers(control: Control, row: int) -> Numbers:
    with_crop = torch.cat([control.crops[row][None], control.images[row]])[None]
    distances = distance_matrix(with_crop)[0]
    first, second = torch.triu_indices(len(distances) - 1, len(distances) - 1, 1) + 1
    among, away = distances[first, second], distances[0, 1:]
    errors, (of_random, of_trained) = control.errors[row], (x[row] for x in control.crossed)
    return {
        "error_mean": finite_or_none(errors.mean().item()),
        "error_max": finite_or_none(errors.max().item()),
        "distance_min": among.min().item() if len(among) else None,
        "distance_mean": among.mean().item() if len(among) else None,
        "distance_to_reference_min": finite_or_none(away.min().item()),
        "distance_to_reference_mean": finite_or_none(away.mean().item()),
        "error_of_random": finite_or_none(of_random.mean().item()),
        "error_of_trained": finite_or_none(of_trained.mean().item()),
    }
