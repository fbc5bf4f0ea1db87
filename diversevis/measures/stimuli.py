"""What units are tested with: images of one norm, the soft mask, gratings seen through it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

# Orthonormal colour axes in RGB (Krauskopf, Williams & Heeley 1982 name the cardinal directions).
COLOR_AXES: dict[str, tuple[float, ...]] = {
    "luminance": (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)),
    "red-green": (1 / math.sqrt(2), -1 / math.sqrt(2), 0.0),
    "blue-yellow": (-1 / math.sqrt(6), -1 / math.sqrt(6), 2 / math.sqrt(6)),
}
SMALLEST = 1e-6  # distance from the centre, in sides of the image: the logarithm of 0 is infinite
# Of the fixed mask, in sides of the image; with p = 2, q = 4 (docs/method.md, section 6).
SIGMA = 1 / 2.4


def color_axes(channels: int) -> dict[str, tuple[float, ...]]:
    """Orthonormal colour axes of images with so many channels, by name.

    `COLOR_AXES` for 3. Else the first, "luminance", is the same in every channel (of grey images it
    is the only one), and the others, "axis 2" and so on, are Helmert's contrasts: the mean of the
    channels before against the next.

    `color_axes(2)["axis 2"]` is (0.7071, -0.7071), `(1, -1) / sqrt(2)`.
    """
    if channels == 3:
        return COLOR_AXES
    axes = {"luminance": (1 / math.sqrt(channels),) * channels}
    for before in range(1, channels):
        length = math.sqrt(before * (before + 1))
        rest = (0.0,) * (channels - before - 1)
        axes[f"axis {before + 1}"] = (1 / length,) * before + (-before / length, *rest)
    return axes


def color_table(channels: int) -> Float[Tensor, "axis color"]:
    """The vectors of `color_axes`, in their order."""
    return torch.tensor(list(color_axes(channels).values()))


def soft_mask(
    size: tuple[int, int],
    p: Float[Tensor, "*unit"] | float = 2.0,
    q: Float[Tensor, "*unit"] | float = 4.0,
    sigma: Float[Tensor, "*unit"] | float = SIGMA,
    *,
    device: torch.device | None = None,
) -> Float[Tensor, "*unit height width"]:
    """`exp(-(r / sigma)^q)`, `r = (|u|^p + |v|^p)^(1/p)` from the centre.

    docs/method.md, section 6. u, v are in sides of the image, as is sigma: on a square image of
    side s the fixed mask has sigma = s/2.4 pixels. p, q, sigma may be tensors: one mask for every
    entry.
    """
    height, width = size
    v = (torch.arange(height, device=device) - (height - 1) / 2).abs()[:, None] / height
    u = (torch.arange(width, device=device) - (width - 1) / 2).abs()[None, :] / width
    p, q, sigma = (
        torch.as_tensor(value, device=device, dtype=u.dtype)[..., None, None]
        for value in (p, q, sigma)
    )
    # In logarithms: a large p would bring the powers to 0, where the root's derivative is infinite.
    log_u, log_v = (distance.clamp(min=SMALLEST).log() for distance in (u, v))
    log_r = torch.logaddexp(p * log_u, p * log_v) / p
    return torch.exp(-torch.exp(q * (log_r - torch.log(sigma))))


def at_norm(
    x: Float[Tensor, "*batch color height width"], norm: float | Tensor
) -> Float[Tensor, "*batch color height width"]:
    """The images at this Euclidean norm, a number or [..., 1, 1, 1]."""
    return x * (norm / torch.linalg.vector_norm(x, dim=(-3, -2, -1), keepdim=True))


def phases(count: int) -> Float[Tensor, " phase"]:
    """Equally spaced over a cycle, in radians, from 0."""
    return torch.arange(count) * (2 * math.pi / count)


def gratings(
    mask: Float[Tensor, "height width"],
    frequency: Float[Tensor, " grating"],
    orientation: Float[Tensor, " grating"],
    color: Float[Tensor, "grating color"],
    phase: Float[Tensor, " phase"],
    norm: float,
) -> Float[Tensor, "grating phase color height width"]:
    """Gratings `color * cos(2 pi frequency (u cos + v sin of orientation) - phase)` times the mask.

    frequency    cycles per pixel
    orientation  of the wave vector, in degrees, counter-clockwise from the horizontal as one looks
                 at the image
    norm         root-mean-square Euclidean norm over the phases of a grating. One factor serves all
                 phases, so that a linear response to them is a sinusoid.
    """
    frequency, orientation, color, phase = (
        values.to(mask.device) for values in (frequency, orientation, color, phase)
    )
    height, width = mask.shape
    up = (height - 1) / 2 - torch.arange(height, device=mask.device)
    right = torch.arange(width, device=mask.device) - (width - 1) / 2
    angle = torch.deg2rad(orientation)
    along = torch.cos(angle)[:, None, None] * right + torch.sin(angle)[:, None, None] * up[:, None]
    cycles = 2 * math.pi * frequency[:, None, None] * along  # [grating, height, width]
    waves = mask * torch.cos(cycles[:, None] - phase[:, None, None])
    images = color[:, None, :, None, None] * waves[:, :, None]
    mean_square = images.square().sum((2, 3, 4)).mean(1)
    return images * (norm / mean_square.sqrt())[:, None, None, None, None]
