"""The pictures of a run, and which of them it has: `run.json` lists them once they are whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from diversevis.pictures.front import make_front_figures
from diversevis.pictures.measures import catalogue
from diversevis.pictures.sheet import make_sheets
from diversevis.pictures.trace import make_trace_figure
from diversevis.runs.folder import RunFolder

IMAGES = "images"  # sheets, single images, trace and fronts; other names are the measures'


def lacking(folder: RunFolder) -> list[str]:
    """Of what the run has arrays for, and no pictures, or not all of them."""
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
    """The pictures of the images, or of one measure (of so many units).

    pulse  told of how many of how many units are drawn; may raise
    """
    tell = partial(pulse, f"pictures ({name})")
    if name == IMAGES:
        make(folder, tell)
    else:
        make_measure(folder, name, most, tell)
    folder.update_record(drawn=[*_others(folder, name), name])


def forget(folder: RunFolder, name: str) -> None:
    """Before there are other arrays: the pictures are no longer theirs."""
    folder.update_record(drawn=_others(folder, name))


def _others(folder: RunFolder, name: str) -> list[str]:
    return [one for one in folder.read_record().get("drawn", []) if one != name]


def make(folder: RunFolder, tell: Callable[[int, int], None]) -> None:
    """Every picture of a run's images, from what its folder holds.

    tell  told of how many of how many units are drawn; may raise
    """
    make_sheets(folder, tell)
    make_trace_figure(folder)
    make_front_figures(folder)


def make_measure(
    folder: RunFolder, name: str, most: int | Literal["all"], tell: Callable[[int, int], None]
) -> None:
    """The pictures of one measure: of every unit that has numbers (or of so many, those with the
    lowest and highest index), and of all together.

    tell  told of how many of how many units are drawn; may raise
    """
    record, metrics = folder.read_record(), folder.read_metrics()
    rows = [row for row, one in enumerate(metrics) if one[name] is not None]
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
