"""To what a unit is invariant, in sentences: from what was measured, by the field's thresholds.

Only F1/F0 and R have a standard threshold, which is 1. Of other indices the number is given, and
what its ends mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diversevis.compare.ranks import Rank

Report = Mapping[str, Any]  # of a unit, or of an index of it


def answers(report: Report) -> dict[str, str]:
    """A sentence for every invariance that was measured: phase, deformation, shift, overall."""
    if report["state"] == "dead":
        return {}
    indices = {index["index"]: index for index in report["indices"]}
    said = {
        "phase": _phase(indices.get("phase.f1f0"), report["grating"]),
        "deformation": _deformation(indices.get("deformation.stability")),
        "shift": _graded(
            indices.get("shift.mean_masked"),
            "all crops of a texture drive it, on average to {} of the best response under the same "
            "mask (1: shifts do not matter)",
        ),
        "overall": _graded(
            indices.get("diversity.index"),
            "the images are {} of the way from those of a simple cell (0) to those of an ideal "
            "complex cell (1)",
        ),
    }
    return {name: sentence for name, sentence in said.items() if sentence is not None}


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def rank_of(index: Report, noun: str = "other units") -> str | None:
    """Where an index stands, in words; None where no other unit has it."""
    among = index["rank"]
    return Rank(**among).words(noun) if among and among["count"] else None


def _phase(index: Report | None, grating: Report | None) -> str | None:
    if index is None:
        return None
    value = index["value"]
    if value is None:
        return "cannot be said: it responds to all gratings alike, or to none"
    if index["weak"]:
        return (
            f"cannot be said: its response to gratings is weak (near 0), so that F1/F0 "
            f"{number(value)} means little"
        )
    side = "below" if value < 1 else "above" if value > 1 else "exactly"
    kind = f"{index['word']}: " if index["word"] else ""
    sentence = f"{kind}F1/F0 {number(value)} is {side} 1 (Skottun et al. 1991)"
    sentence += _among(index)
    if grating and grating["of_best"] is not None:
        sentence += f"; its best grating reaches {percent(grating['of_best'])} of its best response"
    return sentence


def _deformation(index: Report | None) -> str | None:
    if index is None:
        return None
    value = index["value"]
    if value is None:
        return "cannot be said: R has no value"
    error = "" if index["error"] is None else f" ± {number(index['error'], 2)}"
    side = "below" if value < 1 else "above" if value > 1 else "exactly"
    how = {"below": "less than", "above": "more than", "exactly": "as much as"}[side]
    return (
        f"smooth deformations change the response {how} noise of the same size: "
        f"R {number(value)}{error} is {side} 1 (Petrini et al. 2021)" + _among(index)
    )


def _graded(index: Report | None, sentence: str) -> str | None:
    if index is None:
        return None
    if index["value"] is None:
        return "cannot be said: the index has no value"
    return f"{sentence.format(number(index['value'], 2))}; no standard threshold" + _among(index)


def _among(index: Report) -> str:
    words = rank_of(index)
    return f"; {words}" if words else ""
