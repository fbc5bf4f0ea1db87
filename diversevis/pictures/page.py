"""A page: blocks of pixels beside and below each other, so that nothing can overlap.

Images are enlarged by whole numbers and pasted as they are; text is written here; graphs come
drawn (graph.py). A block is an RGB picture [height, width, 3].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from diversevis.pictures.sheet import INK, PAPER, enlarge, png

Block = UInt8[np.ndarray, "_ _ 3"]  # height, width; no two blocks need be of one size
Pixels = UInt8[np.ndarray, "image _ _ 3"]

WIDTH = 1040  # pixels that a page aims at; large receptive fields may need more
TILE = 160  # an image is enlarged by the whole number that brings it nearest to this, or to less
STRETCH = 1.4  # an image this much larger than its place is still shown pixel by pixel
MARGIN, GAP = 24, 14
TITLE, BODY, CAPTION, SMALL = 20, 15, 14, 12
ONE_ROW = 8  # so many images stand in one row


def page(title: str, lines: Sequence[str], blocks: Sequence[Block]) -> bytes:
    """The blocks below one another under a title and a caption, as a PNG file."""
    width = max([640, *(block.shape[1] for block in blocks)])
    heading = stacked([written([title], size=TITLE), written(wrapped(lines, BODY, width))], gap=8)
    whole = stacked([heading, *blocks], gap=MARGIN)
    rim = ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    return png(np.pad(whole, rim, constant_values=255))


def tiles(pixels: Pixels, captions: Sequence[str], heading: str = "") -> Block:
    """Images in a grid, each with its caption (of one or more lines) underneath."""
    columns, side = _grid(len(pixels))
    shown, reduction = fitted(pixels, side)
    return gallery(list(shown), captions, columns, heading + note(reduction))


def gallery(
    pictures: Sequence[Block], captions: Sequence[str], columns: int, heading: str = ""
) -> Block:
    """Pictures as large as they are, in rows of `columns`."""
    cells = [captioned(*both) for both in zip(pictures, captions, strict=True)]
    width = max(cell.shape[1] for cell in cells)
    cells = [_padded(cell, cell.shape[0], width, center=True) for cell in cells]
    rows = [beside(cells[at : at + columns]) for at in range(0, len(cells), columns)]
    return titled(heading, stacked(rows, GAP))


def captioned(picture: Block, caption: str) -> Block:
    """A picture over its caption of one or more lines."""
    text = written(caption.splitlines(), size=CAPTION, center=True)
    return stacked([picture, text], 4, center=True)


def fitted(pixels: Pixels, side: int) -> tuple[Pixels, int]:
    """Images near `side` pixels large: enlarged by a whole number without smoothing, or, where
    they are much larger, averaged over squares of so many pixels (second result, else 1)."""
    longest = max(pixels.shape[1:3])
    if longest <= STRETCH * side:
        return enlarge(pixels, max(1, round(side / longest))), 1
    reduction = math.ceil(longest / (STRETCH * side))
    return np.stack([_reduced(image, reduction) for image in pixels]), reduction


def note(reduction: int) -> str:
    """What a reader must know where images are not shown pixel by pixel."""
    return "" if reduction == 1 else f"  (shown at 1/{reduction} size)"


def tile_side(n: int) -> int:
    """How large one of `n` images is drawn."""
    return _grid(n)[1]


def titled(heading: str, block: Block) -> Block:
    """A block under its heading; nothing is added where there is none."""
    if not heading.strip():
        return block
    return stacked([written([heading.strip()]), block], gap=6)


def beside(blocks: Sequence[Block], gap: int = GAP) -> Block:
    """Blocks in a row, their tops aligned."""
    height = max(block.shape[0] for block in blocks)
    padded = [_padded(block, height, block.shape[1] + gap) for block in blocks]
    return np.concatenate(padded, axis=1)[:, : -gap or None]


def stacked(blocks: Sequence[Block], gap: int, *, center: bool = False) -> Block:
    """Blocks below one another, at the left or centred."""
    width = max(block.shape[1] for block in blocks)
    padded = [_padded(block, block.shape[0] + gap, width, center) for block in blocks]
    return np.concatenate(padded)[: -gap or None]


def written(
    lines: Sequence[str],
    *,
    size: int = BODY,
    color: tuple[int, int, int] = INK,
    center: bool = False,
) -> Block:
    """Text as a block."""
    letters, step = font(size), round(1.35 * size)
    width = max([1, *(math.ceil(letters.getlength(line)) for line in lines)])
    canvas = Image.new("RGB", (width, max(1, step * len(lines))), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        inset = (width - letters.getlength(line)) / 2 if center else 0
        draw.text((inset, number * step), line, color, letters)
    return np.asarray(canvas)


def wrapped(lines: Sequence[str], size: int, width: int) -> list[str]:
    """Lines broken at spaces so that none is wider than `width` pixels, where words allow it."""
    letters, found = font(size), []
    for line in lines:
        row = ""
        for word in line.split(" "):
            longer = f"{row} {word}" if row else word
            if row and letters.getlength(longer) > width:
                found.append(row)
                longer = word
            row = longer
        found.append(row)
    return found


def shortened(name: str, size: int, width: int) -> str:
    """A file name with its middle left out, as far as `width` pixels ask; its ends tell most."""
    letters = font(size)
    if letters.getlength(name) <= width:
        return name
    for kept in range(len(name) - 1, 1, -1):
        short = f"{name[: math.ceil(kept / 2)]}…{name[-(kept // 2) :]}"
        if letters.getlength(short) <= width:
            return short
    return "…"


@functools.lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The graphs' own font, so that a page has one; it comes with matplotlib."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size)


def _grid(n: int) -> tuple[int, int]:
    """Columns, and the side of a tile that lets so many stand in a page's width."""
    columns = n if n <= ONE_ROW else math.ceil(math.sqrt(2 * n))
    return columns, min(TILE, WIDTH // columns - GAP)


def _reduced(image: Block, reduction: int) -> Block:
    return np.asarray(Image.fromarray(image).reduce(reduction))


def _padded(block: Block, height: int, width: int, center: bool = False) -> Block:
    """White below and at the right, or on both sides."""
    more = width - block.shape[1]
    left = more // 2 if center else 0
    rim = ((0, height - block.shape[0]), (left, more - left), (0, 0))
    return np.pad(block, rim, constant_values=255)
