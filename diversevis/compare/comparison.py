"""The content of comparison.json: the runs of two folders in pairs, with every index."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diversevis.compare.indices import indices_of, values_of
from diversevis.compare.networks import check_networks
from diversevis.compare.ranks import FEWEST, rank
from diversevis.compare.runs import Run, find_runs
from diversevis.compare.same import another_layer, differences, differently_made
from diversevis.compare.statistics import LEVEL, describe, difference, holm
from diversevis.errors import InputError
from diversevis.runs import provenance

FARTHEST = 1.5  # largest factor between receptive fields where there are runs to choose from


def compare(
    a: Path, b: Path, *, resamples: int, seed: int, networks: bool = True
) -> dict[str, Any]:
    """The content of comparison.json.

    networks  check that the networks still give the recorded responses, where they can be opened

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
    unchecked = check_networks(itertools.chain.from_iterable(pairs)) if networks else []
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
        "notes": [*notes_a, *notes_b, *_notes(runs_a, runs_b, pairs), *unchecked],
        "pairs": compared,
    }


def pair_runs(a: Sequence[Run], b: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Pairs of runs with similar receptive fields, ordered by size; no run is used twice.

    Greedy: the pair with the smallest log ratio of sizes is taken first; among equal ratios the
    same layer, then the same units are preferred. Fields that differ by more than `FARTHEST` are
    paired only where there is a single run on both sides.
    """

    def distance(i: int, j: int) -> tuple[float, bool, bool, int, int]:
        ratio = round(abs(math.log(a[i].size / b[j].size)), 9)
        differ = [a[i].record.get(key) != b[j].record.get(key) for key in ("layer", "units")]
        return ratio, differ[0], differ[1], i, j

    limit = math.inf if len(a) == len(b) == 1 else math.log(FARTHEST) + 1e-9
    free_a, free_b = set(range(len(a))), set(range(len(b)))
    pairs = []
    for ratio, *_, i, j in sorted(distance(i, j) for i in free_a for j in free_b):
        if ratio <= limit and i in free_a and j in free_b:
            pairs.append((a[i], b[j]))
            free_a.remove(i)
            free_b.remove(j)
    return sorted(pairs, key=lambda pair: pair[0].size * pair[1].size)


def check_pair(a: Run, b: Run) -> None:
    """Raises `InputError` for runs that were made or measured with different settings."""
    kinds = ["photographs" if run.record.get("references") else "units" for run in (a, b)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{a.path} (A) has images of {kinds[0]}, {b.path} (B) of {kinds[1]}: a run of "
            "metamers is compared with another of metamers. Name two runs of the same kind."
        )
    if made := differently_made(a, b):
        raise _different(a, b, made, "Repeat a run with the settings of the other: "
                         "contrast=, n=, objective.diversity=, objective.distance=, "
                         "objective.metric=, objective.fraction=, objective.front=, "
                         "prior=.")  # fmt: skip
    common = [name for name in a.measures if name in b.measures]
    if not common:
        raise InputError(
            f"{a.path} has {', '.join(a.measures)} and {b.path} has {', '.join(b.measures)}: no "
            "measure in common. Run `diversevis analyze FOLDER` on one for the other's measures."
        )
    measures_a, measures_b = ({name: run.measures[name] for name in common} for run in (a, b))
    measured = list(differences(measures_a, measures_b, "measures"))
    if measured:
        raise _different(a, b, measured, "Run `diversevis analyze FOLDER` on one of them again "
                         "with the settings of the other.")  # fmt: skip


def _different(a: Run, b: Run, rows: Sequence[tuple[str, Any, Any]], advice: str) -> InputError:
    listed = "; ".join(f"{key} is {in_a} in A and {in_b} in B" for key, in_a, in_b in rows)
    return InputError(f"{a.path} (A) and {b.path} (B) cannot be compared: {listed}. {advice}")


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
        row["percentiles"] = None if shares else _percentiles(row, {"a": a, "b": b})
        rows.append(row)
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return {"a": a.summary(), "b": b.summary(), "indices": rows}


def _percentiles(row: Mapping[str, Any], runs: Mapping[str, Run]) -> dict[str, Any] | None:
    """Of one or two units among the units of the other side, where that has enough; else None.

    A unit that the other side holds too is not counted there.
    """
    for side, other in (("a", "b"), ("b", "a")):
        if not 0 < row[side]["count"] < FEWEST <= row[other]["count"]:
            continue
        few, many = (_by_unit(runs[key], row[key]["values"]) for key in (side, other))
        is_shared = not another_layer(runs["a"], runs["b"])
        units, words = [], []
        for unit, value in few.items():
            others = [of for name, of in many.items() if not (is_shared and name == unit)]
            among = rank(value, others)
            name = f"unit {unit} of {side.upper()}" if len(few) > 1 else side.upper()
            noun = "other units" if len(others) < len(many) else "units"
            words.append(f"{name} is {among.words(noun)} of {other.upper()}")
            units.append({"unit": unit, **asdict(among)})
        return {"of": side, "in": other, "units": units, "words": "; ".join(words)}
    return None


def _by_unit(run: Run, values: Sequence[float | None]) -> dict[int, float]:
    pairs = zip(run.units, values, strict=True)
    return {unit["unit"]: value for unit, value in pairs if value is not None}


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
