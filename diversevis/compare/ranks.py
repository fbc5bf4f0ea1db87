"""How a number stands among the numbers of other units: percentile ranks, and words for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose

ROUNDING = 1e-5  # responses are float32: an F1/F0 of 1e-8 is 0, and not lower than 2e-8
FEWEST = 3  # values of a sample; with fewer there is no interval, no rank test and no percentile


@dataclass(frozen=True)
class Rank:
    """Of a number among others.

    percentile  percentage of the others that are lower; equal numbers count half. 0 to 100, or
                None where there are fewer than `FEWEST` others
    count       number of others
    equal       how many of them are equal, within rounding
    """

    percentile: float | None
    count: int
    equal: int

    def words(self, noun: str) -> str:
        """`lower than 91 % of 256 units`; the noun is in the plural.

        >>> Rank(9.375, 32, 0).words("units"), Rank(0.0, 32, 0).words("units")
        ('lower than 91 % of 32 units', 'lower than all 32 units')
        """
        if self.percentile is None:
            return f"among too few to say ({self.count} {noun[: -1 if self.count == 1 else None]})"
        if self.equal == self.count:
            return f"equal to all {self.count} {noun}"
        if self.percentile == 50:
            return f"in the middle of {self.count} {noun}"
        side = "lower" if self.percentile < 50 else "higher"
        share = max(self.percentile, 100 - self.percentile)
        of = "all" if share == 100 else f"{min(99, round(share))} % of"  # 99.8 % are not all
        return f"{side} than {of} {self.count} {noun}"


def rank(value: float, others: Sequence[float]) -> Rank:
    """The rank of a number among others.

    >>> rank(2.0, [1.0, 2.0, 2.0, 3.0, 4.0])  # one is lower, two are equal: (1 + 2 / 2) / 5
    Rank(percentile=40.0, count=5, equal=2)
    """
    close = [isclose(other, value, rel_tol=ROUNDING, abs_tol=ROUNDING) for other in others]
    lower = sum(other < value and not same for other, same in zip(others, close, strict=True))
    equal = sum(close)
    share = 100 * (lower + equal / 2) / len(others) if len(others) >= FEWEST else None
    return Rank(share, len(others), equal)
