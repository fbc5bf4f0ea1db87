"""A folder of photographs: its files, a file as RGB or grey, many files read ahead of their use."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from diversevis.errors import InputError

LOG = logging.getLogger("diversevis")

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
THREADS = min(8, os.cpu_count() or 1)  # that decode: Pillow releases Python's lock meanwhile
WAITING = 2  # decoded photographs per thread that may wait in memory for their use
GAP = 2.0  # decode at up to this many times the wanted size, then resample (as Pillow's thumbnails)
LONGEST = 50  # times as long as wide: a longer strip, scaled up, would fill memory

TURNS = {  # EXIF orientation -> the operation that makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Job = TypeVar("Job")
Made = TypeVar("Made")


class Unreadable(Exception):
    """A file holds no readable picture; the message names the file and the reason."""


def photographs(folder: Path, setting: str) -> list[Path]:
    """All image files below `folder`, sorted; raises `InputError` where there are none.

    setting  in which the user gave the folder: named in the error
    """
    if not folder.is_dir():
        raise InputError(
            f"{setting}={folder} is not a folder. Give one that holds photographs "
            "(JPEG, PNG, ..., also in folders below it)."
        )
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise InputError(f"{setting}={folder} holds no image ({', '.join(SUFFIXES)}).")
    return files


def folder_digest(folder: Path, setting: str = "objective.photographs") -> str:
    """Digest of the names and sizes of the photographs below `folder`; its path does not matter.

    Raises `InputError` where there are none.
    """
    digest = hashlib.sha256()
    for path in photographs(folder, setting):
        facts = f"{path.relative_to(folder)}:{path.stat().st_size}/"
        digest.update(facts.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read(path: Path, as_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The picture in a file, as `as_rgb` makes it of the opened image; raises `Unreadable`."""
    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except Exception as error:  # decoders raise a dozen kinds on damaged files
        raise Unreadable(f"{path} ({error})") from error


def check_channels(channels: int, setting: str, instead: str) -> None:
    """Raises `InputError` where a network's images do not have the channels of photographs.

    setting  for which photographs are needed, and what to do without: both are named in the error
    """
    if channels not in (1, 3):
        raise InputError(
            f"{setting}: photographs have 1 or 3 channels; this network takes {channels}. No "
            f"photograph can be shown to it: {instead}."
        )


def pixels_of(picture: Image.Image, channels: int) -> UInt8[np.ndarray, "rows columns color"]:
    """Pixels of an RGB picture: as they are for 3 channels, their luma (ITU-R 601, Pillow's mode L:
    0.299 red + 0.587 green + 0.114 blue, rounded) for 1."""
    pixels = np.array(picture if channels == 3 else picture.convert("L"))
    return pixels.reshape(*pixels.shape[:2], channels)


def upright(image: Image.Image, *, side: int, ground: tuple[int, int, int]) -> Image.Image:
    """An opened image as RGB, turned upright, its shorter side `side` pixels.

    ground  RGB colour behind transparent pixels

    A large JPEG is decoded at a fraction of its size. Raises `ValueError` for a strip that is more
    than `LONGEST` times as long as wide.
    """
    if max(image.size) > LONGEST * min(image.size):
        raise ValueError("a strip of {} x {} pixels".format(*image.size))
    image.draft(None, (round(GAP * side), round(GAP * side)))
    image.load()
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    picture = _rgb(image, ground)
    scale = side / min(picture.size)
    width, height = (max(side, round(scale * edge)) for edge in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=GAP)
    return picture if turn is None else picture.transpose(turn)


def _rgb(image: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
        grey = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(grey.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    behind = Image.new("RGBA", image.size, (*ground, 255))
    return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")


def read_ahead(
    jobs: Iterable[Job], make: Callable[[Job], Made]
) -> Iterator[tuple[Job, Made | None]]:
    """Every job with the result of `make`, in order; `make` runs ahead of the caller in threads.

    The result is None, with a warning, where `make` raises `Unreadable`. At most
    `WAITING * THREADS` results wait in memory.
    """
    left = iter(jobs)
    waiting: deque[tuple[Job, Future[Made]]] = deque()
    pool = ThreadPoolExecutor(THREADS)
    try:
        while True:
            more = itertools.islice(left, WAITING * THREADS - len(waiting))
            waiting.extend((job, pool.submit(make, job)) for job in more)
            if not waiting:
                return
            job, future = waiting.popleft()
            result = None
            try:
                result = future.result()
            except Unreadable as error:
                LOG.warning("left out unreadable %s", error)
            yield job, result
    finally:
        pool.shutdown(cancel_futures=True)
