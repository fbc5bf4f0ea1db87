"""Images in files for pages: a unit's in a strip, and a tile for every unit on a layer's wall."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diversevis.pictures.page import Block, Pixels, png, reduced

UNITS_PER_FILE = 64  # units of a run whose tiles, and whose details, are in a file
IN_ROW = 16  # images of a strip
MOST_PIXELS = 2**22  # of a strip: larger images are shown smaller
TILE = 64  # pixels: the largest side of a tile
COLUMNS, ROWS = 16, 16  # tiles of a sheet
BLANK = 128  # grey level of a unit without an image


def strip(pixels: Pixels) -> tuple[bytes, dict[str, int]]:
    """The images in rows without gaps, as a PNG file, and `strip_facts`."""
    facts = strip_facts(len(pixels), (pixels.shape[1], pixels.shape[2]))
    return png(_grid(list(reduced(pixels, facts["reduction"])), facts["columns"])), facts


def strip_facts(count: int, size: tuple[int, int]) -> dict[str, int]:
    """Where `count` images of this size are in a strip.

    `reduction`: every so many pixels of a side are shown as their mean.
    """
    reduction = math.ceil(math.sqrt(count * size[0] * size[1] / MOST_PIXELS))
    height, width = (-(-side // reduction) for side in size)
    columns = min(count, IN_ROW)
    return {"count": count, "columns": columns, "height": height, "width": width,
            "reduction": reduction}  # fmt: skip


def tile_of(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the tile of an image of this size."""
    reduction = math.ceil(max(size) / TILE)
    return -(-size[0] // reduction), -(-size[1] // reduction)


def tile_at(row: int) -> tuple[str, int]:
    """The file with the tile of the unit at a row of a run, and the tile's row in it."""
    return f"tiles-{row // UNITS_PER_FILE:04d}.png", row % UNITS_PER_FILE


def tiles(images: Sequence[Block | None], size: tuple[int, int]) -> bytes:
    """A tile of all of some units below one another, as a PNG file."""
    height, width = tile_of(size)
    shown = [
        np.full((height, width, 3), BLANK, np.uint8)
        if image is None
        else reduced(image[None], math.ceil(max(size) / TILE))[0]
        for image in images
    ]
    return png(np.concatenate(shown))


def sheet(height: int, units: Sequence[tuple[Path, int]]) -> bytes:
    """The tiles of units, (file of `tiles`, row in it), in rows of `COLUMNS`, as a PNG file.

    height  of a tile, pixels
    """
    opened: dict[Path, np.ndarray] = {}
    blocks = []
    for file, row in units:
        if file not in opened:
            opened[file] = np.asarray(Image.open(io.BytesIO(file.read_bytes())).convert("RGB"))
        blocks.append(opened[file][row * height : (row + 1) * height])
    return png(_grid(blocks, COLUMNS))


def _grid(blocks: Sequence[Block], columns: int) -> Block:
    """Blocks of a size in rows without gaps; the rest of the last row is grey."""
    height, width = blocks[0].shape[:2]
    rows = -(-len(blocks) // columns)
    full = np.full((rows * columns, height, width, 3), BLANK, np.uint8)
    full[: len(blocks)] = blocks
    grid = full.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return np.ascontiguousarray(grid.reshape(rows * height, columns * width, 3))
