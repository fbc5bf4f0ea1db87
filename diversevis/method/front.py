"""The front of response against smallest distance over several diversity weights.

docs/method.md, section 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from diversevis.method.result import Visualization

IN_TABLE = "response_mean", "response_min", "distance_min", "distance_mean", "stop"


def at_knee(results: Sequence[Visualization], weights: Sequence[float]) -> Visualization:
    """A unit's results at all diversity weights -> the result at the knee, with the front."""
    if len(results) == 1:  # no front
        return results[0]
    table = [
        {"diversity": weight} | {name: result.metrics[name] for name in IN_TABLE}
        for weight, result in zip(weights, results, strict=True)
    ]
    index = knee(*([row[name] for row in table] for name in ("response_mean", "distance_min")))
    return replace(
        results[index],
        metrics=results[index].metrics | {"knee": weights[index], "front": table},
        front=torch.stack([result.images for result in results]),
    )


def undominated(responses: Sequence[float], distances: Sequence[float]) -> list[int]:
    """Indices of the points that no other point exceeds in both, by ascending distance."""
    order = sorted(range(len(responses)), key=lambda i: (-distances[i], -responses[i]))
    front: list[int] = []
    for i in order:
        if not front or responses[i] > responses[front[-1]]:
            front.append(i)
    return front[::-1]


def knee(responses: Sequence[float], distances: Sequence[float]) -> int:
    """Index of the point from which more distance costs more response than before.

    Both axes are scaled to the ends of the front; the knee is the undominated point furthest above
    the line between them (Satopaa et al. 2011). Where no point lies above it, the end with the
    larger sum of relative response and relative distance; a front of a single point has it there.
    """
    front = undominated(responses, distances)
    first, last = front[0], front[-1]
    if first == last:
        return first
    # Responses fall with distance along the front: both shares run between 0 and 1.
    fall, rise = responses[first] - responses[last], distances[last] - distances[first]

    def height(i: int) -> float:
        """Above the line between the ends, in shares of the axes."""
        response = (responses[i] - responses[last]) / fall
        distance = (distances[i] - distances[first]) / rise
        return response + distance - 1

    highest = max(front, key=height)
    if height(highest) > 0:
        return highest
    return max((first, last), key=lambda i: responses[i] / abs(responses[first] or 1.0)
               + distances[i] / (distances[last] or 1.0))  # fmt: skip
