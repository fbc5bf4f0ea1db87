"""How tables and figures alike say a side, a number and an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from diversevis.pictures.trace import BLUE, ORANGE

SIDES = (("a", "A", BLUE), ("b", "B", ORANGE))  # its key, its name, its colour


def describe_side(side: Mapping[str, Any]) -> str:
    """`vgg19 conv2_2, receptive field 14 px, 64 units`."""
    height, width = side["receptive_field"]
    size = f"{height}" if height == width else f"{height} x {width}"
    what = f"{side['direction']}, direction" if side["direction"] else "unit"
    count = len(side["units"])
    plural = "" if count == 1 else "s"
    return f"{side['model']} {side['layer']}, receptive field {size} px, {count} {what}{plural}"


def field_size(side: Mapping[str, Any]) -> float:
    """Pixels: the geometric mean of both sides."""
    height, width = side["receptive_field"]
    return math.sqrt(height * width)


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def interval(one: Mapping[str, Any]) -> str:
    """The difference and its interval, to two digits of the interval's width."""
    found = one[f"difference_{one['statistic']}"]
    width = found["high"] - found["low"]
    digits = f".{min(9, max(0, 1 - math.floor(math.log10(width))))}f" if width else ".3g"
    return f"{found['value']:+{digits}} [{found['low']:+{digits}}, {found['high']:+{digits}}]"
