"""What is maximised: mean response, plus a reward for the smallest distance within the batch.

METHOD.md section 4. Every term is known by its name, per unit, and summed in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

ResponseKind = Literal["max", "cos", "mse"]
COSINE_FLOOR = 0.01  # added under the root of the cosine's denominator (METHOD.md section 4)

# Terms by name, each of shape [unit]; `loss` is what the optimizer minimises.
Terms = dict[str, Float[Tensor, " unit"]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What counts as the response of each unit to the channels `y` of its layer.

    vectors  [unit, channel]; one-hot for a channel
    kind     `max`: projection on the unit-norm vector; `cos`: its cosine with `y`;
             `mse`: negative mean squared difference of `y` to the vector as it is
    gain     [channel] or None: factors on `y` (channels scaled to mean activation 1)
    """

    vectors: Float[Tensor, "unit channel"]
    kind: ResponseKind
    gain: Float[Tensor, " channel"] | None

    def __call__(self, y: Float[Tensor, "unit image channel"]) -> Float[Tensor, "unit image"]:
        """Responses of every unit to its images."""
        if self.gain is not None:
            y = y * self.gain
        if self.kind == "mse":
            return -(y - self.vectors[:, None]).square().mean(-1)
        directions = self.vectors / torch.linalg.vector_norm(self.vectors, dim=1, keepdim=True)
        projection = torch.einsum("uic,uc->ui", y, directions)
        if self.kind == "max":
            return projection
        return projection / (y.square().sum(-1) + COSINE_FLOOR).sqrt()


@dataclass(frozen=True, kw_only=True)
class Objective:
    """`response / response_scale + diversity * distance_min / distance_scale`, per unit.

    diversity       weight of the smallest pairwise distance (lambda)
    response_scale  [unit]
    distance_scale  [unit]
    """

    diversity: float
    response_scale: Float[Tensor, " unit"]
    distance_scale: Float[Tensor, " unit"]

    def __call__(
        self,
        responses: Float[Tensor, "unit image"],
        features: Float[Tensor, "unit image feature"],
    ) -> Terms:
        """Named terms and their sum; distances are left out for a single image."""
        terms = {"response": responses.mean(1) / self.response_scale}
        total = terms["response"]
        if features.shape[1] > 1:
            terms["distance_min"] = smallest_distance(features)
            terms["diversity"] = self.diversity * terms["distance_min"] / self.distance_scale
            total = total + terms["diversity"]
        return terms | {"loss": -total}


def smallest_distance(
    features: Float[Tensor, "unit image feature"],
) -> Float[Tensor, " unit"]:
    """Root mean square difference between the two most alike images of every unit.

    All pairs are compared through one product of the (centred) features with themselves; the
    pair found is then measured exactly, and it alone carries the gradient.
    """
    first, second = closest_pair(features)
    rows = torch.arange(len(features), device=features.device)
    difference = features[rows, first] - features[rows, second]
    # vector_norm has gradient 0, not NaN, where two images are one.
    return torch.linalg.vector_norm(difference, dim=1) / features.shape[2] ** 0.5


def closest_pair(
    features: Float[Tensor, "unit image feature"],
) -> tuple[Int[Tensor, " unit"], Int[Tensor, " unit"]]:
    """Indices of the two most alike images of every unit.

    Exact but for rounding: pairs closer to one another than about 1/1000 of the spread of the whole
    batch cannot be told apart, and one of them is taken.
    """
    with torch.no_grad():
        n = features.shape[1]
        centred = features - features.mean(1, keepdim=True)
        products = centred @ centred.mT
        squares = products.diagonal(dim1=1, dim2=2)
        squared = squares[:, :, None] + squares[:, None, :] - 2 * products
        above = torch.ones(n, n, dtype=torch.bool, device=features.device).triu(1)
        found = squared.masked_fill(~above, torch.inf).flatten(1).argmin(1)
        return found // n, found % n


def pairwise_distances(
    features: Float[Tensor, "unit image feature"],
) -> Float[Tensor, "unit pair"]:
    """Root mean square difference of every pair of images, by direct subtraction in float64."""
    n, size = features.shape[1:]
    distances = torch.cdist(
        features.double(), features.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    first, second = torch.triu_indices(n, n, 1, device=features.device)
    return distances[:, first, second] / size**0.5


# [unit, image, 3, h, w] -> responses [unit, image] and the features that distances are taken in.
View = Callable[
    [Float[Tensor, "unit image 3 height width"]],
    tuple[Float[Tensor, "unit image"], Float[Tensor, "unit image feature"]],
]
