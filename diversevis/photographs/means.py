"""Mean activation of every channel over natural images: the paper's calibration.

The paper's VGG-19 has every channel scaled to mean activation 1 (after ReLU) over natural images,
METHOD.md section 4. The means are computed once and cached.
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
from diversevis.photographs.files import LOG, photographs, read, read_ahead

SHORTER_SIDE = 256  # pixels, as ImageNet networks are usually shown photographs
CROP = 224

# z [1, 3, h, w] -> one map of activations (after ReLU) [1, channel, rows, columns] per layer
Activations = Callable[[Tensor], Sequence[Tensor]]


def mean_activations(
    activations: Activations,
    folder: Path,
    *,
    identity: str,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    size: tuple[int, int],
    stride: tuple[int, int],
    device: torch.device,
) -> list[Float[Tensor, " channel"]]:
    """Mean over all photographs and positions of each layer's activations.

    identity      weights hash and layers: what the cached result belongs to
    mean, std     of the network's input
    size, stride  of the receptive field; photographs are cropped to fit both, at least 224 wide

    Unreadable files are named in a warning and left out; raises `InputError` if all are.
    """
    files = photographs(folder, "objective.photographs")
    rows, columns = (s + t * max(4, -(-(CROP - s) // t)) for s, t in zip(size, stride, strict=True))
    crop = rows, columns
    cached = _cache_file(f"{identity}/{mean}/{std}/{crop}", files)
    if cached.is_file():
        try:
            stored = load_file(cached)
            return [stored[str(i)] for i in range(len(stored))]
        except SafetensorError:
            cached.unlink()
    totals: list[Tensor] | None = None
    count = 0
    for _, pixels in read_ahead(files, lambda path: _read(path, crop)):
        if pixels is None:
            continue
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device) / 255
        z = (x - torch.tensor(mean, device=device)[:, None, None]) / torch.tensor(
            std, device=device
        )[:, None, None]
        with torch.no_grad():
            means = [maps.double().mean((0, 2, 3)) for maps in activations(z)]
        totals = means if totals is None else [a + b for a, b in zip(totals, means, strict=True)]
        count += 1
    if totals is None:
        raise InputError(f"objective.photographs={folder}: none of its files could be read.")
    result = [(total / count).float().cpu() for total in totals]
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        beside = cached.with_suffix(f".{os.getpid()}")
        beside.write_bytes(save({str(i): means for i, means in enumerate(result)}))
        beside.replace(cached)
    except OSError as error:
        LOG.warning("the means over photographs are not kept for next time: %s", error)
    return result


def _read(path: Path, crop: tuple[int, int]) -> Float[np.ndarray, "rows columns 3"]:
    """A photograph, shorter side at 256 (or what the crop needs), centre crop."""
    picture = read(path, lambda image: image.convert("RGB"))
    side = max(SHORTER_SIDE, *crop)
    scale = side / min(picture.size)
    width, height = (max(side, round(scale * edge)) for edge in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - crop[1]) // 2, (height - crop[0]) // 2
    box = (left, top, left + crop[1], top + crop[0])
    return np.asarray(picture.crop(box), dtype=np.float32)


def _cache_file(identity: str, files: Sequence[Path]) -> Path:
    digest = hashlib.sha256(identity.encode())
    for path in files:
        facts = path.stat()
        digest.update(f"/{path.name}:{facts.st_size}:{facts.st_mtime_ns}".encode())
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diversevis" / f"natural-{digest.hexdigest()[:24]}.safetensors"
