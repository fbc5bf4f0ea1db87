"""The paper's four claims (docs/method.md, section 7) together, and the first of them.

Every verdict follows from its rule and the numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import wilcoxon

from diversevis.compare.statistics import holm
from diversevis.measures.dimension import participation
from paper.deformation import deformation_claim
from paper.differences import difference_claim
from paper.example import example
from paper.phase import phase_claim
from paper.runs import EXAMPLE, Plan, Run, about, spread

Numbers = dict[str, Any]

LEVEL = 0.05  # of tests
ONE_IMAGE = 0.05  # diversity index up to which a unit accepts one image, as a linear one does
KEPT_TOGETHER = 0.9  # of the response of images made alone: less and they are other images

TITLES = (
    "One batch, optimized together, shows more of what a unit accepts than repeated random starts "
    "do.",
    "Already early VGG-19 layers hold units with near-perfect phase invariance, as complex cells "
    "have, beside units with none.",
    "Other units accept local diffeomorphic deformations of their preferred pattern.",
    "ResNet-50 units of matching receptive-field size represent differently.",
)
GAIN_RULE = (
    "A layer speaks for the claim if the median gain in smallest distance is above 0 (Wilcoxon "
    f"signed-rank test, one-sided, Holm over layers: p < {LEVEL}), the median gain in mean "
    f"distance is too, and the batch keeps at least {KEPT_TOGETHER:.0%} (median) of the response "
    "of images made alone. Layers whose median diversity index is below "
    f"{ONE_IMAGE} do not count: a linear unit accepts one image, and what its batch gains in "
    "distance is bought with response. Holds: every layer that counts does. In part: some do. "
    "Does not hold: none does. (That linear layers do not count was added after a first look at 16 "
    "units of each layer, all of which spoke for the claim.)"
)


def claims_of(runs: Mapping[str, Run], planned: Sequence[Plan], out: Path) -> list[Numbers]:
    """All four, as claims.json holds them.

    runs     by the names of their plans; those that are missing are left out
    planned  the commands
    out      folder that paths in commands are relative to
    """
    lines = {plan.name: plan.line for plan in planned if plan.name in runs}
    one = " ".join(map(str, EXAMPLE))
    controls = {name: run for name, run in runs.items() if name.endswith("random weights")}
    layers = {name: run for name, run in runs.items() if name not in (*controls, one)}
    of_layers = [lines[name] for name in layers]
    of_one = [lines[one]] if one in runs else []
    phase = phase_claim(layers, controls)
    phase["numbers"]["example"] = example([run for name, run in layers.items() if "conv2" in name])
    verdict, rule, finding, numbers, compared = difference_claim(layers, out)
    last = {"verdict": verdict, "rule": rule, "finding": finding, "numbers": numbers}
    found = [
        gain_claim(layers) | {"commands": of_layers},
        phase | {"commands": [*of_layers, *(lines[name] for name in controls)]},
        deformation_claim(layers, runs.get(one)) | {"commands": [*of_layers, *of_one]},
        last | {"commands": [*of_layers, *compared]},
    ]
    return [
        {"number": place, "claim": title, **claim}
        for place, (title, claim) in enumerate(zip(TITLES, found, strict=True), start=1)
    ]


# -- 1: together or alone -------------------------------------------------------------------------


def gain_claim(layers: Mapping[str, Run]) -> Numbers:
    """Claim 1: batches against as many images each made alone."""
    numbers = {name: _gain(run) for name, run in layers.items()}
    for one, p in zip(numbers.values(), holm([one["p"] for one in numbers.values()]), strict=True):
        one["p_holm"] = p
        one["speaks_for"] = bool(
            p is not None and p < LEVEL
            and one["gain_smallest"]["median"] > 0 and one["gain_mean"]["median"] > 0
            and (one["response"]["median"] or 0) >= KEPT_TOGETHER
        )  # fmt: skip
        one["counts"] = (one["diversity_index"]["median"] or 0) >= ONE_IMAGE
    counting = [name for name, one in numbers.items() if one["counts"]]
    speaking = [name for name in counting if numbers[name]["speaks_for"]]
    finding = (
        f"{len(speaking)} of {len(counting)} layers that count speak for it"
        + (f" ({', '.join(speaking)}). " if 0 < len(speaking) < len(counting) else ". ")
        + f"Of {len(numbers)} layers, the units of {len(numbers) - len(counting)} accept one image "
        "only. The smallest distance is what the batch is rewarded for; that the mean distance and "
        "the number of dimensions grow too, and the response stays, is what tells."
    )
    return {
        "verdict": _verdict(len(speaking), len(counting)), "rule": GAIN_RULE, "finding": finding,
        "numbers": {"layers": numbers},
    }  # fmt: skip


def _gain(run: Run) -> Numbers:
    smallest = run.values("gain.distance_min")
    known = smallest[np.isfinite(smallest)]
    p = None
    if len(known):
        p = float(wilcoxon(known, alternative="greater").pvalue) if known.any() else 1.0
    return about(run) | {
        "counted": len(known),
        "gain_smallest": spread(known),
        "gain_mean": spread(run.values("gain.distance_mean")),
        "smallest_alone": spread(run.values("gain.distance_min_alone")),
        "mean_alone": spread(run.values("gain.distance_mean_alone")),
        "share_larger": float((known > 0).mean()) if len(known) else None,
        "response": spread(run.values("gain.response")),
        "dimensions": spread(run.values("dimension.participation")),
        "dimensions_alone": spread(_dimensions_alone(run)),
        "diversity_index": spread(run.values("diversity.index")),
        "p": p,
    }


def _dimensions_alone(run: Run) -> Float[np.ndarray, " unit"]:
    """Participation ratio of the images made alone."""
    images = run.arrays("gain")["images"]
    return participation(images[images.flatten(1).isfinite().all(1)])[0].numpy()


def _verdict(speaking: int, of: int) -> str:
    return "holds" if 0 < of == speaking else "holds in part" if speaking else "does not hold"
