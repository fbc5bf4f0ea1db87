"""How a network takes its images: the settings that its weights were trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diversevis.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Convention:
    """The network's input is z = scale * (x - mean) / std for an image x with values in [0, 1].

    mean, std  in [0, 1], in the order RGB, a number for every channel of the input; None: the
               values that belong to the weights
    inside     the network normalises inside: z = scale * x, and mean is only the level around
               which images vary; None: mid-grey
    scale      1, or 255 for a network that takes grey levels
    order      bgr: the channels of z are reversed

    Raises `InputError` for settings that contradict one another.
    """

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    inside: bool
    scale: float
    order: Literal["rgb", "bgr"]

    def __post_init__(self) -> None:
        mean, std = self.mean, self.std
        if self.inside and std is not None:
            raise InputError(
                f"model.std={list(std)} and model.inside=true exclude one another: a network that "
                "normalises inside takes pixels as they are. Leave out one of them."
            )
        if mean is not None and std is not None and len(mean) != len(std):
            raise InputError(
                f"model.mean={list(mean)} and model.std={list(std)} must be equally long: a number "
                "for every channel of the network's input."
            )
        if mean == ():
            raise InputError(
                "model.mean=[] has no number: give one for every channel of the network's input."
            )
        if self.order == "bgr" and mean is not None and len(mean) != 3:
            raise InputError(
                f"model.order=bgr is for colour images, and model.mean={list(mean)} has "
                f"{len(mean)} channels. Leave out model.order."
            )
        if not 0 < self.scale < float("inf"):
            raise InputError(
                f"model.scale={self.scale} must be above 0: 1 for a network that takes values up "
                "to 1, 255 for one that takes grey levels."
            )

    @property
    def is_standard(self) -> bool:
        """Whether the network takes (x - mean) / std, in the order RGB."""
        return not self.inside and self.scale == 1 and self.order == "rgb"


def network_input(
    z: Tensor, level: tuple[float, ...] | None, scale: float, order: Literal["rgb", "bgr"]
) -> Tensor:
    """What the network takes, from z = (x - mean) / std [image, color, rows, columns].

    level  mean of a network that normalises inside (std is 1)
    """
    if level is not None:
        z = z + torch.tensor(level, dtype=z.dtype, device=z.device)[:, None, None]
    return scale * (z.flip(1) if order == "bgr" else z)
