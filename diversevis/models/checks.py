"""What is checked on a network before its responses are used."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError
from diversevis.models.architectures import EnergyModel, TorchvisionModel
from diversevis.models.network import OpenNetwork
from diversevis.models.plain import Pair, PlainNetwork
from diversevis.models.probe import STRONG, marker_for, native_convolutions

TOLERANCE = 1e-4  # largest difference between two ways, relative to a channel's responses
SPREAD = 0.5  # standard deviation of random network inputs, about that of images
OTHERS = 5.0  # of images that share a batch: batch statistics show themselves
FLOOR = 0.05
REPEATS = 4  # passes that must agree with the first: a coin decides on a flip, say
KNOWN = EnergyModel, TorchvisionModel  # networks whose code is known to remember nothing


def runs(plain: PlainNetwork, z: Tensor) -> bool:
    try:
        plain(z)
    except Exception:  # networks can raise anything for a size that they do not take
        return False
    return True


def check_function(
    opened: OpenNetwork, plain: PlainNetwork, z: Float[Tensor, "image color h w"]
) -> Sequence[Tensor]:
    """The answers to `z`. Raises `InputError` where a response is no number, or no
    function of its image alone."""
    layer, first = plain.layer.name, plain(z)
    if not isinstance(opened.model, KNOWN):
        with contextlib.suppress(Exception):  # what follows the layer may not take small images
            plain.to_the_end(z)
    if not all(bool(torch.isfinite(values).all()) for values in first):
        raise InputError(
            f"layer={layer} gives NaN or infinite responses to noise: the network or its weights "
            "are damaged, or model.mean, model.std and model.scale are not those that it expects."
        )
    repeats = 1 if isinstance(opened.model, KNOWN) else REPEATS
    if any(difference(first, plain(z)) > TOLERANCE for _ in range(repeats)):
        # The rest of the pass may leave the network as the next pass expects it.
        plain.stop = False
        if not runs(plain, z) or difference(plain(z), plain(z)) > TOLERANCE:
            raise InputError(
                f"layer={layer}: two passes over the same images give different responses. "
                "Something in the network is drawn at random or remembered, though it is in eval "
                "mode: F.dropout without training=self.training, augmentation, or state. Switch it "
                "off in the network."
            )
        first = plain(z)
    # Others before and after each image, and none: a pass may read the batch's first, or its order.
    crowd = plain(torch.cat([OTHERS * z, z, OTHERS * z.flip(0)]))
    of_batch = difference(first, [values[len(z) : 2 * len(z)] for values in crowd]) > TOLERANCE
    try:
        alone = [torch.cat(parts) for parts in zip(*(plain(one[None]) for one in z), strict=True)]
    except Exception as error:  # squeeze() takes the batch's axis away, too
        raise InputError(
            f"layer={layer} takes several images at once, but fails on a single one "
            f"({' '.join(f'{type(error).__name__}: {error}'.split())[:200]}), as squeeze() without "
            "an axis does. Give it the axis in the network, or use flatten(1)."
        ) from error
    if of_batch or difference(first, alone) > TOLERANCE:
        raise InputError(
            f"layer={layer}: an image's response depends on the other images in its batch, as "
            "with batch norm that uses the statistics of the batch (track_running_stats=False). "
            "Give that layer fixed statistics."
        )
    return first


def sees_exactly(plain: PlainNetwork, z: Float[Tensor, "image color h w"]) -> bool:
    """Whether the unit sees each outermost row and column of its field, and nothing outside."""
    (height, width), (top, left) = plain.place.canvas, plain.place.corner
    bottom, right = top + z.shape[2] - 1, left + z.shape[3] - 1
    outside = torch.ones(height, width, dtype=torch.bool)
    outside[top : bottom + 1, left : right + 1] = False
    marks = [outside]
    for row, column in ((top, None), (bottom, None), (None, left), (None, right)):
        marks.append(torch.zeros_like(outside))
        if row is not None:
            marks[-1][row, left : right + 1] = True
        if column is not None:
            marks[-1][top : bottom + 1, column] = True
    canvas = plain.canvas_of(z[:1])
    other = torch.full_like(canvas, torch.nan)
    if marker_for(plain.root) == "noise":
        other = STRONG * noise(tuple(canvas.shape), seed=1)
    marked = torch.where(torch.stack(marks)[:, None], other, canvas)
    with native_convolutions():
        base, *seen = plain.on_canvas(torch.cat([canvas, marked]))[0].flatten(1)
    same_outside = difference([base[None]], [seen[0][None]]) <= TOLERANCE
    return same_outside and all(bool((edge != base).any()) for edge in seen[1:])


def amid_noise(plain: PlainNetwork, z: Float[Tensor, "image color h w"]) -> Sequence[Tensor]:
    """The answers with noise around the images."""
    (height, width), (top, left) = plain.place.canvas, plain.place.corner
    canvas = noise((len(z), z.shape[1], height, width), seed=1)
    canvas[:, :, top : top + z.shape[2], left : left + z.shape[3]] = z
    return plain.on_canvas(canvas)


def difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Largest difference relative to the channel's largest value (of channels that hardly answer:
    to a part of the layer's largest); infinite for other shapes, and without values."""
    largest = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape or not x.numel():
            return math.inf
        size = torch.maximum(x.abs(), y.abs()).transpose(0, 1).flatten(1).amax(1)
        size = size.clamp(min=FLOOR * size.max().item() + torch.finfo(size.dtype).tiny)
        change = (x - y).abs().transpose(0, 1).flatten(1).amax(1) / size
        largest = max(largest, change.nan_to_num(math.inf).max().item())
    return largest


def random_images(colors: int, size: Pair, count: int = 2) -> Float[Tensor, "image color h w"]:
    """Network inputs z of noise, always the same."""
    return noise((count, colors, *size), seed=0)


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return SPREAD * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
