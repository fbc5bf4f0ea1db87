"""A comparison as text: for a person, and as CSV; and its wording, for the figures too."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any


def table(pair: Mapping[str, Any]) -> str:
    """One pair for a person: a line per index."""
    runs = ("A", pair["a"]), ("B", pair["b"])
    head = [f"{name}: {describe_side(run)}  ({run['folder']})" for name, run in runs]
    rows = [("index", "A (units)", "B (units)", "A - B [95 %]", "Cliff", "", "p", "p Holm")]
    for index in pair["indices"]:
        statistic = index["statistic"]
        sides = [f"{number(index[side][statistic])} ({index[side]['count']})" for side in "ab"]
        if index["reason"] is not None:
            rows.append((index["title"], *sides, index["reason"], "", "", "", ""))
            continue
        p_values = [number(index[key], 2) for key in ("p", "p_holm")]
        delta = f"{index['cliffs_delta']:+.2f}"
        rows.append((index["title"], *sides, interval(index), delta, index["effect"], *p_values))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    foot = "A and B: medians; of shares, the share. p: Mann-Whitney, two-sided."
    return "\n".join([*head, *(line.rstrip() for line in lines), foot])


def csv_text(pairs: Sequence[Mapping[str, Any]]) -> str:
    """A row per pair and index; an empty cell where there is no number."""
    text = io.StringIO()
    rows = [_row(pair, index) for pair in pairs for index in pair["indices"]]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(pair: Mapping[str, Any], index: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of one index of one pair."""
    row = {key: index[key] for key in ("index", "title", "unit")}
    for side in "ab":
        run, values = pair[side], index[side]
        low, high = values["quartiles"] or (None, None)
        columns = {
            **{name: run[name] for name in ("model", "layer", "folder")},
            "receptive_field": round(field_size(run), 4),
            "count": values["count"],
            "left_out": sum(values["left_out"].values()),
            **{name: values[name] for name in ("median", "mean")},
            "quartile_low": low,
            "quartile_high": high,
        }
        row |= {f"{side}_{name}": value for name, value in columns.items()}
    for key in ("difference_median", "difference_mean"):
        for end in ("value", "low", "high"):
            row[f"{key}_{end}"] = index[key][end] if index[key] else None
    return row | {key: index[key] for key in ("cliffs_delta", "effect", "p", "p_holm", "reason")}


def describe_side(side: Mapping[str, Any]) -> str:
    """`vgg19 conv2_2, receptive field 14 px, 64 units`."""
    height, width = side["receptive_field"]
    size = f"{height}" if height == width else f"{height} x {width}"
    noun = f"{side['direction']}, direction" if side["direction"] else "unit"
    count = len(side["units"])
    plural = "" if count == 1 else "s"
    return f"{side['model']} {side['layer']}, receptive field {size} px, {count} {noun}{plural}"


def field_size(side: Mapping[str, Any]) -> float:
    """Side of the receptive field, pixels: the geometric mean of height and width."""
    height, width = side["receptive_field"]
    return math.sqrt(height * width)


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def interval(index: Mapping[str, Any]) -> str:
    """The difference and its interval, to two digits of the interval's width."""
    difference = index[f"difference_{index['statistic']}"]
    value, low, high = (difference[key] for key in ("value", "low", "high"))
    width = high - low
    digits = f".{min(9, max(0, 1 - math.floor(math.log10(width))))}f" if width else ".3g"
    return f"{value:+{digits}} [{low:+{digits}}, {high:+{digits}}]"
