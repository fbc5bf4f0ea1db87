"""What the plain way costs: time of a forward and backward pass against the fast way.

    python scripts/plain_way.py [--device cpu] [--passes 15]

vgg19 conv3_1 (8 units of 6 images) and resnet50 layer1.2 (4 units of 6 images), random weights.
Prints the ratio of medians over passes that alternate between the two ways.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from diversevis.config.compose import compose_config, experiment_of
from diversevis.method.setup import prepare
from diversevis.models.layer import Reading
from diversevis.models.load import load
from diversevis.models.network import OpenNetwork
from diversevis.models.plain import OwnChannel
from diversevis.models.view import view

LAYERS = (("vgg19", "conv3_1", 8), ("resnet50", "layer1.2", 4))
IMAGES = 6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--passes", type=int, default=15)
    given = arguments.parse_args()
    for model, layer, units in LAYERS:
        words = [f"model={model}", "model.weights=random", f"layer={layer}", f"unit=0-{units - 1}"]
        setup = prepare(experiment_of(compose_config([*words, f"device={given.device}"])))
        opened = OpenNetwork(model=setup.experiment.model)
        seen = view(opened, load(opened, opened.layer(layer)), Reading())
        plain = OwnChannel(seen.plain, setup.targets.directions).to(setup.device)
        z = torch.randn(units * IMAGES, *setup.image_shape, device=setup.device)
        z = z.contiguous(memory_format=setup.layout)
        rows = torch.arange(units, device=setup.device)
        plain.to(memory_format=setup.layout)
        times: dict[nn.Module, list[float]] = {setup.readout: [], plain: []}
        for _ in range(given.passes):
            for network, seconds in times.items():
                began = time.perf_counter()
                x = z.detach().requires_grad_(True)
                torch.autograd.grad(network(x, rows)[0].sum(), x)
                if setup.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
        fast, slow = (statistics.median(seconds) for seconds in times.values())
        height, width = seen.plain.place.canvas
        print(
            f"{model} {layer}: field {setup.field.size[0]}, canvas {height} x {width}: plain way "
            f"{slow / fast:.2f} times the fast one ({1000 * slow:.0f}, {1000 * fast:.0f} ms)"
        )


if __name__ == "__main__":
    main()
