"""Which run is compared with which, and which pairs are refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diversevis.compare.runs import SAME, Run
from diversevis.errors import InputError

FARTHEST = 1.5  # largest factor between receptive fields where there are runs to choose from
CONTRAST_TOLERANCE = 0.01  # relative: norms are rounded, for fields of other sizes differently


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
    made = [(key, a.record[key], b.record[key]) for key in SAME if a.record[key] != b.record[key]]
    if not math.isclose(a.contrast, b.contrast, rel_tol=CONTRAST_TOLERANCE):
        made.append(("contrast", f"{a.contrast:.4g}", f"{b.contrast:.4g}"))
    if made:
        raise _different(a, b, made, "Repeat a run with the settings of the other: "
                         "contrast=, n=, objective.diversity=, objective.distance=, "
                         "objective.fraction=, objective.front=.")  # fmt: skip
    common = [name for name in a.measures if name in b.measures]
    if not common:
        raise InputError(
            f"{a.path} has {', '.join(a.measures)} and {b.path} has {', '.join(b.measures)}: no "
            "measure in common. Run `diversevis analyze FOLDER` on one for the other's measures."
        )
    measures_a, measures_b = ({name: run.measures[name] for name in common} for run in (a, b))
    measured = list(_differences(measures_a, measures_b, "measures"))
    if measured:
        raise _different(a, b, measured, "Run `diversevis analyze FOLDER` on one of them again "
                         "with the settings of the other.")  # fmt: skip


def _different(a: Run, b: Run, rows: Sequence[tuple[str, Any, Any]], advice: str) -> InputError:
    listed = "; ".join(f"{key} is {in_a} in A and {in_b} in B" for key, in_a, in_b in rows)
    return InputError(f"{a.path} (A) and {b.path} (B) cannot be compared: {listed}. {advice}")


def _differences(a: Any, b: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys at which two nested settings differ, with both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in dict.fromkeys([*a, *b]):
            yield from _differences(a.get(name), b.get(name), f"{key}.{name}")
    elif a != b:
        yield key, a, b
