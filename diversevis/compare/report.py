"""What a run says about its units, for a person: responses, distances, indices, and their ranks.

Reads run.json and metrics.json only. docs/measures.md has the keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from diversevis.compare.answers import answers
from diversevis.compare.indices import Index, indices_of, look_up, number_at, value_of
from diversevis.compare.layer import Layer, Unit, layer_of
from diversevis.compare.runs import Run

# The index that stands for its measure in a table, the most telling measures first.
MAIN = {
    "phase": "phase.f1f0", "shift": "shift.mean_masked", "deformation": "deformation.stability",
    "diversity": "diversity.index", "gain": "gain.distance_min",
    "dimension": "dimension.participation", "natural": "natural.of_synthetic",
    "bipartite": "bipartite.index", "selectivity": "selectivity.mean_others",
    "align": "align.to_nearest", "varied": "varied.best_crop",
    "metamers": "metamers.error_of_trained",
}  # fmt: skip
STATES = "dead", "diverged"  # how an optimization may end without images to be trusted


def main_indices(run: Run) -> list[Index]:
    """The index that stands for every measure that was taken, the most telling first."""
    by_key = {index.key: index for index in measured_indices(run)}
    return [by_key[key] for key in MAIN.values() if key in by_key]


def measured_indices(run: Run) -> list[Index]:
    """The indices that a run was measured for, without those of samples (shares of units)."""
    return [index for index in indices_of(run, run) if index.below is None]


def share_of_best(unit: Unit, key: str = "response_mean") -> float | None:
    """A response as a share of the best response to a single image; None without a best above 0,
    since a ratio would mislead."""
    response, best = number_at(unit, key), number_at(unit, "response_best")
    return None if response is None or best is None or best <= 0 else response / best


def state_of(unit: Unit) -> str | None:
    """`dead` or `diverged`; None for a unit whose optimization ended as it should."""
    return unit["stop"] if unit.get("stop") in STATES else None


def run_facts(run: Run) -> dict[str, Any]:
    """What every report begins with."""
    keys = "model", "layer", "direction", "status", "n"
    return {
        "folder": str(run.path),
        **{key: run.record.get(key) for key in keys},
        "references": run.record.get("references") or [],
        "receptive_field": list(run.record["receptive_field"]["size"]),
        "contrast": run.contrast,
        "measures": [*run.measures],
        "not_measured": _reasons(run.record.get("not_measured")),
    }


def _reasons(not_measured: Any) -> dict[str, str]:
    is_named = isinstance(not_measured, Mapping)
    return {name: str(reason) for name, reason in not_measured.items()} if is_named else {}


def table_report(run: Run) -> dict[str, Any]:
    """All units of a run in a table: facts, columns, a row for every unit, and medians.

    Medians are of units with numbers; weak and dead ones do not count.
    """
    indices = main_indices(run)
    rows = [_row(run, unit, indices) for unit in run.units]
    columns = [index.key for index in indices]
    medians = {}
    of_images = "response_of_best", "distance_min", *(("error",) if _is_of_metamers(run) else ())
    for key in (*of_images, *columns):
        weak = {row["unit"] for row in rows if key in row["weak"]}
        values = [row[key] for row in rows if row[key] is not None and row["unit"] not in weak]
        medians[key] = median(values) if values else None
    return {**run_facts(run), "indices": columns, "units": rows, "medians": medians}


def _is_of_metamers(run: Run) -> bool:
    return bool(run.record.get("references"))


def _row(run: Run, unit: Unit, indices: Sequence[Index]) -> dict[str, Any]:
    return {
        "unit": unit["unit"],
        "state": state_of(unit),
        "response_of_best": share_of_best(unit),
        **({"error": number_at(unit, "error_mean")} if _is_of_metamers(run) else {}),
        "distance_min": number_at(unit, "distance_pixels_min"),
        **{index.key: number_at(unit, index.key) for index in indices},
        "words": {i.key: word for i in indices if (word := _word(unit, i))},
        "weak": [index.key for index in indices if value_of(unit, index) == "weak"],
    }


def unit_report(run: Run, unit: Unit) -> dict[str, Any]:
    """A unit in full: response, distances, every index with its rank, pictures, answers."""
    layer = layer_of(run, unit["unit"])
    report = unit_facts(run, unit, measured_indices(run), layer) | {
        "others": {
            "units": len({entry["unit"] for of in layer.units.values() for entry in of}),
            "runs": layer.runs,
            "left_out": layer.left_out,
        },
        "pictures": [str(path) for path in _pictures(run.path, unit["unit"])],
    }
    return report | {"answers": answers(report)}


def unit_facts(
    run: Run, unit: Unit, indices: Sequence[Index], layer: Layer | None
) -> dict[str, Any]:
    """The numbers of a unit, with the ranks of its indices in a layer, if one is given."""
    return run_facts(run) | {
        "unit": unit["unit"],
        "state": state_of(unit),
        "response": {
            "mean": number_at(unit, "response_mean"),
            "best": number_at(unit, "response_best"),
            "of_best": share_of_best(unit),
            "error": number_at(unit, "error_mean"),
        },
        "distance": {
            "min": number_at(unit, "distance_pixels_min"),
            "mean": number_at(unit, "distance_pixels_mean"),
            "of_noise": math.sqrt(2) * run.contrast,
        },
        "grating": _grating(unit),
        "indices": [_index_report(unit, index, layer) for index in indices],
    }


def _index_report(unit: Unit, index: Index, layer: Layer | None) -> dict[str, Any]:
    value, counts = number_at(unit, index.key), value_of(unit, index)
    return {
        "index": index.key,
        "title": index.title,
        "meaning": index.meaning,
        "value": value,
        "error": number_at(unit, f"{index.key}_error"),
        "word": _word(unit, index),
        "weak": counts == "weak",
        "seeds": _spread(unit, index),
        "rank": None
        if layer is None or isinstance(counts, str)
        else asdict(layer.rank(counts, index)),
    }


def _spread(unit: Unit, index: Index) -> dict[str, float | None] | None:
    """Mean, standard deviation and count over seeds; None where the run has a single seed."""
    seeds = look_up(unit, "seeds")
    entry = seeds.get(index.key) if isinstance(seeds, Mapping) else None
    if not isinstance(entry, Mapping):
        return None
    return {key: number_at(entry, key) for key in ("mean", "deviation", "count")}


def _word(unit: Unit, index: Index) -> str | None:
    """The field's word for the index of a unit; none where it is weak: it would say nothing."""
    value = value_of(unit, index)
    return None if isinstance(value, str) else index.word(value)


def _grating(unit: Unit) -> dict[str, Any] | None:
    """The best grating, and the share of the best response that it reaches."""
    grating = look_up(unit, "phase")
    if not isinstance(grating, Mapping):
        return None
    return {
        **{key: number_at(unit, f"phase.{key}") for key in ("frequency", "orientation")},
        "color": color if isinstance(color := grating.get("color"), str) else None,
        "response": number_at(unit, "phase.response"),
        "of_best": share_of_best(unit, "phase.response"),
    }


def _pictures(folder: Path, unit: int) -> list[Path]:
    """All pictures and films of a unit: its sheet first, those of the measures last."""
    paths = [
        path
        for below in (folder, folder / "analysis")
        for path in sorted(below.glob(f"*_unit{unit:04d}.*"))
        if not path.name.startswith(".")
    ]
    return sorted(paths, key=lambda path: not path.name.startswith("sheet"))
