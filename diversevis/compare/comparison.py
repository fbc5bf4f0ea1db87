"""The content of comparison.json: the runs of two folders in pairs, with every index."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diversevis.compare.indices import indices_of, values_of
from diversevis.compare.pairs import FARTHEST, check_pair, pair_runs
from diversevis.compare.runs import Run, find_runs
from diversevis.compare.statistics import LEVEL, describe, difference, holm
from diversevis.errors import InputError
from diversevis.runs import provenance


def compare(a: Path, b: Path, *, resamples: int, seed: int) -> dict[str, Any]:
    """The content of comparison.json.

    Raises `InputError` where nothing can be compared, or a pair may not be.
    """
    (runs_a, notes_a), (runs_b, notes_b) = find_runs(a), find_runs(b)
    common = {run.path.resolve() for run in runs_a} & {run.path.resolve() for run in runs_b}
    if common:
        raise InputError(
            f"A={a} and B={b} both hold {min(common)}. Name folders that have no run in common."
        )
    pairs = pair_runs(runs_a, runs_b)
    if not pairs:
        sizes = (", ".join(f"{run.size:.4g}" for run in runs) for runs in (runs_a, runs_b))
        raise InputError(
            f"A={a} and B={b}: no receptive fields within a factor of {FARTHEST:g} of each other "
            "(pixels: {} and {}). Name two run folders to compare them nevertheless.".format(*sizes)
        )
    for pair in pairs:
        check_pair(*pair)
    compared = [compare_pair(*pair, resamples=resamples, seed=seed) for pair in pairs]
    if not any(pair["indices"] for pair in compared):
        raise InputError(
            f"A={a} and B={b} have no index in common: their measures hold no numbers (every unit "
            "is dead, or too small for them)."
        )
    return {
        "a": str(a),
        "b": str(b),
        "resamples": resamples,
        "seed": seed,
        "level": LEVEL,
        "versions": provenance.versions(),
        "notes": [*notes_a, *notes_b, *_notes(runs_a, runs_b, pairs)],
        "pairs": compared,
    }


def compare_pair(a: Run, b: Run, *, resamples: int, seed: int) -> dict[str, Any]:
    """Both runs and every index, as comparison.json holds them."""
    rows = []
    for index in indices_of(a, b):
        row: dict[str, Any] = {"index": index.name, "title": index.title, "unit": index.unit}
        shares = index.below is not None
        row["statistic"] = "mean" if shares else "median"
        samples = []
        for side, run in (("a", a), ("b", b)):
            values, left_out = values_of(run, index)
            sample = values[~np.isnan(values)]
            listed = [None if math.isnan(value) else value for value in values.tolist()]
            row[side] = {**describe(sample), "left_out": left_out, "values": listed}
            samples.append(sample)
        row |= difference(*samples, resamples=resamples, seed=seed, shares=shares)
        rows.append(row)
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return {"a": a.summary(), "b": b.summary(), "indices": rows}


def _notes(
    runs_a: Sequence[Run], runs_b: Sequence[Run], pairs: Sequence[tuple[Run, Run]]
) -> Iterator[str]:
    """Warnings for the reader: runs without a partner, unequal sizes, measures of one side only."""
    paired = {run.path for pair in pairs for run in pair}
    for side, runs in (("A", runs_a), ("B", runs_b)):
        for run in runs:
            if run.path not in paired:
                yield f"{run.path} ({side}, {run.size:.4g} px) has no partner: not compared."
    for a, b in pairs:
        factor = max(a.size / b.size, b.size / a.size)
        if factor > FARTHEST:
            yield f"{a.path} and {b.path}: receptive fields differ by a factor of {factor:.3g}."
        for side, run, partner in (("A", a, b), ("B", b, a)):
            lone = [name for name in run.measures if name not in partner.measures]
            if lone:
                yield f"{', '.join(lone)}: only {run.path} ({side}) has it; not compared."
