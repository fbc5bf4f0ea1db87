"""Families of units from their alignment: average linkage, silhouettes, the adjusted Rand index.

docs/method.md, section 9. Distances are `1 - (S + S^T) / 2`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Mean silhouettes up to which there is no structure, a weak one, and a reasonable one
# (Kaufman & Rousseeuw 1990, table 4 of chapter 2).
STRUCTURE = ((0.25, "none"), (0.5, "weak"), (0.7, "reasonable"), (1.0, "strong"))
LEAST = STRUCTURE[0][0]
ALIKE = 0.15  # distance: units are not divided whose halves align to 0.85 or more on average; ours
MOST_PARTS = 200  # of a division
MOST_ORDERED = 1000  # units whose leaves are brought into the best order, which takes n^3 steps


class Families(NamedTuple):
    """A partition of units.

    labels       1 for the largest family, and so on
    silhouettes  of every unit
    divisions    of all units, then of every family of three or more: mean silhouette of its best
                 division, and the distance of its last two parts; `is_divided` says if it was made
    order        units as leaves of the dendrogram: families stand together
    linkage      as scipy.cluster.hierarchy writes it
    """

    labels: Int[np.ndarray, " unit"]
    silhouettes: Float[np.ndarray, " unit"]
    divisions: Float[np.ndarray, "division 2"]
    order: Int[np.ndarray, " unit"]
    linkage: Float[np.ndarray, "merge 4"]

    def members(self) -> list[list[int]]:
        """Units of every family, the largest family first."""
        return [np.flatnonzero(self.labels == label).tolist() for label in np.unique(self.labels)]


def similarities(shares: Float[np.ndarray, "unit unit"]) -> Float[np.ndarray, "unit unit"]:
    """`(S + S^T) / 2`, with every share brought to 0 to 1."""
    limited = shares.clip(0, 1)
    return (limited + limited.T) / 2


def families_of(shares: Float[np.ndarray, "unit unit"]) -> Families:
    """All units are divided where their mean silhouette is largest, and so is every part again,
    while that is above 0.25 and the parts align to less than 0.85.

    A single division would often split off two odd units, and leave all others in a family.

    shares  S of two or more units
    """
    from scipy.cluster.hierarchy import leaves_list, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    distances = 1 - similarities(shares)
    np.fill_diagonal(distances, 0)
    tree = _tree(distances)
    if len(distances) <= MOST_ORDERED:
        tree = optimal_leaf_ordering(tree, squareform(distances, checks=False))
    divisions: list[tuple[float, float]] = []
    families, waiting = list[Int[np.ndarray, " unit"]](), [np.arange(len(distances))]
    while waiting:
        units = waiting.pop()
        if len(units) < 3:
            families.append(units)
            continue
        labels, mean, height = _division(distances[np.ix_(units, units)])
        divisions.append((mean, height))
        if is_divided(mean, height):
            waiting += [units[labels == label] for label in np.unique(labels)]
        else:
            families.append(units)
    labels = np.empty(len(distances), dtype=int)
    for label, units in enumerate(families):
        labels[units] = label
    labels = _by_size(labels)
    return Families(labels, silhouettes(distances, labels), np.array(divisions).reshape(-1, 2),
                    leaves_list(tree).astype(int), tree)  # fmt: skip


def is_divided(mean: float, height: float) -> bool:
    """Whether units are divided, by the mean silhouette and the distance of their last parts."""
    return mean > LEAST and height > ALIKE


def _tree(distances: Float[np.ndarray, "unit unit"]) -> Float[np.ndarray, "merge 4"]:
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    return linkage(squareform(distances, checks=False), "average")


def _division(
    distances: Float[np.ndarray, "unit unit"],
) -> tuple[Int[np.ndarray, " unit"], float, float]:
    """The cut of the tree with the largest mean silhouette, that mean, and the tree's height. Parts
    that are `ALIKE` are not cut apart, however clearly."""
    from scipy.cluster.hierarchy import fcluster

    tree = _tree(distances)
    most = max(2, 1 + int((tree[:, 2] > ALIKE).sum()))
    counts = range(2, min(len(distances) - 1, MOST_PARTS, most) + 1)
    cuts = [fcluster(tree, count, "maxclust") for count in counts]
    means = [float(silhouettes(distances, labels).mean()) for labels in cuts]
    best = int(np.argmax(means))
    return cuts[best], means[best], float(tree[-1, 2])


def structure_of(mean: float) -> str:
    """What a mean silhouette says about a partition.

    `structure_of(0.6)` is "reasonable".
    """
    return next((word for most, word in STRUCTURE if mean <= most), STRUCTURE[-1][1])


def silhouettes(
    distances: Float[np.ndarray, "unit unit"], labels: Int[np.ndarray, " unit"]
) -> Float[np.ndarray, " unit"]:
    """`(b - a) / max(a, b)` of every unit (Rousseeuw 1987): a is its mean distance to the others of
    its family, b that to the nearest other family. From -1 to 1; 0 for a unit alone,
    and where there is a single family."""
    names, index = np.unique(labels, return_inverse=True)
    if len(names) == 1:
        return np.zeros(len(labels))
    member = np.eye(len(names))[index]  # [unit, family]
    sizes, sums = member.sum(0), distances @ member
    rows = np.arange(len(labels))
    within = sums[rows, index] / np.maximum(sizes[index] - 1, 1)
    to_others = sums / sizes
    to_others[rows, index] = np.inf
    nearest = to_others.min(1)
    larger = np.maximum(within, nearest)
    values = np.divide(nearest - within, larger, out=np.zeros(len(rows)), where=larger > 0)
    return np.where(sizes[index] == 1, 0.0, values)


def adjusted_rand(
    first: Int[np.ndarray, " unit"], second: Int[np.ndarray, " unit"]
) -> float | None:
    """Agreement of two partitions of the same units (Hubert & Arabie 1985): 1 where they are the
    same, 0 on average for random ones; None where both are trivial, of a single family or of units
    alone, and chance cannot be told from agreement.

    With the labels 1, 1, 2, 2 and 1, 1, 1, 2 it is 0.
    """
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)

    def pairs(counts: Float[np.ndarray, "*axes"]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, in_first, in_second = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    all_pairs = len(first) * (len(first) - 1) / 2
    expected = in_first * in_second / all_pairs if all_pairs else 0.0
    most = (in_first + in_second) / 2
    return None if most == expected else (together - expected) / (most - expected)


def _by_size(labels: Int[np.ndarray, " unit"]) -> Int[np.ndarray, " unit"]:
    """The labels 1, 2, ... from the largest family to the smallest; of equal ones, the family of
    the first unit comes first."""
    names, first, index, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -sizes))
    ranks = np.empty(len(names), dtype=int)
    ranks[order] = np.arange(1, len(names) + 1)
    return ranks[index]
