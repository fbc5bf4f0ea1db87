"""Which other units the images of a unit drive, and whose images drive it (docs/method.md,
section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diversevis.measures.selectivity import HALF
from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import LayerPicture, spread
from diversevis.pictures.measures.view import NO_NUMBER, Layer, View, median, number, percent
from diversevis.pictures.panels import Graph, Panel, Tiles
from diversevis.units import counted

LOWEST = -0.5  # how far down a graph goes: some units are suppressed to many times their best
TILE = 120
NAMED = 40  # up to this number of units, rows and columns of the matrix have the units' numbers
HEADINGS = {
    "confused": "units that its images drive most: their best image, the response to the images "
                "of this unit",
    "driven_by": "units whose images drive it most: their best image, the response of this unit",
}  # fmt: skip
PAPER_HEADINGS = {"confused": "driven by its images", "driven_by": "whose images drive it"}
ARRAYS = {"confused": "confused", "driven_by": "drivers"}


def picture(view: View) -> page.Block:
    """The images; the units that they drive, and those whose images drive the unit; all others."""
    blocks = view.batch("its images, with its responses")
    for key, heading in HEADINGS.items():
        if shown := _others(view, key):
            blocks.append(page.tiles(*shown, heading, TILE))
    if view.has("matrix"):
        row = graph.block(partial(_row, view), 640, 250)
        blocks.append(page.titled("all units of the run, by their response to its images", row))
    return page.compose(view.title, lines(view), blocks)


def panels(view: View) -> list[Panel]:
    """The same, for a paper."""
    parts: list[Panel] = [*view.batch_panel("its images")]
    for key, heading in PAPER_HEADINGS.items():
        if shown := _others(view, key):
            parts.append(Tiles(images=list(shown[0]), captions=shown[1], heading=heading))
    return [*parts, *([Graph(draw=partial(_row, view))] if view.has("matrix") else [])]


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    shares = {key: percent(view.numbers.get(key)) for key in ("own", "mean_others")}
    rank, units, above = (_count(view, key) for key in ("rank", "units", "above_half"))
    return [
        f"Selectivity. Rank {rank} of {units} units by their response to its images, as shares of "
        f"their best responses: its response {shares['own']}, other units above "
        f"{percent(HALF)}: {above}, mean of the others {shares['mean_others']}",
        f"The images of the others drive it to {percent(view.numbers.get('mean_by_others'))} on "
        "average",
    ]


def layer_picture(layer: Layer) -> LayerPicture | None:
    """The matrix, similar units side by side; and the means of its rows and columns."""
    rows, columns = layer.values("mean_others"), layer.values("mean_by_others")
    first = int((layer.values("rank") == 1).sum())
    line = (
        f"Selectivity. Median mean response of the other units {number(median(rows))}; the images "
        f"of {counted(first, 'unit')} drive no other unit more"
    )
    series = {"other units, to its images": rows, "the unit, to the images of others": columns}
    draw = partial(_matrix, layer)
    has_matrix = "matrix" in layer.arrays and bool(np.isfinite(rows).any())

    def above() -> list[page.Block]:
        if not has_matrix:
            return []
        margins = {"right": graph.FOR_COLOR_BAR, "bottom": graph.BOTTOM + 24}  # for long numbers
        drawn = graph.block(draw, 660, 584, **margins)
        return [page.titled("response of every unit to the images of every unit", drawn)]

    return spread(
        layer, line, series, label="mean response / best response", limits=(0.0, 0.5),
        above=above, panels_above=[Graph(draw=draw, width=82, height=60)] if has_matrix else [],
        more=["Units are ordered so that those that drive one another are near"] * has_matrix,
    )  # fmt: skip


def leaf_order(matrix: Float[np.ndarray, "unit unit"]) -> Int[np.ndarray, " unit"]:
    """Rows ordered by average linkage on `1 - (C + C^T) / 2`: units that drive one another by their
    images are near."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(matrix) < 3:
        return np.arange(len(matrix))
    both = np.nan_to_num((matrix + matrix.T) / 2)
    upper = np.triu_indices(len(both), 1)
    return leaves_list(linkage(1 - both[upper].clip(0, 1), "average"))


def _matrix(layer: Layer, axis: Any) -> None:
    matrix = layer.array("matrix")
    known = np.flatnonzero(np.isfinite(matrix).any(axis=1))
    order = known[leaf_order(matrix[np.ix_(known, known)])]
    shown = np.ma.masked_invalid(matrix[np.ix_(order, order)])
    colors = axis.imshow(
        shown, cmap=graph.MAP, vmin=0, vmax=1, aspect="auto",
        interpolation="nearest" if len(order) <= NAMED else "auto",
    )  # fmt: skip
    units = [str(layer.units[row]) for row in order]
    if len(order) <= NAMED:
        size = 8 if len(order) <= NAMED / 2 else 5.5
        axis.set_xticks(range(len(order)), units, rotation=90, fontsize=size)
        axis.set_yticks(range(len(order)), units, fontsize=size)
    else:
        axis.set(xticks=[], yticks=[])
    axis.set(xlabel="response of unit", ylabel="to the images of unit")
    graph.color_bar(colors, axis, "mean response / best (below 0: as 0)")


def _row(view: View, axis: Any) -> None:
    """The responses of all units to the unit's images, the largest first; the unit is marked."""
    row = view.array("matrix")
    responses = np.sort(row[np.isfinite(row)])[::-1]
    ranks = np.arange(1, len(responses) + 1)
    axis.fill_between(ranks, responses, step="mid", color=graph.BLUE, alpha=0.3, lw=0)
    axis.step(ranks, responses, where="mid", color=graph.BLUE, lw=1.4)
    own, rank = view.numbers.get("own"), view.numbers.get("rank")
    if own is not None and rank is not None:
        axis.plot(rank, own, "o", color=graph.ORANGE, ms=7)
        axis.annotate(
            "this unit", (rank, own), (8, 0), textcoords="offset points", color=graph.ORANGE,
            va="center",
        )  # fmt: skip
    axis.axhline(HALF, color=graph.FAINT, lw=1, ls="--")
    axis.axhline(0, color=graph.FAINT, lw=0.8)
    lowest = max(min(0, responses[-1]), LOWEST) - 0.02
    axis.set(xlim=(0.5, len(responses) + 0.5), ylim=(lowest, max(1.0, 1.05 * responses[0])))
    axis.set(xlabel="units, the most driven first", ylabel="response / best")


def _others(view: View, key: str) -> tuple[page.Pixels, list[str]] | None:
    """The best images of the units listed under `key`, with captions; None where there is none."""
    listed: Sequence[dict[str, Any]] = view.numbers.get(key) or []
    rows = view.arrays[ARRAYS[key]]
    rows = rows[rows >= 0][: len(listed)]
    if not len(rows):
        return None
    noun = "direction" if view.record["direction"] else "unit"
    captions = [f"{noun} {other['unit']}\n{percent(other['value'])}" for other in listed]
    return view.pixels(view.arrays["best_images"][rows]), captions


def _count(view: View, key: str) -> str:
    count = view.numbers.get(key)
    return NO_NUMBER if count is None else str(count)
