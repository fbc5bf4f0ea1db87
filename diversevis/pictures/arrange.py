"""Images of a figure for a paper: how large they are, and where they stand (in dots)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from diversevis.errors import InputError
from diversevis.pictures import page
from diversevis.pictures.grid import MOST_IN_ROW
from diversevis.pictures.panels import DPI, LINE, MM, POINT, TEXT, Image, Tiles

LEAST, MOST = 11 * MM, 28 * MM  # longest side of the longest image
BETWEEN = round(1.5 * MM)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """An image with its caption and frame, and its corner at the upper left."""

    image: Image
    caption: str
    frame: tuple[int, int, int, int] | None
    left: int
    top: int


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """Images in rows; every pixel is shown as zoom x zoom dots."""

    tiles: Sequence[Tile]
    zoom: int
    height: int


def arranged(tiles: Tiles, room: int) -> Arranged:
    """The images in as few rows as allow them to be seen, and as large as `room` dots allow.

    Raises `InputError` where an image has more pixels than there are dots.
    """
    count = len(tiles.images)
    for columns in range(min(count, MOST_IN_ROW), 0, -1):
        zoom = _zoom(tiles, columns, room)
        if zoom * _longest(tiles) >= LEAST or (columns == 1 and zoom):
            break
    else:
        pixels = max(image.shape[1] for image in tiles.images)
        raise InputError(
            f"Images of {pixels} pixels do not fit into {room / MM:.0f} mm, where a printer shows "
            f"{DPI} per inch. Two columns have more room: columns=2."
        )
    columns = math.ceil(count / math.ceil(count / columns))  # no row with only one or two
    return _placed(tiles, columns, _zoom(tiles, columns, room))


def _longest(tiles: Tiles) -> int:
    return max(max(image.shape[:2]) for image in tiles.images)


def _zoom(tiles: Tiles, columns: int, room: int) -> int:
    """The largest zoom with which this number of images stands in a row; 0 if there is none."""
    zoom = max(1, math.floor(MOST / _longest(tiles)))
    while zoom and sum(_widths(tiles, columns, zoom)) + BETWEEN * (columns - 1) > room:
        zoom -= 1
    return zoom


def _widths(tiles: Tiles, columns: int, zoom: int) -> list[int]:
    """Of the columns: an image, or a caption that is wider."""
    needed = [
        max(zoom * image.shape[1], _width(caption))
        for image, caption in zip(tiles.images, tiles.captions, strict=True)
    ]
    return [max(needed[column::columns]) for column in range(columns)]


@lru_cache(maxsize=4096)
def _width(caption: str) -> int:
    size = TEXT * POINT
    letters = page.font(math.ceil(size))
    return math.ceil(max([0.0, *map(letters.getlength, caption.splitlines())]))


def _placed(tiles: Tiles, columns: int, zoom: int) -> Arranged:
    widths = _widths(tiles, columns, zoom)
    frames = tiles.frames or [None] * len(tiles.images)
    cells = list(zip(tiles.images, tiles.captions, frames, strict=True))
    placed, top = [], 0
    for start in range(0, len(cells), columns):
        row, left = cells[start : start + columns], 0
        for (image, caption, frame), width in zip(row, widths, strict=False):
            start_of_image = left + (width - zoom * image.shape[1]) // 2
            placed.append(
                Tile(image=image, caption=caption, frame=frame, left=start_of_image, top=top)
            )
            left += width + BETWEEN
        heights = (zoom * image.shape[0] + len(caption.splitlines()) * LINE
                   for image, caption, _ in row)  # fmt: skip
        top += max(heights) + BETWEEN
    return Arranged(tiles=placed, zoom=zoom, height=top - BETWEEN)
