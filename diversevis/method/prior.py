"""The prior in a run: its weight, and what guards against fooling oneself with it.

A lower cost may mean images more like photographs, or images that use a weakness of the prior. So
the images are compared with photographs and with noise, under the prior that was optimized and
under another one that was not (docs/priors.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diversevis.method import images
from diversevis.method.device import precision
from diversevis.method.response import generator_of
from diversevis.method.result import COMPARED, OF_CROPS
from diversevis.method.setup import Setup
from diversevis.priors.open import Cost, Prior
from diversevis.priors.settings import NoPrior
from diversevis.priors.spectrum import SpectrumDistance

LOW, HIGH = 0.05, 0.95  # quantiles of the photographs' costs


def prior_weight(setup: Setup) -> float:
    """The weight of the images' mean cost; as published, of the sum over pixels, channels and
    images (docs/method.md, section 12)."""
    experiment = setup.experiment
    if isinstance(experiment.prior, NoPrior):
        return 0.0
    if experiment.prior.reduce == "mean":
        return experiment.prior.weight
    return experiment.prior.weight * experiment.n * math.prod(setup.image_shape)


def costs_of(
    setup: Setup, prior: Prior, x: Float[Tensor, "set image color height width"]
) -> Float[Tensor, "set image"]:
    """Costs of the images, in parts where there are more than `setup.batch`, as in the network."""
    flat = x.flatten(0, 1)
    if len(flat) <= setup.batch or isinstance(prior.cost, SpectrumDistance):
        return prior.cost(x)
    parts = [
        checkpoint(prior.cost, part[None], use_reentrant=False)[0]
        for part in torch.split(flat, setup.batch)
    ]
    return torch.cat(parts).reshape(x.shape[:2])


def measure_costs(
    setup: Setup,
    rows: Int[Tensor, " set"],
    x: Float[Tensor, "set image color height width"],
    others: Sequence[Tensor],
) -> list[dict[str, float | None]] | None:
    """Numbers of `metrics.json` for every set of images; None without a prior.

    others  noise that the images began as, and the best image of the search, [set, ...]: no prior
            was optimized in it

    `prior_cost_images`, `_shuffled` (their pixels in random order), `_noise`, `_best`, and of crops
    of photographs `_photographs`, with the range from 5 to 95 % of them; all at the same norm.
    `prior_check_cost_...` are the same under the prior that was not optimized.
    """
    prior = setup.prior
    if prior is None:
        return None
    noise, best = others
    shown = {
        "images": x, "shuffled": _shuffled(setup, rows, x),
        "noise": images.render(noise, setup.norm), "best": best,
    }  # fmt: skip
    costs = {"prior_cost": prior.cost}
    if prior.check is not None:
        costs["prior_check_cost"] = prior.check[1]
    columns: dict[str, list[float | None]] = {}
    with torch.no_grad(), precision("float32"):
        for name, cost in costs.items():
            for what in COMPARED:
                of_sets = isinstance(cost, SpectrumDistance)  # of the mean of a set: n=1 is another
                alone = what == "best" and of_sets and x.shape[1] > 1
                values: list[float | None] = [None] * len(x)
                if not alone:
                    values = _means(cost, shown[what], setup.batch)
                columns[f"{name}_{what}"] = values
            of_crops = _of_crops(cost, prior.crops, x.shape[1], setup.batch)
            for what, value in of_crops.items():
                columns[f"{name}_{what}"] = [value] * len(x)
    return [{name: values[i] for name, values in columns.items()} for i in range(len(x))]


def _shuffled(
    setup: Setup, rows: Int[Tensor, " set"], x: Float[Tensor, "set image color height width"]
) -> Float[Tensor, "set image color height width"]:
    """The pixels of every image in another order, the same for all images of a unit."""
    shuffled = []
    for row, of_set in zip(rows.tolist(), x, strict=True):
        generator = generator_of(setup, f"{setup.targets.units[row]}/shuffle")
        order = torch.randperm(x.shape[3] * x.shape[4], generator=generator).to(x.device)
        shuffled.append(of_set.flatten(2)[:, :, order].unflatten(2, x.shape[3:]))
    return torch.stack(shuffled)


def _means(cost: Cost, x: Tensor, batch: int) -> list[float | None]:
    """Mean cost of every set, some sets at a time."""
    at_once = max(1, batch // x.shape[1])
    return [value for part in torch.split(x, at_once) for value in cost(part).mean(1).tolist()]


def _of_crops(
    cost: Cost, crops: Float[Tensor, "crop color height width"] | None, n: int, batch: int
) -> dict[str, float | None]:
    """Of the crops of photographs: mean, and the range of most of them."""
    if crops is None:
        return dict.fromkeys(OF_CROPS)
    sets = crops[: max(1, len(crops) // n) * n].reshape(-1, min(n, len(crops)), *crops.shape[1:])
    parts = torch.split(sets, max(1, batch // n))
    values = torch.cat([cost(part) for part in parts]).flatten()
    quantiles = torch.quantile(
        values.double(), torch.tensor([LOW, HIGH]).to(values.device).double()
    )
    return dict(zip(OF_CROPS, [values.mean().item(), *quantiles.tolist()], strict=True))
