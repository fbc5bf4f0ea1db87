"""Dimension: how many directions a batch of images fills, and whether its images are connected.

Participation ratio `(sum l)^2 / sum l^2` over the eigenvalues l of the batch's uncentred second
moment. Paths: the response along the great circle between two images, relative to the smaller
response at its two ends. docs/method.md, section 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures.checks import check_least
from diversevis.measures.subject import Measured, Numbers, Progress, RespondOwn, Subject, in_batches

# Between images further apart than this, rounding would choose the great circle.
UNIQUE_PATH = math.radians(175)


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """Settings of the paths between images.

    points     on a path, without its ends
    connected  two images are connected if the relative response between them stays at least this
    """

    points: int
    connected: float

    def __post_init__(self) -> None:
        check_least("measure.dimension", self, points=1)
        if not 0 < self.connected <= 1:
            raise InputError(
                f"measure.dimension.connected={self.connected} must be above 0, at most 1."
            )

    def paths(
        self, respond: RespondOwn, images: Float[Tensor, "unit image color height width"]
    ) -> Float[Tensor, "unit pair point"]:
        """Responses along the great circle between every pair of images (`pairs_of`), relative to
        the smaller response at its two ends; NaN for opposite images, and where an end does not
        drive the unit."""
        pairs = pairs_of(images.shape[1])
        ends = respond(images).cpu()
        floor = torch.minimum(ends[:, pairs[:, 0]], ends[:, pairs[:, 1]])
        paths = torch.full((len(images), len(pairs), self.points), torch.nan)
        for pair, (first, second) in enumerate(pairs.tolist()):
            between, unique = great_circle(images[:, first], images[:, second], self.points)
            relative = respond(between).cpu() / floor[:, pair, None]
            usable = (unique.cpu() & (floor[:, pair] > 0))[:, None]
            paths[:, pair] = torch.where(usable, relative, torch.nan)
        return paths

    def groups(self, paths: Float[Tensor, "pair point"], n: int) -> int:
        """Number of groups of a unit's n images that are connected, directly or through others."""
        group = list(range(n))
        smallest = paths.amin(1).tolist()
        for (first, second), response in zip(pairs_of(n).tolist(), smallest, strict=True):
            if response >= self.connected:
                old, new = group[second], group[first]
                group = [new if number == old else number for number in group]
        return len(set(group))


def pairs_of(n: int) -> Int[Tensor, "pair 2"]:
    """Numbers of the images of every pair of n images."""
    return torch.triu_indices(n, n, 1).T


def participation(
    images: Float[Tensor, "unit image color height width"],
) -> tuple[Float[Tensor, " unit"], Float[Tensor, "unit share"]]:
    """Participation ratio of the images of every unit, and their eigenvalues as descending shares.

    The ratio is 1 for equal images, 2 for images that fill a plane evenly.
    """
    flat = images.flatten(2).double()
    # The Gram matrix [image, image] has the second moment's eigenvalues, and is much smaller.
    values = torch.linalg.eigvalsh(flat @ flat.mT).flip(1).clamp(min=0)
    ratio = values.sum(1).square() / values.square().sum(1)
    return ratio.float(), (values / values.sum(1, keepdim=True)).float()


def great_circle(
    first: Float[Tensor, "unit color height width"],
    second: Float[Tensor, "unit color height width"],
    points: int,
) -> tuple[Float[Tensor, "unit point color height width"], Bool[Tensor, " unit"]]:
    """Equally spaced images between two of the same norm, and whether the path is unique."""
    norm = torch.linalg.vector_norm(first, dim=(1, 2, 3), keepdim=True)
    norm_second = torch.linalg.vector_norm(second, dim=(1, 2, 3), keepdim=True)
    cosine = ((first * second).sum((1, 2, 3), keepdim=True) / (norm * norm_second)).clamp(-1, 1)
    aside = second * (norm / norm_second) - cosine * first
    length = torch.linalg.vector_norm(aside, dim=(1, 2, 3), keepdim=True)
    aside = aside * (norm / length.clamp(min=torch.finfo(first.dtype).tiny))
    # From sine and cosine: the arc cosine alone is inexact for images that are nearly equal.
    angle = torch.atan2(length / norm, cosine)[:, None]
    at = torch.arange(1, points + 1, device=first.device, dtype=first.dtype) / (points + 1)
    turns = angle * at[:, None, None, None]
    between = torch.cos(turns) * first[:, None] + torch.sin(turns) * aside[:, None]
    return between, angle.flatten() < UNIQUE_PATH


def measure_dimension(subject: Subject, progress: Progress) -> Measured:
    """Participation ratio, and the paths between the images of every unit."""
    settings: Dimension = subject.settings["dimension"]
    n = subject.of_run()[0].shape[1]

    def measure_batch(batch: Subject) -> tuple[list[Numbers | None], dict[str, Tensor]]:
        images, _ = batch.of_run()
        with torch.no_grad():
            paths = settings.paths(batch.respond_own(), images.to(batch.device))
        numbers: list[Numbers | None] = []
        spectra = []
        for row, smallest in enumerate(paths.amin(2)):
            ratio, spectrum = participation(images[row : row + 1])
            spectra.append(spectrum[0])
            known = smallest[~smallest.isnan()]
            numbers.append(
                {
                    "participation": ratio.item(),
                    "path_min": known.min().item() if len(known) else None,
                    "path_mean": known.mean().item() if len(known) else None,
                    "groups": settings.groups(paths[row], n) if len(known) or n == 1 else None,
                }
            )
        return numbers, {"paths": paths, "spectrum": torch.stack(spectra)}

    pairs = pairs_of(n)
    shapes = {"paths": (len(pairs), settings.points), "spectrum": (n,)}
    measured = in_batches(
        "dimension", subject, subject.living, settings.points, shapes, measure_batch, progress
    )
    measured.arrays["pairs"] = pairs
    return measured
