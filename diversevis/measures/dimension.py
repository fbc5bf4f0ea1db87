"""Dimension: how many directions a batch fills, and whether it hangs together.

METHOD.md section 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

RespondOwn = Callable[[Tensor], Tensor]

ONE_WAY = math.radians(175)  # images further apart than this have no one great circle between them


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Responses along the great circle between every pair of images, relative to the smaller end.

    pairs      [pair, 2] numbers of the images
    responses  [unit, pair, point], the ends left out; NaN for opposite images, and where an end
               does not drive the unit
    """

    pairs: Int[Tensor, "pair 2"]
    responses: Float[Tensor, "unit pair point"]


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """Participation ratio, and paths between images.

    points     on each path, its ends not counted
    connected  two images hang together if the response between them keeps this share
    """

    points: int
    connected: float

    def paths(
        self, respond: RespondOwn, images: Float[Tensor, "unit image 3 height width"]
    ) -> Paths:
        """Shows every unit the images between its images, at the same norm.

        respond  images [unit, image, 3, h, w] -> responses [unit, image]
        """
        n = images.shape[1]
        pairs = torch.triu_indices(n, n, 1).T
        ends = respond(images).cpu()
        floor = torch.minimum(ends[:, pairs[:, 0]], ends[:, pairs[:, 1]])
        responses = torch.full((len(images), len(pairs), self.points), torch.nan)
        for place, (first, second) in enumerate(pairs.tolist()):
            between, defined = great_circle(images[:, first], images[:, second], self.points)
            relative = respond(between).cpu() / floor[:, place, None]
            usable = (defined.cpu() & (floor[:, place] > 0))[:, None]
            responses[:, place] = torch.where(usable, relative, torch.nan)
        return Paths(pairs=pairs, responses=responses)

    def groups(self, paths: Paths, row: int, n: int) -> int:
        """How many sets of images hang together, for one unit."""
        smallest = smallest_along(paths)[row]
        group = list(range(n))
        for (first, second), share in zip(paths.pairs.tolist(), smallest.tolist(), strict=True):
            if share >= self.connected:
                old, new = group[second], group[first]
                group = [new if one == old else one for one in group]
        return len(set(group))


def participation(
    images: Float[Tensor, "unit image 3 height width"],
) -> tuple[Float[Tensor, " unit"], Float[Tensor, "unit share"]]:
    """`(sum l)^2 / sum l^2` over the eigenvalues of the uncentred second moment of each unit's
    images, and their shares, descending: 1 for one image, 2 for images that fill a plane."""
    flat = images.flatten(2).double()
    values = torch.linalg.eigvalsh(flat @ flat.mT).flip(1).clamp(min=0)
    ratio = values.sum(1).square() / values.square().sum(1)
    return ratio.float(), (values / values.sum(1, keepdim=True)).float()


def smallest_along(paths: Paths) -> Float[Tensor, "unit pair"]:
    """Smallest relative response on each path; NaN where there is no path."""
    return paths.responses.amin(2)


def great_circle(
    first: Float[Tensor, "unit 3 height width"],
    second: Float[Tensor, "unit 3 height width"],
    points: int,
) -> tuple[Float[Tensor, "unit point 3 height width"], Tensor]:
    """Equally spaced images between two of the same norm, and whether the way is unique [unit]."""
    norm = torch.linalg.vector_norm(first, dim=(1, 2, 3), keepdim=True)
    other = torch.linalg.vector_norm(second, dim=(1, 2, 3), keepdim=True)
    cosine = ((first * second).sum((1, 2, 3), keepdim=True) / (norm * other)).clamp(-1, 1)
    aside = second * (norm / other) - cosine * first
    length = torch.linalg.vector_norm(aside, dim=(1, 2, 3), keepdim=True)
    aside = aside * (norm / length.clamp(min=torch.finfo(first.dtype).tiny))
    # From sine and cosine, which is exact for images that are nearly one.
    angle = torch.atan2(length / norm, cosine)[:, None]
    at = torch.arange(1, points + 1, device=first.device, dtype=first.dtype) / (points + 1)
    turns = angle * at[:, None, None, None]
    between = torch.cos(turns) * first[:, None] + torch.sin(turns) * aside[:, None]
    return between, angle.flatten() < ONE_WAY
