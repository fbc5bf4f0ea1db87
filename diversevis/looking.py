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

from diversevis import images
from diversevis.objective import Target
from diversevis.prepare import Setting, precision
from diversevis.receptive_field import unpad
from diversevis.tuning import tune_for_cpu


class Seen(NamedTuple):
    """A batch as the network sees it, every field [unit, image, ...]."""

    images: Float[Tensor, "unit image 3 height width"]
    responses: Float[Tensor, "unit image"]  # in the network's own units
    scaled: Float[Tensor, "unit image"]  # channels scaled as `objective.scale` says
    features: Float[Tensor, "unit image feature"]  # what distances are taken in


@dataclass(frozen=True, kw_only=True)
class Looking:
    """Images of norm -> what the network makes of them.

    rows  the units' places in the setting's targets, in the order of this batch
    """

    setting: Setting
    rows: Int[Tensor, " unit"]

    def __call__(
        self, x: Float[Tensor, "unit image 3 height width"], units: Int[Tensor, " unit"]
    ) -> Seen:
        """units  the place in this batch of the unit that each set of images belongs to"""
        setting, (count, n) = self.setting, x.shape[:2]
        rows = self.rows[units]
        z = images.to_network_input(x.flatten(0, 1), setting.network.weights.std)
        answer, *maps = self._through(z.contiguous(memory_format=setting.layout), rows)
        if setting.reads_out:
            responses = answer
            gain = setting.channel_gain
            scaled = responses if gain is None else responses * self._own(gain, rows)[:, None]
        else:
            channels = answer.reshape(count, n, -1)
            target = Target(
                vectors=setting.targets.vectors[rows],
                kind=setting.experiment.objective.response,
                gain=None,
            )
            responses = target(channels)
            scaled = replace(target, gain=setting.channel_gain)(channels)
        if not maps:
            features = x.flatten(2)
        elif setting.feature_gain is None:
            features = maps[0].reshape(count, n, -1)
        else:
            features = (maps[0] * setting.feature_gain[:, None, None]).reshape(count, n, -1)
        return Seen(images=x, responses=responses, scaled=scaled, features=features)

    def _own(self, gain: Tensor, rows: Tensor) -> Tensor:
        """The factor of each unit's own channel."""
        return self.setting.targets.vectors[rows] @ gain

    def _through(self, z: Tensor, rows: Tensor) -> Sequence[Tensor]:
        """The network's outputs. Images that are too many at once go through in parts, computed
        anew for the gradient instead of being kept."""
        network, each = self.setting.readout, len(z) // len(rows)
        if len(z) <= self.setting.batch:
            return network(z, rows)
        units = max(1, self.setting.batch // each)  # in a part, unless one unit is too much
        parts = [
            [checkpoint(network, part, few, use_reentrant=False) for part in torch.split(own, size)]
            for few, own in zip(torch.split(rows, units), torch.split(z, units * each), strict=True)
            for size in (len(own) if len(own) <= self.setting.batch else self.setting.batch,)
        ]
        found = []
        for output in range(len(parts[0][0])):
            axis = 1 if output == 0 and self.setting.reads_out else 0
            joined = [torch.cat([part[output] for part in own], dim=axis) for own in parts]
            found.append(torch.cat(joined))
        return found


class LookingAtAll:
    """Images -> the responses of all of a setting's units to each of them, in one pass."""

    def __init__(self, setting: Setting) -> None:
        module = unpad(setting.network.module).to(setting.device)
        module.to(memory_format=setting.layout)
        self.network = tune_for_cpu(module) if setting.device.type == "cpu" else module
        self.setting = setting
        self.target = Target(
            vectors=setting.targets.vectors,
            kind=setting.experiment.objective.response,
            gain=None,
        )

    def __call__(self, x: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image unit"]:
        """Without gradient, in float32; images go through in parts if they are too many."""
        setting = self.setting
        with torch.no_grad(), precision("float32"):
            found = []
            for part in torch.split(x, setting.batch):
                z = images.to_network_input(part.to(setting.device), setting.network.weights.std)
                channels = self.network(z.contiguous(memory_format=setting.layout))[0]
                found.append(self.target.of_all(channels.flatten(1)))
        return torch.cat(found)


def noise_of(
    setting: Setting, unit: int, purpose: str, count: int, size: tuple[int, int] | None = None
) -> Callable[[], Float[Tensor, "image 3 height width"]]:
    """Draws `count` images of noise from a generator of the unit's own, whatever runs beside it.

    size  the receptive field's unless given
    """
    generator = generator_of(setting, f"{unit}/{purpose}")
    shape = (count, 3, *(size or setting.field.size))
    return lambda: images.noise(shape, generator).to(setting.device)


def generator_of(setting: Setting, purpose: str) -> torch.Generator:
    """A generator for one purpose, from the run's seed."""
    digest = hashlib.sha256(f"{setting.experiment.seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
