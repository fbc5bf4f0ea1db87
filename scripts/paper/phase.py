"""Claim 2 (docs/method.md, section 7): phase invariance in early layers; random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from paper.runs import Run, about, spread

Numbers = dict[str, Any]

SIMPLE, NEAR_PERFECT = 1.0, 0.2  # F1/F0: Skottun et al. 1991; "near-perfect" (claim 2)
LISTED = 8  # units named per layer
PHASE_RULE = (
    "Holds: conv1_1, whose units are linear, has no unit with F1/F0 below "
    f"{NEAR_PERFECT}, and conv1_2, conv2_1 or conv2_2 has units below it, with the best grating "
    f"and with the one fitted to the unit's best image, beside units above {SIMPLE:g}. In part: "
    f"one of these layers has units with F1/F0 below {SIMPLE:g}. Does not hold: none has. Dead and "
    "weak units (F0 below 1 % of the largest response) are left out and counted."
)


def phase_claim(layers: Mapping[str, Run], controls: Mapping[str, Run]) -> Numbers:
    """Claim 2: F1/F0 of every unit, and of the same architecture with random weights."""
    numbers = {name: _phase(run) for name, run in layers.items()}
    random = {name: _phase(run) for name, run in controls.items()}
    early = [one for name in ("conv1_2", "conv2_1", "conv2_2")
             if (one := numbers.get(f"vgg19 {name}"))]  # fmt: skip
    perfect = [
        one["layer"] for one in early
        if one["best"]["near_perfect"] and one["fitted"]["near_perfect"]
        and (one["best"]["below_1"] or 0) < 1
    ]  # fmt: skip
    first = numbers.get("vgg19 conv1_1", {}).get("best", {}).get("near_perfect")
    some = [one["layer"] for one in early if one["best"]["below_1"]]
    verdict = "holds" if perfect and first == 0 else "holds in part" if some else "does not hold"
    depth = {model: _depth(numbers, model) for model in ("vgg19", "resnet50")}
    said = "no numbers" if first is None else f"{first:.1%}" if first else "none"
    finding = (
        f"Near-perfect units beside simple ones: {', '.join(perfect) or 'in no early layer'}; "
        f"conv1_1 has {said}. The share of units with F1/F0 below 1 "
        + " and ".join(
            f"{'grows' if one['growing'] else 'does not grow'} with every layer of {model}"
            for model, one in depth.items()
        )
        + "."
        + _against_random(numbers, random)
    )
    return {
        "verdict": verdict, "rule": PHASE_RULE, "finding": finding,
        "numbers": {"layers": numbers, "controls": random, "depth": depth},
    }  # fmt: skip


def _phase(run: Run) -> Numbers:
    best, fitted = (_f1f0(run, key) for key in ("phase", "phase.fitted"))
    order = [int(row) for row in np.argsort(best) if np.isfinite(best[row])]
    tops = [
        {"unit": run.units[row]["unit"], "f1f0": float(best[row]),
         "fitted": float(fitted[row]) if np.isfinite(fitted[row]) else None}
        for row in order[:LISTED]
    ]  # fmt: skip
    return about(run) | {
        "layer": run.record["layer"],
        "best": _shares(run, best, "phase"),
        "fitted": _shares(run, fitted, "phase.fitted"),
        "most_invariant": tops,
    }


def _against_random(numbers: Mapping[str, Numbers], random: Mapping[str, Numbers]) -> str:
    """How many near-perfect units trained weights have, and random ones, in words."""
    told = []
    for name, one in random.items():
        trained = numbers.get(name.removesuffix(" random weights"))
        shares = [v["best"]["near_perfect"] for v in (trained, one) if v is not None]
        if len(shares) == 2 and None not in shares:
            told.append(f"{one['layer']} {shares[0]:.0%} against {shares[1]:.0%}")
    if not told:
        return ""
    return f" F1/F0 below {NEAR_PERFECT}, trained weights against random ones: {', '.join(told)}."


def _f1f0(run: Run, key: str) -> Float[np.ndarray, " unit"]:
    """F1/F0, NaN for dead and weak units."""
    return np.where(run.values(f"{key}.weak") == 0, run.values(f"{key}.f1f0"), np.nan)


def _shares(run: Run, f1f0: Float[np.ndarray, " unit"], key: str) -> Numbers:
    known = f1f0[np.isfinite(f1f0)]
    weak = int((run.values(f"{key}.weak") == 1).sum())
    share = {"below_1": SIMPLE, "near_perfect": NEAR_PERFECT}
    return {
        "counted": len(known), "weak": weak, "median": spread(known)["median"],
        "without": len(f1f0) - len(known) - weak - run.dead,
        **{k: float((known < v).mean()) if len(known) else None for k, v in share.items()},
    }  # fmt: skip


def _depth(numbers: Mapping[str, Numbers], model: str) -> Numbers:
    """Shares in the order of the layers, and whether none is below the one before it."""
    shares = {
        name: one["best"]["below_1"] for name, one in numbers.items()
        if name.split()[0] == model and one["best"]["below_1"] is not None
    }  # fmt: skip
    steps = np.diff(list(shares.values()))
    return {"below_1": shares, "growing": bool(len(steps)) and bool((steps >= 0).all())}
