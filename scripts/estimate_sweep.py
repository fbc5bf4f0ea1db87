#!/usr/bin/env python3
"""What a sweep over every unit of a network would take, on paper.

    python scripts/estimate_sweep.py                          # VGG-19 and ResNet-50
    python scripts/estimate_sweep.py --measure conv2_2 conv3_1   # and what these take here

Counts the convolutions of every layer's network, unpadded and cut to its receptive field, without
the target layer's own, forward and backward to the image; times the default optimizer's steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench import operations_per_image

from diversevis.config.compose import compose_config, experiment_of
from diversevis.errors import InputError
from diversevis.experiment.batches import visualize_in_batches
from diversevis.method.setup import prepare
from diversevis.models.network import open_model
from diversevis.models.receptive_field import receptive_field

NETWORKS = "vgg19", "resnet50"
RATE = 20e12  # of an H100 in TF32 at a batch's shapes: a twenty-fifth of its 495 TFLOP/s
DEVICES = 1, 8, 64


class Cost(NamedTuple):
    """Of one unit of a layer: operations, and how many units there are."""

    layer: str
    units: int
    size: int
    operations: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs="*", default=[], help="layers of VGG-19 to time here")
    parser.add_argument("--rate", type=float, default=RATE, help="operations per second of a GPU")
    given = parser.parse_args()
    for layer in given.measure:
        print(measured(layer))
    total = 0.0
    for name in NETWORKS:
        costs = costs_of(name)
        whole = sum(one.units * one.operations for one in costs)
        total += whole
        print(f"{name}: {sum(one.units for one in costs)} units of {len(costs)} layers, "
              f"{whole:.3g} operations")  # fmt: skip
        for one in costs:
            share = one.units * one.operations / whole
            print(f"  {one.layer:20} {one.units:5} units of {one.size:3} px "
                  f"{one.operations:10.3g} each, {share:6.1%}")  # fmt: skip
    for count in DEVICES:
        hours = total / given.rate / count / 3600
        print(f"{count} GPUs at {given.rate:.3g} operations per second: {hours:.1f} hours")


def image_steps(layer: str, model: str) -> int:
    """Of one unit by the default optimizer: its search, and its images together."""
    experiment = experiment_of(compose_config([f"model={model}", f"layer={layer}"]))
    optimizer = experiment.optimizer
    alone = optimizer.search_steps * experiment.objective.restarts
    return alone + optimizer.steps * experiment.n


def costs_of(name: str) -> list[Cost]:
    """Every convolution's, in order; with random weights, which cost the same."""
    words = [f"model={name}", "model.weights=random", "layer=conv1"]
    traced = open_model(experiment_of(compose_config(words)).model)
    found = []
    for layer in traced.layers:
        if not layer.response.startswith("convolution"):
            continue
        try:
            field = receptive_field(traced.root, traced.graph, layer.node)
        except InputError:  # sees the whole image
            continue
        each = operations_per_image(name, layer.name, ["model.weights=random"])
        steps = image_steps(layer.name, name)
        found.append(Cost(layer.name, layer.channels, field.size[0], steps * each))
    return found


def measured(layer: str, units: int = 16) -> str:
    """Seconds per unit of a layer of VGG-19 on this machine, one batch after the other."""
    setup = prepare(experiment_of(compose_config(
        ["model=vgg19", f"layer={layer}", f"unit=0-{units - 1}", "device=cpu"])))  # fmt: skip
    times: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        rows: Sequence[int] = range(units)
        for _one in visualize_in_batches(setup, rows):
            pass
        times.append((time.perf_counter() - began) / units)
    return f"vgg19 {layer}: {statistics.median(times):.3g} s per unit here"


if __name__ == "__main__":
    main()
