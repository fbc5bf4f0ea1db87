"""The files of a comparison, made of what comparison.json holds: tables, figures."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from diversevis.compare.answers import number
from diversevis.errors import printable
from diversevis.pictures import graph, page
from diversevis.runs.files import legible
from diversevis.units import counted

SIDES = (("a", "A", graph.BLUE), ("b", "B", graph.ORANGE))  # key, name and colour
COLUMNS = 5  # graphs side by side
WIDTH, HEIGHT = 280, 250  # pixels of a graph
TICKS = 5  # at most, on a y axis: their labels stay short
FAR = 4  # in quartile ranges beyond the quartiles: values from there on are counted, not shown


def files(result: Mapping[str, Any]) -> dict[str, bytes]:
    """Name and content of every file of a comparison."""
    pairs = result["pairs"]
    contents = {
        "comparison.json": (json.dumps(result, indent=2, allow_nan=False) + "\n").encode(),
        "comparison.csv": legible(_csv(pairs)).encode(),
    }
    for position, pair in enumerate(pairs, start=1):
        names = [f"{pair[side]['model']}-{pair[side]['layer']}" for side in "ab"]
        # a file name of letters that every system allows, and of a length that it allows
        name = re.sub(r"[^A-Za-z0-9._,-]", "_", "_vs_".join(names))[:150]
        contents[f"pair{position:02d}_{name}.png"] = pair_figure(pair)
    if len(pairs) > 1:
        contents["overview.png"] = overview_figure(result)
    return contents


# -- tables ---------------------------------------------------------------------------------------


def table(pair: Mapping[str, Any]) -> str:
    """One pair for a person: a line per index."""
    runs = ("A", pair["a"]), ("B", pair["b"])
    head = [f"{name}: {describe_side(run)}  ({printable(run['folder'])})" for name, run in runs]
    rows = [("index", "A (units)", "B (units)", "A - B [95 %]", "Cliff", "", "p", "p Holm")]
    for index in pair["indices"]:
        statistic = index["statistic"]
        sides = [f"{number(index[side][statistic])} ({index[side]['count']})" for side in "ab"]
        if index["reason"] is not None:
            rows.append((index["title"], *sides, verdict(index), "", "", "", ""))
            continue
        p_values = [number(index[key], 2) for key in ("p", "p_holm")]
        delta = f"{index['cliffs_delta']:+.2f}"
        rows.append((index["title"], *sides, interval(index), delta, index["effect"], *p_values))
    foot = "A and B: medians; of shares, the share. p: Mann-Whitney, two-sided."
    if all(index["reason"] for index in pair["indices"]):
        rows[0] = (*rows[0][:3], "", "", "", "", "")
        foot = foot.partition(" p:")[0]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*head, *(line.rstrip() for line in lines), foot])


def _csv(pairs: Sequence[Mapping[str, Any]]) -> str:
    """A row per pair and index; an empty cell where there is no number."""
    rows = [_row(pair, index) for pair in pairs for index in pair["indices"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(pair: Mapping[str, Any], index: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of one index of one pair."""
    row = {key: index[key] for key in ("index", "title", "unit")}
    for side in "ab":
        run, values = pair[side], index[side]
        columns = {name: run[name] for name in ("model", "layer", "folder")}
        columns["receptive_field"] = round(field_size(run), 4)
        columns["count"] = values["count"]
        columns["left_out"] = sum(values["left_out"].values())
        columns |= {name: values[name] for name in ("median", "mean")}
        columns["quartile_low"], columns["quartile_high"] = values["quartiles"] or (None, None)
        row |= {f"{side}_{name}": value for name, value in columns.items()}
    for key, end in product(("difference_median", "difference_mean"), ("value", "low", "high")):
        row[f"{key}_{end}"] = index[key][end] if index[key] else None
    row |= {key: index[key] for key in ("cliffs_delta", "effect", "p", "p_holm", "reason")}
    ranks = index["percentiles"] or {"of": None, "units": []}
    row["percentile_of"] = ranks["of"]
    row["percentiles"] = ";".join(f"{unit['percentile']:.4g}" for unit in ranks["units"])
    return row


# -- figures --------------------------------------------------------------------------------------


def pair_figure(pair: Mapping[str, Any]) -> bytes:
    """A graph per index: every unit a dot, with median and quartiles; bars for shares of units."""
    cells = []
    for index in pair["indices"]:
        if index["a"]["count"] or index["b"]["count"]:
            figure, axis = _canvas(index["unit"])
            if index["percentiles"]:
                _mark_units(axis, index)
            (_draw_shares if index["statistic"] == "mean" else _draw_values)(axis, index)
            counts = [f"{name}\n{counted(index[side]['count'], 'unit')}" for side, name, _ in SIDES]
            axis.set_xticks([0, 1], counts)
            axis.set_xlim(-0.6, 1.6)
            caption = verdict(index)
            if index["reason"] is None:
                p, p_holm = number(index["p"], 2), number(index["p_holm"], 2)
                caption = f"A - B {interval(index)}\np {p}, Holm {p_holm}"
            cells.append(_cell(index["title"], figure, caption))
    title = " against ".join(f"{pair[side]['model']} {pair[side]['layer']}" for side in "ab")
    entries = [(f"{name}: {describe_side(pair[side])}", color) for side, name, color in SIDES]
    return _page(title, entries, cells)


def overview_figure(result: Mapping[str, Any]) -> bytes:
    """A graph per index: the difference of every pair, with its interval, over the field's size."""
    pairs = result["pairs"]
    sizes = [math.sqrt(field_size(pair["a"]) * field_size(pair["b"])) for pair in pairs]
    points: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for row, pair in enumerate(pairs):
        x = sizes[row] * 1.03 ** sizes[:row].count(sizes[row])  # pairs of one size, side by side
        for index in pair["indices"]:
            if index["reason"] is None:
                points.setdefault(index["index"], []).append((x, index))
    cells = []
    for of_index in points.values():
        index = of_index[0][1]
        figure, axis = _canvas(index["unit"])
        _draw_differences(axis, of_index)
        if max(sizes) > 4 * min(sizes):
            graph.log_axis(axis, "x", min(sizes) / 1.3, max(sizes) * 1.3)
        else:
            axis.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
            axis.locator_params(axis="x", nbins=TICKS)
        axis.set_xlabel("receptive field (px)", fontsize=9)
        what = "medians" if index["statistic"] == "median" else "shares"
        cells.append(_cell(index["title"], figure, f"A - B, difference of {what}"))
    models = [", ".join(dict.fromkeys(pair[side]["model"] for pair in pairs)) for side in "ab"]
    entries = [
        (f"A ({models[0]}, {result['a']}) higher: the 95 % interval lies above 0", graph.BLUE),
        (f"B ({models[1]}, {result['b']}) higher: the interval lies below 0", graph.ORANGE),
        ("the interval holds 0", graph.FAINT),
    ]
    return _page(f"{counted(len(pairs), 'pair')} of runs", entries, cells)


def _page(title: str, entries: Sequence[tuple[str, str]], cells: Sequence[page.Block]) -> bytes:
    """Graphs in rows of `COLUMNS` under a legend, as a PNG file."""
    rows = [page.beside(cells[at : at + COLUMNS]) for at in range(0, len(cells), COLUMNS)]
    lines = [] if cells else ["no index has values to show"]
    return page.png(page.compose(title, lines, [page.legend(entries), *rows]))


def _canvas(label: str) -> tuple[Any, Any]:
    figure, axis = graph.canvas(WIDTH, HEIGHT, left=74, right=8, bottom=46, top=14)
    axis.locator_params(axis="y", nbins=TICKS, steps=(1, 2, 5, 10))
    axis.set_ylabel(label, fontsize=9)
    axis.tick_params(labelsize=9)
    return figure, axis


def _cell(title: str, figure: Any, caption: str) -> page.Block:
    """A graph under its title, over its caption."""
    lines = page.wrapped(caption.splitlines(), page.CAPTION, WIDTH)
    drawn = page.titled(title, graph.drawn(figure))
    return page.stacked([drawn, page.written(lines, size=page.CAPTION)], 4)


def _draw_values(axis: Any, index: Mapping[str, Any]) -> None:
    generator = np.random.default_rng(0)  # of the jitter only
    for x, (side, _, color) in enumerate(SIDES):
        values = [value for value in index[side]["values"] if value is not None]
        if not values:
            continue
        jitter = generator.uniform(-0.2, 0.2, len(values))
        area = float(np.clip(600 / len(values), 4, 22))
        axis.scatter(x + jitter, values, s=area, color=color, alpha=0.45, lw=0, zorder=2)
        if index[side]["quartiles"] is not None:
            line = {"color": "black", "lw": 1}
            axis.boxplot(
                values, positions=[x], widths=0.55, showfliers=False, showcaps=False, whis=0,
                boxprops=line, medianprops={**line, "lw": 2}, whiskerprops={"lw": 0}, zorder=3,
            )  # fmt: skip
    axis.margins(y=0.08)
    _leave_out_the_farthest(axis, index)


def _mark_units(axis: Any, index: Mapping[str, Any]) -> None:
    """A line at the number of every unit that is compared with all units of the other side."""
    colors = {side: color for side, _, color in SIDES}
    side = index["percentiles"]["of"]
    for value in index[side]["values"]:
        if value is not None:
            axis.axhline(value, color=colors[side], lw=1, ls="--", zorder=1)


def _leave_out_the_farthest(axis: Any, index: Mapping[str, Any]) -> None:
    """Count values so far off that the others would be pressed into a line."""
    sides = index["a"], index["b"]
    lows, highs = np.array([side["quartiles"] or (0, 0) for side in sides]).T
    if (highs <= lows).any():
        return
    reach = FAR * (highs - lows)
    values = np.array([value for side in sides for value in side["values"] if value is not None])
    shown = values[(values >= (lows - reach).min()) & (values <= (highs + reach).max())]
    low, high = shown.min(), shown.max()
    for count, y in ((np.sum(values > high), 1.0), (np.sum(values < low), 0.01)):
        if count:
            axis.text(0.5, y, f"{count} beyond", transform=axis.transAxes, fontsize=8,
                      color=graph.FAINT, ha="center", va="bottom")  # fmt: skip
    pad = 0.08 * (high - low)
    axis.set_ylim(low - pad, high + pad)


def _draw_shares(axis: Any, index: Mapping[str, Any]) -> None:
    for x, (side, _, color) in enumerate(SIDES):
        count, share = index[side]["count"], index[side]["mean"]
        if count:
            axis.bar(x, share, 0.6, color=color, alpha=0.8)
            axis.text(x, share + 0.02, f"{round(share * count)}/{count}",
                      ha="center", va="bottom", fontsize=9)  # fmt: skip
    axis.set(ylim=(0, 1.12), yticks=[0, 0.25, 0.5, 0.75, 1])


def _draw_differences(axis: Any, points: Sequence[tuple[float, Mapping[str, Any]]]) -> None:
    axis.axhline(0, color="black", lw=0.8)
    for x, index in points:
        difference = index[f"difference_{index['statistic']}"]
        low, high = difference["low"], difference["high"]
        color = graph.BLUE if low > 0 else graph.ORANGE if high < 0 else graph.FAINT
        axis.plot([x, x], [low, high], color=color, lw=1.5)
        axis.plot(x, difference["value"], "o", color=color, ms=4.5)


# -- wording of tables and figures ----------------------------------------------------------------


def describe_side(side: Mapping[str, Any]) -> str:
    """`vgg19 conv2_2, receptive field 14 px, 64 units`."""
    height, width = side["receptive_field"]
    size = f"{height}" if height == width else f"{height} x {width}"
    noun = f"{side['direction']}, direction" if side["direction"] else "unit"
    count = counted(len(side["units"]), noun)
    return (
        f"{printable(side['model'])} {printable(side['layer'])}, receptive field {size} px, {count}"
    )


def field_size(side: Mapping[str, Any]) -> float:
    """Side of the receptive field, pixels: the geometric mean of height and width."""
    return math.sqrt(math.prod(side["receptive_field"]))


def verdict(index: Mapping[str, Any]) -> str:
    """How few units compare: their percentiles, or that they are too few."""
    ranks = index["percentiles"]
    return ranks["words"] if ranks else f"too few units to say: {index['reason']}"


def interval(index: Mapping[str, Any]) -> str:
    """The difference and its interval, to two digits of the interval's width."""
    difference = index[f"difference_{index['statistic']}"]
    value, low, high = (difference[key] for key in ("value", "low", "high"))
    width = high - low
    digits = f".{min(9, max(0, 1 - math.floor(math.log10(width))))}f" if width else ".3g"
    return f"{value:+{digits}} [{low:+{digits}}, {high:+{digits}}]"
