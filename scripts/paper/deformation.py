"""Claim 3 (docs/method.md, section 7): local deformations, and the paper's dot-cluster unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest
from scipy.stats import t as student

from paper.runs import DRAWS, EXAMPLE, Run, about, spread
from paper.verdict import FEW, TOO_FEW

Numbers = dict[str, Any]

LEVEL = 0.05  # significance level
ACCEPTED = 0.8  # share of the response at which an image counts as accepted (measure.dimension)
ERRORS = 2  # standard errors
# Probability that the mean of DRAWS draws lies ERRORS standard errors below its expectation
BY_CHANCE = float(student.cdf(-ERRORS, DRAWS - 1))
DELTAS = 1.0, 0.5, 0.25  # pixels; a layer gets the first that its receptive field allows
LISTED = 8  # units listed per layer
DEFORMATION_RULE = (
    f"A unit accepts deformations if R is at least {ERRORS} standard errors below 1, against white "
    "noise and against noise of the same spectrum, and the unit keeps at least "
    f"{ACCEPTED:.0%} of its response at a typical displacement of 1 px. Holds: a VGG-19 layer has "
    f"more such units than expected by chance (binomial test against {BY_CHANCE:.1%}, p < {LEVEL}; "
    "all units see the same deformations, so that they are not fully independent). Holds in part: "
    "a layer has, against white noise alone. Does not hold: no layer has. Layers whose receptive "
    "field is too small for 1 px do not count; they are shown at a smaller displacement. Too few "
    f"units to say: no layer with at least {FEW} measured units decides it, and another layer has "
    "fewer."
)


def deformation_claim(layers: Mapping[str, Run], example: Run | None) -> Numbers:
    """Claim 3: stability against noise of the same size, and the share of the response kept.

    example  run of the paper's unit, ranked among the units of its layer
    """
    numbers = {name: _deformation(run) for name, run in layers.items()}
    counting = [v for name, v in numbers.items() if name.startswith("vgg19") and v["delta"] == 1]
    enough = [layer for layer in counting if layer["counted"] >= FEW]
    strict = [layer["layer"] for layer in enough if layer["accepting"]["p"] < LEVEL]
    white = [layer["layer"] for layer in enough if layer["accepting_white"]["p"] < LEVEL]
    verdict = "holds" if strict else "holds in part" if white else "does not hold"
    if not strict and (not counting or len(enough) < len(counting)):
        verdict = TOO_FEW
    finding = (
        "VGG-19 layers with more accepting units than expected by chance: "
        f"{', '.join(strict) or 'none'} "
        f"(against white noise alone: {', '.join(white) or 'none'})."
    )
    claim_numbers: Numbers = {"layers": numbers}
    if example is not None:
        name, unit = EXAMPLE
        claim_numbers["example"] = _ranked(example, layers.get(name), unit)
    if verdict in ("does not hold", TOO_FEW):
        finding += _accepting(counting)
    return {
        "verdict": verdict, "rule": DEFORMATION_RULE, "finding": finding,
        "numbers": claim_numbers,
    }  # fmt: skip


def _accepting(layers: Sequence[Numbers]) -> str:
    """A sentence with the number of accepting units per layer."""
    counts = ", ".join(
        f"{layer['layer']} {layer['accepting']['units']} of {layer['counted']} (R below 1: "
        f"{layer['below_1_strict']['units']}; median response kept "
        f"{100 * (layer['kept']['1']['median'] or 0):.0f} %)"
        for layer in layers
    )
    return f" Accepting units: {counts}."


def _deformation(run: Run) -> Numbers:
    """Numbers of a layer for claim 3."""
    white, strict, response, delta = at_largest(run)
    rows = np.flatnonzero(np.isfinite(white) & np.isfinite(strict))
    accepts = (white < 1) & (response >= ACCEPTED)
    most_stable = sorted(rows, key=lambda row: strict[row])
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
             "kept": float(response[row]), "strict_and_errors": float(strict[row])}
            for row in most_stable[:LISTED]
        ],
    }  # fmt: skip


def at_largest(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray, float | None]:
    """Numbers of every unit at the largest displacement that the receptive field allows.

    Returns R plus two standard errors against white noise and against noise of the same spectrum,
    the share of the response that is kept (each [unit]), and the displacement of `DELTAS`.
    """
    arrays = {k: v.numpy().astype(float) for k, v in run.arrays("deformation").items()}
    for delta in DELTAS:
        column = _column(run, delta)
        if np.isfinite(arrays["stability"][:, column]).any():
            white, strict = (
                arrays[kind][:, column] + ERRORS * arrays[f"{kind}_error"][:, column]
                for kind in ("stability", "stability_strict")
            )
            return white, strict, arrays["kept"][:, column], delta
    nothing = np.full(len(run.units), np.nan)
    return nothing, nothing, nothing, None


def _column(run: Run, delta: float | None) -> int:
    """Column of a displacement in the measure's arrays."""
    deltas = run.arrays("deformation")["deltas"]
    return int((deltas - (delta or 0)).abs().argmin())


def _part(which: Float[np.ndarray, " unit"]) -> Numbers:
    """Number and share of the true units, and the p-value of a binomial test against chance."""
    total, units = len(which), int(which.sum())
    p = binomtest(units, total, BY_CHANCE, alternative="greater").pvalue if total else 1.0
    return {"units": units, "share": units / total if total else None, "p": float(p)}


def _ranked(example: Run, layer: Run | None, unit: int) -> Numbers:
    """A unit's indices, and for each the share of the layer's other units with a lower value."""
    keys = ("deformation.stability", "deformation.stability_error", "deformation.stability_strict",
            "deformation.stability_strict_error", "deformation.kept.0.5", "deformation.kept.1",
            "deformation.kept.2", "shift.mean_masked", "shift.min_masked", "phase.f1f0",
            "gain.distance_min", "gain.response", "diversity.index",
            "dimension.participation")  # fmt: skip
    ranked: Numbers = {"layer": example.name, "unit": unit, "indices": {}}
    for key in keys:
        value = float(example.values(key)[example.row(unit)])
        others = layer.values(key) if layer is not None else np.empty(0)
        if layer is not None:
            others = others[[entry["unit"] != unit for entry in layer.units]]
        others = others[np.isfinite(others)]
        measured = bool(np.isfinite(value))
        ranked["indices"][key] = {
            "value": value if measured else None,
            "lower": float((others < value).mean()) if measured and len(others) else None,
            "of_units": len(others),
        }
    return ranked
