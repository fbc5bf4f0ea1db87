"""Chooses a unit whose batch shows the same orientation in all phases, like a complex cell.

An example for claim 2 (docs/method.md, section 7), chosen from the images: a grating is fitted to
every image of the batch, and the phase of every image is measured at the batch's mean wave vector.
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

FITTED = 0.2  # upper limit of F1/F0 with the fitted grating
DIMENSIONS = 1.7, 4.5  # participation ratio: 2 in a plane of phases, more if envelopes shift, too
ALIKE = 0.9  # lower limit of the resultant of doubled orientations, 0 to 1
OCTAVES = 0.35  # upper limit of the standard deviation of frequencies
LARGEST_GAP = 150.0  # degrees between neighbouring phases; six evenly spaced phases have 60
RULE = (
    f"From conv2_1 and conv2_2: F1/F0 of the fitted grating below {FITTED}, not weak, "
    f"participation ratio {DIMENSIONS[0]} to {DIMENSIONS[1]}; the gratings fitted to the batch's "
    f"images agree in orientation (resultant of doubled angles at least {ALIKE}) and frequency "
    f"(standard deviation at most {OCTAVES} octaves), and their phases leave no gap above "
    f"{LARGEST_GAP:.0f} degrees. Of these units, the most diverse (diversity index). (The "
    "upper limit of the participation ratio was 3.5 at first, which no unit of conv2_2 passed; it "
    "was raised after a look at their batches.)"
)


def example(runs: Sequence[Run]) -> Numbers:
    """Return the unit chosen by `RULE`, for claims.json.

    If no unit satisfies the rule, `satisfied` is False and the unit is the most diverse with a
    fitted F1/F0 below the limit; `unit` is None if there is none.
    """
    candidates = [candidate for run in runs for candidate in _candidates(run)]
    passing = [candidate for candidate in candidates if candidate["passes"]]
    counts = {"rule": RULE, "candidates": len(candidates), "passing": len(passing),
              "satisfied": bool(passing), "unit": None}  # fmt: skip
    pool = passing or candidates
    if not pool:
        return counts
    chosen = max(pool, key=lambda candidate: candidate["diversity_index"] or 0)
    others = [f"{unit['layer']} {unit['unit']}" for unit in passing if unit is not chosen]
    return counts | chosen | {"others": others}


def _candidates(run: Run) -> list[Numbers]:
    """Units whose fitted F1/F0 is below the limit, with a description of their batches."""
    images, candidates = run.images()["images"], []
    for row, unit in enumerate(run.units):
        fitted, weak = (number_at(unit, f"phase.fitted.{key}") for key in ("f1f0", "weak"))
        if not fitted < FITTED or weak:
            continue
        dimensions = number_at(unit, "dimension.participation")
        index = number_at(unit, "diversity.index")
        candidate = {"layer": run.name, "unit": unit["unit"], "fitted_f1f0": fitted,
                     "f1f0": number_at(unit, "phase.f1f0"), "participation": dimensions,
                     "diversity_index": index if math.isfinite(index) else None}  # fmt: skip
        candidate |= described(images[row])
        candidate["passes"] = (
            DIMENSIONS[0] <= dimensions <= DIMENSIONS[1] and candidate["alike"] >= ALIKE
            and candidate["octaves"] <= OCTAVES and candidate["largest_gap"] <= LARGEST_GAP
        )  # fmt: skip
        candidates.append(candidate)
    return candidates


def described(images: Float[Tensor, "image 3 height width"]) -> Numbers:
    """Return orientation, frequency and phases of a batch, and how much its images agree in them.

    alike        resultant length of doubled orientations; 1 if all orientations are the same
    octaves      standard deviation of the frequencies
    largest_gap  largest difference between neighbouring phases, degrees
    """
    frequency, orientation, color = fit_grating(images)
    # Orientations repeat after 180 degrees, so that angles are doubled before they are averaged.
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
    """Phase of every image at the same wave vector and colour: degrees, 0 to 360, at the centre.

    frequency    cycles per pixel
    orientation  of the wave vector, degrees counter-clockwise
    color        direction in RGB on which the pixels are projected
    """
    height, width = images.shape[2:]
    y = (height - 1) / 2 - torch.arange(height)[:, None]
    x = torch.arange(width) - (width - 1) / 2
    turn = math.radians(orientation)
    wave = 2 * math.pi * frequency * (math.cos(turn) * x + math.sin(turn) * y)
    projected = torch.einsum("ichw,c->ihw", images * soft_mask((height, width)), color)
    real, imaginary = ((projected * part).sum((1, 2)) for part in (wave.cos(), wave.sin()))
    return torch.rad2deg(torch.atan2(imaginary, real)) % 360
