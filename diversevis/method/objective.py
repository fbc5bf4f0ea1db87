"""What is maximised: mean response, plus a reward for the SMALLEST distance between two images,
less the images' cost under a prior of natural images.

docs/method.md, section 4; Cadena et al. 2018. `Objective.__call__` sums the terms of every unit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

# Images closer than this part of the mean distance count as identical: float32 products, with
# about 7 digits for a squared distance, resolve no smaller distance.
RESOLUTION = 1e-3

# `rms`: root mean square difference of the features; `cosine`: 1 - their cosine similarity.
Metric = Literal["rms", "cosine"]
# Terms by name, all of shape [unit]. The gradient is that of `descent`; `loss` judges the images.
Terms = dict[str, Float[Tensor, " unit"]]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """`response / response_scale + diversity * distance_min / distance_scale - prior * cost`, per
    unit."""

    diversity: Float[Tensor, " unit"]  # weight of the smallest pairwise distance (lambda)
    response_scale: Float[Tensor, " unit"]
    distance_scale: Float[Tensor, " unit"]
    # A larger response is not rewarded further (threshold objective; docs/method.md, section 9).
    enough: Float[Tensor, " unit"] | None
    metric: Metric = "rms"
    prior: float = 0.0  # weight of the images' mean cost (nu)

    def of(self, index: Int[Tensor, " unit"]) -> Objective:
        """The objective of some of the units."""
        return replace(
            self,
            diversity=self.diversity[index],
            response_scale=self.response_scale[index],
            distance_scale=self.distance_scale[index],
            enough=None if self.enough is None else self.enough[index],
        )

    def __call__(
        self,
        responses: Float[Tensor, "unit image"],
        features: Float[Tensor, "unit shown feature"],
        emphasis: float | Tensor = 1.0,
        softness: float | Tensor = 0.0,
        costs: Float[Tensor, "unit image"] | None = None,
    ) -> Terms:
        """Terms by name: `response`, `diversity` and `prior`; `loss`, the negative of their sum;
        and `descent`, whose gradient the optimizer follows. A single image has no distance terms.

        features  of the images; of metamers also of the photograph, which has no response
        emphasis  factor on the diversity term in `descent`
        softness  of the smallest distance's gradient (see `smallest_distance`)
        costs     of the images under the prior; None without one
        """
        if self.enough is not None:
            responses = torch.minimum(responses, self.enough[:, None])
        terms = {"response": responses.mean(1) / self.response_scale}
        total = followed = terms["response"]
        if features.shape[1] > 1:
            distance = smallest_distance(features, softness, self.metric)
            terms["distance_min"] = distance
            terms["diversity"] = self.diversity * distance / self.distance_scale
            total = total + terms["diversity"]
            followed = followed + emphasis * terms["diversity"]
        if costs is not None:
            terms["prior_cost"] = costs.mean(1)
            terms["prior"] = -self.prior * terms["prior_cost"]
            total = total + terms["prior"]
            followed = followed + terms["prior"] / emphasis
        return terms | {"loss": -total, "descent": -followed}


def smallest_distance(
    features: Float[Tensor, "unit image feature"],
    softness: float | Tensor = 0.0,
    metric: Metric = "rms",
) -> Float[Tensor, " unit"]:
    """Distance between the two most similar images of every unit.

    All pairs are compared through one product of the (centred) features with themselves; the
    closest pair is then measured exactly, and it alone carries the gradient. With `softness` > 0
    the value is the same, but the gradient is a mean over pairs, weighted by
    `exp(-(distance - distance_min) / (softness * mean distance))`: where several pairs are about
    equally close, all of them are driven away from one another at once. (The paper has no such
    softness; `optimizer=paper` leaves it at 0.)
    """
    features = comparable(features, metric)
    n, device = features.shape[1], features.device
    # Around their mean, since |a|^2 + |b|^2 - 2ab loses the digits that a common offset takes up.
    centred = features.detach() - features.detach().mean(1, keepdim=True)
    products = _product(centred, centred.mT)
    squares = products.diagonal(dim1=1, dim2=2)
    squared = squares[:, :, None] + squares[:, None, :] - 2 * products
    above = torch.ones(n, n, dtype=torch.bool, device=device).triu(1)
    # Pairs closer than `RESOLUTION` cannot be distinguished, and any of them may be taken.
    closest = squared.masked_fill(~above, torch.inf).flatten(1).argmin(1)
    units = torch.arange(len(features), device=device)
    difference = features[units, closest // n] - features[units, closest % n]
    if metric == "cosine":
        exact = difference.square().sum(1) / 2
    else:  # vector_norm has gradient 0, not NaN, where two images are identical
        exact = torch.linalg.vector_norm(difference, dim=1) / features.shape[2] ** 0.5
    if n == 2 or (not isinstance(softness, Tensor) and softness == 0):
        return exact
    gradient = _soft_gradient(centred, squared, softness, metric)
    return _WithGradient.apply(exact.detach(), features, gradient)


def comparable(
    features: Float[Tensor, "unit image feature"], metric: Metric
) -> Float[Tensor, "unit image feature"]:
    """Features whose differences are the distances of `metric`.

    For `cosine` at unit norm: the square of a difference is then 2 (1 - cosine similarity). A
    vector of zeros, which has no direction, stays one: it is 1/2 away from all others.
    """
    if metric == "rms":
        return features
    norms = torch.linalg.vector_norm(features, dim=2, keepdim=True)
    return features / torch.where(norms > 0, norms, 1)


def _soft_gradient(
    centred: Float[Tensor, "unit image feature"],
    squared: Float[Tensor, "unit image image"],
    softness: float | Tensor,
    metric: Metric,
) -> Float[Tensor, "unit image feature"]:
    """Weighted mean over pairs of the gradient of their distance."""
    n, size = centred.shape[1:]
    diagonal = torch.eye(n, dtype=torch.bool, device=centred.device)
    distances = squared.clamp(min=0).masked_fill(diagonal, 0)
    distances = distances / 2 if metric == "cosine" else (distances / size).sqrt()
    mean = distances.sum((1, 2), keepdim=True) / (n * (n - 1))
    of_pairs = distances.masked_fill(diagonal, torch.inf)
    closest = of_pairs.amin((1, 2), keepdim=True)
    tiny = torch.finfo(centred.dtype).tiny
    weights = torch.exp((closest - of_pairs) / (softness * mean).clamp(min=tiny))
    weights = weights / weights.sum((1, 2), keepdim=True)
    if metric == "cosine":
        pulls = 2 * weights  # a pair stands twice among the weights
    else:
        # Pairs that the product cannot tell from identical images have no direction to move in.
        distinct = distances > RESOLUTION * mean
        pulls = torch.where(distinct, weights / distances.clamp(min=tiny), 0) * (2 / size)
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


def _product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` for every unit, with a rounding that does not depend on the other units.

    The rounding of a matrix product depends on the alignment of its factors in memory, and a single
    product may be rounded differently from one among several. So all factors are padded to begin
    at multiples of 64 bytes, and a single unit is computed twice. (A network's convolution rounds
    all images of a batch in the same way.)
    """
    rows, columns = a.shape[1], b.shape[2]
    inner = -a.shape[2] % 16  # 16 float32 values are 64 bytes
    a = functional.pad(a, (0, inner, 0, -rows % 4))
    b = functional.pad(b, (0, -columns % 4, 0, inner))
    if len(a) == 1:
        a, b = a.expand(2, -1, -1), b.expand(2, -1, -1)
        return (a @ b)[:1, :rows, :columns]
    return (a @ b)[:, :rows, :columns]


def pairwise_distances(
    features: Float[Tensor, "unit image feature"], metric: Metric = "rms"
) -> Float[Tensor, "unit pair"]:
    """Distance of every pair of images, by direct subtraction in float64.

    `pairwise_distances(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]))` is [[3.5355]], sqrt(25 / 2).
    """
    n, size = features.shape[1:]
    vectors = comparable(features.double(), metric)
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    first, second = torch.triu_indices(n, n, 1, device=features.device)
    pairs = distances[:, first, second]
    return pairs.square() / 2 if metric == "cosine" else pairs / size**0.5
