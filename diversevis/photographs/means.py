"""Mean activation of every channel over natural images: the paper's calibration.

The paper's VGG-19 has every channel scaled to mean activation 1 (after ReLU) over natural images
(docs/method.md, section 4). The means are computed once and cached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from diversevis.photographs import cache
from diversevis.photographs.files import check_channels, read_ahead, shown
from diversevis.photographs.survey import survey

SHORTER_SIDE = 256  # pixels, as ImageNet networks are usually shown photographs


def mean_activations(
    activations: Callable[[Tensor], Sequence[Tensor]],
    folder: Path,
    *,
    identity: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    crop: tuple[int, int],
    device: torch.device,
) -> list[Float[Tensor, " channel"]]:
    """Mean over all photographs and positions of each layer's activations.

    activations   network input [1, c, h, w] -> [1, channel, rows, columns] per layer, after ReLU
    identity      hash of the weights and names of the layers: the cache depends on it
    mean, std     of the network's input: 3 numbers for RGB; 1 for grey, and then the photographs'
                  luma is shown (`pixels_of`)
    crop          rows and columns of a photograph that are shown

    The result follows the pixels of the photographs, not the names of their files. Raises
    `InputError` if none can be read, and for a network with another number of channels.
    """
    channels, setting = len(mean), "objective.photographs"
    check_channels(channels, f"{setting}={folder}", "use objective.scale=best")
    held = survey(folder, setting)
    facts = f"{identity}/{mean}/{std}/{crop}/{held.digest}"
    file = f"means-{hashlib.sha256(facts.encode()).hexdigest()[:24]}.safetensors"
    if (stored := cache.read(file)) is not None:
        cached = load(stored)
        return [cached[str(layer)] for layer in range(len(cached))]
    totals: list[Tensor] | None = None
    center, scale = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
    paths = [folder / photograph.file for photograph in held.photographs]
    for _, pixels in read_ahead(paths, lambda path: _read(path, crop, mean)):
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device) / 255
        with torch.no_grad():
            maps = activations((x - center) / scale)
        means = [layer_maps.double().mean((0, 2, 3)) for layer_maps in maps]
        totals = means if totals is None else [a + b for a, b in zip(totals, means, strict=True)]
    assert totals is not None  # noqa: S101  (there are photographs)
    result = [(total / len(paths)).float().cpu() for total in totals]
    cache.write(file, save({str(layer): values for layer, values in enumerate(result)}))
    return result


def _read(
    path: Path, crop: tuple[int, int], mean: Sequence[float]
) -> Float[np.ndarray, "rows columns color"]:
    """Centre crop of a photograph whose shorter side is 256 pixels, or the crop's if larger."""
    pixels = shown(path, side=max(SHORTER_SIDE, *crop), mean=mean)
    top, left = ((edge - wanted) // 2 for edge, wanted in zip(pixels.shape[:2], crop, strict=True))
    return pixels[top : top + crop[0], left : left + crop[1]].astype(np.float32)
