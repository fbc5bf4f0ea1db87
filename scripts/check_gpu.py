"""Checks a CUDA device against the CPU, and times the same commands on both.

    DIVERSEVIS_WEIGHTS=weights python scripts/check_gpu.py [--device cuda] [--out gpu.json]

For units of VGG-19, ResNet-50 and the analytic network, from the same noise: responses after a few
steps on both devices (they must agree to float tolerance), the ends of whole runs (rounding may
have led to another nearby optimum, so means are compared), the published setting over three seeds,
what precision=tf32 costs, and seconds of each. Exits 1 if anything disagrees.
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
from diversevis.method.setup import prepare
from diversevis.method.visualize import Visualization, visualize
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


def timed(words: list[str], device: str) -> tuple[Visualization, float]:
    setup = prepare(experiment_of(compose_config([*words, f"device={device}"])))
    begin = time.perf_counter()
    (found,) = visualize(setup, [0])
    return found, time.perf_counter() - begin


def compare(words: list[str], device: str) -> dict[str, Any]:
    early = [timed(words + FEW, name)[0] for name in ("cpu", device)]
    timed(words + FEW, device)  # warm
    (cpu, cpu_seconds), (gpu, gpu_seconds) = timed(words, "cpu"), timed(words, device)
    difference = (early[0].responses - early[1].responses).abs() / early[0].responses.abs().max()
    ends = [found.metrics["response_mean"] for found in (cpu, gpu)]
    row = {
        "command": " ".join(words),
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


def rounded(device: str) -> dict[str, Any]:
    """What TF32 costs: mean response of 32 units, measured in float32, against plain float32."""
    means, seconds = {}, {}
    for name in ("float32", "tf32"):
        words = ["model=vgg19", "layer=conv3_1", "unit=0-31", f"device={device}"]
        setup = prepare(experiment_of(compose_config([*words, f"precision={name}"])))
        visualize(setup, range(32))  # warm
        begin = time.perf_counter()
        found = visualize(setup, range(32))
        seconds[name] = time.perf_counter() - begin
        means[name] = sum(one.metrics["response_mean"] for one in found) / len(found)
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
    for words in UNITS:
        rows.append(compare(words, options.device))
        print(json.dumps(rows[-1]), flush=True)
    published = []
    for seed in range(3):
        found, seconds = timed(["experiment=cadena2018", f"seed={seed}"], options.device)
        published.append({"seed": seed, "seconds": seconds, **found.metrics})
        print(json.dumps(published[-1]), flush=True)
    enough = sum(one["response_mean"] for one in published) / 3 >= 7300
    if device.type == "cuda":
        rows.append({"command": "precision=tf32", **rounded(options.device)})
        print(json.dumps(rows[-1]), flush=True)
    facts = provenance.device_facts(device) | {"torch": torch.__version__}
    report = {"machine": facts, "units": rows, "published": published, "published_enough": enough}
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if enough and all(row["agrees"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
