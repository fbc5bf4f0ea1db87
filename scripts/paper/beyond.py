"""Numbers of the page beyond the paper, as beyond.json has them (docs/paper.md)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from diversevis.measures.families import is_divided
from diversevis.measures.half_planes import SHARES
from paper.beyond_runs import KNOWN, MATCHED, PHASE_INVARIANT, kind_of
from paper.runs import Run, about, number_at, spread

CLEAREST = 6  # bipartite units that are shown
FREE = 0.1, 0.9  # shares between which a unit has both a fixed and a free part
BOTH_RULE = (
    f"Both parts: the share of the free part lies between {FREE[0]} and {FREE[1]}, and the model "
    "fits the curve (not weak)."
)
CLEAREST_RULE = (
    "Clear: both parts, a boundary whose side has a meaning, and at the boundary a higher mean "
    "response than to the best image with the same share of its energy taken away by contrast."
)
Numbers = dict[str, Any]


def beyond_of(runs: Mapping[str, Run]) -> Numbers:
    """Numbers of all sections.

    runs  by the names of their plans; what needs a missing run is left out
    """
    partial = {name: runs[name] for name in kind_of(list(runs), "bipartite")}
    layers = {run.name: run for run in partial.values() if run.record["model"] != "energy"}
    whole = {runs[name].name: runs[name] for name in kind_of(list(runs), "families")}
    known = {run.record["layer"]: run for run in partial.values() if run.name not in layers}
    return {
        "bipartite": {
            "known": {layer: bipartite(run) | {"true_share": KNOWN[layer]}
                      for layer, run in known.items()},
            "layers": {name: bipartite(run) for name, run in layers.items()},
            "clearest": clearest(layers),
        },
        "families": {name: families(run) for name, run in whole.items()},
        "varied": {name: varied(run) for name, run in whole.items() if _has(run, "varied")},
        "metamers": metamers({runs[name].record["layer"]: runs[name]
                              for name in kind_of(list(runs), "metamers")}),
    }  # fmt: skip


def bipartite(run: Run) -> Numbers:
    """Numbers of a layer; medians over the measured units, weak units included."""
    measured = np.isfinite(run.values("bipartite.index"))
    both = _both_parts(run)
    return {
        **about(run),
        "measured": int(measured.sum()),
        "weak": int((_flags(run, "bipartite.weak") & measured).sum()),
        "index": spread(run.values("bipartite.index")),
        "index_contrast": spread(run.values("bipartite.index_contrast")),
        "share": spread(run.values("bipartite.share")),
        "both_parts": int(both.sum()),
        "clear": len(_clear(run)),
    }


def clearest(layers: Mapping[str, Run]) -> list[Numbers]:
    """The units of `CLEAREST_RULE` furthest above their contrast alone, at most `CLEAREST`."""
    clear = [{"layer": name, **unit} for name, run in layers.items() for unit in _clear(run)]
    return sorted(clear, key=lambda unit: -unit["above_contrast"])[:CLEAREST]


def _clear(run: Run) -> list[Numbers]:
    keys = "index", "share", "boundary", "side", "mean", "min"
    chosen, contrasts = [], run.arrays("bipartite")["contrast"]
    for row in np.flatnonzero(_both_parts(run) & np.isfinite(run.values("bipartite.side"))):
        of_unit = run.units[row]["bipartite"]
        above = of_unit["mean"] - float(np.interp(of_unit["boundary"], SHARES, contrasts[row]))
        if above > 0:
            chosen.append({"unit": run.units[row]["unit"], "above_contrast": above,
                           **{key: of_unit[key] for key in keys}})  # fmt: skip
    return chosen


def _both_parts(run: Run) -> Bool[ndarray, " unit"]:
    share = run.values("bipartite.share")
    return (share > FREE[0]) & (share < FREE[1]) & ~_flags(run, "bipartite.weak")


def _flags(run: Run, key: str) -> Bool[ndarray, " unit"]:
    return run.values(key) == 1


def families(run: Run) -> Numbers:
    """Selectivity and families of a layer's units."""
    rank = run.values("selectivity.rank")
    ranked = rank[np.isfinite(rank)]
    family = {unit["unit"]: unit["align"]["family"] for unit in run.units if unit.get("align")}
    arrays = run.arrays("align")
    lost, tried, left_out, gained = arrays["left_out"].tolist()
    made = [mean for mean, height in arrays["divisions"].tolist() if is_divided(mean, height)]
    invariant = {str(unit): family[unit] for unit in PHASE_INVARIANT if unit in family}
    named = run.name == "vgg19 conv2_1" and len(invariant) == len(PHASE_INVARIANT)
    return {
        **about(run),
        "rank_1": float((ranked == 1).mean()) if len(ranked) else None,
        "mean_others": spread(run.values("selectivity.mean_others")),
        "compared": len(family),
        "sizes": sorted(Counter(family.values()).values(), reverse=True),
        "to_nearest": spread(run.values("align.to_nearest")),
        "silhouette": spread(run.values("align.silhouette")),
        "divisions": [min(made), max(made)] if made else None,
        "left_out": {
            "pairs": int(left_out),
            "tried": int(tried),
            "lost": int(lost),
            "gained": gained if tried else None,
        },
        "phase_invariant": invariant if named else None,
        "together": len(set(invariant.values())) == 1 if named else None,
    }


def varied(run: Run) -> Numbers:
    """Crops of photographs that a layer's units accept, for every fraction of the best response."""
    measured = [unit["varied"] for unit in run.units if unit.get("varied")]
    fractions = {}
    for name in measured[0]["share"] if measured else ():
        several = run.values(f"varied.photographs.{name}") >= 2
        fractions[name] = {
            "share": spread(run.values(f"varied.share.{name}")),
            "none": int((run.values(f"varied.crops.{name}") == 0).sum()),
            "several": int(several.sum()),
            **{key: spread(run.values(f"varied.{key}.{name}")[several])
               for key in ("of_synthetic_min", "of_synthetic_mean")},
        }  # fmt: skip
    shown = {key: measured[0][key] if measured else None
             for key in ("photographs_shown", "crops_shown")}  # fmt: skip
    return {**about(run), **shown, "measured": len(measured), "fractions": fractions,
            "best_crop": spread(run.values("varied.best_crop"))}  # fmt: skip


def metamers(runs: Mapping[str, Run]) -> Numbers:
    """Errors and distances per layer and photograph, and whether distance grows with depth.

    runs  by layer
    """
    layers = {layer: _photographs(runs[layer]) for layer in MATCHED if layer in runs}
    distances: dict[str, list[float | None]] = {}
    for of_layer in layers.values():
        for photograph in of_layer["photographs"]:
            distances.setdefault(photograph["file"], []).append(photograph["distance"])
    return {"layers": layers, "grows": {file: _grows(d) for file, d in distances.items()}}


def _photographs(run: Run) -> Numbers:
    keys = {
        "error_max": "error_max", "distance": "distance_pixels_to_reference_mean",
        "random_error_max": "metamers.error_max",
        "random_distance": "metamers.distance_to_reference_mean",
        "error_of_trained": "metamers.error_of_trained",
        "error_of_random": "metamers.error_of_random",
    }  # fmt: skip
    return {
        "receptive_field": run.size,
        "tolerance": run.record["config"]["objective"]["tolerance"],
        "photographs": [
            {"file": file, **{name: _known(number_at(unit, key)) for name, key in keys.items()}}
            for file, unit in zip(run.record["references"], run.units, strict=True)
        ],
    }


def _grows(distances: list[float | None]) -> bool | None:
    """Whether all layers' distances are above that of the layer before; None if one is missing."""
    known = [distance for distance in distances if distance is not None]
    if len(known) < len(MATCHED):
        return None
    return all(a < b for a, b in itertools.pairwise(known))


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _has(run: Run, measure: str) -> bool:
    return any(unit.get(measure) for unit in run.units)
