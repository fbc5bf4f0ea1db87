"""The runs of the page beyond the paper: bipartite fields, families, natural images, metamers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diversevis.photographs.survey import survey
from paper.runs import IMAGES, Plan, sample_units

# Model, layer, its number of units, and how many of them, drawn at random, are measured
PARTIAL = (
    ("vgg19", "conv2_2", 128, 24), ("vgg19", "conv3_1", 256, 12),
    ("resnet50", "layer1.0", 256, 12), ("resnet50", "layer1.2", 256, 8),
)  # fmt: skip
# Layers of model=energy, and the share of the energy in the free part of their units
KNOWN = {"simple": 0.0, "bipartite25": 0.25, "bipartite50": 0.5, "bipartite75": 0.75,
         "complex": 1.0}  # fmt: skip
PHASE_INVARIANT = 38, 55, 68  # units of VGG-19 conv2_1 with F1/F0 below 0.2 (docs/paper.md)
# Layers whose units are compared with one another, and the units that --quick takes
WHOLE = {"conv2_1": (*range(9), *PHASE_INVARIANT), "conv2_2": tuple(range(12))}
MATCHED = "conv1_2", "conv2_2", "conv3_1"  # layers of VGG-19 whose response is matched
KNOWN_UNITS, QUICK_KNOWN = "0-3", "0-1"
QUICK_PARTIAL, QUICK_PICTURES, PICTURES = 4, 0, 6
PHOTOGRAPHS = 3  # whose metamers are made: the first by the digests of their pixels


def beyond_plans(*, quick: bool, seed: int, device: str, natural: str | None) -> list[Plan]:
    """All runs, in the order in which they are made; arguments as in `paper.runs.plans`.

    Without photographs there are neither natural varied images nor metamers.
    Raises `InputError` for a folder without photographs.
    """
    common = [f"n={IMAGES}", f"seed={seed}", f"device={device}",
              f"measure.pictures={QUICK_PICTURES if quick else PICTURES}"]  # fmt: skip
    known = QUICK_KNOWN if quick else KNOWN_UNITS
    planned = [_plan("bipartite", "energy", layer, known, *common) for layer in KNOWN]
    for model, layer, count, sample in PARTIAL:
        name = f"{model} {layer}"
        units = sample_units(name, count, seed, QUICK_PARTIAL if quick else sample)
        planned.append(_plan("bipartite", model, layer, units, *common))
    measures = "selectivity,align,varied" if natural else "selectivity,align"
    photographs = [f"natural={natural}"] if natural else []
    for layer, few in WHOLE.items():
        units = f"[{','.join(map(str, few))}]" if quick else "all"
        planned.append(_plan("families", "vgg19", layer, units, *common, *photographs,
                             measures=measures))  # fmt: skip
    if natural:
        matched = ["objective=metamers", f"objective.reference={_references(natural)}"]
        planned += [_plan("metamers", "vgg19", layer, "all", *matched, *common,
                          measures="metamers") for layer in MATCHED]  # fmt: skip
    return planned


def _plan(
    kind: str, model: str, layer: str, units: str, *settings: str, measures: str = "bipartite"
) -> Plan:
    every = (f"model={model}", f"layer={layer}", f"unit={units}", *settings,
             f"analysis=[{measures}]")  # fmt: skip
    return Plan(name=f"{kind}: {model} {layer}", command="run", settings=every,
                root=f"beyond/{kind}")  # fmt: skip


def _references(folder: str) -> str:
    """The setting that names the first photographs of a folder."""
    path = Path(folder).expanduser().resolve()
    first = survey(path, "natural").photographs[:PHOTOGRAPHS]
    return f"[{','.join(_quoted(str(path / photograph.file)) for photograph in first)}]"


def _quoted(text: str) -> str:
    """As Hydra reads it, whatever characters the text holds."""
    return "'" + text.replace("'", "\\'") + "'"


def kind_of(runs: Sequence[str], kind: str) -> list[str]:
    """Names of the plans of a kind, in their order."""
    return [name for name in runs if name.startswith(f"{kind}: ")]
