"""An empty figure of panels, its axes' ticks and texts."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

COLUMNS = 5  # panels side by side
PANEL, AROUND = (2.8, 2.75), (0.85, 1.1)  # inches: a panel with its text, and the text alone
HEAD = 0.8  # inches, of the legend
LONGEST_LINE = 95  # characters of the legend


def make_panels(count: int) -> tuple[Any, list[Any]]:
    """A figure with so many panels; one that is empty says so."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(COLUMNS, max(3, count))
    rows = max(1, math.ceil(count / columns))
    width, height = PANEL[0] * columns, PANEL[1] * rows + HEAD
    figure = Figure(figsize=(width, height), dpi=150)  # laid out by hand: twice as fast
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    inner = PANEL[0] - AROUND[0], PANEL[1] - AROUND[1]
    figure.subplots_adjust(
        left=(AROUND[0] - 0.15) / width, right=1 - 0.15 / width, bottom=0.5 / height,
        top=1 - (HEAD + AROUND[1] - 0.5) / height,
        wspace=AROUND[0] / inner[0], hspace=AROUND[1] / inner[1],
    )  # fmt: skip
    for axis in panels:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))  # labels stay short
        axis.yaxis.label.set_size(8)
        axis.xaxis.label.set_size(8)
    for axis in panels[count:]:
        axis.set_visible(False)
    if count == 0:
        figure.text(0.5, 0.4, "no index has values to show", ha="center")
    return figure, panels[:count]


def size_axis(axis: Any, sizes: Sequence[float]) -> None:
    """Plain numbers of pixels; logarithmic where sizes differ by much."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = min(sizes), max(sizes)
    axis.set_xlim(low / 1.3, high * 1.3)
    if high > 4 * low:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_locator(NullLocator())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))


def write_title(axis: Any, title: str, caption: str) -> None:
    axis.set_title(caption, fontsize=7.5, loc="left", color="#404040")
    lines = caption.count("\n") + 1
    axis.annotate(title, (0, 1), (0, 8 + 10 * lines), xycoords="axes fraction",
                  textcoords="offset points", fontsize=9, weight="bold")  # fmt: skip


def write_legend(figure: Any, entries: Sequence[tuple[str, str]], title: str | None = None) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", lw=0, color=color, label=_short(text)) for text, color in entries
    ]
    figure.legend(handles=handles, loc="upper left", frameon=False, fontsize=10,
                  title=title and _short(title), title_fontsize=10, alignment="left")  # fmt: skip


def _short(text: str) -> str:
    """What fits a line of the narrowest figure."""
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 3] + "..."


def as_png(figure: Any) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
