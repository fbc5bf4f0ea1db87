"""The runs behind the paper's claims: which they are, made once, found again."""

from __future__ import annotations

import random
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from diversevis.cli.main import main
from diversevis.runs.folder import RunFolder

# Layers whose units are all taken, and how many units they have
LAYERS = (
    ("vgg19", "conv1_1", 64), ("vgg19", "conv1_2", 64), ("vgg19", "conv2_1", 128),
    ("vgg19", "conv2_2", 128), ("vgg19", "conv3_1", 256), ("resnet50", "conv1", 64),
    ("resnet50", "layer1.0", 256), ("resnet50", "layer1.1", 256), ("resnet50", "layer1.2", 256),
)  # fmt: skip
CONTROLS = (("vgg19", "conv2_1"), ("vgg19", "conv2_2"), ("resnet50", "layer1.0"))
EXAMPLE = "vgg19 conv3_1", 21  # the paper's dot clusters
MEASURES = "gain", "phase", "shift", "deformation", "diversity", "dimension"
# The slow measures, shift and deformation, take so many units of a layer where all take too long
SAMPLES = {"conv3_1": 24, "layer1.0": 96, "layer1.1": 48, "layer1.2": 24}
CROPS, DRAWS, IMAGES = 32, 8, 6  # of the texture per step; deformations per image; images per unit
QUICK_UNITS, QUICK_SAMPLE, QUICK_PICTURES, PICTURES = 16, 6, 0, 12
ELSEWHERE = "root=", "device="  # words that do not change what a run is
PICTURED = "measure.pictures="  # nor does this one change its numbers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run: its name in claims.json, and the words of its command but for where it goes."""

    name: str
    command: str
    words: tuple[str, ...]
    root: str

    @property
    def line(self) -> str:
        """What a person types, in the folder that holds claims.json."""
        return shlex.join(["diversevis", self.command, *said(self.words), f"root={self.root}"])


@dataclass(frozen=True)
class Run:
    """What claims are computed from: a finished run folder, read."""

    path: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        return RunFolder(self.path).read_record()

    @cached_property
    def units(self) -> list[dict[str, Any]]:
        return RunFolder(self.path).read_metrics()

    @property
    def name(self) -> str:
        return f"{self.record['model']} {self.record['layer']}"

    @property
    def size(self) -> int:
        """Side of the receptive field, pixels."""
        return max(self.record["receptive_field"]["size"])

    @property
    def dead(self) -> int:
        return sum(unit.get("stop") == "dead" for unit in self.units)

    def values(self, key: str) -> Float[np.ndarray, " unit"]:
        """A number of every unit by its dotted key; NaN where a unit has none."""
        return np.array([number_at(unit, key) for unit in self.units], dtype=float)

    def row(self, unit: int) -> int:
        return [one["unit"] for one in self.units].index(unit)

    def images(self) -> dict[str, Tensor]:
        return RunFolder(self.path).read_images()

    def arrays(self, measure: str) -> dict[str, Tensor]:
        return RunFolder(self.path).read_measure(measure)


def number_at(unit: Any, key: str) -> float:
    """What stands at a dotted key; the third name may have a point in it (`kept.0.5`)."""
    for name in key.split(".", 2):
        unit = unit.get(name) if isinstance(unit, dict) else None
    return float("nan") if unit is None else float(unit)


def about(run: Run) -> dict[str, Any]:
    """Receptive field, units and dead units of a layer."""
    return {"receptive_field": run.size, "units": len(run.units), "dead": run.dead}


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Median and quartiles of what is a number."""
    known = np.array([value for value in map(float, values) if np.isfinite(value)])
    if not len(known):
        return {"median": None, "quartiles": None}
    low, middle, high = np.percentile(known, [25, 50, 75]).tolist()
    return {"median": middle, "quartiles": [low, high]}


def plans(
    *,
    quick: bool,
    seed: int,
    device: str,
    on_gpu: bool,
    sample: int | None,
    natural: str | None,
) -> list[Plan]:
    """Every run, in the order in which they are made.

    on_gpu   whether `device` is one: then the slow measures take all units
    sample   units of a layer that shift and deformation take, in place of `SAMPLES`
    natural  folder of photographs, for natural exemplars
    """
    measures = [*MEASURES, "natural"] if natural else list(MEASURES)
    every = [
        f"n={IMAGES}", f"seed={seed}", f"analysis=[{','.join(measures)}]",
        f"measure.shift.crops={CROPS}", f"measure.deformation.draws={DRAWS}",
        f"measure.pictures={QUICK_PICTURES if quick else PICTURES}", f"device={device}",
        *([f"natural={natural}"] if natural else []),
    ]  # fmt: skip
    found = []
    for model, layer, count in LAYERS:
        units = drawn(f"{model} {layer}", count, seed) if quick else "all"
        slow = QUICK_SAMPLE if quick else SAMPLES.get(layer)
        if slow is not None and not quick and on_gpu:
            slow = None  # where all units take no longer than some do elsewhere
        if sample is not None and layer in SAMPLES:
            slow = sample
        words = [f"model={model}", f"layer={layer}", f"unit={units}", *every]
        words += [] if slow is None else [f"measure.sample={slow}"]
        found.append(Plan(name=f"{model} {layer}", command="run", words=tuple(words), root="runs"))
    name, unit = EXAMPLE
    model, layer = name.split()
    words = [f"model={model}", f"layer={layer}", f"unit={unit}", *every]
    found.append(Plan(name=f"{name} {unit}", command="run", words=tuple(words), root="runs"))
    for model, layer in CONTROLS:
        words = [
            f"model={model}", "model.weights=random", f"layer={layer}", "unit=all", f"seed={seed}",
            "analysis=phase", "measure.pictures=0", f"device={device}",
        ]  # fmt: skip
        found.append(Plan(name=f"{model} {layer} random weights", command="analyze",
                          words=tuple(words), root="controls"))  # fmt: skip
    return found


def drawn(name: str, count: int, seed: int) -> str:
    """Some of a layer's units, as a word: `[1,5,9]`."""
    chosen = random.Random(f"{name} {seed}").sample(range(count), QUICK_UNITS)  # noqa: S311
    return f"[{','.join(map(str, sorted(chosen)))}]"


def made(plan: Plan, out: Path, *, anew: bool = True) -> Run | None:
    """The run of a plan: found, or made by the command line's own function.

    anew  whether it may be made; where not, None stands for what is not there

    Raises `SystemExit` with the command's status where it fails.
    """
    if (found := find(plan, out)) is not None:
        print(f"{plan.name}: {found.path.relative_to(out)} is there", flush=True)
        return found
    if not anew:
        print(f"{plan.name}: not there, left out", flush=True)
        return None
    print(f"{plan.name}: {plan.line}", flush=True)
    status = main([plan.command, *plan.words, f"root={out / plan.root}"])
    if status:
        raise SystemExit(status)
    found = find(plan, out)
    if found is None:
        raise SystemExit(f"{plan.name}: its run was made, but lacks some of its measures.")
    return found


def find(plan: Plan, out: Path) -> Run | None:
    """The latest finished run of the same words, with the measures that they name."""
    wanted = _science([plan.command, *plan.words])
    asked = next(word for word in plan.words if word.startswith("analysis=")).split("=")[1]
    for path in sorted((out / plan.root).rglob("run.json"), reverse=True):
        folder = RunFolder(path.parent)
        record = folder.read_record()
        typed = _science(shlex.split(record["command"])[1:])
        if record["status"] == "finished" and typed == wanted:
            measures = asked.strip("[]").split(",")
            if set(measures) <= set(folder.read_measures()):
                return Run(path.parent)
    return None


def said(words: Sequence[str]) -> list[str]:
    """Words that make a run what it is, without paths of this machine."""
    kept = [word for word in words if not word.startswith(ELSEWHERE)]
    return [f"natural={Path(w[8:]).name}" if w.startswith("natural=") else w for w in kept]


def _science(words: Sequence[str]) -> set[str]:
    return {word for word in said(words) if not word.startswith(PICTURED)}
