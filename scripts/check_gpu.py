"""Checks a CUDA device against the CPU, and times the same commands on both.

    DIVERSEVIS_WEIGHTS=weights python scripts/check_gpu.py [--device cuda] [--out gpu.json]

For units of VGG-19, ResNet-50 and the analytic network, from the same noise, it compares:
- the responses after a few steps, which must agree up to rounding;
- the mean responses at the end of a run, where rounding may have led to another optimum nearby;
- on the GPU alone, the published setting over three seeds, and what precision=tf32 costs.
Prints the results, with seconds, and writes them to a JSON file. Exits 1 if anything disagrees.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from diversevis.config.compose import compose_config, experiment_of
from diversevis.method.device import pick_device
from diversevis.method.result import Visualization
from diversevis.method.setup import prepare
from diversevis.method.visualize import visualize
from diversevis.runs import provenance

UNITS = (
    ["model=energy", "layer=complex", "unit=0"],
    ["model=vgg19", "layer=conv2_1", "unit=12"],
    ["model=vgg19", "layer=conv3_1", "unit=21"],
    ["model=vgg19", "layer=conv3_1", "unit=21", "objective.distance=conv2_2"],
    ["model=resnet50", "layer=layer1.1", "unit=7"],
)
FEW = ["optimizer.steps=20", "optimizer.search_steps=20"]
EARLY_TOLERANCE = 1e-3  # relative, of every response after 20 steps
TF32_TOLERANCE = 1e-3  # relative, of the mean response
END_TOLERANCE = 0.05  # relative, of the mean response at the end


def timed(overrides: list[str], device: str) -> tuple[Visualization, float]:
    """Return the visualization of the first unit, and its seconds without preparation."""
    setup = prepare(experiment_of(compose_config([*overrides, f"device={device}"])))
    begin = time.perf_counter()
    (result,) = visualize(setup, [0])
    return result, time.perf_counter() - begin


def compare(overrides: list[str], device: str) -> dict[str, Any]:
    """Compare a unit on the CPU and on `device`: a row of the report."""
    early = [timed(overrides + FEW, name)[0] for name in ("cpu", device)]
    timed(overrides + FEW, device)  # warms up
    (cpu, cpu_seconds), (gpu, gpu_seconds) = timed(overrides, "cpu"), timed(overrides, device)
    difference = (early[0].responses - early[1].responses).abs() / early[0].responses.abs().max()
    ends = [result.metrics["response_mean"] for result in (cpu, gpu)]
    row = {
        "command": " ".join(overrides),
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


def compare_tf32(device: str) -> dict[str, Any]:
    """Compare the mean response of 32 units optimized in TF32 and in float32.

    Final responses are computed in float32 in both cases.
    """
    means, seconds = {}, {}
    for name in ("float32", "tf32"):
        overrides = ["model=vgg19", "layer=conv3_1", "unit=0-31", f"device={device}"]
        setup = prepare(experiment_of(compose_config([*overrides, f"precision={name}"])))
        visualize(setup, range(32))  # warms up
        begin = time.perf_counter()
        results = visualize(setup, range(32))
        seconds[name] = time.perf_counter() - begin
        means[name] = sum(result.metrics["response_mean"] for result in results) / len(results)
    return {
        "response_mean": means,
        "seconds": seconds,
        "agrees": means["tf32"] >= (1 - TF32_TOLERANCE) * means["float32"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    device = pick_device(options.device)
    rows = []
    for overrides in UNITS:
        rows.append(compare(overrides, options.device))
        print(json.dumps(rows[-1]), flush=True)
    published = []
    for seed in range(3):
        result, seconds = timed(["experiment=cadena2018", f"seed={seed}"], options.device)
        published.append({"seed": seed, "seconds": seconds, **result.metrics})
        print(json.dumps(published[-1]), flush=True)
    # The published images of this unit have 7665; 7300 leaves room for the chance of three seeds.
    enough = sum(row["response_mean"] for row in published) / 3 >= 7300
    if device.type == "cuda":
        rows.append({"command": "precision=tf32", **compare_tf32(options.device)})
        print(json.dumps(rows[-1]), flush=True)
    facts = provenance.device_facts(device) | {"torch": torch.__version__}
    report = {"machine": facts, "units": rows, "published": published, "published_enough": enough}
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if enough and all(row["agrees"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
