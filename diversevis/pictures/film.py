"""The optimization as a film: GIF, or MP4 where PyAV is installed.

A frame shows the unit's images in rows, within a size that every encoder and player takes.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import math
from collections.abc import Iterator, Sequence
from itertools import chain, repeat

import numpy as np
from PIL import Image

from diversevis.errors import InputError
from diversevis.pictures.grid import ONE_ROW, Grid, grid_of
from diversevis.pictures.page import Block, Pixels, enlarge, reduced
from diversevis.runs.folder import RunFolder

LOG = logging.getLogger("diversevis")
TILE = 120  # pixels
WIDTH, HEIGHT = 1920, 1080  # of the largest frame: Full HD, which every player takes
PALETTE_PIXELS = 30_000
FRAMES_PER_SECOND = 12
EVERY_STEP_UNTIL = 24  # most happens at the start; later frames are spaced evenly in log steps
STEPS_PER_DOUBLING = 12
LAST = 18  # repeats of the last frame: 1.5 seconds


def check_film(record: str, n: int, size: tuple[int, int]) -> None:
    """Raises `InputError` if films of this kind (`none`, `gif`, `mp4`) of `n` images with `size`
    rows and columns cannot be made here."""
    if record == "none":
        return
    if record == "mp4" and importlib.util.find_spec("av") is None:
        raise InputError(
            "record=mp4 needs PyAV, which is not installed: pip install 'diversevis[video]', "
            "or use record=gif."
        )
    grid = _grid(n, size)
    if grid is None:
        raise InputError(
            f"record={record}: {n} images of {size[0]} x {size[1]} pixels do not fit into a film's "
            f"{WIDTH} x {HEIGHT} pixels such that a person could see them. Choose a smaller n, or "
            "record=none."
        )
    if grid.reduction > 1:
        LOG.info("the film shows the images at 1/%d of their size", grid.reduction)


def _grid(n: int, size: tuple[int, int]) -> Grid | None:
    """How a frame shows `n` images; None if too many for that."""
    above, left = _rim(n)
    return grid_of(n, size, TILE, (HEIGHT, WIDTH), (2 * above, 2 * left))


def _rim(n: int) -> tuple[int, int]:
    """White pixels above and below an image, and at its left and right."""
    return (8, 4) if n <= ONE_ROW else (2, 2)


def recorded(images: Pixels) -> Pixels:
    """What is remembered of a step's images: as many pixels as the film shows, or fewer."""
    grid = _grid(len(images), images.shape[1:3])
    return images if grid is None else reduced(images, grid.reduction)


def is_film_step(step: int) -> bool:
    """Whether the film has a frame of this step: of all early steps, then of ever fewer."""
    if step <= EVERY_STEP_UNTIL:
        return True
    before, now = (math.floor(STEPS_PER_DOUBLING * math.log2(s)) for s in (step - 1, step))
    return before != now


def write_film(folder: RunFolder, unit: int, kind: str, frames: Sequence[Pixels]) -> None:
    """Film a unit's images, a frame at a time in memory; the last stays for a second and a half.

    An encoder that fails costs the film, not the run: it is said in a line.
    """
    encode = _gif if kind == "gif" else _mp4
    film = chain(map(_frame, frames), repeat(_frame(frames[-1]), LAST))
    try:
        content = encode(film)
    except Exception as error:
        LOG.warning("unit %d has no film: %s: %s", unit, type(error).__name__, error)
    else:
        folder.write_animation(unit, kind, content)


def _gif(film: Iterator[Block]) -> bytes:
    pictures, content = map(_with_palette, film), io.BytesIO()
    next(pictures).save(
        content, "gif", save_all=True, append_images=pictures, loop=0,
        duration=1000 / FRAMES_PER_SECOND,
    )  # fmt: skip
    return content.getvalue()


def _with_palette(frame: Block) -> Image.Image:
    """The frame in the 256 colours that a GIF has, chosen for a part of its pixels: to choose them
    for all takes two seconds for a large frame, and brings one percent."""
    step = math.ceil(math.sqrt(frame[..., 0].size / PALETTE_PIXELS))
    colors = Image.fromarray(np.ascontiguousarray(frame[::step, ::step])).quantize()
    return Image.fromarray(frame).quantize(palette=colors, dither=Image.Dither.NONE)


def _mp4(film: Iterator[Block]) -> bytes:
    import imageio.v3 as iio

    content = io.BytesIO()
    with iio.imopen(content, "w", plugin="pyav", extension=".mp4") as file:
        file.init_video_stream("libx264", fps=FRAMES_PER_SECOND)
        for frame in film:
            file.write_frame(frame)
    return content.getvalue()


def _frame(images: Pixels) -> Block:
    """All images in rows on white; even sizes, as video codecs ask."""
    grid = _grid(len(images), images.shape[1:3])
    if grid is None:
        raise ValueError(f"{len(images)} images do not fit into a frame")
    shown = enlarge(reduced(images, grid.reduction), grid.zoom)
    (above, left), (n, height, width, _) = _rim(len(shown)), shown.shape
    cell = height + 2 * above, width + 2 * left
    rows, columns = -(-n // grid.columns), min(n, grid.columns)
    size = (side + side % 2 for side in (rows * cell[0], columns * cell[1]))
    frame = np.full((*size, 3), 255, np.uint8)
    for index, image in enumerate(shown):
        top, start = (
            position * side + gap
            for position, side, gap in zip(divmod(index, columns), cell, (above, left), strict=True)
        )
        frame[top : top + height, start : start + width] = image
    return frame
