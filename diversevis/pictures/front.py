"""The front of response against diversity (docs/method.md, section 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diversevis.method.images import display
from diversevis.pictures import graph, page
from diversevis.pictures.trace import distance_label
from diversevis.runs.folder import RunFolder

LABEL_GAP = 0.035  # of the largest distance: labels of points nearer than this would touch
ROWS = 6  # the number of weights whose images are shown


def make_front_figures(folder: RunFolder) -> None:
    """Write `front_unit0012.png` of every unit whose front was traced and has finite numbers."""
    front = folder.read_front()
    if front is None:
        return
    record = folder.read_record()
    metrics = {entry["unit"]: entry for entry in folder.read_metrics()}
    for unit, images in zip(front["units"].tolist(), front["images"], strict=True):
        rows = metrics[unit]["front"]
        if all(value is not None for row in rows for value in row.values()):
            folder.write_front_figure(unit, page.png(front_picture(record, metrics[unit], images)))


def front_picture(
    record: dict[str, Any],
    metrics: dict[str, Any],
    images: Float[Tensor, "weight image 3 height width"],
) -> page.Block:
    """Response against smallest distance over the weights, the knee marked, above the images of
    some weights."""
    rows, knee = metrics["front"], metrics["knee"]
    weights = [row["diversity"] for row in rows]
    at_knee = rows[weights.index(knee)]
    line = (
        f"Front of response against diversity over {len(rows)} weights. Knee at weight {knee:g}: "
        f"mean response {at_knee['response_mean']:.4g}, "
        f"smallest distance {at_knee['distance_min']:.3g}"
    )
    batches = []
    for index in _shown(weights, knee):
        heading = f"weight {weights[index]:g}" + (" (knee)" if weights[index] == knee else "")
        pixels = display(images[index], tuple(record["weights"]["mean"]))
        batches.append(page.tiles(pixels, [""] * len(pixels), heading))
    title = page.title_of(record, [metrics["unit"]])
    return page.compose(title, [line], [_graph(record, rows, at_knee), page.stacked(batches, 4)])


def _shown(weights: Sequence[float], knee: float) -> list[int]:
    """Indices of the weights whose images are shown: `ROWS` at equal steps, and the knee's."""
    even = {round(i * (len(weights) - 1) / (ROWS - 1)) for i in range(ROWS)}
    return sorted(even | {weights.index(knee)})


def _graph(
    record: dict[str, Any], rows: Sequence[dict[str, Any]], at_knee: dict[str, Any]
) -> page.Block:
    figure, axis = graph.canvas(640, 360, right=50, top=24)
    distances = [row["distance_min"] for row in rows]
    means, smallest = ([row[f"response_{kind}"] for row in rows] for kind in ("mean", "min"))
    axis.plot(distances, means, "o-", color=graph.BLUE, lw=1.2, ms=4)
    axis.plot(distances, smallest, color=graph.FAINT, lw=1, ls="--")
    axis.plot(at_knee["distance_min"], at_knee["response_mean"], "o", color=graph.ORANGE, ms=8)
    labelled: list[float] = []
    for row in (at_knee, *rows):
        x = row["distance_min"]
        if all(abs(x - other) >= LABEL_GAP * max(distances) for other in labelled):
            labelled.append(x)
            text, look = f"{row['diversity']:g}", {"xytext": (4, 5), "color": graph.FAINT}
            if row is at_knee:  # below its point, where the labels of its neighbours are not
                text += " knee"
                look = {"xytext": (-6, -6), "color": graph.ORANGE, "ha": "right", "va": "top"}
            point = x, row["response_mean"]
            axis.annotate(text, point, textcoords="offset points", fontsize=9, **look)
    axis.set(xlabel=distance_label(record["distance"]), ylabel="response")
    axis.margins(0.06, 0.1)
    graph.response_axis(axis)
    names = [("mean of the batch, at every weight", graph.BLUE), ("smallest", graph.FAINT)]
    return page.stacked([page.legend(names), graph.drawn(figure)], 6)
