"""A comparison as text: for a person, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from diversevis.compare.wording import SIDES, describe_side, field_size, interval, number


def table(pair: Mapping[str, Any]) -> str:
    """One pair for a person: a line per index."""
    head = [f"{name}: {describe_side(pair[side])}  ({pair[side]['folder']})"
            for side, name, _ in SIDES]  # fmt: skip
    rows = [("index", "A (units)", "B (units)", "A - B [95 %]", "Cliff", "", "p", "p Holm")]
    for one in pair["indices"]:
        own = [f"{number(one[side][one['statistic']])} ({one[side]['count']})" for side in "ab"]
        if one["reason"] is not None:
            rows.append((one["title"], *own, one["reason"], "", "", "", ""))
            continue
        numbers = [number(one[key], 2) for key in ("p", "p_holm")]
        delta = f"{one['cliffs_delta']:+.2f}"
        rows.append((one["title"], *own, interval(one), delta, one["effect"], *numbers))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    foot = "A and B: medians; of shares, the share. p: Mann-Whitney, two-sided."
    return "\n".join([*head, *(line.rstrip() for line in lines), foot])


def csv_text(pairs: Sequence[Mapping[str, Any]]) -> str:
    """One row per pair and index; an empty cell where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = [_row(pair, one) for pair in pairs for one in pair["indices"]]
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return text.getvalue()


def _row(pair: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
    """One index of one pair, flat."""
    row = {key: one[key] for key in ("index", "title", "unit")}
    for side in "ab":
        run, found = pair[side], one[side]
        own = {name: run[name] for name in ("model", "layer", "folder")}
        own |= {"receptive_field": round(field_size(run), 4), "count": found["count"]}
        own |= {"left_out": sum(found["left_out"].values())}
        own |= {name: found[name] for name in ("median", "mean")}
        low, high = found["quartiles"] or (None, None)
        own |= {"quartile_low": low, "quartile_high": high}
        row |= {f"{side}_{name}": value for name, value in own.items()}
    for key in ("difference_median", "difference_mean"):
        for end in ("value", "low", "high"):
            row[f"{key}_{end}"] = one[key][end] if one[key] else None
    return row | {key: one[key] for key in ("cliffs_delta", "effect", "p", "p_holm", "reason")}
