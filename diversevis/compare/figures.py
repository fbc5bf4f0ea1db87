"""The figures of a comparison: one of each pair, and one of all pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diversevis.compare.tables import describe_side, field_size, interval, number
from diversevis.pictures import graph, page

SIDES = (("a", "A", graph.BLUE), ("b", "B", graph.ORANGE))  # key, name and colour
COLUMNS = 5  # graphs side by side
WIDTH, HEIGHT = 280, 250  # pixels of a graph
TICKS = 5  # at most, on a y axis: their labels stay short
FAR = 4  # in quartile ranges beyond the quartiles: values from there on are counted, not shown


def pair_figure(pair: Mapping[str, Any]) -> bytes:
    """A graph per index: every unit a dot, with median and quartiles; bars for shares of units."""
    cells = []
    for index in pair["indices"]:
        if index["a"]["count"] or index["b"]["count"]:
            figure, axis = _canvas(index["unit"])
            (_draw_shares if index["statistic"] == "mean" else _draw_values)(axis, index)
            counts = [f"{name}\n{index[side]['count']} units" for side, name, _ in SIDES]
            axis.set_xticks([0, 1], counts)
            axis.set_xlim(-0.6, 1.6)
            cells.append(_cell(index["title"], figure, _caption(index)))
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
    return _page(f"{len(pairs)} pairs of runs", entries, cells)


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


def _caption(index: Mapping[str, Any]) -> str:
    if index["reason"] is not None:
        return str(index["reason"])
    p, p_holm = number(index["p"], 2), number(index["p_holm"], 2)
    return f"A - B {interval(index)}\np {p}, Holm {p_holm}"
