"""Checks a CUDA device against the CPU and against itself, in one call of a few minutes.

    DIVERSEVIS_WEIGHTS=weights python scripts/check_gpu.py [--device cuda] [--out gpu.json]

In this order, from the same noise:
- units of VGG-19, ResNet-50 and the analytic network: the responses after a few steps must agree
  with the CPU's up to rounding, and the mean responses at the end, where rounding may have led to
  another optimum nearby;
- a batch of units twice, and with steps that are not recorded: equal to the bit; with every prior
  that comes with the package as well;
- a run that is killed (SIGKILL) and continued, and two runs at a time on one device: their images
  must be those of runs that were left alone, to the bit;
- the published setting over three seeds, and what precision=tf32 and algorithms=fastest cost.
Prints the results, with seconds, and writes them to a JSON file after each; what does not fit in
`--budget` seconds is named as left out. Exits 1 if anything disagrees. `--device cpu --quick` runs
the same code with small sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from diversevis.config.compose import compose_config, experiment_of
from diversevis.method.device import pick_device
from diversevis.method.result import Visualization
from diversevis.method.setup import Setup, prepare
from diversevis.method.visualize import visualize
from diversevis.runs import provenance

UNITS = (
    ("model=energy", "layer=complex", "unit=0"),
    ("model=vgg19", "layer=conv2_1", "unit=12"),
    ("model=vgg19", "layer=conv3_1", "unit=21"),
    ("model=vgg19", "layer=conv3_1", "unit=21", "objective.distance=conv2_2"),
    ("model=resnet50", "layer=layer1.1", "unit=7"),
    ("model=vgg19", "layer=conv3_1", "unit=21", "prior=patches"),
    ("model=vgg19", "layer=conv3_1", "unit=21", "prior=mcgsm"),
)
PRIORS = "tv", "spectrum", "patches", "mcgsm"
# After 5 steps: on a CPU, weights changed by 1e-7 change responses by up to 5e-7 then, but by 3e-2
# after 20 steps, where distances are measured in activations.
FEW = ("optimizer.steps=5", "optimizer.search_steps=5")
EARLY_TOLERANCE = 1e-4  # relative, of every response after these steps
TF32_TOLERANCE = 1e-3  # relative, of the mean response
END_TOLERANCE = 0.05  # relative, of the mean response at the end
PUBLISHED = 7300  # the published images have 7665; this leaves room for the chance of three seeds
PATIENCE = 90  # seconds for a run of its own


class Sizes(NamedTuple):
    """What is computed."""

    units: Sequence[Sequence[str]]
    batch: Sequence[str]  # units side by side
    run: Sequence[str]  # a run that is killed: it must take some seconds
    published: Sequence[str] | None


FULL = Sizes(
    units=UNITS,
    batch=("model=vgg19", "layer=conv3_1", "unit=0-31"),
    run=("model=vgg19", "layer=conv3_1", "unit=0-63", "optimizer.steps=1200",
         "optimizer.search_steps=400"),
    published=("experiment=cadena2018",),
)  # fmt: skip
SMALL = Sizes(
    units=[(*UNITS[0], "optimizer.steps=20", "optimizer.search_steps=6")],
    batch=("layer=complex", "unit=0-2", "optimizer.steps=12", "optimizer.search_steps=6"),
    run=("layer=complex", "unit=0-7", "optimizer.steps=400", "optimizer.search_steps=50"),
    published=None,
)  # fmt: skip


def setup_of(words: Sequence[str], device: str) -> Setup:
    return prepare(experiment_of(compose_config([*words, f"device={device}"])))


def timed(words: Sequence[str], device: str) -> tuple[Visualization, float]:
    """Return the visualization of the first unit, and its seconds without preparation."""
    setup = setup_of(words, device)
    begin = time.perf_counter()
    (result,) = visualize(setup, [0])
    return result, time.perf_counter() - begin


def compare(words: Sequence[str], device: str) -> dict[str, Any]:
    """Compare a unit on the CPU and on `device`."""
    early = [timed([*words, *FEW], name)[0] for name in ("cpu", device)]
    (cpu, cpu_seconds), (gpu, gpu_seconds) = timed(words, "cpu"), timed(words, device)
    difference = (early[0].responses - early[1].responses).abs() / early[0].responses.abs().max()
    ends = [result.metrics["response_mean"] for result in (cpu, gpu)]
    row = {
        "early_difference": difference.max().item(),
        "response_mean_cpu": ends[0],
        "response_mean_gpu": ends[1],
        "distance_min_cpu": cpu.metrics["distance_min"],
        "distance_min_gpu": gpu.metrics["distance_min"],
        "steps": [cpu.metrics["steps"], gpu.metrics["steps"]],
        "seconds_cpu": cpu_seconds,
        "seconds_gpu": gpu_seconds,
    }
    row["agrees"] = (
        row["early_difference"] < EARLY_TOLERANCE and abs(ends[1] / ends[0] - 1) < END_TOLERANCE
    )
    return row


def repeat(words: Sequence[str], device: str) -> dict[str, Any]:
    """A batch of units twice, and without recorded steps: how far images are apart."""
    setup = setup_of(words, device)
    plain = replace(setup, experiment=replace(setup.experiment, cuda_graphs=False))
    rows = range(len(setup.targets.units))
    first, again, without = (
        torch.stack([result.images for result in visualize(one, rows)])
        for one in (setup, setup, plain)
    )
    apart = [(first - other).abs().max().item() for other in (again, without)]
    return {"again": apart[0], "without_graphs": apart[1], "agrees": apart == [0.0, 0.0]}


def start(root: Path, words: Sequence[str], device: str) -> subprocess.Popen[bytes]:
    """A run of its own below `root`."""
    command = [sys.executable, "-m", "diversevis", "run", *words, f"root={root}", "images=tensor",
               f"device={device}", "checkpoint=0.2"]  # fmt: skip
    with (root.parent / f"{root.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def images_of(root: Path, process: subprocess.Popen[bytes]) -> torch.Tensor:
    """The images of a run that must succeed. Raises `RuntimeError` with its last words."""
    if process.wait(PATIENCE) != 0:
        words = (root.parent / f"{root.name}.log").read_text()[-1000:]
        raise RuntimeError(f"a run failed: {words}")
    (file,) = root.rglob("images.safetensors")
    return load_file(file)["images"]


def kill_and_crowd(words: Sequence[str], device: str) -> dict[str, Any]:
    """A run that is killed and continued, and two at a time, against runs left alone."""
    with tempfile.TemporaryDirectory() as folder:
        alone = [Path(folder) / f"alone{seed}" for seed in (0, 1)]
        crowd = [Path(folder) / f"crowd{seed}" for seed in (0, 1)]
        began = time.perf_counter()
        expected = [
            images_of(root, start(root, [*words, f"seed={seed}"], device))
            for seed, root in enumerate(alone)
        ]
        seconds = (time.perf_counter() - began) / 2
        began = time.perf_counter()
        processes = [
            start(root, [*words, f"seed={seed}"], device) for seed, root in enumerate(crowd)
        ]
        found = [images_of(*pair) for pair in zip(crowd, processes, strict=True)]
        together = time.perf_counter() - began
        steps = _kill(root := Path(folder) / "killed", start(root, [*words, "seed=0"], device))
        found.append(images_of(root, start(root, [*words, "seed=0"], device)))
        (log,) = (file.read_text() for file in root.rglob("run.log"))
    pairs = zip([*expected, expected[0]], found, strict=True)
    apart = [(one - other).abs().max().item() for one, other in pairs]
    continued = "going on from step" in log
    return {
        "seconds_alone": seconds, "seconds_of_two_together": together, "two": apart[:2],
        "killed": apart[2], "killed_with_checkpoints": steps, "continued": continued,
        "agrees": apart == [0.0] * 3 and continued,
    }  # fmt: skip


def _kill(root: Path, process: subprocess.Popen[bytes]) -> int:
    """Kill the run once a state of its batch is written; how many files there were."""
    end = time.monotonic() + PATIENCE
    while not (files := list(root.rglob("*-state-*.safetensors"))) and process.poll() is None:
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return len(files)


def published(words: Sequence[str], device: str) -> dict[str, Any]:
    """The paper's example over three seeds."""
    rows = []
    for seed in range(3):
        result, seconds = timed([*words, f"seed={seed}"], device)
        rows.append({"seed": seed, "seconds": seconds, **result.metrics})
    mean = sum(row["response_mean"] for row in rows) / 3
    return {"seeds": rows, "response_mean": mean, "agrees": mean >= PUBLISHED}


def compare_rounding(words: Sequence[str], device: str) -> dict[str, Any]:
    """Mean responses of a batch in float32, in TF32, and with the fastest algorithms.

    Final responses are computed in float32 in all cases.
    """
    cases = {"float32": (), "tf32": ("precision=tf32",), "fastest": ("algorithms=fastest",)}
    means, seconds = {}, {}
    for name, more in cases.items():
        setup = setup_of([*words, *more], device)
        rows = range(len(setup.targets.units))
        visualize(setup, rows)  # warms up
        begin = time.perf_counter()
        results = visualize(setup, rows)
        seconds[name] = time.perf_counter() - begin
        means[name] = sum(result.metrics["response_mean"] for result in results) / len(results)
    least = (1 - TF32_TOLERANCE) * means["float32"]
    return {"response_mean": means, "seconds": seconds, "agrees": min(means.values()) >= least}


class Report:
    """Results by name, written to a file after each."""

    def __init__(self, path: Path, facts: dict[str, Any], budget: float) -> None:
        self._path, self._end = path, time.perf_counter() + budget
        self.content: dict[str, Any] = {"machine": facts, "results": {}}

    def add(self, name: str, work: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        began = time.perf_counter()
        if began > self._end:
            row: dict[str, Any] = {"left_out": "no time left"}
        else:
            try:
                row = work(*arguments)
            except Exception as error:  # the other results are still wanted
                row = {"failed": " ".join(f"{error!r}".split())[:1000], "agrees": False}
        row["seconds_in_all"] = time.perf_counter() - began
        self.content["results"][name] = row
        print(json.dumps({name: row}), flush=True)
        self._path.write_text(json.dumps(self.content, indent=2) + "\n")

    @property
    def agrees(self) -> bool:
        return all(row.get("agrees", True) for row in self.content["results"].values())


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--budget", type=float, default=420.0, help="seconds")
    parser.add_argument("--quick", action="store_true", help="sizes for a test of the script")
    options = parser.parse_args(words)
    device, sizes = pick_device(options.device), SMALL if options.quick else FULL
    facts = provenance.device_facts(device) | provenance.versions()
    report = Report(options.out, facts, options.budget)
    for unit in sizes.units:
        report.add(" ".join(unit), compare, unit, options.device)
    report.add("repeated", repeat, sizes.batch, options.device)
    for prior in PRIORS:
        words = (*sizes.batch, f"prior={prior}", "prior.check=null")
        report.add(f"repeated, prior={prior}", repeat, words, options.device)
    report.add("killed, and two at a time", kill_and_crowd, sizes.run, options.device)
    if device.type == "cuda":
        report.add("rounding", compare_rounding, sizes.batch, options.device)
    if sizes.published is not None:
        report.add("published", published, sizes.published, options.device)
    return 0 if report.agrees else 1


if __name__ == "__main__":
    raise SystemExit(main())
