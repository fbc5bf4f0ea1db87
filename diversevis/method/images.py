"""Raw parameters -> images of fixed norm; images -> network input, and pixels for a person.

An image is `x`, shape [c, h, w], in grey levels (0..255 scale) around the network's input mean
(docs/method.md, sections 1 to 3). It has the channels that the network takes: 3 are RGB, 1 is grey.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from diversevis.errors import InputError, suggest

# Mean Euclidean norm of natural-image crops of each layer's receptive field, VGG-19
# (the paper's reference code; docs/method.md, section 2). An image has half of this norm.
PAPER_MEAN_NORMS = {
    "conv1_1": 321.44, "conv1_2": 538.35, "conv2_1": 1086.86, "conv2_2": 1531.58,
    "conv3_1": 2651.66, "conv3_2": 3553.22, "conv3_3": 4453.84, "conv3_4": 5362.63,
    "conv4_1": 7637.38, "conv4_2": 9473.19, "conv4_3": 11285.79, "conv4_4": 13161.68,
    "conv5_1": 17780.20, "conv5_2": 21605.78, "conv5_3": 25507.56, "conv5_4": 29358.54,
}  # fmt: skip

Precondition = Literal["sqrt", "none"]


def norm_of_contrast(contrast: float, size: tuple[int, int], *, channels: int) -> float:
    """Euclidean norm of a [channels, *size] image whose RMS contrast is `contrast` grey levels.

    `norm_of_contrast(32.0, (3, 4), channels=3)` is 192.0, `32 sqrt(36)`.
    """
    return contrast * math.sqrt(channels * size[0] * size[1])


def paper_norm(model: str, layer: str) -> float:
    """The paper's image norm for a layer of VGG-19; raises `InputError` for any other layer."""
    if model != "vgg19" or layer not in PAPER_MEAN_NORMS:
        raise InputError(
            f"norm=paper is a table for the convolutions of vgg19; it has no entry for "
            f"layer={layer} of {model}. Use norm=contrast, which holds for every network. "
            + (suggest(layer, PAPER_MEAN_NORMS) if model == "vgg19" else "")
        )
    return PAPER_MEAN_NORMS[layer] / 2


def noise(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Standard normal raw parameters, drawn on the CPU: the same for every device."""
    return torch.randn(shape, generator=generator)


def render(
    raw: Float[Tensor, "unit image color height width"], norm: float
) -> Float[Tensor, "unit image color height width"]:
    """Images of Euclidean norm `norm` in the direction of `raw`."""
    return raw * (norm / torch.linalg.vector_norm(raw, dim=(-3, -2, -1), keepdim=True))


def precondition(
    gradient: Float[Tensor, "unit image color height width"],
    kind: Precondition,
    exponent: float = 0.5,
) -> Float[Tensor, "unit image color height width"]:
    """The gradient with its frequencies weighted by 1/f^exponent, channel by channel (`sqrt`;
    docs/method.md, section 3), or as it is (`none`)."""
    if kind == "none":
        return gradient
    height, width = gradient.shape[-2:]
    like = gradient.dtype, gradient.device
    rows, columns = _hartley(height, *like), _hartley(width, *like)
    bottom, right = len(rows) - height, len(columns) - width
    weights = frequency_weights(height, width, *like, exponent)
    weights = functional.pad(weights, (0, right, 0, bottom))
    planes = functional.pad(gradient.flatten(0, -3), (0, right, 0, bottom))
    filtered = rows @ (rows @ planes @ columns * weights) @ columns
    return filtered[:, :height, :width].reshape(gradient.shape)


@functools.lru_cache(maxsize=8)
def frequency_weights(
    height: int, width: int, dtype: torch.dtype, device: torch.device, exponent: float = 0.5
) -> Float[Tensor, "height width"]:
    """`1 / max(1, |f|^exponent)`, f in cycles per image (the order of `fft2`), divided by its mean
    (docs/method.md, section 3)."""
    rows = torch.fft.fftfreq(height, 1 / height, dtype=dtype, device=device)[:, None]
    columns = torch.fft.fftfreq(width, 1 / width, dtype=dtype, device=device)[None, :]
    frequencies = torch.hypot(rows, columns)
    powers = frequencies.sqrt() if exponent == 0.5 else frequencies**exponent
    weights = 1 / powers.clamp(min=1)
    return weights / weights.mean()


@functools.lru_cache(maxsize=8)
def _hartley(size: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "wide wide"]:
    """Matrix of the Hartley transform (cosine plus sine), its own inverse, with rows and columns of
    0 up to a multiple of 4.

    Weights that do not change with the sign of a row's or a column's frequency act on it as on a
    Fourier transform. For images of our sizes a product is as fast as a fast transform, and its
    rounding does not depend on the number of threads, as that of MKL's transforms does, nor,
    padded, on the number of images.
    """
    steps = torch.arange(size, dtype=torch.float64, device=device)
    angles = 2 * math.pi / size * (steps[:, None] * steps % size)
    matrix = (angles.cos() + angles.sin()) / math.sqrt(size)
    return functional.pad(matrix.to(dtype), (0, -size % 4, 0, -size % 4))


def to_network_input(
    x: Float[Tensor, "... color height width"], std: tuple[float, ...]
) -> Float[Tensor, "... color height width"]:
    """`z = x / (255 std)` (docs/method.md, section 1)."""
    return x * _inverse_std(std, x.dtype, x.device)


@functools.lru_cache(maxsize=8)
def _inverse_std(
    std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "color 1 1"]:
    return 1 / (255 * torch.tensor(std, dtype=dtype, device=device)[:, None, None])


def display(
    x: Float[Tensor, "*batch color height width"], mean: tuple[float, ...]
) -> UInt8[np.ndarray, "*batch height width 3"]:
    """Pixels for a person: `clip(x + 255 mean, 0, 255)`, RGB, channels last.

    3 channels are shown as red, green and blue, 1 as grey. Another number has no colours: the mean
    over the channels is shown as grey.
    """
    shown = x.detach().cpu() + 255 * torch.tensor(mean)[:, None, None]
    if len(mean) != 3:
        shown = shown.mean(-3, keepdim=True).repeat_interleave(3, dim=-3)
    return shown.clamp(0, 255).round().to(torch.uint8).movedim(-3, -1).numpy()
