"""The numbers of a unit that are compared, and where metrics.json has them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from diversevis.compare.runs import Run


@dataclass(frozen=True)
class Index:
    """A number of every unit that is compared.

    `key` is a dotted key in a unit's entry of metrics.json, of at most three names. A last `*`
    stands for every name there, which replaces `{}` in the title.
    """

    key: str
    title: str
    unit: str  # of the number, for axes
    below: float | None = None  # compare the share of units below this, instead of the number
    unless: str | None = None  # key of a flag: units for which it is true are left out
    meaning: str = field(default="", compare=False)  # in a line, for a person
    words: tuple[str, str] | None = None  # the field's words for numbers below 1, and above 1

    @property
    def measure(self) -> str:
        return self.key.split(".")[0]

    @property
    def name(self) -> str:
        return self.key if self.below is None else f"{self.key}<{self.below:g}"

    def word(self, value: float) -> str | None:
        """The field's word for a number; None where there is no standard threshold."""
        if self.words is None or value == 1:
            return None
        return self.words[0] if value < 1 else self.words[1]


WEAK, OF_BEST, OF_MASKED = "phase.weak", "share of best response", "share of best, masked"
CELLS = "complex-like", "simple-like"  # F1/F0: Skottun et al. 1991
NOISE = "less than noise", "more than noise"  # R: Petrini et al. 2021
INDICES = (
    Index("phase.f1f0", "F1/F0, best grating", "F1/F0", unless=WEAK, words=CELLS,
          meaning="first harmonic of the response over the phase of the grating / its mean; "
                  "near 0: as in a complex cell, above 1: as in a simple cell"),
    Index("phase.f1f0", "units with F1/F0 below 1", "share of units", below=1.0, unless=WEAK),
    Index("phase.fitted.f1f0", "F1/F0, fitted grating", "F1/F0", unless="phase.fitted.weak",
          words=CELLS, meaning="the same for the grating that is most like the unit's best image"),
    Index("shift.mean", "shift, mean of crops", OF_BEST,
          meaning="mean response to all crops of a texture, seen through a soft mask / best "
                  "response without mask; below 1"),
    Index("shift.min", "shift, worst crop", OF_BEST,
          meaning="the same for the crop with the lowest response"),
    Index("shift.mean_masked", "shift, mean, masked", OF_MASKED,
          meaning="mean response to all crops of a texture / best response under the same mask; "
                  "1: shifts do not matter"),
    Index("shift.learned.mean_masked", "shift, mean, learned mask", OF_MASKED,
          meaning="the same under a mask that was learned for the unit"),
    Index("deformation.stability", "deformation, R (white noise)", "R", words=NOISE,
          meaning="change of the response by a smooth deformation / by white noise of the same "
                  "size; 0: no change"),
    Index("deformation.stability_strict", "deformation, R (matched noise)", "R", words=NOISE,
          meaning="the same, with noise that has the spatial frequencies of the deformation"),
    Index("deformation.kept.*", "deformation of {} px", "share of response kept",
          meaning="mean response to the images, deformed by that much / to the images as they are; "
                  "-: too large for the receptive field"),
    Index("diversity.index", "diversity index", "index (0 simple, 1 complex)",
          meaning="how different the images are: 0 as for a simple cell (linear unit), 1 as for an "
                  "ideal complex cell"),
    Index("dimension.participation", "participation ratio", "dimensions",
          meaning="dimensions that the images fill; 1: all alike, 2: a plane, as the phases of a "
                  "grating"),
    Index("dimension.path_min", "lowest response on paths", "share of lower end",
          meaning="lowest response between two images, blended into one another / at the worse of "
                  "the two"),
    Index("dimension.groups", "groups of images", "groups",
          meaning="1: all images are connected by paths on which the response hardly drops"),
    Index("gain.distance_min", "gain, smallest distance", "RMS grey levels",
          meaning="smallest distance of the images minus that of images made alone; above 0: the "
                  "batch shows more"),
    Index("gain.distance_mean", "gain, mean distance", "RMS grey levels",
          meaning="the same for the mean distance"),
    Index("gain.response", "response, batch / alone", "ratio",
          meaning="mean response to the images / to images made alone; 1: diversity costs no "
                  "response"),
    Index("bipartite.index", "bipartite index", "index (0 linear, 1 all free)",
          meaning="how much of the best image may show a shifting texture; 0: as for a linear "
                  "unit, 0.25: an ideal complex cell, 1: any part of it"),
    Index("bipartite.index_at_least", "bipartite index, at least", "index (0 linear, 1 all free)",
          meaning="the same where more of the image may vary than is asked: 1 for a complex cell"),
    Index("bipartite.index_contrast", "bipartite index of contrast", "index (0 linear)",
          meaning="the index of a linear filter, without a free part, whose response grows with "
                  "contrast as this unit's does; a higher bipartite index says more than contrast"),
    Index("bipartite.share", "bipartite, free share", "share of energy", unless="bipartite.weak",
          meaning="share of the best image's energy in the part that may show a shifting texture"),
    Index("bipartite.dip", "bipartite, dip", OF_BEST,
          meaning="what a texture in a part of the free part costs: 0.5 for an ideal complex cell, "
                  "0 where pieces of it may move alone"),
    Index("natural.of_synthetic", "best natural / synthetic", "ratio",
          meaning="response to the best crop of a photograph / mean response to the images"),
    Index("selectivity.mean_others", "other units, mean response", OF_BEST,
          meaning="mean response of the other units of the run to the unit's images / their best "
                  "response; below 0: counts as 0"),
    Index("selectivity.mean_by_others", "others' images, mean response", OF_BEST,
          meaning="mean response of the unit to the images of the other units / its best response"),
    Index("selectivity.rank", "rank on its images", "rank",
          meaning="place of the unit among all units of the run by their response to its images; "
                  "1: itself is driven most"),
    Index("selectivity.share_above_half", "other units above half", "share of units",
          meaning="share of the other units that the images drive above half of their best "
                  "response"),
    Index("align.to_nearest", "alignment, nearest unit", OF_BEST,
          meaning="response to a unit's images, rotated, scaled and moved as fits best / best "
                  "response, there and back, for the unit that is most alike; 1: the same but for "
                  "that"),
    Index("align.to_family", "alignment, family", OF_BEST,
          meaning="the same, mean over the other units of its family"),
    Index("align.asymmetry", "alignment, there minus back", OF_BEST,
          meaning="how much better its images drive other units than theirs drive it; below 0: it "
                  "accepts more than others"),
    Index("varied.best_crop", "best crop", OF_BEST,
          meaning="response to the best of all crops shown / best response"),
    Index("varied.share.*", "crops above {} of best", "share of crops",
          meaning="share of the crops of photographs that keep this fraction of the best response"),
    Index("varied.photographs.*", "photographs above {} of best", "photographs",
          meaning="how many photographs such crops are from"),
    Index("varied.distance_mean.*", "varied crops above {}, distance", "RMS grey levels",
          meaning="mean distance of the most different of these crops, at most as many as images"),
    Index("varied.of_synthetic_mean.*", "varied crops above {} / synthetic", "ratio",
          meaning="the same / mean distance of the images; 1: photographs vary as much as they do"),
    Index("metamers.error_of_trained", "metamers' error in the random network", "relative error",
          meaning="how far this network's metamers are from matching the photograph in the same "
                  "network with random weights; 0: they match there as well"),
    Index("metamers.error_of_random", "random network's metamers, error here", "relative error",
          meaning="how far metamers made with random weights are from matching the photograph in "
                  "this network; 0: they match here as well"),
    Index("metamers.distance_to_reference_mean", "distance with random weights",
          "RMS grey levels",
          meaning="mean distance of the random network's metamers to the photograph"),
)  # fmt: skip


def indices_of(a: Run, b: Run) -> list[Index]:
    """The indices that both runs were measured for; a `*` becomes every name in either run."""
    indices = []
    for index in INDICES:
        if index.measure not in a.measures or index.measure not in b.measures:
            continue
        first, _, last = index.key.rpartition(".")
        parents = [look_up(unit, first) for unit in (*a.units, *b.units)]
        names = dict.fromkeys(name for p in parents if isinstance(p, Mapping) for name in p)
        wanted = sorted(names, key=float) if last == "*" else [last] if last in names else []
        for name in wanted:
            title = index.title.format(name)
            indices.append(replace(index, key=f"{first}.{name}", title=title))
    return indices


def values_of(run: Run, index: Index) -> tuple[Float[np.ndarray, " unit"], dict[str, int]]:
    """The index of every unit, NaN for units left out; and the number left out by reason."""
    values = np.full(len(run.units), np.nan)
    left_out = {"dead": 0, "weak": 0, "null": 0}
    for row, unit in enumerate(run.units):
        value = value_of(unit, index)
        if isinstance(value, str):
            left_out[value] += 1
        else:
            values[row] = value if index.below is None else float(value < index.below)
    return values, left_out


def value_of(unit: Mapping[str, Any], index: Index) -> float | str:
    """The index of a unit, or why it does not count: `dead`, `weak` or `null` (no number)."""
    if unit.get("stop") == "dead":
        return "dead"
    value = number_at(unit, index.key)
    if value is None:
        return "null"
    return "weak" if index.unless and look_up(unit, index.unless) else value


def number_at(unit: Mapping[str, Any], key: str) -> float | None:
    """The finite number at a dotted key; None where there is none."""
    value = look_up(unit, key)
    is_finite = type(value) in (int, float) and abs(value) <= sys.float_info.max
    return float(value) if is_finite else None


def look_up(unit: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key of at most three names; the last may contain a dot (`kept.0.5`)."""
    value: Any = unit
    for name in key.split(".", 2):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
