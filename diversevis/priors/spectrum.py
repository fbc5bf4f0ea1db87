"""The amplitude spectrum of a batch, compared with that of photographs or with 1/f (Field 1987)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

# Orthonormal axes of colour: light-dark, red-green, yellow-blue (Ruderman, Cronin & Chiao 1998).
OPPONENT = ((1, 1, 1), (1, -1, 0), (1, 1, -2))
FLOOR = 1e-4  # of the expected power, added to both: a frequency without power costs no more


@dataclass(frozen=True, kw_only=True)
class SpectrumDistance:
    """Sets of images -> how far the mean power spectrum of a set is from `expected`.

    Per frequency `(r - log r - 1) / 2`, r the power over the expected power: the divergence of
    Itakura & Saito, which is the Kullback-Leibler divergence between Gaussian textures of the two
    spectra, in nats per pixel and channel. 0 where they agree. All images of a set have the same.

    It asks for nothing but amplitudes, and a fixed spectrum leaves only the phases to differ:
    noise with the right spectrum costs nothing, edges are not asked for, and images that are each
    unlike a photograph may have a mean spectrum as photographs have.
    """

    expected: Float[Tensor, "axis height width"]  # mean square of the Fourier coefficients

    def __call__(
        self, x: Float[Tensor, "set image color height width"]
    ) -> Float[Tensor, "set image"]:
        measured = power(x).mean(1)  # [set, axis, height, width]
        if len(self.expected) == 1:
            measured = measured.mean(1, keepdim=True)
        ratios = measured / self.expected * (1 - FLOOR) + FLOOR
        distance = (ratios - ratios.log() - 1).mean((1, 2, 3)) / 2
        return distance[:, None].expand(*x.shape[:2])


def power(
    x: Float[Tensor, "*batch color height width"],
) -> Float[Tensor, "*batch axis height width"]:
    """Squared amplitudes of the Fourier coefficients, of three colours along opponent axes.

    With unit norm: the sum over frequencies is the sum of squares of the pixels.
    """
    x = to_opponent(x)
    height, width = x.shape[-2:]
    (rows_cos, rows_sin), (columns_cos, columns_sin) = (
        _fourier(size, x.dtype, x.device) for size in (height, width)
    )
    bottom, right = -height % 4, -width % 4
    planes = functional.pad(x.flatten(0, -3), (0, right, 0, bottom))
    cosines, sines = rows_cos @ planes, rows_sin @ planes
    real = cosines @ columns_cos - sines @ columns_sin
    imaginary = cosines @ columns_sin + sines @ columns_cos
    squares = (real.square() + imaginary.square())[:, :height, :width]
    return squares.reshape(*x.shape)


def one_over_f(
    height: int, width: int, exponent: float, total: float
) -> Float[Tensor, "1 height width"]:
    """Power that falls with frequency to the power of 2 `exponent`, at 0 as at the lowest one.

    total  sum over all frequencies
    """
    rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64) for size in (height, width))
    frequency = torch.hypot(rows[:, None], columns[None, :]).clamp(min=1 / max(height, width))
    falling = frequency ** (-2 * exponent)
    return (falling * (total / falling.sum()))[None]


def to_opponent(
    x: Float[Tensor, "*batch color height width"],
) -> Float[Tensor, "*batch axis height width"]:
    """Red, green and blue along orthonormal opponent axes; other channels as they are."""
    if x.shape[-3] != 3:
        return x
    red, green, blue = x.unbind(-3)
    axes = (red + green + blue) / math.sqrt(3), (red - green) / math.sqrt(2)
    return torch.stack([*axes, (red + green - 2 * blue) / math.sqrt(6)], -3)


@functools.lru_cache(maxsize=8)
def _fourier(
    size: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "wide wide"], Float[Tensor, "wide wide"]]:
    """Cosines and sines of a unitary Fourier transform, padded with 0 to a multiple of 4.

    Products with them round an image alone as among others, unlike fast transforms.
    """
    steps = torch.arange(size, dtype=torch.float64, device=device)
    angles = 2 * math.pi / size * (steps[:, None] * steps % size)
    pad = 0, -size % 4, 0, -size % 4
    cosines, sines = (
        functional.pad((part / math.sqrt(size)).to(dtype), pad)
        for part in (angles.cos(), angles.sin())
    )
    return cosines, sines
