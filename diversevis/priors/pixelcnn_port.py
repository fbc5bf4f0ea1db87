"""Checkpoints of the common PyTorch port of PixelCNN++ (github.com/pclucas14/pixel-cnn-pp)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diversevis.errors import InputError, printable
from diversevis.priors.logistics import OUTPUTS
from diversevis.priors.pixelcnn import PixelCNN

SCALE = 128.0  # grey levels: published results fed x / 128 to such a network
FIRST, LAST = "u_init.conv.weight_v", "nin_out.lin_a.weight_v"
WORDS = {  # ours -> the port's
    "up": "up_layers",
    "down": "down_layers",
    "above": "u_stream",
    "left": "ul_stream",
    "conv_in": "conv_input",
    "skip": "nin_skip",
    "first_above": "u_init",
    "first_row": "ul_init.0",
    "first_left": "ul_init.1",
    "shrink_above": "downsize_u_stream",
    "shrink_left": "downsize_ul_stream",
    "grow_above": "upsize_u_stream",
    "grow_left": "upsize_ul_stream",
    "output": "nin_out",
}
KINDS = {nn.Conv2d: "conv", nn.ConvTranspose2d: "deconv", nn.Linear: "lin_a"}
# Weights by direction and length, as former and as present versions of PyTorch name them.
NAMES = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}


def from_port(state: Mapping[str, Tensor]) -> PixelCNN:
    """The port's network, of its tensors by name; its sizes are those of the tensors.

    Names may begin with `module.` (of `DataParallel`). The model is in float32 on the CPU; its
    `offset` is 0, its `scale` 128.

    Raises `InputError` for a tensor that is missing, unexpected or of another shape.
    """
    tensors = {_former_name(name): tensor for name, tensor in state.items()}
    sizes = _sizes(tensors)
    with torch.random.fork_rng(devices=[]):  # for weights that are overwritten below
        model = PixelCNN(**sizes)
    model.scale.fill_(SCALE)
    parameters = _parameters(model)
    for name in tensors:
        if name not in parameters:
            raise _refusal(f"it has a tensor {printable(name)}, which such a network lacks")
    for name, parameter in parameters.items():
        value = _tensor(tensors, name)
        if value.shape != parameter.shape:
            raise _refusal(
                f"its tensor {name} has shape {tuple(value.shape)} instead of "
                f"{tuple(parameter.shape)}"
            )
        if name.endswith("nin_skip.lin_a.weight_v"):
            value = _by_stream(value, sizes["channels"])
        parameter.data.copy_(value)
    return model


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    first, last = _tensor(tensors, FIRST), _tensor(tensors, LAST)
    if first.ndim != 4 or first.shape[1] - 1 not in OUTPUTS:
        raise _refusal(
            f"its tensor {FIRST} has shape {tuple(first.shape)}, whose second number must be 2 "
            "(for grey) or 4 (for colours)"
        )
    colors = first.shape[1] - 1
    outputs = OUTPUTS[colors]
    if last.ndim != 2 or not last.shape[0] or last.shape[0] % outputs:
        raise _refusal(
            f"its tensor {LAST} has shape {tuple(last.shape)}, whose first number must be a "
            f"multiple of {outputs}"
        )
    of_blocks = (
        f"up_layers.0.u_stream.{block}.conv_input.conv.bias" for block in itertools.count()
    )
    blocks = sum(1 for _ in itertools.takewhile(tensors.__contains__, of_blocks))
    return {
        "colors": colors,
        "channels": first.shape[0],
        "blocks": max(1, blocks),
        "mixtures": last.shape[0] // outputs,
        "stages": 3,
    }


def _former_name(name: str) -> str:
    name = name.removeprefix("module.")
    for present, former in NAMES.items():
        name = name.replace(present, former)
    return name


def _parameters(model: PixelCNN) -> dict[str, nn.Parameter]:
    """The model's parameters, by the port's names."""
    parameters = {}
    for path, module in model.named_modules():
        kind = next((kind for type_, kind in KINDS.items() if isinstance(module, type_)), None)
        if kind is not None:
            words = [WORDS.get(word, word) for word in path.split(".")]
            for name, parameter in module.named_parameters():
                parameters[".".join([*words, kind, NAMES.get(name, name)])] = parameter
    return parameters


def _by_stream(weights: Tensor, channels: int) -> Tensor:
    """The port's ELU of two streams has both at their own sign, then both negated; ours has either
    stream at both signs."""
    return torch.unflatten(weights, 1, (2, -1, channels)).transpose(1, 2).flatten(1)


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise _refusal(f"it has no tensor {name}")
    return tensors[name]


def _refusal(reason: str) -> InputError:
    return InputError(
        "The checkpoint is not one of the PyTorch port of PixelCNN++ "
        f"(github.com/pclucas14/pixel-cnn-pp): {reason}."
    )
