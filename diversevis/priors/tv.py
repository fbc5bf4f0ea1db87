"""Total variation (Rudin, Osher & Fatemi 1992): how much neighbouring pixels differ."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

SMOOTH = 0.01  # of the contrast: differences below it cost their square, so that none is a corner


def total_variation(
    x: Float[Tensor, "image color height width"], contrast: float
) -> Float[Tensor, " image"]:
    """Mean length of the gradient per pixel and channel, over the images' RMS contrast.

    About 2 for white noise, 0.3 to 0.7 for photographs, 0 for an image without any change.

    It prefers flat areas with straight, sharp edges, few of them, and pays least for one step
    across the whole image: gratings and textures cost more than photographs show them.
    """
    down = functional.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
    right = functional.pad(x[..., :, 1:] - x[..., :, :-1], (0, 1))
    squares = (down.square() + right.square()).mean(1) / contrast**2
    lengths = torch.sqrt(squares + SMOOTH**2) - SMOOTH
    return lengths.mean((1, 2))
