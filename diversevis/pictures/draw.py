"""Draws the pictures of a run; `drawn` in run.json lists those that are complete."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from diversevis.pictures.front import make_front_figures
from diversevis.pictures.measures import catalogue
from diversevis.pictures.sheet import make_sheets
from diversevis.pictures.trace import make_trace_figure
from diversevis.runs.folder import RunFolder

IMAGES = "images"  # in `drawn`: sheets, single images, trace and fronts; else the name of a measure


def lacking(folder: RunFolder) -> list[str]:
    """`IMAGES` and measures for which the run has arrays, but not all of the pictures."""
    record = folder.read_record()
    images = [] if record["n"] is None else [IMAGES]
    drawn = record.get("drawn", [])
    return [name for name in (*images, *folder.read_measures()) if name not in drawn]


def draw(
    folder: RunFolder,
    name: str,
    most: int | Literal["all"],
    pulse: Callable[[str, int, int], None],
) -> None:
    """Draw the pictures of `IMAGES`, or of a measure for at most `most` units.

    pulse  called with what is drawn, and the numbers of units drawn and of all; may raise
    """
    tell = partial(pulse, f"pictures ({name})")
    if name == IMAGES:
        make_sheets(folder, tell)
        make_trace_figure(folder)
        make_front_figures(folder)
    else:
        _draw_measure(folder, name, most, tell)
    folder.update_record(drawn=[*_drawn_besides(folder, name), name])


def forget(folder: RunFolder, name: str) -> None:
    """Take `name` off the list, before its arrays change: the pictures will be out of date."""
    folder.update_record(drawn=_drawn_besides(folder, name))


def _drawn_besides(folder: RunFolder, name: str) -> list[str]:
    return [drawn for drawn in folder.read_record().get("drawn", []) if drawn != name]


def _draw_measure(
    folder: RunFolder, name: str, most: int | Literal["all"], tell: Callable[[int, int], None]
) -> None:
    """A picture of every unit that has numbers, or of the `most` with the lowest and highest index;
    and one of the layer."""
    record, metrics = folder.read_record(), folder.read_metrics()
    rows = [row for row, entry in enumerate(metrics) if entry[name] is not None]
    if not rows:
        return
    arrays = folder.read_measure(name)
    run = folder.read_images() if record["n"] is not None else None
    if most != "all":
        rows = catalogue.extremes(name, metrics, rows, most)
    for done, row in enumerate(rows):
        tell(done, len(rows))
        images, responses = (run[key][row] if run else None for key in ("images", "responses"))
        png = catalogue.picture(name, record, metrics[row], arrays, row, images, responses)
        folder.write_measure_picture(name, metrics[row]["unit"], png)
    layer = catalogue.layer_picture(name, record, metrics, arrays)
    if layer is not None:
        folder.write_measure_picture(name, None, layer)
