"""What is maximised: mean response, plus a reward for the smallest distance within the batch.

METHOD.md section 4. Every term is known by its name, per unit, and summed in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

ResponseKind = Literal["max", "cos", "mse"]
TOLD_APART = (
    1e-3  # of the mean distance: closer images are one, as far as float32 products can tell
)
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
        projection = torch.einsum("uic,uc->ui", y, self.directions)
        if self.kind == "max":
            return projection
        return projection / (y.square().sum(-1) + COSINE_FLOOR).sqrt()

    def of_all(self, y: Float[Tensor, "image channel"]) -> Float[Tensor, "image unit"]:
        """Responses of all units to each image."""
        if self.gain is not None:
            y = y * self.gain
        if self.kind == "mse":
            return -torch.stack([(y - vector).square().mean(1) for vector in self.vectors], dim=1)
        projection = y @ self.directions.T
        if self.kind == "max":
            return projection
        return projection / (y.square().sum(1, keepdim=True) + COSINE_FLOOR).sqrt()

    @property
    def directions(self) -> Float[Tensor, "unit channel"]:
        """The vectors at unit norm."""
        return self.vectors / torch.linalg.vector_norm(self.vectors, dim=1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """`response / response_scale + diversity * distance_min / distance_scale`, per unit.

    diversity       weight of the smallest pairwise distance (lambda) [unit]
    response_scale  [unit]
    distance_scale  [unit]
    enough          [unit] or None: a response counts no further than this (the threshold objective,
                    METHOD.md section 9)
    """

    diversity: Float[Tensor, " unit"]
    response_scale: Float[Tensor, " unit"]
    distance_scale: Float[Tensor, " unit"]
    enough: Float[Tensor, " unit"] | None

    def of(self, rows: Int[Tensor, " row"]) -> Objective:
        """The objective of some of the units."""
        return Objective(
            diversity=self.diversity[rows],
            response_scale=self.response_scale[rows],
            distance_scale=self.distance_scale[rows],
            enough=None if self.enough is None else self.enough[rows],
        )

    def __call__(
        self,
        responses: Float[Tensor, "unit image"],
        features: Float[Tensor, "unit image feature"],
        emphasis: float = 1.0,
        softness: float = 0.0,
    ) -> Terms:
        """Named terms, the negative of their sum, `loss`, and `descent`, whose gradient is to be
        followed. Distances are left out for a single image.

        emphasis  factor on the distance's weight in `descent`
        softness  of the smallest distance's gradient (see `smallest_distance`)
        """
        if self.enough is not None:
            responses = torch.minimum(responses, self.enough[:, None])
        terms = {"response": responses.mean(1) / self.response_scale}
        total = followed = terms["response"]
        if features.shape[1] > 1:
            distance = smallest_distance(features, softness)
            terms["distance_min"] = distance
            terms["diversity"] = self.diversity * distance / self.distance_scale
            total = total + terms["diversity"]
            followed = followed + emphasis * terms["diversity"]
        return terms | {"loss": -total, "descent": -followed}


def smallest_distance(
    features: Float[Tensor, "unit image feature"], softness: float = 0.0
) -> Float[Tensor, " unit"]:
    """Root mean square difference between the two most alike images of every unit.

    All pairs are compared through one product of the (centred) features with themselves; the
    pair found is then measured exactly, and it alone carries the gradient. With `softness` > 0 the
    value is the same, but the gradient is a mean over pairs, weighted by
    `exp(-(distance - distance_min) / (softness * mean distance))`: where several pairs are about
    equally close, all of them are driven apart at once.
    """
    centred, squared = _squared_distances(features.detach())
    first, second = _closest_pair(squared)
    rows = torch.arange(len(features), device=features.device)
    difference = features[rows, first] - features[rows, second]
    # vector_norm has gradient 0, not NaN, where two images are one.
    exact = torch.linalg.vector_norm(difference, dim=1) / features.shape[2] ** 0.5
    if softness == 0 or features.shape[1] == 2:
        return exact
    shared = _shared_gradient(centred, squared, softness)
    return _WithGradient.apply(exact.detach(), features, shared)


def _shared_gradient(
    centred: Float[Tensor, "unit image feature"],
    squared: Float[Tensor, "unit image image"],
    softness: float,
) -> Float[Tensor, "unit image feature"]:
    """Weighted mean over pairs of the gradient of their distance."""
    n, size = centred.shape[1:]
    same = torch.eye(n, dtype=torch.bool, device=centred.device)
    distances = (squared.clamp(min=0) / size).sqrt().masked_fill(same, 0)
    mean = distances.sum((1, 2), keepdim=True) / (n * (n - 1))
    apart = distances.masked_fill(same, torch.inf)
    closest = apart.amin((1, 2), keepdim=True)
    tiny = torch.finfo(centred.dtype).tiny
    weights = torch.exp((closest - apart) / (softness * mean).clamp(min=tiny))
    weights = weights / weights.sum((1, 2), keepdim=True)
    # Pairs that the product cannot tell from identical ones have no direction to be driven in.
    told_apart = distances > TOLD_APART * mean
    pulls = torch.where(told_apart, weights / distances.clamp(min=tiny), 0) * (2 / size)
    return pulls.sum(2, keepdim=True) * centred - _product(pulls, centred)


class _WithGradient(torch.autograd.Function):
    """A value [unit] with a given gradient with respect to features [unit, image, feature]."""

    @staticmethod
    def forward(ctx, value: Tensor, features: Tensor, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx, outer: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[no-untyped-def]
        (gradient,) = ctx.saved_tensors
        return None, outer[:, None, None] * gradient, None


def _closest_pair(
    squared: Float[Tensor, "unit image image"],
) -> tuple[Int[Tensor, " unit"], Int[Tensor, " unit"]]:
    """Indices of the two most alike images of every unit.

    Exact but for rounding: pairs closer to one another than about 1/1000 of the spread of the whole
    batch cannot be told apart, and one of them is taken.
    """
    n = squared.shape[1]
    above = torch.ones(n, n, dtype=torch.bool, device=squared.device).triu(1)
    found = squared.masked_fill(~above, torch.inf).flatten(1).argmin(1)
    return found // n, found % n


def _squared_distances(
    features: Float[Tensor, "unit image feature"],
) -> tuple[Float[Tensor, "unit image feature"], Float[Tensor, "unit image image"]]:
    """Features around their mean, and squared Euclidean distances from one product of these."""
    centred = features - features.mean(1, keepdim=True)
    products = _product(centred, centred.mT)
    squares = products.diagonal(dim1=1, dim2=2)
    return centred, squares[:, :, None] + squares[:, None, :] - 2 * products


def _product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b`, unit by unit, rounded the same whichever units are computed beside one another.

    A product of matrices is rounded by where in memory these begin, and a single one otherwise than
    one of several. So all begin at multiples of 64 bytes, and a single unit is computed as one of
    two. (The networks' convolutions round every image alike.)
    """
    rows, columns = a.shape[1], b.shape[2]
    inner = -a.shape[2] % 16
    a = functional.pad(a, (0, inner, 0, -rows % 4))
    b = functional.pad(b, (0, -columns % 4, 0, inner))
    if len(a) == 1:
        a, b = a.expand(2, -1, -1), b.expand(2, -1, -1)
        return (a @ b)[:1, :rows, :columns]
    return (a @ b)[:, :rows, :columns]


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
