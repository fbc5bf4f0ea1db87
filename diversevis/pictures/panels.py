"""What a figure for a paper is made of, graphs and images; and its units of length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

Dots = float | int
DPI = 600  # dots per inch
MM, POINT = DPI / 25.4, DPI / 72  # in dots
TEXT = 7  # points
LINE = round(9.2 * POINT)  # from a line of text to the next, dots
Image = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Curves or a map.

    draw      draws onto a matplotlib axis; onto several where `subplots` asks for more than 1 row
    legend    (text, colour) of lines above the graph
    width     mm that the graph needs with its labels; it takes more where there is room
    height    of the axes, mm
    subplots  as for matplotlib's `GridSpec.subplots`, with `height_ratios`
    """

    draw: Callable[[Any], None]
    heading: str = ""
    legend: Sequence[tuple[str, str]] = ()
    width: int = 75
    height: int = 36
    subplots: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Images with captions, pixel by pixel; all at one scale, so that sizes can be compared.

    frames  (row, column, height, width) of a frame in an image, pixels; None where it has none
    width   mm from which on the images may stand beside another panel; None: never
    """

    images: Sequence[Image]
    captions: Sequence[str]
    heading: str = ""
    frames: Sequence[tuple[int, int, int, int] | None] = ()
    width: int | None = None


Panel = Graph | Tiles
