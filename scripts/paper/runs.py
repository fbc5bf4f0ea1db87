"""The runs behind the paper's claims: their commands, and finished runs, made or reused."""

from __future__ import annotations

import random
import re
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

# Model, layer and number of units, all of which are taken
LAYERS = (
    ("vgg19", "conv1_1", 64), ("vgg19", "conv1_2", 64), ("vgg19", "conv2_1", 128),
    ("vgg19", "conv2_2", 128), ("vgg19", "conv3_1", 256), ("resnet50", "conv1", 64),
    ("resnet50", "layer1.0", 256), ("resnet50", "layer1.1", 256), ("resnet50", "layer1.2", 256),
)  # fmt: skip
CONTROLS = (("vgg19", "conv2_1"), ("vgg19", "conv2_2"), ("resnet50", "layer1.0"))
EXAMPLE = "vgg19 conv3_1", 21  # the paper's unit for clusters of dots
MEASURES = "gain", "phase", "shift", "deformation", "diversity", "dimension"
# Units per layer for the slow measures, shift and deformation, where all units take too long
SAMPLES = {"conv3_1": 24, "layer1.0": 96, "layer1.1": 48, "layer1.2": 24}
CROPS = 32  # of a texture, per step
DRAWS = 8  # deformations per image
IMAGES = 6  # per unit
QUICK_UNITS, QUICK_SAMPLE, QUICK_PICTURES, PICTURES = 16, 6, 0, 12
# Settings that do not change a run's numbers, so that a run with other values of them is reused.
MACHINE_SETTINGS = "root=", "device="
PICTURES_SETTING = "measure.pictures="


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run to be made: its name in claims.json, and its command without `root=`."""

    name: str
    command: str
    settings: tuple[str, ...]
    root: str  # folder of its runs, relative to that of claims.json

    @property
    def line(self) -> str:
        """The command as typed in the folder of claims.json."""
        return shlex.join(
            ["diversevis", self.command, *portable(self.settings), f"root={self.root}"]
        )


@dataclass(frozen=True)
class Run:
    """A finished run folder, from which claims are computed."""

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
        """The number at a dotted key of every unit; NaN for units without it."""
        return np.array([number_at(unit, key) for unit in self.units], dtype=float)

    def row(self, unit: int) -> int:
        return [entry["unit"] for entry in self.units].index(unit)

    def images(self) -> dict[str, Tensor]:
        return RunFolder(self.path).read_images()

    def arrays(self, measure: str) -> dict[str, Tensor]:
        return RunFolder(self.path).read_measure(measure)


def number_at(unit: Any, key: str) -> float:
    """The number at a dotted key, or NaN. The third name may contain a dot (`kept.0.5`)."""
    for name in key.split(".", 2):
        unit = unit.get(name) if isinstance(unit, dict) else None
    return float("nan") if unit is None else float(unit)


def about(run: Run) -> dict[str, Any]:
    """Receptive field and numbers of units and dead units of a layer, for claims.json."""
    return {"receptive_field": run.size, "units": len(run.units), "dead": run.dead}


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Median and quartiles of the finite values; None without any."""
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
    """Return all planned runs, in the order in which they are made.

    quick    take a sample of units of each layer
    on_gpu   whether `device` is a GPU: then the slow measures take all units
    sample   units per layer for shift and deformation, in place of `SAMPLES`
    natural  folder of photographs, for natural exemplars
    """
    measures = [*MEASURES, "natural"] if natural else list(MEASURES)
    common = [
        f"n={IMAGES}", f"seed={seed}", f"analysis=[{','.join(measures)}]",
        f"measure.shift.crops={CROPS}", f"measure.deformation.draws={DRAWS}",
        f"measure.pictures={QUICK_PICTURES if quick else PICTURES}", f"device={device}",
        *([f"natural={natural}"] if natural else []),
    ]  # fmt: skip
    planned = []
    for model, layer, count in LAYERS:
        units = sample_units(f"{model} {layer}", count, seed) if quick else "all"
        slow = QUICK_SAMPLE if quick else SAMPLES.get(layer)
        if slow is not None and not quick and on_gpu:
            slow = None  # a GPU measures all units as fast as a CPU measures a sample
        if sample is not None and layer in SAMPLES:
            slow = sample
        settings = [f"model={model}", f"layer={layer}", f"unit={units}", *common]
        settings += [] if slow is None else [f"measure.sample={slow}"]
        planned.append(
            Plan(name=f"{model} {layer}", command="run", settings=tuple(settings), root="runs")
        )
    name, unit = EXAMPLE
    model, layer = name.split()
    settings = [f"model={model}", f"layer={layer}", f"unit={unit}", *common]
    planned.append(
        Plan(name=f"{name} {unit}", command="run", settings=tuple(settings), root="runs")
    )
    for model, layer in CONTROLS:
        settings = [
            f"model={model}", "model.weights=random", f"layer={layer}", "unit=all", f"seed={seed}",
            "analysis=phase", "measure.pictures=0", f"device={device}",
        ]  # fmt: skip
        planned.append(Plan(name=f"{model} {layer} random weights", command="analyze",
                          settings=tuple(settings), root="controls"))  # fmt: skip
    return planned


def sample_units(name: str, count: int, seed: int, size: int = QUICK_UNITS) -> str:
    """A random sample of a layer's units, as a setting: `[1,5,9]`."""
    chosen = random.Random(f"{name} {seed}").sample(range(count), size)  # noqa: S311
    return f"[{','.join(map(str, sorted(chosen)))}]"


def run_of(plan: Plan, out: Path, *, make: bool = True) -> Run | None:
    """Return the finished run of a plan; make it with the command line's function if it is missing.

    make  whether a missing run may be made; if not, the result is None

    Raises `SystemExit` with the command's status if it fails.
    """
    if (run := find(plan, out)) is not None:
        print(f"{plan.name}: finished in {run.path.relative_to(out)}", flush=True)
        return run
    if not make:
        print(f"{plan.name}: no finished run, left out", flush=True)
        return None
    print(f"{plan.name}: {plan.line}", flush=True)
    status = main([plan.command, *plan.settings, f"root={out / plan.root}"])
    if status:
        raise SystemExit(status)
    run = find(plan, out)
    if run is None:
        raise SystemExit(f"{plan.name}: its run was made, but lacks some of its measures.")
    return run


def find(plan: Plan, out: Path) -> Run | None:
    """Return the latest finished run with the plan's settings and all measures that it asks for."""
    wanted = _scientific([plan.command, *plan.settings])
    analysis = next(setting for setting in plan.settings if setting.startswith("analysis=")).split(
        "="
    )[1]
    measures = analysis.strip("[]").split(",")
    for path in sorted((out / plan.root).rglob("run.json"), reverse=True):
        folder = RunFolder(path.parent)
        record = folder.read_record()
        actual = _scientific(shlex.split(record["command"])[1:])
        same = record["status"] == "finished" and actual == wanted
        if same and set(measures) <= set(folder.read_measures()):
            return Run(path.parent)
    return None


def portable(settings: Sequence[str]) -> list[str]:
    """The settings without device and root folder; of photographs' paths, only the last name."""
    shared = [setting for setting in settings if not setting.startswith(MACHINE_SETTINGS)]
    return [_without_folders(setting) for setting in shared]


def _without_folders(setting: str) -> str:
    if setting.startswith("natural="):
        return f"natural={Path(setting[8:]).name}"
    if setting.startswith("objective.reference="):  # ['/folder/a.jpg','/folder/b.jpg']
        return re.sub(r"(?<=')[^']*/", "", setting)
    return setting


def _scientific(settings: Sequence[str]) -> set[str]:
    """Settings on which a run's numbers depend."""
    return {setting for setting in portable(settings) if not setting.startswith(PICTURES_SETTING)}
