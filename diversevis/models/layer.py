"""Layers: the points of a network where units are read, and how each is reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

NONLINEARITIES: dict[object, str] = {
    nn.ReLU: "ReLU", torch.relu: "ReLU", nn.functional.relu: "ReLU", "relu": "ReLU",
    nn.ReLU6: "ReLU6", nn.functional.relu6: "ReLU6",
    nn.LeakyReLU: "leaky ReLU", nn.functional.leaky_relu: "leaky ReLU",
    nn.ELU: "ELU", nn.functional.elu: "ELU",
    nn.GELU: "GELU", nn.functional.gelu: "GELU",
    nn.SiLU: "SiLU", nn.functional.silu: "SiLU",
    nn.Hardswish: "hard swish", nn.functional.hardswish: "hard swish",
    nn.Sigmoid: "sigmoid", torch.sigmoid: "sigmoid", "sigmoid": "sigmoid",
    nn.Tanh: "tanh", torch.tanh: "tanh", "tanh": "tanh",
}  # fmt: skip
RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": functional.relu, "ReLU6": functional.relu6, "leaky ReLU": functional.leaky_relu,
    "ELU": functional.elu, "GELU": functional.gelu, "SiLU": functional.silu,
    "hard swish": functional.hardswish, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
}  # fmt: skip
DESCRIPTIONS = {
    nn.Conv2d: "convolution", nn.BatchNorm2d: "batch norm",
    nn.MaxPool2d: "max pool", nn.AvgPool2d: "average pool",
}  # fmt: skip

# [image, channel, rows, columns]; [image, rows, columns, channel]; [image, token, channel];
# [image, channel].
Kind = Literal["maps", "maps, channels last", "tokens", "vector"]


class Tap(NamedTuple):
    """Where a response is read in a forward pass: at the end of a call of a module.

    path    of the module; empty for the network itself
    call    which of the module's calls, from 0
    before  whether a nonlinearity ends the module, and the response is the value before it
    """

    path: str
    call: int
    before: bool


class Reading(NamedTuple):
    """Where units that see the whole image are read; a size makes the image whole for all units.

    size      rows and columns of the network's images
    position  row and column in a map; None: the centre
    token     `cls`, `centre`, `mean` or a number; None: cls where there is one, else the centre
    """

    size: tuple[int, int] | None = None
    position: tuple[int, int] | None = None
    token: str | int | None = None


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer: a point of the network where units are read.

    name      as used in the field (`conv3_1`, `layer1.0.conv2`); `act#2` for a second call
    paths     all names of it
    tap       where a forward pass shows the response
    kind      the order of its axes
    channels  number of units
    response  what the response is, in words
    node      the traced graph's node whose value is the response; None without a trace
    features  the node whose value later layers read: the response after its nonlinearity
    nonlinearity  name of the nonlinearity that reads the response; None where none does
    """

    name: str
    paths: tuple[str, ...]
    tap: Tap
    kind: Kind
    channels: int
    response: str
    node: fx.Node | None = None
    features: fx.Node | None = None
    nonlinearity: str | None = None

    @property
    def is_rectified(self) -> bool:
        """Whether later layers read it after a nonlinearity, if one follows in a forward pass."""
        return self.node is None or self.features is not self.node

    def activations(self, responses: Tensor) -> Tensor:
        """What later layers read of the responses: their values after the layer's nonlinearity, if
        it has one (a leaky ReLU or ELU with torch's default slope)."""
        return RECTIFIERS[self.nonlinearity](responses) if self.nonlinearity else responses


def described(module: nn.Module) -> str:
    """A kind of module in words."""
    named = (text for kind, text in DESCRIPTIONS.items() if isinstance(module, kind))
    return next(named, type(module).__name__)
