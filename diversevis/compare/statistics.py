"""Size and uncertainty of the difference between two samples: arrays in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import mannwhitneyu

from diversevis.compare.ranks import FEWEST

Sample = Float[np.ndarray, "_"]  # values of any number

LEVEL = 0.95  # of the intervals
BLOCK = 4_000_000  # numbers drawn together: 32 MB
# Upper limits of |Cliff's delta| and their names (Romano et al. 2006)
EFFECTS = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"), (math.inf, "large"))


def describe(values: Sample) -> dict[str, Any]:
    """Count, median, mean, quartiles; None where there are too few values for them."""
    few = len(values) < FEWEST
    return {
        "count": len(values),
        "median": float(np.median(values)) if len(values) else None,
        "quartiles": None if few else np.percentile(values, [25, 75]).tolist(),
        "mean": float(values.mean()) if len(values) else None,
    }


def difference(
    a: Sample, b: Sample, *, resamples: int, seed: int, shares: bool = False
) -> dict[str, Any]:
    """How sample A differs from sample B, as a dictionary.

    difference_median, difference_mean  A minus B: value, low, high (95 % bootstrap interval)
    cliffs_delta, effect                effect size, and its name
    p                                   of the rank test
    reason                              why all of these are None: fewer than `FEWEST` values

    With `shares`, values are 0 or 1: the mean's interval is `share_interval`, the median's is None.
    """
    few = [f"{side} has {len(v)}" for side, v in (("A", a), ("B", b)) if len(v) < FEWEST]
    if few:
        reason = f"{' and '.join(few)} of the {FEWEST} values needed"
        names = "difference_median", "difference_mean", "cliffs_delta", "effect", "p"
        return dict.fromkeys(names) | {"reason": reason}
    median, mean = float(np.median(a) - np.median(b)), float(a.mean() - b.mean())
    if shares:
        of_median, of_mean = None, _span(mean, *share_interval(a, b))
    else:
        tail = 100 * (1 - LEVEL) / 2
        resampled = bootstrap(a, b, resamples=resamples, seed=seed)
        ends = np.percentile(resampled, [tail, 100 - tail], axis=1).T.tolist()
        of_median, of_mean = _span(median, *ends[0]), _span(mean, *ends[1])
    delta = cliffs_delta(a, b)
    return {
        "difference_median": of_median,
        "difference_mean": of_mean,
        "cliffs_delta": delta,
        "effect": effect_in_words(delta),
        "p": rank_test(a, b),
        "reason": None,
    }


def bootstrap(
    a: Sample, b: Sample, *, resamples: int, seed: int
) -> Float[np.ndarray, "2 resample"]:
    """Differences of medians and of means (A minus B); A and B are resampled independently.

    Their percentiles are the interval (Efron & Tibshirani 1993, chapter 13).
    """
    generator = np.random.default_rng(seed)
    differences = np.empty((2, resamples))
    step = max(1, BLOCK // max(len(a), len(b)))
    for start in range(0, resamples, step):
        part = slice(start, min(start + step, resamples))
        count = part.stop - part.start
        draws_a, draws_b = (v[generator.integers(len(v), size=(count, len(v)))] for v in (a, b))
        differences[0, part] = np.median(draws_a, axis=1) - np.median(draws_b, axis=1)
        differences[1, part] = draws_a.mean(axis=1) - draws_b.mean(axis=1)
    return differences


def share_interval(a: Sample, b: Sample) -> tuple[float, float]:
    """Interval of the difference of two shares; `a` and `b` are 0 or 1 (Newcombe 1998, method 10).

    Not a bootstrap: a sample of only 0 or only 1 would be resampled as itself, as if its share were
    known exactly.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    ends = []
    for values in (a, b):
        count, share = len(values), float(values.mean())
        middle = share + z**2 / (2 * count)
        reach = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
        low, high = ((middle + sign * reach) / (1 + z**2 / count) for sign in (-1, 1))
        ends.append((share, share - low, high - share))
    (share_a, below_a, above_a), (share_b, below_b, above_b) = ends
    value = share_a - share_b
    return value - math.hypot(below_a, above_b), value + math.hypot(above_a, below_b)


def cliffs_delta(a: Sample, b: Sample) -> float:
    """Share of pairs with A above B, minus share with A below B, from -1 to 1 (Cliff 1993)."""
    ordered = np.sort(b)
    above = np.searchsorted(ordered, a, side="left").sum()
    below = (len(b) - np.searchsorted(ordered, a, side="right")).sum()
    return float(above - below) / (len(a) * len(b))


def effect_in_words(delta: float) -> str:
    """Direction and size of Cliff's delta in words: `A higher, large`."""
    if delta == 0:
        return "neither higher"
    size = next(word for limit, word in EFFECTS if abs(delta) < limit)
    return f"{'A' if delta > 0 else 'B'} higher, {size}"


def rank_test(a: Sample, b: Sample) -> float:
    """Two-sided p of the Mann-Whitney U test; exact for small samples without ties."""
    if a.min() == a.max() == b.min() == b.max():
        return 1.0  # every order of the units is as extreme; the normal approximation is 0/0
    return float(mannwhitneyu(a, b, alternative="two-sided").pvalue)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values (1979); None stays None and does not count as a test."""
    order = sorted((value, index) for index, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * value))
        adjusted[index] = highest
    return adjusted


def _span(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}
