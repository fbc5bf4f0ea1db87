"""Every classifier of torchvision, and some of timm's: are three layers of each read rightly?

    python scripts/check_networks.py [--timm] [NAME ...]

Random weights. For an early, a middle and the last layer: the responses of a prepared run to noise
against those of the network itself, called as it is, with a forward hook, on a larger canvas with
other noise around the image (or on the image, where units see all of it). Prints a table in
Markdown: layers listed, the way of each of the three (fast or plain), the largest difference
relative to the responses, CPU seconds of listing. Exit status 1 where a difference is above 1e-4.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from diversevis.config.compose import compose_config, experiment_of
from diversevis.errors import InputError
from diversevis.method.images import render
from diversevis.method.response import respond
from diversevis.method.setup import Setup, prepare
from diversevis.models.layer import Layer
from diversevis.models.network import OpenNetwork
from diversevis.models.packages import import_torchvision_models
from diversevis.models.plain import central_place

TIMM = ("resnet50d", "seresnet50", "mobilenetv3_small_100", "convnext_nano", "efficientnetv2_rw_t",
        "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224", "regnety_004",
        "resnetv2_50x1_bit")  # fmt: skip
AROUND = 96  # pixels of canvas beyond the field
NONLINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": functional.relu, "ReLU6": functional.relu6, "GELU": functional.gelu,
    "SiLU": functional.silu, "hard swish": functional.hardswish, "sigmoid": torch.sigmoid,
    "tanh": torch.tanh, "leaky ReLU": functional.leaky_relu, "ELU": functional.elu,
}  # fmt: skip


def main() -> int:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    arguments.add_argument("names", nargs="*")
    arguments.add_argument("--timm", action="store_true")
    given = arguments.parse_args()
    kind = "timm" if given.timm else "torchvision"
    models = import_torchvision_models()
    names = given.names or (TIMM if given.timm else models.list_models(module=models))
    print("| network | layers | early | middle | last | difference | seconds to list |")
    print("|---|---|---|---|---|---|---|")
    worst = [check(kind, name) for name in names]
    return int(max(worst) > 1e-4)


def check(kind: str, name: str) -> float:
    """Print the network's row; return the largest difference."""
    words = [f"model={kind}", f"model.name={name}", "model.weights=random"]
    began = time.process_time()
    opened = OpenNetwork(model=experiment_of(compose_config([*words, "layer=x"])).model)
    layers = opened.listing.layers
    opened.fields(layers)
    seconds = time.process_time() - began
    three = [layers[min(1, len(layers) - 1)], layers[len(layers) // 2], layers[-1]]
    ways, differences = [], []
    for layer in three:
        try:
            setup = prepare(experiment_of(compose_config([*words, f"layer={layer.name}"])))
        except InputError as error:
            ways.append(f"refused: {error}")
            differences.append(float("inf"))
            continue
        field = "whole image" if setup.field.is_whole_image else f"{setup.field.size[0]} px"
        ways.append(f"{layer.name}, {field}, {setup.way}")
        differences.append(difference(opened.root, layer, setup))
    shown = " | ".join(ways)
    print(
        f"| {name} | {len(layers)} | {shown} | {max(differences):.0e} | {seconds:.1f} |",
        flush=True,
    )
    return max(differences)


def difference(root: nn.Module, layer: Layer, setup: Setup) -> float:
    """Between the run's responses of unit 0 and the network's own, relative to the largest."""
    generator = torch.Generator().manual_seed(5)
    x = render(torch.randn(1, 2, *setup.image_shape, generator=generator), setup.norm)
    with torch.no_grad():
        responses = respond(setup, x, torch.tensor([0])).responses[0]
    z = x[0] / (255 * torch.tensor(setup.network.weights.std)[:, None, None])
    unit = None
    if not setup.field.is_whole_image:
        side = [32 * -(-(edge + AROUND) // 32) for edge in setup.field.size]
        if not takes(root, (side[0], side[1]), z.shape[1]):
            side = list(setup.experiment.model.input_size or side)
        place = central_place(setup.field, (side[0], side[1]))
        assert place is not None  # noqa: S101  (the canvas is larger than the field)
        (top, left), (height, width) = place.corner, setup.field.size
        canvas = 0.5 * torch.randn(2, z.shape[1], *side, generator=generator)
        canvas[:, :, top : top + height, left : left + width] = z
        z, unit = canvas, place.unit
    own = _own_output(root, layer, z)
    if layer.kind == "tokens":
        patches = math.isqrt(own.shape[1])  # without a token for the class: the patch in the middle
        own = own[:, patches // 2 * patches + patches // 2 if patches**2 == own.shape[1] else 0]
    elif layer.kind != "vector":
        maps = own if layer.kind == "maps" else own.permute(0, 3, 1, 2)
        row, column = unit or (maps.shape[2] // 2, maps.shape[3] // 2)
        own = maps[:, :, row, column]
    expected = own[:, 0]
    if layer.tap.before:
        name = layer.response.rpartition("its ")[2]
        responses = NONLINEAR[name](responses)
    return float((responses - expected).abs().max() / own.abs().max())


def takes(root: nn.Module, size: tuple[int, int], colors: int) -> bool:
    """Whether a network takes images of this size at all."""
    try:
        with torch.no_grad():
            root(torch.zeros(1, colors, *size))
    except Exception:  # of any kind
        return False
    return True


def _own_output(root: nn.Module, layer: Layer, z: Tensor) -> Tensor:
    """What the layer's module returns in an ordinary call of the network."""
    outputs: list[Tensor] = []
    module = root.get_submodule(layer.tap.path)
    handle = module.register_forward_hook(lambda m, i, output: outputs.append(output.clone()))
    try:
        with torch.no_grad():
            root(z)
    except Exception:  # what lies behind the layer may not take this canvas
        if not outputs:
            raise
    finally:
        handle.remove()
    return outputs[layer.tap.call]


if __name__ == "__main__":
    sys.exit(main())
