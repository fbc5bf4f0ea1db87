"""To what a unit is invariant, in sentences: from what was measured, by the field's thresholds.

Only F1/F0 and R have a standard threshold, which is 1. Of other indices the number is given, and
what its ends mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diversevis.compare.ranks import ROUNDING, Rank

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
            "the crops of a texture reach on average {} of the best response under the same mask "
            "(1: shifts do not matter)",
        ),
        "overall": _graded(
            indices.get("diversity.index"),
            "the mean distance of the images is {} on the scale from a simple cell (0) to an ideal "
            f"complex cell (1){_reached(report)}",
        ),
    }
    return {name: sentence for name, sentence in said.items() if sentence is not None}


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def index_number(value: float | None, digits: int = 3) -> str:
    """An index as text; what is 0 but for rounding is 0."""
    return number(0.0 if value is not None and abs(value) < ROUNDING else value, digits)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def rank_of(index: Report, noun: str = "other units") -> str | None:
    """Where an index stands, in words; None where too few other units have it."""
    among = index["rank"]
    return Rank(**among).words(noun) if among and among["percentile"] is not None else None


def _reached(report: Report) -> str:
    """What distances mean little without: the response to the images."""
    share = report["response"]["of_best"]
    return "" if share is None else f", and the images reach {percent(share)} of the best response"


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
    sentence = f"{kind}F1/F0 {index_number(value)} is {side} 1 (Skottun et al. 1991)"
    if grating and grating["of_best"] is not None:
        sentence += f"; its best grating reaches {percent(grating['of_best'])} of its best response"
    return sentence + _among(index)


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
        f"R {index_number(value)}{error} is {side} 1 (Petrini et al. 2021)" + _among(index)
    )


def _graded(index: Report | None, sentence: str) -> str | None:
    if index is None:
        return None
    if index["value"] is None:
        return "cannot be said: the index has no value"
    return f"{sentence.format(index_number(index['value'], 2))}; no standard threshold" + _among(
        index
    )


def _among(index: Report) -> str:
    words = rank_of(index)
    return f"; {words}" if words else ""
