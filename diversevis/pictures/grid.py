"""How many images a row has, and how large they are shown, so that all fit into some room."""

from __future__ import annotations

import math
from itertools import chain
from typing import NamedTuple

ONE_ROW = 8  # up to this number of images stand in one row
MOST_IN_ROW = 32  # such that numbers under the images fit a screen
SMALLEST = 12  # pixels: a longer image that would be shown smaller than this shows nothing


class Grid(NamedTuple):
    """How images are shown.

    columns    images in a row
    zoom       every pixel is shown as zoom x zoom pixels
    reduction  every reduction x reduction pixels are shown as their mean; 1 where zoom is not
    """

    columns: int
    zoom: int
    reduction: int


def grid_of(
    n: int, size: tuple[int, int], tile: int, room: tuple[int, int], rim: tuple[int, int]
) -> Grid | None:
    """The grid that shows `n` images largest, yet near `tile` pixels where these are small.

    size  rows and columns of an image
    room  height and width that must hold all, pixels
    rim   pixels between images, from row to row and from column to column

    None if there is room only for images too small to see.
    """
    longest = max(size)
    zooms = ((zoom, 1) for zoom in range(max(1, round(tile / longest)), 0, -1))
    reductions = ((1, k) for k in range(2, longest // min(longest, SMALLEST) + 1))
    for zoom, reduction in chain(zooms, reductions):
        rows, columns = (
            most // (-(-side * zoom // reduction) + gap)
            for most, side, gap in zip(room, size, rim, strict=True)
        )
        if rows * columns >= n:
            return Grid(min(columns, max(columns_of(n), -(-n // rows))), zoom, reduction)
    return None


def columns_of(n: int) -> int:
    """Images in a row: about twice as many as there are rows, but no more than fit on a page."""
    return n if n <= ONE_ROW else min(MOST_IN_ROW, math.ceil(math.sqrt(2 * n)))
