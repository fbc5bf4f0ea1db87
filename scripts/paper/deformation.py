"""Claim 3 (docs/method.md, section 7): local deformations, and the paper's dot clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest
from scipy.stats import t as student

from paper.runs import DRAWS, EXAMPLE, Run, about, spread

Numbers = dict[str, Any]

LEVEL = 0.05  # of tests
ACCEPTED = 0.8  # of the response, at which two images count as accepted (measure.dimension)
ERRORS = 2  # standard errors; and how often noise lies so far below, of so many draws
BY_CHANCE = float(student.cdf(-ERRORS, DRAWS - 1))
DELTAS = 1.0, 0.5, 0.25  # pixels: the first that a layer's receptive field allows
LISTED = 8  # units named per layer
FEW = 20  # units of a layer, below which a verdict against the claim tells little
DEFORMATION_RULE = (
    f"A unit accepts deformations if R lies {ERRORS} standard errors below 1 against white noise "
    "and against noise of the same spectrum, and it keeps at least "
    f"{ACCEPTED:.0%} of its response at a typical displacement of 1 px. Holds: a VGG-19 layer has "
    f"more such units than noise gives (binomial test against {BY_CHANCE:.1%}, p < {LEVEL}; all "
    "units see the same deformations, so they are not quite as many independent trials). In "
    "part: it has if white noise alone counts. Does not hold: no layer has. Layers whose field is "
    "too small for 1 px count for nothing; they are shown at a smaller displacement."
)


def deformation_claim(layers: Mapping[str, Run], one: Run | None) -> Numbers:
    """Claim 3: stability against noise as large, and the response kept; the paper's unit apart."""
    numbers = {name: _deformation(run) for name, run in layers.items()}
    told = [v for name, v in numbers.items() if name.startswith("vgg19") and v["delta"] == 1]
    strict = [v["layer"] for v in told if v["accepting"]["p"] < LEVEL]
    white = [v["layer"] for v in told if v["accepting_white"]["p"] < LEVEL]
    verdict = "holds" if strict else "holds in part" if white else "does not hold"
    finding = (
        f"VGG-19 layers with more accepting units than noise gives: {', '.join(strict) or 'none'} "
        f"(against white noise alone: {', '.join(white) or 'none'})."
    )
    numbers_of_all: Numbers = {"layers": numbers}
    if one is not None:
        name, unit = EXAMPLE
        numbers_of_all["example"] = _ranked(one, layers.get(name), unit)
    if verdict == "does not hold":
        finding += _too_few(told)
    return {
        "verdict": verdict, "rule": DEFORMATION_RULE, "finding": finding,
        "numbers": numbers_of_all,
    }  # fmt: skip


def _too_few(told: Sequence[Numbers]) -> str:
    """What a verdict against the claim rests on, in words: few units cannot tell much."""
    found = ", ".join(
        f"{one['layer']} {one['accepting']['units']} of {one['counted']} (R below 1: "
        f"{one['below_1_strict']['units']}; median response kept "
        f"{100 * (one['kept']['1']['median'] or 0):.0f} %)"
        for one in told
    )
    few = any(one["counted"] < FEW for one in told)
    more = " With so few units, one more or less can turn the verdict." if few else ""
    return f" Accepting units: {found}.{more}"


def _deformation(run: Run) -> Numbers:
    white, strict, kept, delta = at_largest(run)
    rows = np.flatnonzero(np.isfinite(white) & np.isfinite(strict))
    accepts = (white < 1) & (kept >= ACCEPTED)
    steadiest = sorted(rows, key=lambda row: strict[row])
    return about(run) | {
        "layer": run.record["layer"],
        "counted": len(rows),
        "delta": delta,
        "below_1_white": _part(white[rows] < 1),
        "below_1_strict": _part(strict[rows] < 1),
        "accepting_white": _part(accepts[rows]),
        "accepting": _part(accepts[rows] & (strict[rows] < 1)),
        "median_white": spread(run.arrays("deformation")["stability"][:, _column(run, delta)]),
        "median_strict": spread(
            run.arrays("deformation")["stability_strict"][:, _column(run, delta)]
        ),
        "kept": {d: spread(run.values(f"deformation.kept.{d}")) for d in ("0.5", "1", "2")},
        "most_stable": [
            {"unit": run.units[row]["unit"], "accepts": bool(accepts[row] and strict[row] < 1),
             "kept": float(kept[row]), "strict_and_errors": float(strict[row])}
            for row in steadiest[:LISTED]
        ],
    }  # fmt: skip


def at_largest(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray, float | None]:
    """R plus two standard errors (white, strict) and the response kept of every unit, at the
    largest displacement of `DELTAS` that the receptive field allows; and that displacement."""
    arrays = {k: v.numpy().astype(float) for k, v in run.arrays("deformation").items()}
    for delta in DELTAS:
        at = _column(run, delta)
        if np.isfinite(arrays["stability"][:, at]).any():
            white, strict = (
                arrays[f"{kind}"][:, at] + ERRORS * arrays[f"{kind}_error"][:, at]
                for kind in ("stability", "stability_strict")
            )
            return white, strict, arrays["kept"][:, at], delta
    nothing = np.full(len(run.units), np.nan)
    return nothing, nothing, nothing, None


def _column(run: Run, delta: float | None) -> int:
    deltas = run.arrays("deformation")["deltas"]
    return int((deltas - (delta or 0)).abs().argmin())


def _part(which: Float[np.ndarray, " unit"]) -> Numbers:
    """How many, their share, and the chance of as many where noise alone puts them there."""
    count, number = len(which), int(which.sum())
    p = binomtest(number, count, BY_CHANCE, alternative="greater").pvalue if count else 1.0
    return {"units": number, "share": number / count if count else None, "p": float(p)}


def _ranked(one: Run, layer: Run | None, unit: int) -> Numbers:
    """A unit's indices, and the share of its layer's other units that have a lower one."""
    keys = ("deformation.stability", "deformation.stability_error", "deformation.stability_strict",
            "deformation.stability_strict_error", "deformation.kept.0.5", "deformation.kept.1",
            "deformation.kept.2", "shift.mean_masked", "shift.min_masked", "phase.f1f0",
            "gain.distance_min", "gain.response", "diversity.index",
            "dimension.participation")  # fmt: skip
    found: Numbers = {"layer": one.name, "unit": unit, "indices": {}}
    for key in keys:
        value = float(one.values(key)[one.row(unit)])
        others = layer.values(key) if layer is not None else np.empty(0)
        if layer is not None:
            others = others[[entry["unit"] != unit for entry in layer.units]]
        others = others[np.isfinite(others)]
        told = bool(np.isfinite(value))
        found["indices"][key] = {
            "value": value if told else None,
            "lower": float((others < value).mean()) if told and len(others) else None,
            "of_units": len(others),
        }
    return found
