"""Claim 4 (docs/method.md, section 7): VGG-19 against ResNet-50 at matching receptive fields."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diversevis.compare.comparison import check_pair, compare_pair
from diversevis.compare.runs import read_run
from paper.runs import Run
from paper.verdict import TOO_FEW, rank_sums_can_decide

# Layers with the nearest receptive fields: 5 and 7, 14 and 19, 24 and 27 pixels
PAIRS = (("vgg19 conv1_2", "resnet50 conv1"), ("vgg19 conv2_2", "resnet50 layer1.0"),
         ("vgg19 conv3_1", "resnet50 layer1.1"))  # fmt: skip
# 24 and 19 pixels: together with 14 and 19, the VGG-19 layers lie on both sides of layer1.0
OTHER_SIDE = "vgg19 conv3_1", "resnet50 layer1.0"
LEVEL, RESAMPLES = 0.05, 10_000
RULE = (
    "An index differs in a pair if its p (Mann-Whitney, Holm over the pair's indices) is below "
    f"{LEVEL}. Holds: in every pair some index differs. Holds in part: in some pairs. Does not "
    "hold: in none. The receptive fields of a pair differ a little in size. An index differs "
    "independently of size if layer1.0 (19 px) differs in the same direction from conv2_2 (14 px) "
    "and from conv3_1 (24 px). Too few units to say: in a pair no index could reach this p, "
    "whatever its values."
)
Numbers = dict[str, Any]


def difference_claim(
    layers: Mapping[str, Run], out: Path
) -> tuple[str, str, str, Numbers, list[str]]:
    """Claim 4: verdict, rule, finding, numbers, and the commands of the comparisons."""
    pairs = [pair for a, b in PAIRS if (pair := compared(layers, a, b))]
    other = compared(layers, *OTHER_SIDE)
    summaries = [summary(pair) for pair in pairs]
    differing = [sum(index["differs"] for index in pair["indices"]) for pair in summaries]
    tested = [sum(index["p"] is not None for index in pair["indices"]) for pair in summaries]
    some = sum(count > 0 for count in differing)
    verdict = (
        "holds" if 0 < some == len(summaries) else "holds in part" if some else "does not hold"
    )
    if not all(map(_can_decide, summaries)):
        verdict = TOO_FEW
    numbers: Numbers = {"pairs": summaries, "other_side": None, "free_of_size": []}
    if other:
        numbers["other_side"] = summary(other)
        middle = next((pair for pair in summaries if pair["b"]["layer"] == "layer1.0"), None)
        numbers["free_of_size"] = same_direction(middle, numbers["other_side"])
    finding = "Indices that differ: " + ", ".join(
        f"{count} of {total} ({pair['a']['layer']} and {pair['b']['layer']})"
        for count, total, pair in zip(differing, tested, summaries, strict=True)
    ) + f". Independently of size: {', '.join(numbers['free_of_size']) or 'none'}."  # fmt: skip
    commands = [
        f"diversevis compare {' '.join(layers[name].path.relative_to(out).as_posix() for name in pair)}"  # noqa: E501
        for pair in (*PAIRS, OTHER_SIDE)
        if all(name in layers for name in pair)
    ]
    return verdict, RULE, finding, numbers, commands


def compared(layers: Mapping[str, Run], a: str, b: str) -> Numbers | None:
    """The pair's entry of comparison.json; None if a run is missing."""
    if a not in layers or b not in layers:
        return None
    return _compared(layers[a].path, layers[b].path)


@functools.cache  # claims and figures need the same comparisons
def _compared(a: Path, b: Path) -> Numbers:
    run_a, run_b = read_run(a), read_run(b)
    check_pair(run_a, run_b)
    return compare_pair(run_a, run_b, resamples=RESAMPLES, seed=0)


def summary(pair: Numbers) -> Numbers:
    """A pair for claims.json: without paths and without the values of units."""
    sides = {
        side: {"model": pair[side]["model"], "layer": pair[side]["layer"],
               "receptive_field": max(pair[side]["receptive_field"]),
               "units": len(pair[side]["units"])}
        for side in "ab"
    }  # fmt: skip
    return {**sides, "indices": [_index(index) for index in pair["indices"]]}


def _index(index: Numbers) -> Numbers:
    statistic = index["statistic"]
    return {
        **{key: index[key] for key in ("index", "title", "unit", "statistic")},
        **{
            side: {"units": index[side]["count"], statistic: index[side][statistic]}
            for side in "ab"
        },
        "difference": index[f"difference_{statistic}"],
        **{key: index[key] for key in ("cliffs_delta", "effect", "p", "p_holm", "reason")},
        "differs": index["p_holm"] is not None and index["p_holm"] < LEVEL,
    }


def _can_decide(pair: Numbers) -> bool:
    """Whether some index of the pair has enough units to differ."""
    tested = [index for index in pair["indices"] if index["p"] is not None]
    return any(
        rank_sums_can_decide(index["a"]["units"], index["b"]["units"], len(tested), LEVEL)
        for index in tested
    )


def same_direction(a: Numbers | None, b: Numbers) -> list[str]:
    """Titles of the indices that differ in both pairs in the same direction, and the direction."""
    if a is None:
        return []
    in_b = {index["index"]: index for index in b["indices"] if index["differs"]}
    return [
        f"{index['title']} ({'VGG-19' if index['cliffs_delta'] > 0 else 'ResNet-50'} higher)"
        for index in a["indices"]
        if index["differs"] and index["index"] in in_b
        and index["cliffs_delta"] * in_b[index["index"]]["cliffs_delta"] > 0
    ]  # fmt: skip
