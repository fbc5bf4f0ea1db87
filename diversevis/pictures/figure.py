"""Figures for a paper, from a run's files: which there are, and what is on them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from diversevis.errors import InputError
from diversevis.pictures import images
from diversevis.pictures.draw import MEASURES, layer_of, view_of
from diversevis.pictures.page import title_of
from diversevis.pictures.panels import Graph, Panel, Tiles
from diversevis.runs.folder import RunFolder

OF_IMAGES = "sheet", "trace", "front"
LAYER = "layer"
KINDS = (*OF_IMAGES, *MEASURES, LAYER)
OF_UNIT = "sheet", "front"  # there is no figure of all units


@dataclass(frozen=True, kw_only=True)
class Content:
    """What is on a figure.

    title  names network, layer and unit
    lines  what the figure says in words, for its caption
    """

    panels: Sequence[Panel]
    title: str
    lines: Sequence[str]


def kinds_of(folder: RunFolder) -> list[str]:
    """The kinds of figures that can be made of a run with results."""
    record, measures = folder.read_record(), folder.read_measures()
    has = [name for name in MEASURES if name in measures]
    if len(folder.read_metrics()) > 1 and has:
        has.append(LAYER)
    if record["n"] is not None:
        has.append("sheet")
        with contextlib.suppress(OSError, ValueError):
            has += ["trace"] if folder.read_trace()[1] else []
        if folder.read_front() is not None:
            has.append("front")
    return [kind for kind in KINDS if kind in has]


def content_of(folder: RunFolder, kind: str, unit: int | None) -> Content:
    """A figure of one of the run's kinds; of all units for `unit` None.

    Raises `InputError` where there is nothing to draw.
    """
    record, metrics = folder.read_record(), folder.read_metrics()
    title = title_of(record, [entry["unit"] for entry in metrics] if unit is None else [unit])
    if unit is None:
        panels, lines = _trace(folder, None) if kind == "trace" else _layer(folder, kind)
        return Content(panels=panels, title=title, lines=lines)
    entry = next(entry for entry in metrics if entry["unit"] == unit)
    if entry.get("stop") == "dead":
        raise InputError(f"{title}: it is dead, so that there is nothing to show.")
    if kind == "trace":
        panels, lines = _trace(folder, unit)
    elif kind == "front":
        panels, lines = _front(folder, entry)
    elif kind == "sheet":
        panels, lines = _sheet(folder, entry)
    else:
        panels, lines = _measure(folder, kind, entry)
    return Content(panels=panels, title=title, lines=lines)


Drawn = tuple[Sequence[Panel], Sequence[str]]


def _sheet(folder: RunFolder, entry: dict[str, Any]) -> Drawn:
    record, arrays = folder.read_record(), folder.read_images()
    row = arrays["units"].tolist().index(entry["unit"])
    reference = arrays["reference"][row] if "reference" in arrays else None
    pixels, captions = images.captioned(
        arrays["images"][row], arrays["responses"][row].tolist(), reference, record
    )
    return [Tiles(images=list(pixels), captions=captions)], images.sheet_lines(record, entry)


def _trace(folder: RunFolder, unit: int | None) -> Drawn:
    columns = images.trace_columns(*folder.read_trace())
    if unit is not None:
        rows = columns["unit"] == unit
        columns = {name: values[rows] for name, values in columns.items()}
    draws = images.trace_graphs(columns, folder.read_record())
    return [Graph(draw=draw) for draw in draws], [images.trace_line(columns)]


def _front(folder: RunFolder, entry: dict[str, Any]) -> Drawn:
    record, front = folder.read_record(), folder.read_front()
    rows = entry.get("front")
    if front is None or not rows or any(value is None for row in rows for value in row.values()):
        raise InputError(f"Unit {entry['unit']} has no front of finite numbers.")
    batches = front["images"][front["units"].tolist().index(entry["unit"])]
    panels: list[Panel] = [
        Graph(draw=partial(images.front_graph, record, entry), legend=images.FRONT_LEGEND)
    ]
    for heading, pixels in images.front_batches(record, entry, batches):
        panels.append(Tiles(images=list(pixels), captions=[""] * len(pixels), heading=heading))
    return panels, [images.front_line(entry)]


def _measure(folder: RunFolder, name: str, entry: dict[str, Any]) -> Drawn:
    record, units = folder.read_record(), [other["unit"] for other in folder.read_metrics()]
    if entry.get(name) is None:
        raise InputError(
            f"Unit {entry['unit']} has no numbers of {name}: it was not in the sample that was "
            "measured."
        )
    row = units.index(entry["unit"])
    batch, responses = None, None
    if record["n"] is not None:
        arrays = folder.read_images()
        batch, responses = arrays["images"][row], arrays["responses"][row]
    view = view_of(name, record, entry, folder.read_measure(name), row, batch, responses)
    module, _ = MEASURES[name]
    return module.panels(view), module.lines(view)


def _layer(folder: RunFolder, kind: str) -> Drawn:
    record, metrics = folder.read_record(), folder.read_metrics()
    measures = folder.read_measures()
    names = [name for name in MEASURES if name in measures] if kind == LAYER else [kind]
    panels: list[Panel] = []
    lines: list[str] = []
    for name in names:
        layer = layer_of(name, record, metrics, folder.read_measure(name))
        drawn = MEASURES[name][0].layer_picture(layer)
        if drawn is not None:
            panels += drawn.panels
            lines += drawn.lines
    if not panels:
        raise InputError(f"{title_of(record, [*range(len(metrics))])}: no unit has a value.")
    return panels, lines
