"""The front of response against diversity over the objective's weights (METHOD.md section 9)."""

from __future__ import annotations

from collections.abc import Sequence


def undominated(responses: Sequence[float], distances: Sequence[float]) -> list[int]:
    """The points that no other one beats in both, by ascending distance."""
    order = sorted(range(len(responses)), key=lambda i: (-distances[i], -responses[i]))
    front: list[int] = []
    for i in order:
        if not front or responses[i] > responses[front[-1]]:
            front.append(i)
    return front[::-1]


def knee(responses: Sequence[float], distances: Sequence[float]) -> int:
    """The point from which more distance costs more response than it did until there.

    Both axes are scaled to the ends of the front; the knee is the undominated point furthest above
    the line between them (Satopaa et al. 2011). A front of two points has its knee at the one with
    the larger sum of shares; of one, there.
    """
    front = undominated(responses, distances)
    first, last = front[0], front[-1]
    if first == last:
        return first
    # Responses fall with distance along the front: each share runs from 0 to 1.
    fall, rise = responses[first] - responses[last], distances[last] - distances[first]

    def above(i: int) -> float:
        kept = (responses[i] - responses[last]) / fall
        gained = (distances[i] - distances[first]) / rise
        return kept + gained - 1

    best = max(front, key=above)
    if above(best) > 0:
        return best
    return max((first, last), key=lambda i: responses[i] / abs(responses[first] or 1.0)
               + distances[i] / (distances[last] or 1.0))  # fmt: skip
