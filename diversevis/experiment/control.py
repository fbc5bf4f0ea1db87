"""The random-weights control of metamers: the same settings, another network."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError
from diversevis.experiment.batches import visualize_in_batches
from diversevis.experiment.results import in_order
from diversevis.measures.metamers import Control
from diversevis.method.device import precision
from diversevis.method.response import respond
from diversevis.method.setup import Setup, prepare
from diversevis.models.architectures import PUBLISHED, Model


def random_control(setup: Setup, images: Float[Tensor, "unit image color height width"]) -> Control:
    """Metamers of the run's photographs in a network of the same kind with random weights, and how
    either network answers to the other's.

    images  of the run

    Raises `InputError` for a network whose weights are not read from a file.
    """
    other = prepare(replace(setup.experiment, model=_random(setup), device=str(setup.device)))
    other = replace(other, batch=setup.batch)
    results = [result.visualization for result in visualize_in_batches(other)]
    made = torch.stack([unit.images for unit in in_order(other, results)])
    assert setup.targets.references is not None  # noqa: S101  (of metamers alone)
    return Control(
        images=made,
        crops=setup.targets.references.cpu(),
        errors=_errors(other, made),
        crossed=(_errors(setup, made), _errors(other, images)),
    )


def _random(setup: Setup) -> Model:
    """The model with random weights, and the trained one's mean and std: its crops are the same."""
    model, weights = setup.experiment.model, setup.network.weights
    if not isinstance(model, PUBLISHED) or model.weights == "random":
        raise InputError(
            f"the weights of {setup.network.name} ({weights.source}) cannot be drawn at random to "
            "compare with: that is for trained networks of torchvision and timm"
        )
    drawn = replace(model, weights="random", container=None)
    return drawn if model.inside else replace(drawn, mean=weights.mean, std=weights.std)


def _errors(
    setup: Setup, images: Float[Tensor, "unit image color h w"]
) -> Float[Tensor, "unit image"]:
    rows = torch.arange(len(images), device=setup.device)
    with torch.no_grad(), precision("float32"):
        return -respond(setup, images.to(setup.device), rows).responses.cpu()
