"""Claim 4: VGG-19 against ResNet-50 at matching receptive field, by `diversevis.compare`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diversevis.compare.comparison import compare_pair
from diversevis.compare.pairs import check_pair
from diversevis.compare.runs import read_run
from paper.runs import Run

# Nearest receptive fields: 5 and 7, 14 and 19, 24 and 27 pixels
PAIRS = (("vgg19 conv1_2", "resnet50 conv1"), ("vgg19 conv2_2", "resnet50 layer1.0"),
         ("vgg19 conv3_1", "resnet50 layer1.1"))  # fmt: skip
# From the other side: 24 and 19, so that 19 lies between VGG-19's 14 and 24
OTHER_SIDE = "vgg19 conv3_1", "resnet50 layer1.0"
LEVEL, RESAMPLES = 0.05, 10_000
RULE = (
    "An index differs in a pair if its p (Mann-Whitney, Holm over the pair's indices) is below "
    f"{LEVEL}. Holds: in every pair some index differs. In part: in some pairs. Does not hold: in "
    "none. Fields of a pair differ a little in size; an index counts as free of that where "
    "layer1.0 (19 px) differs in the same direction from conv2_2 (14 px) and conv3_1 (24 px)."
)
Numbers = dict[str, Any]


def difference_claim(
    layers: Mapping[str, Run], out: Path
) -> tuple[str, str, str, Numbers, list[str]]:
    """Verdict, rule, finding, numbers, and the commands that make the same comparisons."""
    pairs = [pair for a, b in PAIRS if (pair := compared(layers, a, b))]
    other = compared(layers, *OTHER_SIDE)
    told = [summary(pair) for pair in pairs]
    differing = [sum(one["differs"] for one in pair["indices"]) for pair in told]
    tested = [sum(one["p"] is not None for one in pair["indices"]) for pair in told]
    some = sum(count > 0 for count in differing)
    verdict = "holds" if 0 < some == len(told) else "holds in part" if some else "does not hold"
    numbers: Numbers = {"pairs": told, "other_side": None, "free_of_size": []}
    if other:
        numbers["other_side"] = summary(other)
        middle = next((pair for pair in told if pair["b"]["layer"] == "layer1.0"), None)
        numbers["free_of_size"] = same_direction(middle, numbers["other_side"])
    finding = "Indices that differ: " + ", ".join(
        f"{count} of {every} ({pair['a']['layer']} and {pair['b']['layer']})"
        for count, every, pair in zip(differing, tested, told, strict=True)
    ) + f". Whatever the field's size: {', '.join(numbers['free_of_size']) or 'none'}."  # fmt: skip
    commands = [
        f"diversevis compare {' '.join(layers[name].path.relative_to(out).as_posix() for name in pair)}"  # noqa: E501
        for pair in (*PAIRS, OTHER_SIDE)
        if all(name in layers for name in pair)
    ]
    return verdict, RULE, finding, numbers, commands


def compared(layers: Mapping[str, Run], a: str, b: str) -> Numbers | None:
    """What comparison.json holds of a pair; None where one of its runs is not there."""
    if a not in layers or b not in layers:
        return None
    return _compared(layers[a].path, layers[b].path)


@functools.cache
def _compared(a: Path, b: Path) -> Numbers:
    one, other = read_run(a), read_run(b)
    check_pair(one, other)
    return compare_pair(one, other, resamples=RESAMPLES, seed=0)


def summary(pair: Numbers) -> Numbers:
    """A pair without every unit's values and without paths."""
    sides = {
        side: {"model": pair[side]["model"], "layer": pair[side]["layer"],
               "receptive_field": max(pair[side]["receptive_field"]),
               "units": len(pair[side]["units"])}
        for side in "ab"
    }  # fmt: skip
    return {**sides, "indices": [_index(one) for one in pair["indices"]]}


def _index(one: Numbers) -> Numbers:
    statistic = one["statistic"]
    return {
        **{key: one[key] for key in ("index", "title", "unit", "statistic")},
        **{side: {"units": one[side]["count"], statistic: one[side][statistic]} for side in "ab"},
        "difference": one[f"difference_{statistic}"],
        **{key: one[key] for key in ("cliffs_delta", "effect", "p", "p_holm", "reason")},
        "differs": one["p_holm"] is not None and one["p_holm"] < LEVEL,
    }


def same_direction(a: Numbers | None, b: Numbers) -> list[str]:
    """Titles of the indices that differ in both pairs, in the same direction, and which."""
    if a is None:
        return []
    others = {one["index"]: one for one in b["indices"] if one["differs"]}
    return [
        f"{one['title']} ({'VGG-19' if one['cliffs_delta'] > 0 else 'ResNet-50'} higher)"
        for one in a["indices"]
        if one["differs"] and one["index"] in others
        and one["cliffs_delta"] * others[one["index"]]["cliffs_delta"] > 0
    ]  # fmt: skip
