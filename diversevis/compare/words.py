"""What a report says, as text: for `diversevis show`, the table after a run, and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diversevis.compare.answers import index_number, number, percent
from diversevis.compare.runs import Run
from diversevis.units import counted

Report = Mapping[str, Any]  # of a run, of a unit, or of an index of it

ANSWERING = "phase", "deformation", "shift", "diversity"  # measures that say how invariant it is
STATES = {
    "dead": "Dead: its response has no gradient in any of the noise drawn. Nothing can be said.",
    "diverged": "Diverged: its optimization did not settle; the numbers below mean little.",
}
ERROR = "±: standard error over random deformations"
HEADS = {  # of the columns of a table of units, with the decimals of their numbers
    "response_of_best": ("response", 0), "error": ("error", 0), "distance_min": ("distance", 1),
    "phase.f1f0": ("phase (F1/F0)", 2), "shift.mean_masked": ("shift", 2),
    "deformation.stability": ("deformation (R)", 2), "diversity.index": ("diversity", 2),
    "bipartite.index": ("bipartite", 2),
    "gain.distance_min": ("gain", 1), "dimension.participation": ("dimensions", 1),
    "natural.of_synthetic": ("natural", 2), "selectivity.mean_others": ("others", 2),
    "align.to_nearest": ("align", 2), "varied.best_crop": ("best crop", 2),
    "metamers.error_of_trained": ("random error", 2),
}  # fmt: skip
SHARES = "response_of_best", "error"
WITH_WORD = "phase.f1f0"  # the column where words say more than they take room


# -- a run ----------------------------------------------------------------------------------------


def how_made(report: Report) -> str:
    """How the images were made: `: 6 images of 24 x 24 px, RMS contrast 32`."""
    height, width = report["receptive_field"]
    field = f"{height} x {width} px"
    if report["n"] is None:
        return f": measured without images; receptive field {field}"
    images = counted(report["n"], "image")
    return f": {images} of {field}, RMS contrast {report['contrast']:.3g} grey levels"


def unfinished(run: Run) -> str | None:
    """What the numbers of a run are that is not finished; None for a finished run."""
    status = run.record["status"]
    if status == "finished":
        return None
    has = "the numbers are of what is done so far" if run.units else "it has no numbers yet"
    return f"This run is {status}, not finished: {has}. `diversevis status` says more."


def lacking(report: Report) -> list[str]:
    """The measures that say how invariant a unit is, and were neither taken nor impossible."""
    known = *report["measures"], *report["not_measured"]
    return [name for name in ANSWERING if name not in known]


# -- an index of a unit ---------------------------------------------------------------------------


def value_text(index: Report) -> str:
    """The index with its standard error, where it has one."""
    error = "" if index["error"] is None else f" ± {number(index['error'], 2)}"
    return index_number(index["value"]) + error


def word_text(index: Report) -> str:
    return "weak: says little" if index["weak"] else index["word"] or ""


def seeds_text(index: Report) -> str | None:
    """The spread of the index over seeds; None where the run has a single seed."""
    if not index["seeds"]:
        return None
    mean, deviation, count = (index["seeds"][key] for key in ("mean", "deviation", "count"))
    spread = f"mean {index_number(mean)}, standard deviation {index_number(deviation, 2)}"
    return f"over {number(count)} seeds: {spread}"


# -- a table of units -----------------------------------------------------------------------------


def columns_of_images(report: Report) -> list[str]:
    """The columns that need images: none where only measures were taken."""
    if report["n"] is None:
        return []
    return ["error" if report["references"] else "response_of_best", "distance_min"]


def noun_of(report: Report) -> str:
    """What a row of the run is: a unit, a direction, or a photograph of metamers."""
    if report["references"]:
        return "photograph"
    return "direction" if report["direction"] else "unit"


def table_rows(
    units: Sequence[Report],
    columns: Sequence[str],
    medians: Mapping[str, float | None] | None = None,
) -> list[tuple[str, ...]]:
    """A head, a row for every unit, and the medians."""
    rows = [("unit", *(HEADS[key][0] for key in columns))]
    rows += [(str(unit["unit"]), *(_cell(unit, key) for key in columns)) for unit in units]
    if medians is not None:
        rows.append(("median", *(_number(medians[key], key) for key in columns)))
    return rows


def _cell(unit: Report, key: str) -> str:
    """A number of a unit, with its word; dead and diverged units say so in place of a response."""
    if key in SHARES and unit["state"]:
        return str(unit["state"])
    text = _number(unit[key], key)
    if key in unit["weak"]:
        return f"{text} weak"
    word = unit["words"].get(key) if key == WITH_WORD else None
    return f"{text} {word}" if word else text


def _number(value: float | None, key: str) -> str:
    if value is None:
        return "-"
    return percent(value) if key in SHARES else f"{value:.{HEADS[key][1]}f}"
