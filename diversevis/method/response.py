"""Images of norm -> what the network makes of them: of each unit its own, or of a layer all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diversevis.method import images
from diversevis.method.device import precision
from diversevis.method.objective import Target
from diversevis.method.setup import Setup
from diversevis.models.cpu import tune_for_cpu
from diversevis.models.receptive_field import unpad


class Seen(NamedTuple):
    """A batch as the network sees it, every field [unit, image, ...]."""

    images: Float[Tensor, "unit image 3 height width"]
    responses: Float[Tensor, "unit image"]  # in the network's own units
    scaled: Float[Tensor, "unit image"]  # channels scaled as `objective.scale` says
    features: Float[Tensor, "unit image feature"]  # what distances are taken in


@dataclass(frozen=True, kw_only=True)
class Looking:
    """Images of norm -> what the network makes of them.

    rows  the units' places in the setup's targets, in the order of this batch
    """

    setup: Setup
    rows: Int[Tensor, " unit"]

    def __call__(
        self, x: Float[Tensor, "unit image 3 height width"], units: Int[Tensor, " unit"]
    ) -> Seen:
        """units  the place in this batch of the unit that each set of images belongs to"""
        setup, (count, n) = self.setup, x.shape[:2]
        rows = self.rows[units]
        z = images.to_network_input(x.flatten(0, 1), setup.network.weights.std)
        answer, *maps = self._through(z.contiguous(memory_format=setup.layout), rows)
        if setup.reads_out:
            responses = answer
            gain = setup.channel_gain
            scaled = responses if gain is None else responses * self._own(gain, rows)[:, None]
        else:
            channels = answer.reshape(count, n, -1)
            target = Target(
                vectors=setup.targets.vectors[rows],
                kind=setup.experiment.objective.response,
                gain=None,
            )
            responses = target(channels)
            scaled = replace(target, gain=setup.channel_gain)(channels)
        if not maps:
            features = x.flatten(2)
        elif setup.feature_gain is None:
            features = maps[0].reshape(count, n, -1)
        else:
            features = (maps[0] * setup.feature_gain[:, None, None]).reshape(count, n, -1)
        return Seen(images=x, responses=responses, scaled=scaled, features=features)

    def _own(self, gain: Tensor, rows: Tensor) -> Tensor:
        """The factor of each unit's own channel."""
        return self.setup.targets.vectors[rows] @ gain

    def _through(self, z: Tensor, rows: Tensor) -> Sequence[Tensor]:
        """The network's outputs. Images that are too many at once go through in parts, computed
        anew for the gradient instead of being kept."""
        network, each = self.setup.readout, len(z) // len(rows)
        if len(z) <= self.setup.batch:
            return network(z, rows)
        units = max(1, self.setup.batch // each)  # in a part, unless one unit is too much
        parts = [
            [checkpoint(network, part, few, use_reentrant=False) for part in torch.split(own, size)]
            for few, own in zip(torch.split(rows, units), torch.split(z, units * each), strict=True)
            for size in (len(own) if len(own) <= self.setup.batch else self.setup.batch,)
        ]
        found = []
        for output in range(len(parts[0][0])):
            axis = 1 if output == 0 and self.setup.reads_out else 0
            joined = [torch.cat([part[output] for part in own], dim=axis) for own in parts]
            found.append(torch.cat(joined))
        return found


class LookingAtAll:
    """Images -> the responses of all of a setup's units to each of them, in one pass."""

    def __init__(self, setup: Setup) -> None:
        module = unpad(setup.network.module).to(setup.device)
        module.to(memory_format=setup.layout)
        self.network = tune_for_cpu(module) if setup.device.type == "cpu" else module
        self.setup = setup
        self.target = Target(
            vectors=setup.targets.vectors,
            kind=setup.experiment.objective.response,
            gain=None,
        )

    def __call__(self, x: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image unit"]:
        """Without gradient, in float32; images go through in parts if they are too many."""
        setup = self.setup
        with torch.no_grad(), precision("float32"):
            found = []
            for part in torch.split(x, setup.batch):
                z = images.to_network_input(part.to(setup.device), setup.network.weights.std)
                channels = self.network(z.contiguous(memory_format=setup.layout))[0]
                found.append(self.target.of_all(channels.flatten(1)))
        return torch.cat(found)


def noise_of(
    setup: Setup, unit: int, purpose: str, count: int, size: tuple[int, int] | None = None
) -> Callable[[], Float[Tensor, "image 3 height width"]]:
    """Draws `count` images of noise from a generator of the unit's own, whatever runs beside it.

    size  the receptive field's unless given
    """
    generator = generator_of(setup, f"{unit}/{purpose}")
    shape = (count, 3, *(size or setup.field.size))
    return lambda: images.noise(shape, generator).to(setup.device)


def generator_of(setup: Setup, purpose: str) -> torch.Generator:
    """A generator for one purpose, from the run's seed."""
    digest = hashlib.sha256(f"{setup.experiment.seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
