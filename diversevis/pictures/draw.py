"""Draws the pictures of a run from its files; `drawn` in run.json lists those that are complete.

The module of every measure has `picture(view)`, of a unit, and `layer_picture(layer)`; for a paper
(figure.py), `panels(view)` and `lines(view)`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from diversevis.pictures.images import Drawn, draw_images, noted
from diversevis.pictures.measures import (
    align,
    bipartite,
    deformation,
    dimension,
    diversity,
    gain,
    metamers,
    natural,
    phase,
    selectivity,
    shift,
    varied,
)
from diversevis.pictures.measures.view import SHARED, Layer, View
from diversevis.pictures.page import compose, png
from diversevis.runs.files import synced_together
from diversevis.runs.folder import RunFolder
from diversevis.units import counted

LOG = logging.getLogger("diversevis")

Most = int | Literal["all"]
IMAGES = "images"  # in `drawn`: sheets, single images, trace and fronts; else the name of a measure
NOTHING: Drawn = {}
MEASURES = {  # the module, and the index that units are ordered by
    "gain": (gain, "distance_min"), "phase": (phase, "f1f0"), "shift": (shift, "mean"),
    "deformation": (deformation, "stability"), "diversity": (diversity, "index"),
    "dimension": (dimension, "participation"), "natural": (natural, "of_synthetic"),
    "bipartite": (bipartite, "index"), "selectivity": (selectivity, "mean_others"),
    "align": (align, "to_nearest"), "varied": (varied, "best_crop"),
    "metamers": (metamers, "error_of_trained"),
}  # fmt: skip


def missing_pictures(folder: RunFolder) -> list[str]:
    """`IMAGES` and measures for which the run has arrays, but not all of the pictures."""
    record = folder.read_record()
    images = [] if record["n"] is None else [IMAGES]
    drawn = record.get("drawn", [])
    return [name for name in (*images, *folder.read_measures()) if name not in drawn]


def draw(
    folder: RunFolder,
    name: str,
    most: Most,
    pulse: Callable[[str, int, int], None],
    drawn: Drawn = NOTHING,
) -> None:
    """Draw the pictures of `IMAGES`, or of a measure for at most `most` units.

    pulse  called with what is drawn, and the numbers of units drawn and of all; may raise
    drawn  what another process has drawn
    """
    tell = partial(pulse, f"pictures ({name})")
    with synced_together():
        if name == IMAGES:
            failures = draw_images(folder, tell, drawn)
        else:
            failures = _measure(folder, name, most, tell, drawn)
    if failures:  # the numbers are there: only a picture is missing
        what = counted(len(failures), "picture")
        LOG.warning("%s: %s (%s) could not be drawn: %s", folder.path, what, name, failures[0])
    else:
        folder.update_record(drawn=[*_drawn_besides(folder, name), name])


def mark_outdated(folder: RunFolder, name: str) -> None:
    """Take `name` off the list, before its arrays change: the pictures will be out of date."""
    folder.update_record(drawn=_drawn_besides(folder, name))


def _drawn_besides(folder: RunFolder, name: str) -> list[str]:
    return [drawn for drawn in folder.read_record().get("drawn", []) if drawn != name]


def _measure(
    folder: RunFolder, name: str, most: Most, tell: Callable[[int, int], None], drawn: Drawn
) -> list[str]:
    """Pictures of units (`rows_of`), and of the layer; returns what failed."""
    failures: list[str] = []
    metrics = folder.read_metrics()
    if all(entry[name] is None for entry in metrics):
        return failures
    rows = rows_of(name, metrics, most)
    left = [row for row in rows if metrics[row]["unit"] not in drawn]
    of_units = {**drawn, **(draw_rows(folder, name, left, tell) if left else {})}
    for row in rows:
        failures += of_units[metrics[row]["unit"]]
    return failures + (drawn[None] if None in drawn else draw_layer(folder, name))


def draw_rows(
    folder: RunFolder, name: str, rows: Sequence[int], tell: Callable[[int, int], None]
) -> Drawn:
    """Write a measure's pictures of the units at these rows of metrics.json."""
    record, metrics = folder.read_record(), folder.read_metrics()
    arrays = folder.read_measure(name)
    run = folder.read_images() if record["n"] is not None else None
    drawn: dict[int | None, list[str]] = {}
    for done, row in enumerate(rows):
        tell(done, len(rows))
        images, responses = (run[key][row] if run else None for key in ("images", "responses"))
        unit = metrics[row]["unit"]
        drawn[unit] = []
        with noted(drawn[unit], f"unit {unit}"):
            unit_png = picture(name, record, metrics[row], arrays, row, images, responses)
            folder.write_measure_picture(name, unit, unit_png)
    return drawn


def draw_layer(folder: RunFolder, name: str) -> list[str]:
    """Write a measure's picture of the layer; returns what failed."""
    failures: list[str] = []
    with noted(failures, "the layer"):
        metrics, arrays = folder.read_metrics(), folder.read_measure(name)
        layer_png = layer_picture(name, folder.read_record(), metrics, arrays)
        if layer_png is not None:
            folder.write_measure_picture(name, None, layer_png)
    return failures


def rows_of(name: str, metrics: Sequence[dict[str, Any]], most: Most) -> list[int]:
    """The rows of metrics.json with numbers of the measure, or `most` with extreme indices."""
    rows = [row for row, entry in enumerate(metrics) if entry[name] is not None]
    return rows if most == "all" else _extremes(name, metrics, rows, most)


def _extremes(
    name: str, units_metrics: Sequence[dict[str, Any]], rows: list[int], most: int
) -> list[int]:
    """Up to `most` of these rows: half with the lowest, half with the highest index."""
    _, index = MEASURES[name]
    indices = {row: units_metrics[row][name].get(index) for row in rows}
    order = sorted((row for row in rows if indices[row] is not None), key=lambda row: indices[row])
    if len(order) <= most:
        return rows[:most]
    return sorted(order[: most // 2] + order[len(order) - (most - most // 2) :])


def picture(
    name: str,
    record: dict[str, Any],
    metrics: dict[str, Any],
    arrays: dict[str, Tensor],
    row: int,
    images: Float[Tensor, "image color height width"] | None,
    responses: Float[Tensor, " image"] | None,
) -> bytes:
    """The PNG file of a measure of the unit at `row` of `arrays`; the others are as in `View`."""
    module, _ = MEASURES[name]
    return png(module.picture(view_of(name, record, metrics, arrays, row, images, responses)))


def view_of(
    name: str,
    record: dict[str, Any],
    metrics: dict[str, Any],
    arrays: dict[str, Tensor],
    row: int,
    images: Float[Tensor, "image color height width"] | None,
    responses: Float[Tensor, " image"] | None,
) -> View:
    """What a measure's picture of the unit at `row` of `arrays` is drawn from."""
    return View(
        record=record, metrics=metrics, numbers=metrics[name], images=images, responses=responses,
        arrays={key: x if key in SHARED else x[row] for key, x in arrays.items()},
    )  # fmt: skip


def layer_picture(
    name: str,
    record: dict[str, Any],
    units_metrics: Sequence[dict[str, Any]],
    arrays: dict[str, Tensor],
) -> bytes | None:
    """The PNG file of a measure of a run's units; None for one unit, or where none has a value."""
    if len(units_metrics) < 2:
        return None
    layer = layer_of(name, record, units_metrics, arrays)
    drawn = MEASURES[name][0].layer_picture(layer)
    return None if drawn is None else png(compose(layer.title, drawn.lines, drawn.blocks()))


def layer_of(
    name: str,
    record: dict[str, Any],
    units_metrics: Sequence[dict[str, Any]],
    arrays: dict[str, Tensor],
) -> Layer:
    """What a measure's picture of a run's units is drawn from."""
    units, numbers = zip(*((m["unit"], m.get(name)) for m in units_metrics), strict=True)
    return Layer(record=record, units=list(units), numbers=list(numbers), arrays=arrays)
