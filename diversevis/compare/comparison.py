"""What comparison.json holds: the runs of two folders paired, and every index of every pair."""

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
    """Everything that comparison.json holds.

    Raises `InputError` where nothing can be compared, or a pair may not be.
    """
    (runs_a, notes_a), (runs_b, notes_b) = find_runs(a), find_runs(b)
    both = {run.path.resolve() for run in runs_a} & {run.path.resolve() for run in runs_b}
    if both:
        raise InputError(
            f"A={a} and B={b} both hold {min(both)}. Name folders that have no run in common."
        )
    pairs = pair_runs(runs_a, runs_b)
    if not pairs:
        sizes = (", ".join(f"{run.size:.4g}" for run in runs) for runs in (runs_a, runs_b))
        raise InputError(
            f"A={a} and B={b}: no receptive fields within a factor of {FARTHEST:g} of one another "
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
    found = []
    for index in indices_of(a, b):
        sides, values = {}, {}
        for side, run in (("a", a), ("b", b)):
            all_values, left_out = values_of(run, index)
            values[side] = all_values[~np.isnan(all_values)]
            listed = [None if math.isnan(value) else value for value in all_values.tolist()]
            sides[side] = {**describe(values[side]), "left_out": left_out, "values": listed}
        shares = index.below is not None
        about = {"index": index.name, "title": index.title, "unit": index.unit}
        about["statistic"] = "mean" if shares else "median"
        both = values["a"], values["b"]
        told = difference(*both, resamples=resamples, seed=seed, shares=shares)
        found.append({**about, **sides, **told})
    for one, p in zip(found, holm([one["p"] for one in found]), strict=True):
        one["p_holm"] = p
    return {"a": a.summary(), "b": b.summary(), "indices": found}


def _notes(
    runs_a: Sequence[Run], runs_b: Sequence[Run], pairs: Sequence[tuple[Run, Run]]
) -> Iterator[str]:
    """What a person should know of the pairs beside the numbers."""
    paired = {run.path for pair in pairs for run in pair}
    for side, runs in (("A", runs_a), ("B", runs_b)):
        for run in runs:
            if run.path not in paired:
                yield f"{run.path} ({side}, {run.size:.4g} px) has no partner: not compared."
    for a, b in pairs:
        factor = max(a.size / b.size, b.size / a.size)
        if factor > FARTHEST:
            yield f"{a.path} and {b.path}: receptive fields differ by a factor of {factor:.3g}."
        for side, one, other in (("A", a, b), ("B", b, a)):
            lone = [name for name in one.measures if name not in other.measures]
            if lone:
                yield f"{', '.join(lone)}: only {one.path} ({side}) has it; not compared."
