"""Images of fixed norm -> responses: of every unit to its own images, or of all units to all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, fx
from torch.utils.checkpoint import checkpoint

from diversevis.method import images
from diversevis.method.device import precision
from diversevis.method.setup import Setup
from diversevis.models.cpu import tune_for_cpu
from diversevis.models.targets import (
    responses_to_all_images,
    responses_to_own_images,
    without_own,
)


class Responses(NamedTuple):
    """Images and what the network computes from them."""

    images: Float[Tensor, "unit image color height width"]
    responses: Float[Tensor, "unit image"]  # as the network gives them
    scaled: Float[Tensor, "unit image"]  # with channels scaled as `objective.scale` says
    features: Float[Tensor, "unit image feature"]  # in which distances are measured


def respond(
    setup: Setup, x: Float[Tensor, "unit image color height width"], rows: Int[Tensor, " unit"]
) -> Responses:
    """Responses of the units at `rows` of the setup's targets, each to its own images `x`."""
    units, n = x.shape[:2]
    z = images.to_network_input(x.flatten(0, 1), setup.network.weights.std)  # [unit * image, 3, ..]
    target, *maps = _through_network(setup, z.contiguous(memory_format=setup.layout), rows)
    vectors, gain = setup.targets.vectors[rows], setup.channel_gain
    features = x.flatten(2)  # distances in pixels
    if setup.reads_out:
        responses = target  # [unit, image]
        # The readout gives the unit's own channel only: it has one gain.
        scaled = responses if gain is None else responses * (vectors @ gain)[:, None]
    else:
        channels, objective = target.reshape(units, n, -1), setup.experiment.objective
        kind, counted = objective.response, setup.targets.counted(channels)
        responses = responses_to_own_images(counted, vectors, kind)
        is_squared = kind == "match" and objective.tolerance is None
        scaled = -responses.square() if is_squared else responses
        if gain is not None:
            scaled = responses_to_own_images(channels * gain, vectors, kind)
        if setup.population:
            features = setup.network.layer.activations(channels)
            if setup.feature_gain is not None:
                features = features * setup.feature_gain
            features = without_own(features, vectors)
    if maps:
        features = maps[0].reshape(units, n, *maps[0].shape[1:])
        if setup.feature_gain is not None:
            features = features * setup.feature_gain[:, None, None]
        features = features.flatten(2)
    return Responses(images=x, responses=responses, scaled=scaled, features=features)


def _through_network(
    setup: Setup, z: Float[Tensor, "image color height width"], rows: Int[Tensor, " unit"]
) -> Sequence[Tensor]:
    """The outputs of the network, in parts where there are more images than `setup.batch`.

    The activations of parts are computed a second time for the gradient instead of being stored.
    """
    network, n = setup.readout, len(z) // len(rows)
    # A CPU's convolutions round a single image unlike several.
    if len(z) == 1 and setup.batch > 1 and z.device.type == "cpu":
        target, *maps = network(torch.cat([z, z]), rows)  # in the layout of z, as are its gradients
        target = target[:, :1] if setup.reads_out else target[:1]
        return [target, *(features[:1] for features in maps)]
    if len(z) <= setup.batch:
        return network(z, rows)
    outputs = []
    units_per_part = max(1, setup.batch // n)
    for rows_of_part, z_of_part in zip(
        torch.split(rows, units_per_part), torch.split(z, units_per_part * n), strict=True
    ):
        # The images of a single unit may still be too many.
        size = min(len(z_of_part), setup.batch)
        parts = [
            checkpoint(network, part, rows_of_part, use_reentrant=False)
            for part in torch.split(z_of_part, size)
        ]
        target, *maps = zip(*parts, strict=True)
        # A readout's responses are [unit, image]: of a single unit if there are several parts.
        joined = torch.cat(target, dim=1 if setup.reads_out else 0)
        outputs.append([joined, *(torch.cat(part) for part in maps)])
    return [torch.cat(output) for output in zip(*outputs, strict=True)]


def respond_all(setup: Setup) -> Callable[[Tensor], Tensor]:
    """A function: images [image, 3, h, w] -> responses of all units to all of them [image, unit].

    Without gradient, in float32; more images than `setup.batch` go through the network in parts.
    """
    network = setup.channels
    if setup.device.type == "cpu" and isinstance(network, fx.GraphModule):
        network = tune_for_cpu(network)
    vectors, kind = setup.targets.vectors, setup.experiment.objective.response

    def responses(x: Float[Tensor, "image color height width"]) -> Float[Tensor, "image unit"]:
        parts = []
        with torch.no_grad(), precision("float32"):
            for part in torch.split(x, setup.batch):
                z = images.to_network_input(part.to(setup.device), setup.network.weights.std)
                channels = network(z.contiguous(memory_format=setup.layout))[0].flatten(1)
                counted = setup.targets.counted(channels)
                parts.append(responses_to_all_images(counted, vectors, kind))
        return torch.cat(parts)

    return responses


def noise_of(
    setup: Setup, unit: int, purpose: str, count: int, size: tuple[int, int] | None = None
) -> Callable[[], Float[Tensor, "image color height width"]]:
    """A function that draws `count` noise images, of `size` or that of the receptive field.

    Every unit has its generator, so that its noise does not depend on the other units.
    """
    generator = generator_of(setup, f"{unit}/{purpose}")
    shape = (count, setup.network.colors, *(size or setup.field.size))
    return lambda: images.noise(shape, generator).to(setup.device)


def generator_of(setup: Setup, purpose: str) -> torch.Generator:
    """A generator for one purpose, from the run's seed."""
    digest = hashlib.sha256(f"{setup.experiment.seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
