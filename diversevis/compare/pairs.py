"""Which runs are compared with which, and which may not be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diversevis.compare.runs import SAME, Run
from diversevis.errors import InputError

FARTHEST = 1.5  # factor between receptive fields, where there are several runs to choose from
CONTRAST_TOLERANCE = 0.01  # relative: the norm of one contrast is rounded differently elsewhere


def pair_runs(a: Sequence[Run], b: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of nearest receptive fields (log ratio), each used once, the nearest pair first taken.

    Where there is a choice, fields more than a factor `FARTHEST` apart are not paired; among equal
    ones the same layer and then the same units are preferred. Ordered by size.
    """

    def distance(i: int, j: int) -> tuple[float, bool, bool, int, int]:
        one, other = a[i].record, b[j].record
        ratio = round(abs(math.log(a[i].size / b[j].size)), 9)
        differ = [one.get(key) != other.get(key) for key in ("layer", "units")]
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
    """Raises `InputError` for runs that were made or measured differently."""
    made = [(key, a.record[key], b.record[key]) for key in SAME if a.record[key] != b.record[key]]
    if not math.isclose(a.contrast, b.contrast, rel_tol=CONTRAST_TOLERANCE):
        made.append(("contrast", f"{a.contrast:.4g}", f"{b.contrast:.4g}"))
    if made:
        raise _different(a, b, made, "Make one of them again as the other was made: "
                         "contrast=, n=, objective.diversity=, objective.distance=, "
                         "objective.fraction=, objective.front=.")  # fmt: skip
    common = [name for name in a.measures if name in b.measures]
    if not common:
        raise InputError(
            f"{a.path} has {', '.join(a.measures)} and {b.path} has {', '.join(b.measures)}: no "
            "measure in common. Run `diversevis analyze FOLDER` on one for the other's measures."
        )
    one, other = ({name: run.measures[name] for name in common} for run in (a, b))
    measured = list(_differences(one, other, "measures"))
    if measured:
        raise _different(a, b, measured, "Run `diversevis analyze FOLDER` on one of them again "
                         "with the settings of the other.")  # fmt: skip


def _different(a: Run, b: Run, found: Sequence[tuple[str, Any, Any]], way: str) -> InputError:
    said = "; ".join(f"{key} is {one} in A and {other} in B" for key, one, other in found)
    return InputError(f"{a.path} (A) and {b.path} (B) cannot be compared: {said}. {way}")


def _differences(a: Any, b: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys at which two nested settings differ, with both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in dict.fromkeys([*a, *b]):
            yield from _differences(a.get(name), b.get(name), f"{key}.{name}")
    elif a != b:
        yield key, a, b
