"""A folder of photographs: its files, one of them as RGB, all of them read a little ahead."""

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
from PIL import ExifTags, Image

from diversevis.errors import InputError

LOG = logging.getLogger("diversevis")

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
THREADS = min(8, os.cpu_count() or 1)  # that decode: Pillow lets others work meanwhile
WAITING = 2  # photographs of each thread that may lie decoded until they are asked for
GAP = 2.0  # decode at up to so many times the wanted size, then resample (as Pillow's thumbnails)
LONGEST = 50  # times as long as wide: beyond that it is a strip, which scaled up would fill memory

TURNS = {  # EXIF orientation -> what makes the picture upright
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
    """A file that gives no picture; the message names it and says why."""


def photographs(folder: Path, setting: str) -> list[Path]:
    """All image files below `folder`, sorted; raises `InputError` where there are none.

    setting  what the user called the folder: named in the error
    """
    if not folder.is_dir():
        raise InputError(
            f"{setting}={folder} is not a folder. Give one that holds photographs "
            "(JPEG, PNG, ..., also in folders below it)."
        )
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"{setting}={folder} holds no image ({', '.join(SUFFIXES)}).")
    return found


def names_and_sizes(folder: Path, setting: str = "objective.photographs") -> str:
    """A digest of which photographs `folder` holds, the same wherever it lies."""
    digest = hashlib.sha256()
    for path in photographs(folder, setting):
        facts = f"{path.relative_to(folder)}:{path.stat().st_size}/"
        digest.update(facts.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read(path: Path, as_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The picture in a file, opened and handed to `as_rgb`; raises `Unreadable`."""
    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except Exception as error:  # decoders raise a dozen kinds on damaged files
        raise Unreadable(f"{path} ({error})") from error


def upright(image: Image.Image, *, side: int, ground: tuple[int, int, int]) -> Image.Image:
    """An opened image as RGB, the right way up, its shorter side `side` pixels.

    ground  RGB of what shows through transparent pixels

    A large JPEG is decoded at a fraction of its size. Raises `ValueError` for a strip.
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
    """Every job with what `make` makes of it, in order; made in a few threads, a little ahead.

    A job whose `make` raises `Unreadable` is named in a warning and comes with None. However many
    jobs there are, only a few results wait at a time.
    """
    left = iter(jobs)
    waiting: deque[tuple[Job, Future[Made]]] = deque()
    pool = ThreadPoolExecutor(THREADS)
    try:
        while True:
            for job in itertools.islice(left, WAITING * THREADS - len(waiting)):
                waiting.append((job, pool.submit(make, job)))
            if not waiting:
                return
            job, future = waiting.popleft()
            yield job, _result(future)
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: Future[Made]) -> Made | None:
    try:
        return future.result()
    except Unreadable as error:
        LOG.warning("left out unreadable %s", error)
        return None
