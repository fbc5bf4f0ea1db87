"""The front of response against diversity, as a picture."""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diversevis.method.images import display
from diversevis.pictures.graph import (
    BLUE,
    BOTTOM,
    FAINT,
    LEFT,
    ORANGE,
    canvas,
    drawn,
    response_axis,
)
from diversevis.pictures.page import page, stacked, tiles
from diversevis.pictures.sheet import noun
from diversevis.pictures.trace import unit_of_distance
from diversevis.runs.folder import RunFolder

SIZE = 640, 380  # pixels of the graph
APART = 0.035  # of the largest distance: labels of points nearer than this would touch
ROWS = 6  # so many of the weights have their images shown


def make_front_figures(folder: RunFolder) -> None:
    """`front_unit0012.png` of every unit whose front was traced, and is of finite numbers."""
    found = folder.read_front()
    if found is None:
        return
    record = folder.read_record()
    metrics = {one["unit"]: one for one in folder.read_metrics()}
    for unit, images in zip(found["units"].tolist(), found["images"], strict=True):
        if all(value is not None for row in metrics[unit]["front"] for value in row.values()):
            folder.write_front_figure(unit, front_picture(record, metrics[unit], images))


def front_picture(
    record: dict[str, Any],
    metrics: dict[str, Any],
    images: Float[Tensor, "weight image 3 height width"],
) -> bytes:
    """Response against smallest distance over the weights, the knee marked, and the images of some
    weights, as a PNG file."""
    table, knee = metrics["front"], metrics["knee"]
    title = f"{record['model']}  {record['layer']}  {noun(record)} {metrics['unit']}"
    at = next(row for row in table if row["diversity"] == knee)
    lines = [
        f"Front of response against diversity over {len(table)} weights. Knee at weight {knee:g}: "
        f"mean response {at['response_mean']:.4g}, smallest distance {at['distance_min']:.3g}"
    ]
    rows = []
    for place in _shown([row["diversity"] for row in table], knee):
        own = table[place]
        heading = f"weight {own['diversity']:g}" + (" (knee)" if own["diversity"] == knee else "")
        captions = [""] * images.shape[1]
        pixels = display(images[place], tuple(record["weights"]["mean"]))
        rows.append(tiles(pixels, captions, heading))
    return page(title, lines, [_graph(record, table, knee), stacked(rows, gap=4)])


def _shown(weights: list[float], knee: float) -> list[int]:
    """Places of some of the weights, evenly among them, the knee's with them."""
    if len(weights) <= ROWS:
        return list(range(len(weights)))
    some = {round(i * (len(weights) - 1) / (ROWS - 1)) for i in range(ROWS)}
    return sorted(some | {weights.index(knee)})


def _graph(record: dict[str, Any], table: list[dict[str, Any]], knee: float) -> Any:
    figure, axis = canvas(*SIZE, margins=(LEFT + 10, 40, BOTTOM, 30))
    distances = [row["distance_min"] for row in table]
    means = [row["response_mean"] for row in table]
    axis.plot(distances, means, "o-", color=BLUE, lw=1.2, ms=4)
    axis.plot(distances, [row["response_min"] for row in table], color=FAINT, lw=1, ls="--")
    axis.annotate("smallest of the batch", (distances[-1], table[-1]["response_min"]), (0, -10),
                  textcoords="offset points", ha="right", va="top", color=FAINT)  # fmt: skip
    labelled = [-math.inf]
    for row in table:
        is_knee, at = row["diversity"] == knee, row["distance_min"]
        if at - labelled[-1] < APART * max(distances) and not is_knee:
            continue  # its weight would be written over the one before
        labelled.append(at)
        axis.annotate(
            f"{row['diversity']:g}" + (" knee" if is_knee else ""),
            (row["distance_min"], row["response_mean"]), (4, 5), textcoords="offset points",
            color=ORANGE if is_knee else FAINT, fontsize=9,
        )  # fmt: skip
        if is_knee:
            axis.plot(row["distance_min"], row["response_mean"], "o", color=ORANGE, ms=8)
    axis.set_xlabel(f"smallest distance ({unit_of_distance(record['distance'])})")
    axis.set_ylabel("mean response")
    axis.margins(0.06, 0.1)
    response_axis(axis)
    return drawn(figure)
