"""A photograph's file as an upright picture of 8 bits, and many files read ahead of their use."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import math
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from diversevis.errors import InputError, printable

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp",
            ".pgm", ".ppm", ".pnm", ".jp2")  # fmt: skip
# Pillow's names. Whatever a file is called, no other format is tried: some start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")
THREADS = min(8, os.cpu_count() or 1)  # that decode: Pillow releases Python's lock meanwhile
WAITING = 2  # decoded photographs per thread that may wait in memory for their use
LONGEST = 50  # times as long as wide: a longer strip, scaled up, would fill memory
LARGE = 2**24  # pixels; larger photographs are decoded one after the other, not to fill memory

TURNS = {  # EXIF orientation -> the operation that makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A photograph is read, or it is left out with the reason: what Pillow says besides is for its
# developers. (Not within a `with` block, which would change the filters of other threads.)
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())

_large = threading.Lock()

Job = TypeVar("Job")
Made = TypeVar("Made")


class Unreadable(Exception):
    """A file holds no readable picture; the message is the reason."""


def read(path: Path, make: Callable[[Image.Image], Made]) -> Made:
    """What `make` makes of the opened image; raises `Unreadable`."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            # Before it is decoded.
            if max(image.size) > LONGEST * min(image.size):
                raise Unreadable("a strip of {} x {} pixels".format(*image.size))
            large = math.prod(image.size) > LARGE
            with _large if large else contextlib.nullcontext():
                return make(image)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("no image, or a damaged one") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise Unreadable(f"more than {limit} pixels") from None
    except Exception as error:  # decoders raise a dozen kinds on damaged files
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise Unreadable(reason or type(error).__name__) from error


def shown(
    path: Path, *, side: int, mean: Sequence[float]
) -> UInt8[np.ndarray, "rows columns color"]:
    """The photograph as networks see it: upright, its shorter side `side` pixels.

    mean  of the network's input, in [0, 1], 3 numbers for RGB or 1 for grey (`pixels_of`): it
          stands behind transparent pixels

    Raises `InputError`: only photographs that could be read are shown.
    """
    ground = [min(255, max(0, round(255 * value))) for value in mean]
    red, green, blue = ground if len(ground) == 3 else ground * 3
    as_rgb = partial(upright, side=side, ground=(red, green, blue))
    try:
        return pixels_of(read(path, as_rgb), len(mean))
    except Unreadable as error:
        raise InputError(
            f"{printable(path)} could be read at the start, and cannot now ({error}). Begin again "
            "with a folder that nobody changes meanwhile."
        ) from error


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

    Whatever its format: a JPEG decoded at a fraction of its size would be faster, and its pixels
    others than those of the same photograph as PNG.
    """
    picture = decoded(image)
    if picture.mode == "RGBA":
        behind = Image.new("RGBA", picture.size, (*ground, 255))
        picture = Image.alpha_composite(behind, picture).convert("RGB")
    scale = side / min(picture.size)
    width, height = (max(side, round(scale * edge)) for edge in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def decoded(image: Image.Image) -> Image.Image:
    """An opened image, turned upright: RGBA if any pixel is transparent, else RGB.

    Of several frames or pages the first. Raises `ValueError` where it is unknown which number is
    white.
    """
    image.load()
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))  # TIFF: turned by `load`
    picture = _eight_bits(image)
    if picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255):
        picture = picture.convert("RGB")
    return picture if turn is None else picture.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where there is transparency data."""
    if image.mode == "F":
        raise ValueError("fractional numbers: which of them is white is unknown")
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.mode == "CMYK" and (profile := image.info.get("icc_profile")):
        # With a damaged profile: as without.
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            return _from_profile(image, profile)
    if image.mode == "La":  # which Pillow converts to this mode alone
        image = image.convert("LA")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)  # a copy less of a large photograph


def _from_profile(image: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    assert converted is not None  # noqa: S101  (it is None only if converted in place)
    return converted


def _from_integers(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, which Pillow would clip at 255."""
    bits, falling = 16, False
    if tags := getattr(image, "tag_v2", None):
        bits, falling = tags.get(258, (1,))[0], tags.get(262) == 0  # white is zero
        if bits > 16 or tags.get(339, (1,))[0] != 1:
            raise ValueError(
                f"integers of {bits} bits, or signed: which of them is white is unknown"
            )
    white = 2**bits - 1
    levels = np.rint(np.arange(white + 1) * (255 / white)).astype(np.uint8)
    values = np.asarray(image)
    grey = levels[::-1] if falling else levels
    picture = Image.fromarray(grey.take(values, mode="clip"))
    if (clear := image.info.get("transparency")) is None:
        return picture.convert("RGB")
    picture.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return picture.convert("RGBA")


def read_ahead(jobs: Iterable[Job], make: Callable[[Job], Made]) -> Iterator[tuple[Job, Made]]:
    """Every job with the result of `make`, in order; `make` runs ahead of the caller in threads.

    At most `WAITING * THREADS` results wait in memory. Raises what `make` raises.
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
            yield job, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
