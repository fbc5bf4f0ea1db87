"""Mean activation of every channel over natural images: the paper's calibration.

The paper's VGG-19 has every channel scaled to mean activation 1 (after ReLU) over natural images
(docs/method.md, section 4). The means are computed once and cached.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from diversevis.errors import InputError
from diversevis.photographs.files import (
    LOG,
    check_channels,
    photographs,
    pixels_of,
    read,
    read_ahead,
)

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

    Unreadable files are named in a warning and left out; raises `InputError` if all are, and for a
    network with another number of channels.
    """
    channels, setting = len(mean), "objective.photographs"
    check_channels(channels, f"{setting}={folder}", "use objective.scale=best")
    files = photographs(folder, setting)
    cache = _cache_file(f"{identity}/{mean}/{std}/{crop}", files)
    if (cached := _read_cache(cache)) is not None:
        return cached
    totals: list[Tensor] | None = None
    count = 0
    center, scale = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
    for _, pixels in read_ahead(files, lambda path: _read(path, crop, channels)):
        if pixels is None:
            continue
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device) / 255
        with torch.no_grad():
            maps = activations((x - center) / scale)
        means = [layer_maps.double().mean((0, 2, 3)) for layer_maps in maps]
        totals = means if totals is None else [a + b for a, b in zip(totals, means, strict=True)]
        count += 1
    if totals is None:
        raise InputError(f"objective.photographs={folder}: none of its files could be read.")
    result = [(total / count).float().cpu() for total in totals]
    _write_cache(cache, result)
    return result


def _read(
    path: Path, crop: tuple[int, int], channels: int
) -> Float[np.ndarray, "rows columns color"]:
    """Centre crop of a photograph whose shorter side is 256 pixels, or the crop's if larger."""
    picture = read(path, lambda image: image.convert("RGB"))
    side = max(SHORTER_SIDE, *crop)
    scale = side / min(picture.size)
    width, height = (max(side, round(scale * edge)) for edge in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - crop[1]) // 2, (height - crop[0]) // 2
    box = (left, top, left + crop[1], top + crop[0])
    return pixels_of(picture.crop(box), channels).astype(np.float32)


def _cache_file(identity: str, files: Sequence[Path]) -> Path:
    """The cache file for these weights, layers and photographs as they are now."""
    digest = hashlib.sha256(identity.encode())
    for path in files:
        facts = path.stat()
        digest.update(f"/{path.name}:{facts.st_size}:{facts.st_mtime_ns}".encode())
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diversevis" / f"natural-{digest.hexdigest()[:24]}.safetensors"


def _read_cache(path: Path) -> list[Tensor] | None:
    """None where there is no cache file, or a damaged one, which is deleted."""
    if not path.is_file():
        return None
    try:
        stored = load_file(path)
    except SafetensorError:
        path.unlink()
        return None
    return [stored[str(layer)] for layer in range(len(stored))]


def _write_cache(path: Path, means: Sequence[Tensor]) -> None:
    """By renaming: other processes may read or write the same cache at the same time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(save({str(layer): values for layer, values in enumerate(means)}))
        temporary.replace(path)
    except OSError as error:
        LOG.warning("the means over photographs are not cached for the next run: %s", error)
