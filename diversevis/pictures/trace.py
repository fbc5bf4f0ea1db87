"""How response and smallest distance went, step by step."""

from __future__ import annotations

import io

import numpy as np

from diversevis.pictures.sheet import noun
from diversevis.runs.folder import RunFolder

BLUE, ORANGE, FAINT = "#0072B2", "#D55E00", "#8c8c8c"  # Okabe & Ito: safe for the colour-blind
FEW = 6  # so many units are drawn one by one; more as median and quartiles


def make_trace_figure(folder: RunFolder) -> None:
    """`trace.png` from `trace.csv`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    record = folder.read_record()
    names, rows = folder.read_trace()
    if not rows:
        return
    table = np.array(rows)
    steps, units = table[:, 0], table[:, 1]
    wanted = [
        ("response_mean", "mean response", BLUE),
        ("distance_min", f"smallest distance ({unit_of_distance(record['distance'])})", ORANGE),
    ]
    shown = [(names.index(key), label, color) for key, label, color in wanted if key in names]
    figure = Figure(figsize=(7.2, 2.6 * len(shown) + 0.5), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    each = np.unique(units)
    for axis, (column, label, color) in zip(axes, shown, strict=True):
        if len(each) <= FEW:
            for unit in each:
                own = units == unit
                axis.plot(steps[own], table[own, column], color=color, lw=1.2, alpha=0.8)
                if len(each) > 1:
                    axis.annotate(
                        f" {unit:.0f}", (steps[own][-1], table[own, column][-1]),
                        fontsize=8, color=FAINT, va="center",
                    )  # fmt: skip
        else:
            _quartiles(axis, steps, units, table[:, column], color)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.02)
    axes[-1].set_xlabel("step")
    what = noun(record)
    count = f"{what} {each[0]:.0f}" if len(each) == 1 else f"{len(each)} {what}s"
    if len(each) > FEW:
        count += " (median and quartiles)"
    figure.suptitle(f"{record['model']}  {record['layer']}  {count}", fontsize=11)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    folder.write_trace_figure(content.getvalue())


def _quartiles(axis, steps, units, values, color) -> None:  # type: ignore[no-untyped-def]
    """Median and quartiles over units; a unit that stopped keeps its last value."""
    last = int(steps.max())
    curves = []
    for unit in np.unique(units):
        own = values[units == unit]
        curves.append(np.concatenate([own, np.full(last - len(own), own[-1])]))
    low, middle, high = np.percentile(np.array(curves), [25, 50, 75], axis=0)
    at = np.arange(1, last + 1)
    axis.fill_between(at, low, high, color=color, alpha=0.2, lw=0)
    axis.plot(at, middle, color=color, lw=1.2)


def unit_of_distance(distance: str) -> str:
    """What distances are measured in: `distance` is `pixels` or a layer."""
    return "RMS grey levels" if distance == "pixels" else f"RMS, {distance}"
