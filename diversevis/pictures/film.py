"""The optimization as a film: GIF, or MP4 where PyAV is installed."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from diversevis.errors import InputError
from diversevis.pictures.page import Block, Pixels, enlarge
from diversevis.runs.folder import RunFolder

TILE = 120  # pixels
FRAMES_PER_SECOND = 12
EVERY_STEP_UNTIL = 24  # most happens at the start; later frames are spaced evenly in log steps
STEPS_PER_DOUBLING = 12
LAST = 18  # repeats of the last frame: 1.5 seconds


def check_film(record: str) -> None:
    """Raises `InputError` if films of this kind (`none`, `gif`, `mp4`) cannot be made here."""
    if record == "mp4" and importlib.util.find_spec("av") is None:
        raise InputError(
            "record=mp4 needs PyAV, which is not installed: pip install 'diversevis[video]', "
            "or use record=gif."
        )


def is_film_step(step: int) -> bool:
    """Whether the film has a frame of this step: of all early steps, then of ever fewer."""
    if step <= EVERY_STEP_UNTIL:
        return True
    before, now = (math.floor(STEPS_PER_DOUBLING * math.log2(s)) for s in (step - 1, step))
    return before != now


def write_film(folder: RunFolder, unit: int, kind: str, frames: Sequence[Pixels]) -> None:
    """A row of images per frame; the last frame stays for a second and a half."""
    import imageio.v3 as iio

    film = np.stack([_row(images) for images in frames])
    film = np.concatenate([film, np.repeat(film[-1:], LAST, axis=0)])
    options: dict[str, Any] = {"plugin": "pyav", "codec": "libx264", "fps": FRAMES_PER_SECOND}
    if kind == "gif":
        options = {"plugin": "pillow", "duration": 1000 / FRAMES_PER_SECOND, "loop": 0}
    content = iio.imwrite("<bytes>", film, extension=f".{kind}", **options)
    folder.write_animation(unit, kind, content)


def _row(images: Pixels) -> Block:
    """All images in a row on white, enlarged; even sizes, as video codecs ask."""
    zoom = max(1, round(TILE / max(images.shape[1:3])))
    large = enlarge(images, zoom)
    padded = np.pad(large, ((0, 0), (8, 8), (4, 4), (0, 0)), constant_values=255)
    row = np.concatenate(list(padded), axis=1)
    height, width, _ = row.shape
    return np.pad(row, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
