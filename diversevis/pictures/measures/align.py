"""Alignment: a unit and those like it; a layer ordered by families (docs/method.md, section 9)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from diversevis.measures.families import ALIKE, LEAST, is_divided, structure_of
from diversevis.method.images import display
from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import LayerPicture, spread
from diversevis.pictures.measures.view import Layer, View, median, number, percent
from diversevis.pictures.panels import Graph, Panel, Tiles
from diversevis.units import counted

MOST_SHOWN = 16  # families whose typical unit is shown, the largest
LARGE = 0.03  # share of the units from which on a family's number is written beside the matrix
FEW = 24  # units up to which their numbers are written; families with broad lines between them
SIDE, TREE = 560, 110  # pixels: of the matrix, height of the tree
NUMBERS = 24  # pixels for the digits of unit numbers, which stand upright below the matrix
CLOSE = {"gridspec_kw": {"hspace": 0.04}}
ROWS = {"nrows": 2, "sharex": True, "height_ratios": (TREE, SIDE)}


def picture(view: View) -> page.Block:
    """The batch, and the best images of the nearest units under the map onto this unit."""
    pixels, captions = _nearest(view)
    near = page.tiles(pixels, captions, "best image, and those of the nearest units, moved onto it")
    return page.compose(view.title, lines(view), [*view.batch("images"), near])


def panels(view: View) -> list[Panel]:
    """The same, for a paper."""
    pixels, captions = _nearest(view)
    near = Tiles(images=list(pixels), captions=captions, heading="nearest units, moved onto it")
    return [*view.batch_panel("images"), near]


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    size, family = view.numbers.get("family_size"), view.numbers.get("family")
    typical = ", and is its typical unit" if view.numbers.get("typical") else ""
    said = f"Alignment. The unit belongs to family {family or '-'}"
    said += f" of {counted(size, 'unit')}{typical}" if size else ""
    return [
        f"{said}; silhouette {view.text('silhouette')}",
        f"Mean share of the best response, there and back: {view.text('to_family')} within the "
        f"family, {view.text('to_others')} with other units, {view.text('to_nearest')} with the "
        "nearest",
        "there: the nearest unit's response to this unit's images, each moved by the best map, "
        "over its best response; back: this unit's response to the images of the other",
    ]


def layer_picture(layer: Layer) -> LayerPicture | None:
    """The matrix in the order of the families, their typical units, and how near units are."""
    nearest = layer.values("to_nearest")
    if not np.isfinite(nearest).any():
        return None
    order = layer.arrays["order"].numpy()
    shares = layer.array("shares")[np.ix_(order, order)]
    labels = [str((layer.numbers[row] or {}).get("family")) for row in order]
    names = [layer.units[row] for row in order]
    draw = partial(draw_matrix, shares, labels, names, layer.array("linkage"))
    images, captions = _typical(layer)
    pairs = int(np.isfinite(layer.array("shares")).sum())

    def above() -> list[page.Block]:
        heading = "typical units of the families, the largest family first"
        return [matrix_block(draw), page.tiles(images, captions, heading)]

    left_out = left_out_line(*layer.arrays["left_out"].tolist(), pairs=pairs)
    return spread(
        layer,
        f"Alignment. {families_line(layer.array('divisions'), labels)}",
        {"to_nearest": nearest},
        label="share of the best response, there and back, with the nearest unit",
        limits=(0.0, 1.0),
        above=above,
        more=[left_out, f"Median share with the nearest unit {number(median(nearest))}"],
        panels_above=[
            Graph(draw=draw, height=75, subplots=ROWS),
            Tiles(images=list(images), captions=captions),
        ],
    )


def families_line(divisions: Float[np.ndarray, "division 2"], labels: Sequence[str]) -> str:
    """How many families there are, and how clear they are."""
    units = counted(len(labels), "unit")
    if not len(divisions):
        return f"{units}, too few for families"
    made = [mean for mean, height in divisions.tolist() if is_divided(mean, height)]
    mean, height = divisions[0].tolist()
    if not made and height <= ALIKE:
        return f"All {units} are a family: they align to {number(1 - height)} and more on average"
    if not made:
        return (
            f"No families among {units}: mean silhouette of the best division {number(mean)}, and "
            f"up to {LEAST} there is no structure"
        )
    clear = " to ".join(dict.fromkeys(
        f"{number(mean)} ({structure_of(mean)})" for mean in (min(made), max(made))
    ))  # fmt: skip
    count = len(set(labels))
    return f"{count} families of {units}; mean silhouettes of the divisions: {clear}"


def matrix_block(draw: Any) -> page.Block:
    """The matrix under its tree, as `draw_matrix` draws them, for a page."""
    width = graph.LEFT + SIDE + graph.FOR_COLOR_BAR
    bottom = graph.BOTTOM + NUMBERS
    height = TREE + SIDE + bottom + graph.TOP
    margins = {"right": graph.FOR_COLOR_BAR, "bottom": bottom}
    return graph.block(draw, width, height, **margins, **CLOSE, **ROWS)


def draw_matrix(
    shares: Float[np.ndarray, "unit unit"],
    labels: Sequence[str],
    names: Sequence[int],
    linkage: Float[np.ndarray, "merge 4"],
    axes: Any,
) -> None:
    """S of units in the order of the tree's leaves, with a line between families.

    labels, names  family and number of every unit
    """
    tree, axis = axes
    _draw_tree(tree, linkage)
    colors = axis.imshow(shares, cmap=graph.MAP, vmin=0, vmax=1, aspect="auto",
                         interpolation="nearest")  # fmt: skip
    starts = [0, *(at for at in range(1, len(labels)) if labels[at] != labels[at - 1])]
    thin = 0.8 if len(starts) <= FEW else 0.3
    for start in starts[1:]:
        for line in (axis.axhline, axis.axvline):
            line(start - 0.5, color="white", lw=thin)
    spans = list(zip(starts, [*starts[1:], len(labels)], strict=True))
    large = [(start, end) for start, end in spans if end - start >= LARGE * len(labels)]
    axis.set_yticks([(start + end - 1) / 2 for start, end in large])
    axis.set_yticklabels([labels[start] for start, _ in large])
    axis.set_xticks(range(len(names)) if len(names) <= FEW else [])
    if len(names) <= FEW:
        axis.set_xticklabels(names, rotation=90)
    axis.set(ylabel="images of the units, by family", xlabel="unit that responds")
    graph.color_bar(colors, axis, "share of best response")


def _draw_tree(axis: Any, linkage: Float[np.ndarray, "merge 4"]) -> None:
    from matplotlib.collections import LineCollection
    from scipy.cluster.hierarchy import dendrogram

    drawn = dendrogram(linkage, no_plot=True)
    x, y = (np.array(drawn[key]) for key in ("icoord", "dcoord"))
    lines = np.stack([(x - 5) / 10, y], axis=-1)  # scipy puts the leaves at 5, 15, 25, ...
    axis.add_collection(LineCollection(list(lines), colors=graph.FAINT, linewidths=0.8))
    axis.set(ylim=(0, max(1e-3, 1.05 * y.max())), ylabel="distance")
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(bottom=False, labelbottom=False)


def _nearest(view: View) -> tuple[page.Pixels, list[str]]:
    """The unit's best image and those of its nearest units, with captions."""
    images, nearest = view.arrays["images"], view.numbers.get("nearest") or []
    captions = [f"unit {view.metrics['unit']}", *(_caption(other) for other in nearest)]
    return view.pixels(images[: len(captions)]), captions


def _caption(other: Mapping[str, Any]) -> str:
    turned = f"{number(other['rotation'])}°" if other["rotation"] is not None else "-"
    more = [word for word, said in (("mirrored", other["reflected"]),
                                    ("negative", other["sign"] == -1)) if said]  # fmt: skip
    return "\n".join([
        f"unit {other['unit']}", f"there {number(other['there'])}",
        f"back {number(other['back'])}", f"{turned}, x {number(other['scale'])}", *more,
    ])  # fmt: skip


def _typical(layer: Layer) -> tuple[page.Pixels, list[str]]:
    """Best images of the typical units of the largest families, with captions."""
    typical = [(row, entry) for row, entry in enumerate(layer.numbers)
               if entry and entry.get("typical")]  # fmt: skip
    typical = sorted(typical, key=lambda of_row: int(of_row[1]["family"]))[:MOST_SHOWN]
    captions = [
        f"family {entry['family']}\n{counted(entry['family_size'], 'unit')}\n"
        f"unit {layer.units[row]}"
        for row, entry in typical
    ]
    images = layer.arrays["images"][[row for row, _ in typical], 0]
    return display(images.nan_to_num(), tuple(layer.record["weights"]["mean"])), captions


def left_out_line(
    lost: float, tried: float, left_out: float, gained: float = math.nan, *, pairs: int
) -> str:
    """What the first pass left out of all pairs, and what a sample lost by it.

    gained  NaN where it is not known, as in earlier runs
    """
    said = f"{percent(left_out / pairs)} of {counted(pairs, 'pair')} left out by the first pass"
    if tried:
        said += f"; of {tried:.0f} of these, tried all the same, {lost:.0f} were lost by it"
        if math.isfinite(gained):
            said += f", and their share rose by {number(gained)} on average"
    return said
