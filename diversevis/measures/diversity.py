"""Diversity index: a batch's mean distance between that of a simple (0) and a complex cell (1).

`index = (distance - simple) / (complex - simple)`, all in units of the images' norm: Ding et al.
2026; docs/method.md, section 8. `simple` and `complex` are closed forms, for a noiseless linear and
an ideal energy cell that are given the same objective.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.measures.subject import Measured, Numbers, Progress, Subject


class Ends(NamedTuple):
    """Mean distances between n images, in units of the images' norm (Euclidean)."""

    simple: float
    complex: float


def ends(n: int, *, diversity: float | None, fraction: float | None) -> Ends:
    """Mean distance of n images of fixed norm for a noiseless simple and an ideal complex cell.

    diversity  weight of the smallest distance over that of noise images (`sqrt(2)` norms); None
               where the objective is no such sum
    fraction   of the best response that every image must reach (threshold objective), or None

    A linear cell responds `cos(theta)`: its n images lie around the pattern at one angle theta, as
    far from one another as they can (a simplex, `sin(theta) sqrt(2 n / (n - 1))`). The sum
    `cos(theta) + diversity * distance / sqrt(2)` is largest at
    `tan(theta) = diversity sqrt(n / (n - 1))`; the threshold objective goes to
    `cos(theta) = fraction`. An ideal complex cell has the images at
    equally spaced phases of its pattern, a circle.
    """
    simplex = math.sqrt(2 * n / (n - 1))
    sine = 0.0
    if fraction is not None:
        sine = math.sqrt(1 - fraction**2)
    elif diversity is not None:
        sine = math.sin(math.atan(diversity * simplex / math.sqrt(2)))
    chords = [2 * math.sin(math.pi * k / n) for k in range(1, n)]
    return Ends(simple=sine * simplex, complex=sum(chords) / (n - 1))


def index(distance: float, between: Ends) -> float | None:
    """0 at the simple end, 1 at the complex end; below 0 or above 1 outside of them.

    None where simple is not below complex: the weight is so large that even a linear cell's images
    are as different as a circle's.
    """
    span = between.complex - between.simple
    return (distance - between.simple) / span if span > 0 else None


def distance_matrix(
    images: Float[Tensor, "unit image color height width"],
) -> Float[Tensor, "unit image image"]:
    """RMS difference in grey levels between all images of a unit."""
    flat = images.flatten(2).double()
    # The quick way, by matrix products, would round the small distances between similar images.
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return (distances / flat.shape[2] ** 0.5).float()


def measure_diversity(subject: Subject, progress: Progress) -> Measured:
    """Index of every unit; None where no closed form holds: a single image, or a response that is
    no projection (cosine, mean squared difference)."""
    objective = subject.settings["diversity"]
    images, _ = subject.of_run()
    n = images.shape[1]
    norm = subject.norm / math.sqrt(images[0, 0].numel())  # in RMS grey levels, as the distances
    # Also of dead units, whose images are noise: the pictures show them.
    distances = torch.cat([distance_matrix(unit_images[None]) for unit_images in images])
    rms_of_pixels = (objective["distance"], objective["metric"]) == ("pixels", "rms")
    is_sum = rms_of_pixels and objective["scale"] == "best"
    numbers: list[Numbers | None] = [None] * len(images)
    for row in subject.living if n > 1 and objective["response"] == "max" else []:
        mean = distances[row].sum().item() / (n * (n - 1))
        weight = subject.weights[row] if is_sum else None
        between = ends(n, diversity=weight, fraction=objective["fraction"])
        numbers[row] = {
            "index": index(mean / norm, between),
            "distance_mean": mean,
            "distance_simple": between.simple * norm,
            "distance_complex": between.complex * norm,
        }
    progress("diversity", len(subject.living), len(subject.living))
    made_with = {name: objective[name] for name in ("response", "scale")}
    return Measured(numbers, {"distances": distances}, made_with)
