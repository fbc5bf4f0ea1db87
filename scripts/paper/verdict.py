"""When a claim's sample is too small for a verdict (docs/paper.md, Reproduce it)."""

from __future__ import annotations

from math import comb

TOO_FEW = "too few units to say"
# Claims 2 and 3 count units of a kind: with fewer units, one more or less changes a share by over
# 5 %, and a kind that one unit in ten is of may be missing (0.9^20 = 12 %).
FEW = 20


def signed_ranks_can_decide(units: int, tests: int, level: float) -> bool:
    """Whether Wilcoxon's signed-rank test (one-sided, Holm over `tests`) can reach the level: its
    smallest p is that of gains of the same sign in all units."""
    return tests * 2.0**-units < level


def rank_sums_can_decide(units_a: int, units_b: int, tests: int, level: float) -> bool:
    """Whether Mann and Whitney's test (two-sided, Holm over `tests`) can reach the level: its
    smallest p is that of two groups that do not overlap."""
    return tests * 2 / comb(units_a + units_b, units_a) < level
