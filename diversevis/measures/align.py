"""Alignment: which units are one another's rotations, scalings and shifts, and their families.

`S[A, B]` is the mean response of unit B to the images of unit A under the affine map that drives B
most, over B's best response (after Baroni et al. 2025). docs/method.md, section 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures.affine import Maps, matrices, resample
from diversevis.measures.families import Families, families_of, similarities
from diversevis.measures.matching import Align, Matches, match
from diversevis.measures.stimuli import at_norm
from diversevis.measures.subject import Measured, Numbers, Progress, Subject

NEAREST = 5  # units that are named and shown for a unit
MOST_MAPS = 512  # units up to which the maps of all pairs are stored: 8 MB


def measure_align(subject: Subject, progress: Progress) -> Measured:
    """Every living unit of the sample against every other, and their families."""
    settings: Align = subject.settings["align"]
    taken = comparable(subject)
    if len(taken) < 2:
        raise InputError(
            f"align compares units with one another, and {len(taken)} of {len(subject.units)} can "
            "be compared. Make a run of several units, such as unit=0-63, or align units of "
            "several runs: `diversevis align RUN RUN`."
        )
    units = subject.take(taken)
    images, _ = units.of_run()
    matches = match(
        images, units, settings, lambda done: progress("align", int(done * len(taken)), len(taken))
    )
    shares = matches.shares.double().numpy()
    families = families_of(shares)
    names = [{"unit": unit} for unit in units.units]
    numbers: list[Numbers | None] = [None] * len(subject.units)
    for index, of_unit in zip(
        taken, numbers_of(shares, matches.maps, families, names), strict=True
    ):
        numbers[index] = of_unit
    total = len(subject.units)
    arrays = {"images": _spread(_with_nearest(units, shares, matches.maps), taken, total)}
    arrays |= {
        name: _spread_pairs(x, taken, total) for name, x in _of_pairs(matches, units).items()
    }
    return Measured(numbers, arrays | _of_layer(families, matches, taken), asdict(settings))


def comparable(subject: Subject) -> list[int]:
    """Indices of the living units of the sample whose best response is above 0: a share of any
    other would mean nothing."""
    best = subject.best_responses().tolist()
    return [i for i in subject.living_sample if math.isfinite(best[i]) and best[i] > 0]


def numbers_of(
    shares: Float[np.ndarray, "unit unit"],
    maps: Maps,
    families: Families,
    names: Sequence[Mapping[str, Any]],
) -> list[Numbers]:
    """Numbers of every unit.

    maps   [source, target]
    names  what tells a unit from the others, in the list of its nearest units
    """
    likeness, nearest, limited = similarities(shares), nearest_units(shares), shares.clip(0, 1)
    typical = {typical_unit(likeness, members) for members in families.members()}
    numbers: list[Numbers] = []
    for unit in range(len(shares)):
        same = families.labels == families.labels[unit]
        others = np.arange(len(shares)) != unit
        numbers.append({
            "family": str(families.labels[unit]),
            "family_size": int(same.sum()),
            "typical": unit in typical,
            "to_family": _mean(likeness[unit, same & others]),
            "to_others": _mean(likeness[unit, ~same]),
            "to_nearest": float(likeness[unit, nearest[unit, 0]]),
            "silhouette": float(families.silhouettes[unit]),
            "asymmetry": _mean((limited[unit] - limited[:, unit])[others]),
            "nearest": [
                {**names[other], "there": float(shares[unit, other]),
                 "back": float(shares[other, unit]), **_in_words(maps, other, unit)}
                for other in nearest[unit].tolist()
            ],
        })  # fmt: skip
    return numbers


def nearest_units(shares: Float[np.ndarray, "unit unit"]) -> Int[np.ndarray, "unit near"]:
    """The units that every unit aligns with best, the best first."""
    likeness = similarities(shares)
    np.fill_diagonal(likeness, -1)
    return np.argsort(-likeness, axis=1, kind="stable")[:, : min(NEAREST, len(shares) - 1)]


def typical_unit(likeness: Float[np.ndarray, "unit unit"], members: Sequence[int]) -> int:
    """The member that is most like the others of its family: its medoid."""
    within = likeness[np.ix_(members, members)]
    return members[int((within.sum(1) - within.diagonal()).argmax())]


def _mean(values: Float[np.ndarray, " unit"]) -> float | None:
    return float(values.mean()) if len(values) else None


def _in_words(maps: Maps, source: int, target: int) -> dict[str, Any]:
    """A map for a person: degrees counter-clockwise, and by how much it enlarges."""
    parameters = maps.parameters[source, target].tolist()
    return {
        "rotation": math.degrees(parameters[2]) % 360,
        "scale": math.exp(parameters[3]),
        "reflected": bool(maps.reflected[source, target]),
        "sign": int(maps.sign[source, target]),
    }


def _with_nearest(
    units: Subject, shares: Float[np.ndarray, "unit unit"], maps: Maps
) -> Float[Tensor, "unit shown color height width"]:
    """The best image of every unit, and those of its nearest units under the map onto the unit."""
    best, nearest = units.best_images(), torch.from_numpy(nearest_units(shares))
    shown = torch.full((len(best), 1 + NEAREST, *units.image_shape), torch.nan)
    shown[:, 0] = best
    for column, others in enumerate(nearest.T, start=1):
        of_pairs = Maps(*(x[others, torch.arange(len(best))] for x in maps))
        x = resample(best[others][:, None], of_pairs, units.size)[:, 0]
        shown[:, column] = at_norm(x * of_pairs.sign[:, None, None, None], units.norm)
    return shown


def _of_pairs(matches: Matches, units: Subject) -> dict[str, Tensor]:
    """Arrays [source, target, ...]; maps only where there are not too many pairs."""
    arrays = {"shares": matches.shares, "first_pass": matches.first}
    if len(units.units) <= MOST_MAPS:
        arrays |= {"maps": matrices(matches.maps, units.size), "sign": matches.maps.sign}
    return arrays


def _of_layer(families: Families, matches: Matches, taken: Sequence[int]) -> dict[str, Tensor]:
    """Arrays without unit axis: rows of the units as leaves of the tree, the tree over the units
    that were compared, the divisions into families, and `LeftOut`."""
    return {
        "order": torch.tensor(taken)[torch.from_numpy(families.order)],
        "linkage": torch.from_numpy(families.linkage),
        "divisions": torch.from_numpy(families.divisions),
        "left_out": torch.tensor(matches.left_out, dtype=torch.float64),
    }


def _spread(values: Tensor, taken: Sequence[int], total: int) -> Tensor:
    """Of all units, NaN for those that were not compared."""
    whole = torch.full((total, *values.shape[1:]), torch.nan)
    whole[list(taken)] = values
    return whole


def _spread_pairs(values: Tensor, taken: Sequence[int], total: int) -> Tensor:
    rows = _spread(values, taken, total).transpose(0, 1)
    return _spread(rows, taken, total).transpose(0, 1).contiguous()
