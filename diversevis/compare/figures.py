"""The figures of a comparison: one of each pair, and one of all pairs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diversevis.compare.panels import as_png, make_panels, size_axis, write_legend, write_title
from diversevis.compare.wording import SIDES, describe_side, field_size, interval, number
from diversevis.pictures.trace import BLUE, FAINT, ORANGE

FAR = 4  # quartile ranges beyond the quartiles, from which on a value is only counted


def pair_figure(pair: Mapping[str, Any]) -> bytes:
    """A panel per index: every unit a dot, with median and quartiles; of shares, bars."""
    shown = [one for one in pair["indices"] if one["a"]["count"] or one["b"]["count"]]
    figure, panels = make_panels(len(shown))
    for axis, one in zip(panels, shown, strict=True):
        (_draw_shares if one["statistic"] == "mean" else _draw_values)(axis, one)
        counts = [f"{name}\n{one[side]['count']} units" for side, name, _ in SIDES]
        axis.set_xticks([0, 1], counts)
        axis.set_xlim(-0.6, 1.6)
        axis.set_ylabel(one["unit"])
        write_title(axis, one["title"], _caption(one))
    entries = [(f"{name}: {describe_side(pair[side])}", color) for side, name, color in SIDES]
    write_legend(figure, entries)
    return as_png(figure)


def overview_figure(result: Mapping[str, Any]) -> bytes:
    """A panel per index: the difference of every pair, with its interval, over the field's size."""
    pairs = result["pairs"]
    names = list(dict.fromkeys(one["index"] for pair in pairs for one in pair["indices"]))
    found: dict[str, list[tuple[float, Mapping[str, Any]]]] = {name: [] for name in names}
    for pair, size in zip(pairs, _apart(_sizes(pairs)), strict=True):
        for one in pair["indices"]:
            if one["reason"] is None:
                found[one["index"]].append((size, one))
    shown = [points for points in found.values() if points]
    figure, panels = make_panels(len(shown))
    for axis, points in zip(panels, shown, strict=True):
        _draw_differences(axis, points, _sizes(pairs))
    entries = [("A higher: the 95 % interval lies above 0", BLUE),
               ("B higher: the interval lies below 0", ORANGE),
               ("the interval holds 0", FAINT)]  # fmt: skip
    of = [f"{name}: {', '.join(dict.fromkeys(pair[side]['model'] for pair in pairs))} "
          f"({result[side]})" for side, name, _ in SIDES]  # fmt: skip
    write_legend(figure, entries, title=f"{len(pairs)} pairs.  {'   '.join(of)}")
    return as_png(figure)


def _draw_values(axis: Any, one: Mapping[str, Any]) -> None:
    generator = np.random.default_rng(0)  # of the jitter only
    for place, (side, _name, color) in enumerate(SIDES):
        values = np.array([v for v in one[side]["values"] if v is not None])
        if not len(values):
            continue
        jitter = generator.uniform(-0.2, 0.2, len(values))
        area = float(np.clip(600 / len(values), 4, 22))
        axis.scatter(place + jitter, values, s=area, color=color, alpha=0.45, lw=0, zorder=2)
        if one[side]["quartiles"] is not None:
            line = {"color": "black", "lw": 1}
            axis.boxplot(
                values, positions=[place], widths=0.55, showfliers=False, showcaps=False, whis=0,
                boxprops=line, medianprops={**line, "lw": 2}, whiskerprops={"lw": 0}, zorder=3,
            )  # fmt: skip
    axis.margins(y=0.08)
    _without_the_farthest(axis, one)


def _without_the_farthest(axis: Any, one: Mapping[str, Any]) -> None:
    """Values so far off that the others would be pressed into a line are counted, not shown."""
    lows, highs, values = [], [], []
    for side in (one["a"], one["b"]):
        low, high = side["quartiles"] or (0, 0)
        if high <= low:
            return
        lows.append(low - FAR * (high - low))
        highs.append(high + FAR * (high - low))
        values += [value for value in side["values"] if value is not None]
    shown = [value for value in values if min(lows) <= value <= max(highs)]
    low, high = min(shown), max(shown)
    for count, y, va in (
        (sum(value > high for value in values), 1, "top"),
        (sum(value < low for value in values), 0.01, "bottom"),
    ):
        if count:
            axis.text(0.5, y, f"{count} beyond", transform=axis.transAxes, fontsize=7,
                      color="#404040", ha="center", va=va)  # fmt: skip
    pad = 0.08 * (high - low)
    axis.set_ylim(low - pad, high + pad)


def _draw_shares(axis: Any, one: Mapping[str, Any]) -> None:
    for place, (side, _name, color) in enumerate(SIDES):
        count, share = one[side]["count"], one[side]["mean"]
        if count:
            axis.bar(place, share, 0.6, color=color, alpha=0.8)
            axis.text(place, share + 0.02, f"{round(share * count)}/{count}",
                      ha="center", va="bottom", fontsize=8)  # fmt: skip
    axis.set_ylim(0, 1.12)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])


def _draw_differences(
    axis: Any, points: Sequence[tuple[float, Mapping[str, Any]]], sizes: Sequence[float]
) -> None:
    one = points[0][1]
    axis.axhline(0, color="black", lw=0.8)
    for size, index in points:
        told = index[f"difference_{index['statistic']}"]
        color = BLUE if told["low"] > 0 else ORANGE if told["high"] < 0 else FAINT
        axis.plot([size, size], [told["low"], told["high"]], color=color, lw=1.5)
        axis.plot(size, told["value"], "o", color=color, ms=4.5)
    size_axis(axis, sizes)
    axis.set_ylabel(f"{one['unit']}, A - B")
    axis.set_xlabel("receptive field (px)")
    which = "difference of medians" if one["statistic"] == "median" else "difference of shares"
    write_title(axis, one["title"], which)


def _sizes(pairs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Receptive field of every pair, pixels: the geometric mean of both runs'."""
    return [math.sqrt(field_size(pair["a"]) * field_size(pair["b"])) for pair in pairs]


def _apart(sizes: Sequence[float]) -> list[float]:
    """Sizes, those that are the same moved a little apart, so that every pair is seen."""
    return [size * 1.03 ** (list(sizes[:place]).count(size)) for place, size in enumerate(sizes)]


def _caption(one: Mapping[str, Any]) -> str:
    if one["reason"] is not None:
        return textwrap.fill(one["reason"], 30)
    return f"A - B {interval(one)}\np {number(one['p'], 2)}, Holm {number(one['p_holm'], 2)}"
