"""Diversity index: how far a batch has spread, between a simple and a complex cell.

Ding et al. 2026; METHOD.md section 8. Both ends are closed forms, for linear and energy cells that
are given the same objective.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Ends(NamedTuple):
    """Mean distances between n images, in units of the images' norm (Euclidean)."""

    simple: float
    complex: float


def ends(n: int, *, diversity: float | None, fraction: float | None) -> Ends:
    """What n images of fixed norm come to in a noiseless simple and in an ideal complex cell.

    diversity  weight of the smallest distance over that of noise images (`sqrt(2)` norms); None
               where the objective is no such sum
    fraction   of the best response that every image keeps (threshold objective); None if none

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


def index(distance: float, found: Ends) -> float | None:
    """0 at the simple end, 1 at the complex end; beyond them for batches beyond them.

    distance  mean over pairs, in norms of an image

    None where the ends are not apart: the weight is so large that even a linear cell's images are
    as different as a circle's.
    """
    span = found.complex - found.simple
    return (distance - found.simple) / span if span > 0 else None


def distance_matrix(
    images: Float[Tensor, "unit image 3 height width"],
) -> Float[Tensor, "unit image image"]:
    """RMS difference in grey levels between all images of each unit."""
    flat = images.flatten(2).double()
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return (distances / flat.shape[2] ** 0.5).float()
