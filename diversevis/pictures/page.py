"""Every picture is a page: blocks of pixels beside and below each other, so that none overlap.

A block is an RGB picture [height, width, 3]: text, images enlarged by whole numbers, or a graph
(graph.py). Nothing here imports matplotlib: a page without graphs is composed in milliseconds.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from diversevis.errors import printable
from diversevis.pictures.grid import columns_of
from diversevis.units import counted

Block = UInt8[np.ndarray, "_ _ 3"]  # height, width; every block may have another size
Pixels = UInt8[np.ndarray, "image _ _ 3"]

INK, PAPER = "#181818", "#ffffff"
WIDTH, NARROWEST = 1040, 640  # pixels: what a page aims at; below the second, lines break often
TILE = 160  # an image is enlarged by the whole number that brings it nearest to this, or to less
SMALLEST_TILE = 40
STRETCH = 1.4  # an image larger than its tile by up to this factor is still shown pixel by pixel
MARGIN, GAP = 24, 14
TITLE, BODY, CAPTION = 20, 15, 14  # sizes of the font, pixels
COMPRESSION = 3  # zlib level of PNG files: twice as fast as the usual 6, 20 % larger
FILTER_UP = 2  # the number of this filter in PNG files


def compose(title: str, lines: Sequence[str], blocks: Sequence[Block]) -> Block:
    """The blocks below one another, under a title and lines of text."""
    width = max([NARROWEST, *(block.shape[1] for block in blocks)])
    heading = written(wrapped([title], TITLE, width), size=TITLE)
    heading = stacked([heading, written(wrapped(lines, BODY, width))], 8)
    return _padded(stacked([heading, *blocks], MARGIN), [MARGIN] * 4)


def title_of(record: dict[str, Any], units: Sequence[int]) -> str:
    """`vgg19  conv3_1  unit 21` or `vgg19  conv3_1  64 units`, of a run's record and units."""
    if names := record.get("references"):
        what = names[units[0]] if len(units) == 1 else counted(len(units), "photograph")
        return f"{record['model']}  {record['layer']}  metamers of {printable(what)}"
    noun = f"{record['direction']}, direction" if record["direction"] else "unit"
    count = f"{noun} {units[0]}" if len(units) == 1 else counted(len(units), noun)
    return f"{record['model']}  {record['layer']}  {count}"


# -- images ---------------------------------------------------------------------------------------


def tiles(
    pixels: Iterable[Block], captions: Sequence[str], heading: str = "", side: int | None = None
) -> Block:
    """Images in a grid, a caption of one or more lines under each; near `side` pixels large, or
    such that a row fits the page's width."""
    shown, note = fitted(np.stack(list(pixels)), side or tile_side(len(captions)))
    return gallery(list(shown), captions, heading + note)


def gallery(
    pictures: Sequence[Block], captions: Sequence[str], heading: str = "", columns: int = 0
) -> Block:
    """Pictures in their size, in a grid, a caption of one or more lines under each.

    columns  pictures in a row; 0: about twice as many as there are rows
    """
    cells = [captioned(*cell) for cell in zip(pictures, captions, strict=True)]
    width, columns = max(cell.shape[1] for cell in cells), columns or columns_of(len(cells))
    cells = [_widened(cell, width) for cell in cells]
    rows = [beside(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    return titled(heading, stacked(rows, GAP))


def captioned(picture: Block, caption: str) -> Block:
    """A picture over its caption of one or more lines."""
    text = written(caption.splitlines(), size=CAPTION, center=True)
    return stacked([picture, text], 4, center=True)


def fitted(pixels: Pixels, side: int) -> tuple[Pixels, str]:
    """Images near `side` pixels large, enlarged by a whole number without smoothing or, where they
    are much larger, averaged over squares of pixels; and then a note for the reader."""
    longest = max(pixels.shape[1:3])
    if longest <= STRETCH * side:
        return enlarge(pixels, max(1, round(side / longest))), ""
    reduction = math.ceil(longest / (STRETCH * side))
    return reduced(pixels, reduction), f"  (shown at 1/{reduction} size)"


def reduced(pixels: Pixels, reduction: int) -> Pixels:
    """Every `reduction` x `reduction` pixels of an image become their mean."""
    if reduction == 1:
        return pixels
    return np.stack([np.asarray(Image.fromarray(image).reduce(reduction)) for image in pixels])


def enlarge(image: UInt8[np.ndarray, "... 3"], zoom: int) -> UInt8[np.ndarray, "... 3"]:
    """Every pixel becomes `zoom` x `zoom` pixels."""
    return image.repeat(zoom, axis=-3).repeat(zoom, axis=-2)


def tile_side(n: int) -> int:
    """Side of an image, pixels, with which a row of `n` images fits the page's width, or nearly:
    captions are as wide as the smallest side."""
    return max(SMALLEST_TILE, min(TILE, WIDTH // columns_of(n) - GAP))


# -- text -----------------------------------------------------------------------------------------


def titled(heading: str, block: Block) -> Block:
    """A block under its heading; the block alone where the heading is empty."""
    if not heading.strip():
        return block
    return stacked([written([heading.strip()]), block], 6)


def legend(entries: Sequence[tuple[str, str]]) -> Block:
    """A line for each (text, colour), in that colour, broken at the page's width."""
    lines = [written(wrapped([f"● {text}"], BODY, WIDTH), color=color) for text, color in entries]
    return stacked(lines, 0)


def written(
    lines: Sequence[str], *, size: int = BODY, color: str = INK, center: bool = False
) -> Block:
    """Lines of text."""
    lines = [printable(line) for line in lines]  # the font refuses some characters
    letters, step = font(size), round(1.35 * size)
    lengths = [_length(line, size) for line in lines]
    width = math.ceil(max([1, *lengths]))
    canvas = Image.new("RGB", (width, max(1, step * len(lines))), PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, (line, length) in enumerate(zip(lines, lengths, strict=True)):
        draw.text(((width - length) / 2 if center else 0, row * step), line, color, letters)
    return np.asarray(canvas)


def wrapped(lines: Sequence[str], size: int, width: int) -> list[str]:
    """Lines broken at spaces so that none is wider than `width` pixels, where words allow it."""
    broken = []
    for line in map(printable, lines):
        row = ""
        for word in line.split(" "):
            longer = f"{row} {word}" if row else word
            if row and _length(longer, size) > width:
                broken.append(row)
                longer = word
            row = longer
        broken.append(row)
    return broken


def shortened(name: str, size: int, width: int) -> str:
    """A file name of at most `width` pixels: letters in its middle, which tell least, left out."""
    name = printable(name)
    if _length(name, size) <= width:
        return name
    for length in range(len(name) - 1, 1, -1):
        short = f"{name[: math.ceil(length / 2)]}…{name[-(length // 2) :]}"
        if _length(short, size) <= width:
            return short
    return "…"


@functools.lru_cache(maxsize=2048)  # sheets share most of their words
def _length(text: str, size: int) -> float:
    """How wide the text is in this size of the font, pixels."""
    return font(size).getlength(text)


@functools.lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font of matplotlib's graphs, so that a page has only one."""
    package = importlib.util.find_spec("matplotlib")  # its file is found without its import
    file = Path(str(package and package.origin)).with_name("mpl-data") / "fonts/ttf/DejaVuSans.ttf"
    if not file.is_file():  # some Linux distributions move matplotlib's data
        import matplotlib

        file = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    return ImageFont.truetype(str(file), size)


# -- blocks ---------------------------------------------------------------------------------------


def beside(blocks: Sequence[Block], gap: int = GAP) -> Block:
    """Blocks in a row, `gap` pixels between them, their tops aligned."""
    heights, widths = zip(*(block.shape[:2] for block in blocks), strict=True)
    page, left = _paper(max(heights), sum(widths) + gap * (len(blocks) - 1)), 0
    for block, height, width in zip(blocks, heights, widths, strict=True):
        page[:height, left : left + width] = block
        left += width + gap
    return page


def stacked(blocks: Sequence[Block], gap: int, *, center: bool = False) -> Block:
    """Blocks below one another, `gap` pixels between them, at the left or centred."""
    heights, widths = zip(*(block.shape[:2] for block in blocks), strict=True)
    page, top = _paper(sum(heights) + gap * (len(blocks) - 1), max(widths)), 0
    for block, height, width in zip(blocks, heights, widths, strict=True):
        left = (page.shape[1] - width) // 2 if center else 0
        page[top : top + height, left : left + width] = block
        top += height + gap
    return page


def png(image: Block) -> bytes:
    """The picture as a PNG file (RFC 2083), every row as its difference from the row above: of
    enlarged images most rows are zeros then. Takes half the time of choosing a filter per row."""
    height, width = image.shape[:2]
    rows = np.full((height, 1 + 3 * width), FILTER_UP, np.uint8)
    pixels = image.reshape(height, 3 * width)
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows.data, COMPRESSION)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def _widened(block: Block, width: int) -> Block:
    """The block in the middle of so many pixels."""
    more = width - block.shape[1]
    left = more // 2
    return _padded(block, [0, 0, left, more - left])


def _padded(block: Block, rim: Sequence[int]) -> Block:
    """The block with white pixels above, below, at the left and at the right."""
    above, below, left, right = rim
    height, width = block.shape[:2]
    padded = _paper(above + height + below, left + width + right)
    padded[above : above + height, left : left + width] = block  # np.pad takes 5 times as long
    return padded


def _paper(height: int, width: int) -> Block:
    return np.full((height, width, 3), 255, np.uint8)
