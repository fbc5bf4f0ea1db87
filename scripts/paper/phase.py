"""Claim 2 (docs/method.md, section 7): phase invariance in early layers, and random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from paper.runs import Run, about, spread
from paper.verdict import FEW, TOO_FEW

Numbers = dict[str, Any]

SIMPLE = 1.0  # F1/F0 above which a cell is simple (Skottun et al. 1991)
NEAR_PERFECT = (
    0.2  # F1/F0 below which we call phase invariance near-perfect; the paper has no limit
)
LISTED = 8  # units listed per layer
PHASE_RULE = (
    f"Holds: conv1_1, whose units are linear, has no unit with F1/F0 below {NEAR_PERFECT}; and "
    "conv1_2, conv2_1 or conv2_2 has units below it, both with the best grating and with the "
    f"grating fitted to the unit's best image, beside units above {SIMPLE:g}. Holds in part: one "
    f"of these layers has units with F1/F0 below {SIMPLE:g}. Does not hold: none has. Dead and "
    "weak units (F0 below 1 % of the largest response) are left out; the table shows their number. "
    f"Too few units to say: one of these layers has fewer than {FEW} units that count."
)


def phase_claim(layers: Mapping[str, Run], controls: Mapping[str, Run]) -> Numbers:
    """Claim 2: F1/F0 of every unit, and of the same architecture with random weights."""
    numbers = {name: _phase(run) for name, run in layers.items()}
    random = {name: _phase(run) for name, run in controls.items()}
    early = [layer for name in ("conv1_2", "conv2_1", "conv2_2")
             if (layer := numbers.get(f"vgg19 {name}"))]  # fmt: skip
    perfect = [
        layer["layer"] for layer in early
        if layer["best"]["near_perfect"] and layer["fitted"]["near_perfect"]
        and (layer["best"]["below_1"] or 0) < 1
    ]  # fmt: skip
    first = numbers.get("vgg19 conv1_1", {}).get("best", {}).get("near_perfect")
    some = [layer["layer"] for layer in early if layer["best"]["below_1"]]
    verdict = "holds" if perfect and first == 0 else "holds in part" if some else "does not hold"
    linear = [layer for name, layer in numbers.items() if name == "vgg19 conv1_1"]
    if any(layer["best"]["counted"] < FEW for layer in (*linear, *early)):
        verdict = TOO_FEW
    depth = {model: _depth(numbers, model) for model in ("vgg19", "resnet50")}
    first_share = "no numbers" if first is None else f"{first:.1%}" if first else "none"
    finding = (
        f"Near-perfect units beside simple ones: {', '.join(perfect) or 'in no early layer'}; "
        f"conv1_1 has {first_share}. The share of units with F1/F0 below 1 "
        + " and ".join(
            f"{'grows' if shares['growing'] else 'does not grow'} with every layer of {model}"
            for model, shares in depth.items()
        )
        + "."
        + _against_random(numbers, random)
    )
    return {
        "verdict": verdict, "rule": PHASE_RULE, "finding": finding,
        "numbers": {"layers": numbers, "controls": random, "depth": depth},
    }  # fmt: skip


def _phase(run: Run) -> Numbers:
    """Numbers of a layer for claim 2."""
    best, fitted = (_f1f0(run, key) for key in ("phase", "phase.fitted"))
    order = [int(row) for row in np.argsort(best) if np.isfinite(best[row])]
    listed = [
        {"unit": run.units[row]["unit"], "f1f0": float(best[row]),
         "fitted": float(fitted[row]) if np.isfinite(fitted[row]) else None}
        for row in order[:LISTED]
    ]  # fmt: skip
    return about(run) | {
        "layer": run.record["layer"],
        "best": _shares(run, best, "phase"),
        "fitted": _shares(run, fitted, "phase.fitted"),
        "most_invariant": listed,
    }


def _against_random(numbers: Mapping[str, Numbers], random: Mapping[str, Numbers]) -> str:
    """A sentence with the shares of near-perfect units with trained and with random weights."""
    comparisons = []
    for name, control in random.items():
        trained = numbers.get(name.removesuffix(" random weights"))
        pair = [v["best"]["near_perfect"] for v in (trained, control) if v is not None]
        if len(pair) == 2 and None not in pair:
            comparisons.append(f"{control['layer']} {pair[0]:.0%} against {pair[1]:.0%}")
    if not comparisons:
        return ""
    shares = ", ".join(comparisons)
    return f" F1/F0 below {NEAR_PERFECT}, trained weights against random weights: {shares}."


def _f1f0(run: Run, key: str) -> Float[np.ndarray, " unit"]:
    """F1/F0, NaN for dead and weak units."""
    return np.where(run.values(f"{key}.weak") == 0, run.values(f"{key}.f1f0"), np.nan)


def _shares(run: Run, f1f0: Float[np.ndarray, " unit"], key: str) -> Numbers:
    """Numbers of units counted, weak and without a value; median; shares below the two limits."""
    known = f1f0[np.isfinite(f1f0)]
    weak = int((run.values(f"{key}.weak") == 1).sum())
    limits = {"below_1": SIMPLE, "near_perfect": NEAR_PERFECT}
    return {
        "counted": len(known), "weak": weak, "median": spread(known)["median"],
        "without": len(f1f0) - len(known) - weak - run.dead,
        **{name: float((known < limit).mean()) if len(known) else None
           for name, limit in limits.items()},
    }  # fmt: skip


def _depth(numbers: Mapping[str, Numbers], model: str) -> Numbers:
    """Shares of a network's layers, in order of depth, and whether they never decrease."""
    shares = {
        name: layer["best"]["below_1"] for name, layer in numbers.items()
        if name.split()[0] == model and layer["best"]["below_1"] is not None
    }  # fmt: skip
    steps = np.diff(list(shares.values()))
    return {"below_1": shares, "growing": bool(len(steps)) and bool((steps >= 0).all())}
