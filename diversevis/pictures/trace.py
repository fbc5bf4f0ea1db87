"""Mean response and smallest distance at every step of the optimization."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from diversevis.pictures import graph, page
from diversevis.runs.folder import RunFolder

FEW = 6  # up to this number of units have a curve each; more are shown as median and quartiles


def make_trace_figure(folder: RunFolder) -> None:
    """Write `trace.png` from `trace.csv`, if that has any rows."""
    names, rows = folder.read_trace()
    if rows:
        columns = dict(zip(names, np.array(rows).T, strict=True))
        folder.write_trace_figure(page.png(trace_picture(folder.read_record(), columns)))


def trace_picture(
    record: dict[str, Any], columns: dict[str, Float[np.ndarray, " row"]]
) -> page.Block:
    """The picture of a trace.

    columns  of `trace.csv`: `step`, `unit`, and terms of which `distance_min` may be missing
    """
    units = np.unique(columns["unit"]).astype(int).tolist()
    line = "Response and smallest distance at every step of the optimization"
    if len(units) > FEW:
        line += ": median and quartiles of the units"
    blocks = [_graph(columns, "response_mean", "mean response", graph.BLUE)]
    if "distance_min" in columns:
        label = distance_label(record["distance"])
        blocks.append(_graph(columns, "distance_min", label, graph.ORANGE))
    return page.compose(page.title_of(record, units), [line], blocks)


def _graph(
    columns: dict[str, Float[np.ndarray, " row"]], name: str, label: str, color: str
) -> page.Block:
    figure, axis = graph.canvas(900, 300, right=60, top=20)
    curves = {}
    for unit in np.unique(columns["unit"]):
        rows = columns["unit"] == unit
        curves[f"{unit:.0f}"] = columns["step"][rows], columns[name][rows]
    if len(curves) > FEW:
        _quartiles(axis, [values for _, values in curves.values()], color)
    else:
        for steps, values in curves.values():
            axis.plot(steps, values, color=color, lw=1.2, alpha=0.8)
    axis.margins(x=0.02)
    axis.set(xlabel="step", ylabel=label)
    graph.response_axis(axis)
    if 1 < len(curves) <= FEW:
        ends = [(float(values[-1]), unit, graph.FAINT) for unit, (_, values) in curves.items()]
        graph.label_ends(axis, ends)
    return graph.drawn(figure)


def _quartiles(axis: Any, curves: list[Float[np.ndarray, " _"]], color: str) -> None:
    """Median and quartiles over units; a unit that stopped keeps its last value."""
    last = max(len(curve) for curve in curves)
    padded = [np.pad(curve, (0, last - len(curve)), mode="edge") for curve in curves]
    low, middle, high = np.percentile(np.array(padded), [25, 50, 75], axis=0)
    steps = np.arange(1, last + 1)
    axis.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)
    axis.plot(steps, middle, color=color, lw=1.2)


def distance_label(distance: str) -> str:
    """`smallest distance (RMS grey levels)`, or `(RMS, conv2_2)` if it is taken in that layer."""
    unit = "RMS grey levels" if distance == "pixels" else f"RMS, {distance}"
    return f"smallest distance ({unit})"
