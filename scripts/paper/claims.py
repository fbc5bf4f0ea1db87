"""All four claims of the paper (docs/method.md, section 7), and how the first is decided.

A verdict depends only on the rule and the numbers.
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
from paper.verdict import TOO_FEW, signed_ranks_can_decide

Numbers = dict[str, Any]

LEVEL = 0.05  # significance level
ONE_IMAGE = 0.05  # below this diversity index a unit accepts a single image, as a linear unit does
# Share of the response of images made alone; below it, the batch shows images of another kind.
MIN_RESPONSE = 0.9

TITLES = (
    "A batch that is optimized together shows more of what a unit accepts than repeated random "
    "starts.",
    "Early layers of VGG-19 already contain units with near-perfect phase invariance, like complex "
    "cells, beside units without any.",
    "Other units accept local diffeomorphic deformations of their preferred pattern.",
    "ResNet-50 units with receptive fields of the same size represent different things.",
)
GAIN_RULE = (
    "A layer supports the claim if its units' median gain in smallest distance is above 0 "
    f"(Wilcoxon signed-rank test, one-sided, Holm over layers: p < {LEVEL}), the median gain in "
    "mean distance is above 0, and the median response of the batch is at least "
    f"{MIN_RESPONSE:.0%} of that of images made alone. Layers with a median diversity index below "
    f"{ONE_IMAGE} do not count: a linear unit accepts a single image, and its batch gains distance "
    "only by losing response. Holds: all layers that count support it. Holds in part: some do. "
    "Does not hold: none does. (That linear layers do not count was added after a first look at 16 "
    "units of each layer, where all layers supported the claim.) Too few units to say: in a layer "
    "the test could not reach this p, whatever the gains."
)


def claims_of(runs: Mapping[str, Run], planned: Sequence[Plan], out: Path) -> list[Numbers]:
    """Return the four claims, as claims.json has them.

    runs     by the names of their plans; missing runs are left out
    planned  all plans, for the commands
    out      folder of claims.json; paths in commands are relative to it
    """
    lines = {plan.name: plan.line for plan in planned if plan.name in runs}
    example_run = " ".join(map(str, EXAMPLE))
    controls = {name: run for name, run in runs.items() if name.endswith("random weights")}
    layers = {name: run for name, run in runs.items() if name not in (*controls, example_run)}
    of_layers = [lines[name] for name in layers]
    of_example = [lines[example_run]] if example_run in runs else []
    phase = phase_claim(layers, controls)
    phase["numbers"]["example"] = example([run for name, run in layers.items() if "conv2" in name])
    verdict, rule, finding, numbers, comparisons = difference_claim(layers, out)
    difference = {"verdict": verdict, "rule": rule, "finding": finding, "numbers": numbers}
    claims = [
        gain_claim(layers) | {"commands": of_layers},
        phase | {"commands": [*of_layers, *(lines[name] for name in controls)]},
        deformation_claim(layers, runs.get(example_run)) | {"commands": [*of_layers, *of_example]},
        difference | {"commands": [*of_layers, *comparisons]},
    ]
    return [
        {"number": number, "claim": title, **claim}
        for number, (title, claim) in enumerate(zip(TITLES, claims, strict=True), start=1)
    ]


# -- claim 1: together or alone -------------------------------------------------------------------


def gain_claim(layers: Mapping[str, Run]) -> Numbers:
    """Claim 1: batches against the same number of images made alone."""
    numbers = {name: _gain(run) for name, run in layers.items()}
    adjusted = holm([layer["p"] for layer in numbers.values()])
    for layer, p in zip(numbers.values(), adjusted, strict=True):
        layer["p_holm"] = p
        layer["speaks_for"] = bool(
            p is not None and p < LEVEL
            and layer["gain_smallest"]["median"] > 0 and layer["gain_mean"]["median"] > 0
            and (layer["response"]["median"] or 0) >= MIN_RESPONSE
        )  # fmt: skip
        layer["counts"] = (layer["diversity_index"]["median"] or 0) >= ONE_IMAGE
    counting = [name for name, layer in numbers.items() if layer["counts"]]
    speaking = [name for name in counting if numbers[name]["speaks_for"]]
    decidable = all(
        signed_ranks_can_decide(layer["counted"], len(numbers), LEVEL) for layer in numbers.values()
    )
    finding = (
        f"{len(speaking)} of {len(counting)} layers that count support it"
        + (f" ({', '.join(speaking)}). " if 0 < len(speaking) < len(counting) else ". ")
        + f"In {len(numbers) - len(counting)} of {len(numbers)} layers the units accept only a "
        "single image. The batch is rewarded for its smallest distance, so that a gain there is no "
        "surprise; the evidence is that mean distance and number of dimensions grow as well, and "
        "that the response stays."
    )
    return {
        "verdict": _verdict(len(speaking), len(counting)) if decidable else TOO_FEW,
        "rule": GAIN_RULE, "finding": finding,
        "numbers": {"layers": numbers},
    }  # fmt: skip


def _gain(run: Run) -> Numbers:
    """Numbers of a layer for claim 1."""
    smallest = run.values("gain.distance_min")
    known = smallest[np.isfinite(smallest)]
    p = None
    if len(known):
        # The test is undefined if all gains are 0.
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


def _verdict(speaking: int, counting: int) -> str:
    return "holds" if 0 < counting == speaking else "holds in part" if speaking else "does not hold"
