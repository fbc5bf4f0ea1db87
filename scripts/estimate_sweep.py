#!/usr/bin/env python3
"""Estimates what a sweep over every unit of a network takes, without running it.

    python scripts/estimate_sweep.py                          # VGG-19 and ResNet-50
    python scripts/estimate_sweep.py --measure conv2_2 conv3_1   # also times these layers here

Counts the operations of the convolutions before each layer, in the unpadded network at the size of
the layer's receptive field, forward and backward to the image; multiplied by the image-steps of the
default optimizer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench import operations_per_image

from diversevis.config.compose import compose_config, experiment_of
from diversevis.experiment.batches import visualize_in_batches
from diversevis.method.optimize.descend import steps_of_rivals
from diversevis.method.setup import prepare
from diversevis.models.network import OpenNetwork

NETWORKS = "vgg19", "resnet50"
RATE = 20e12  # guess for an H100 in TF32 at a batch's shapes: a twenty-fifth of its 495 TFLOP/s
DEVICES = 1, 8, 64


class Cost(NamedTuple):
    """What a layer's units cost."""

    layer: str
    units: int
    size: int  # side of the receptive field, pixels
    operations: float  # per unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs="*", default=[], help="layers of VGG-19 to time here")
    parser.add_argument("--rate", type=float, default=RATE, help="operations per second of a GPU")
    options = parser.parse_args()
    for layer in options.measure:
        print(time_layer(layer))
    total = 0.0
    for name in NETWORKS:
        costs = costs_of(name)
        network = sum(cost.units * cost.operations for cost in costs)
        total += network
        print(f"{name}: {sum(cost.units for cost in costs)} units of {len(costs)} layers, "
              f"{network:.3g} operations")  # fmt: skip
        for cost in costs:
            share = cost.units * cost.operations / network
            print(f"  {cost.layer:20} {cost.units:5} units of {cost.size:3} px, "
                  f"{cost.operations:10.3g} operations per unit, {share:6.1%}")  # fmt: skip
    for count in DEVICES:
        hours = total / options.rate / count / 3600
        print(f"{count} GPUs at {options.rate:.3g} operations per second: {hours:.1f} hours")


def image_steps(layer: str, model: str) -> int:
    """Image-steps of a unit with the default optimizer: search and joint optimization."""
    experiment = experiment_of(compose_config([f"model={model}", f"layer={layer}"]))
    optimizer = experiment.optimizer
    search = steps_of_rivals(experiment.objective.restarts, optimizer.search_steps)
    return search + optimizer.steps * experiment.n


def costs_of(name: str) -> list[Cost]:
    """Costs of all convolution layers, in order. Random weights cost the same."""
    overrides = [f"model={name}", "model.weights=random", "layer=conv1"]
    opened = OpenNetwork(model=experiment_of(compose_config(overrides)).model)
    costs = []
    for layer in opened.traced.layers if opened.traced else ():
        field = opened.field(layer)
        if field is None or not layer.response.startswith("convolution"):
            continue
        operations = operations_per_image(name, layer.name, ["model.weights=random"])
        steps = image_steps(layer.name, name)
        costs.append(Cost(layer.name, layer.channels, field.size[0], steps * operations))
    return costs


def time_layer(layer: str, units: int = 16) -> str:
    """A line with the seconds per unit of a layer of VGG-19 on this machine's CPU."""
    setup = prepare(experiment_of(compose_config(
        ["model=vgg19", f"layer={layer}", f"unit=0-{units - 1}", "device=cpu"])))  # fmt: skip
    times: list[float] = []
    for _repeat in range(3):
        began = time.perf_counter()
        rows: Sequence[int] = range(units)
        for _ in visualize_in_batches(setup, rows):
            pass
        times.append((time.perf_counter() - began) / units)
    return f"vgg19 {layer}: {statistics.median(times):.3g} s per unit on this machine"


if __name__ == "__main__":
    main()
