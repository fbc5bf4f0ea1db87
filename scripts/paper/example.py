"""A unit whose batch shows one orientation in all phases: what the paper's complex cells look like.

docs/method.md, section 7, claim 2. From the images alone: a grating is fitted to every image of the
batch, and the phase of every image is read off at the mean wave vector of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.measures.phase import fit_grating
from diversevis.measures.stimuli import soft_mask
from paper.runs import Run, number_at

Numbers = dict[str, Any]

FITTED = 0.2  # F1/F0 of the fitted grating below this
DIMENSIONS = 1.7, 4.5  # participation ratio: a plane, or somewhat more where envelopes shift too
ALIKE, OCTAVES = 0.9, 0.35  # orientations' resultant (0 to 1), and frequencies' deviation
LARGEST_GAP = 150.0  # degrees without a phase; six phases evenly apart leave 60
RULE = (
    f"Of conv2_1 and conv2_2: fitted F1/F0 below {FITTED}, not weak, participation ratio "
    f"{DIMENSIONS[0]} to {DIMENSIONS[1]}; gratings fitted to the batch's images agree in "
    f"orientation (resultant of doubled angles at least {ALIKE}) and frequency (deviation at most "
    f"{OCTAVES} octaves), and their phases leave no gap above {LARGEST_GAP:.0f} degrees. Of these, "
    "the highest diversity index. (The limit of the participation ratio was 3.5 at first, which "
    "no unit of conv2_2 passed; it was raised after a look at their batches.)"
)


def example(runs: Sequence[Run]) -> Numbers:
    """The unit chosen by `RULE`; where none satisfies it, the most diverse of those with fitted
    F1/F0 as low, and `satisfied` says so; `unit` is None where there is none at all."""
    candidates = [one for run in runs for one in _candidates(run)]
    passing = [one for one in candidates if one["passes"]]
    found = {"rule": RULE, "candidates": len(candidates), "passing": len(passing),
             "satisfied": bool(passing), "unit": None}  # fmt: skip
    pool = passing or candidates
    if not pool:
        return found
    chosen = max(pool, key=lambda one: one["diversity_index"] or 0)
    others = [f"{one['layer']} {one['unit']}" for one in passing if one is not chosen]
    return found | chosen | {"others": others}


def _candidates(run: Run) -> list[Numbers]:
    """Units with fitted F1/F0 low enough, and what their batches look like."""
    images, found = run.images()["images"], []
    for row, unit in enumerate(run.units):
        fitted, weak = (number_at(unit, f"phase.fitted.{key}") for key in ("f1f0", "weak"))
        if not fitted < FITTED or weak:
            continue
        dimensions = number_at(unit, "dimension.participation")
        index = number_at(unit, "diversity.index")
        one = {"layer": run.name, "unit": unit["unit"], "fitted_f1f0": fitted,
               "f1f0": number_at(unit, "phase.f1f0"), "participation": dimensions,
               "diversity_index": index if math.isfinite(index) else None}  # fmt: skip
        one |= described(images[row])
        one["passes"] = (
            DIMENSIONS[0] <= dimensions <= DIMENSIONS[1] and one["alike"] >= ALIKE
            and one["octaves"] <= OCTAVES and one["largest_gap"] <= LARGEST_GAP
        )  # fmt: skip
        found.append(one)
    return found


def described(images: Float[Tensor, "image 3 height width"]) -> Numbers:
    """Orientation and frequency of a batch, how much its images agree in them, and their phases.

    alike        length of the mean of doubled angles, 1 where all orientations are one
    octaves      standard deviation of the frequencies
    largest_gap  degrees between neighbouring phases
    """
    frequency, orientation, color = fit_grating(images)
    doubled = torch.polar(torch.ones_like(orientation), torch.deg2rad(2 * orientation)).mean()
    mean = math.degrees(torch.angle(doubled).item()) / 2 % 180
    octaves = frequency.log2()
    middle = 2 ** octaves.mean().item()
    phases = phases_at(images, middle, mean, color[0])
    ordered = phases.sort().values
    gaps = torch.diff(ordered, append=ordered[:1] + 360)
    return {
        "orientation": mean,
        "alike": doubled.abs().item(),
        "frequency": middle,
        "octaves": octaves.std(correction=0).item(),
        "phases": [round(phase, 1) for phase in phases.tolist()],
        "largest_gap": gaps.max().item(),
    }


def phases_at(
    images: Float[Tensor, "image 3 height width"],
    frequency: float,
    orientation: float,
    color: Float[Tensor, " 3"],
) -> Float[Tensor, " image"]:
    """Degrees, 0 to 360: of each image at one wave vector, from the image's centre, in one colour.

    frequency  cycles per pixel; orientation: of the wave vector, degrees counter-clockwise
    """
    height, width = images.shape[2:]
    y = (height - 1) / 2 - torch.arange(height)[:, None]
    x = torch.arange(width) - (width - 1) / 2
    turn = math.radians(orientation)
    wave = 2 * math.pi * frequency * (math.cos(turn) * x + math.sin(turn) * y)
    shown = torch.einsum("ichw,c->ihw", images * soft_mask((height, width)), color)
    real, imaginary = ((shown * part).sum((1, 2)) for part in (wave.cos(), wave.sin()))
    return torch.rad2deg(torch.atan2(imaginary, real)) % 360
