"""Size, stride and offset of a unit's receptive field, and the network cut down to it.

Both come from a walk back through the traced graph, which asks at every step: which outputs of this
step does a unit of the target layer need? The box of pixels that it needs is the receptive field.
Residual sums and parallel branches need the box of their widest branch; narrower branches are
cropped to match (docs/method.md, section 1).
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional

from diversevis.models.convention import network_input
from diversevis.models.trace import module_of

Span = tuple[int, int]  # first and last index along one axis, both included
Box = tuple[Span, Span]  # rows, columns


@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """The pixels that the unit at map position (0, 0) sees, as (rows, columns).

    size    extent of the field
    stride  distance between the fields of neighbouring units of the map; 0 where units see the
            whole image, which then is the field
    offset  first pixel; negative where the field of the padded network reaches beyond the image
    period  number of neighbouring units that begin at the same pixel, more than 1 after a coarser
            map was enlarged: stride is then that of their mean, 0.5 for pairs one pixel apart
    """

    size: tuple[int, int]
    stride: tuple[int | float, int | float]
    offset: tuple[int, int]
    period: tuple[int, int] = (1, 1)

    @property
    def is_whole_image(self) -> bool:
        return 0 in self.stride

    @property
    def step(self) -> tuple[int, int]:
        """Pixels between the fields of units that are a period apart."""
        rows, columns = (round(s * n) for s, n in zip(self.stride, self.period, strict=True))
        return rows, columns


class UnitField(NamedTuple):
    """The part of the whole image that a single unit sees: first row and column, extent, pixels."""

    top: int
    left: int
    height: int
    width: int


class NoWindow(Exception):
    """A step reads the whole image, or has no window of known size."""

    def __init__(self, step: str) -> None:
        super().__init__(f"the step {step} has no window of known size")


@dataclass(frozen=True)
class Window:
    """The window through which a step reads its input, (rows, columns); default: pointwise."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def reach(self, box: Box) -> Box:
        """The inputs that the outputs `box` are computed from."""
        return self._reach(box[0], 0), self._reach(box[1], 1)

    def _reach(self, span: Span, axis: int) -> Span:
        first, last = (index * self.stride[axis] - self.padding[axis] for index in span)
        return first, last + self.dilation[axis] * (self.kernel[axis] - 1)


POINTWISE_MODULES = (
    nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU,
    nn.SiLU, nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.LocalResponseNorm, nn.ChannelShuffle,
)  # fmt: skip
POINTWISE_FUNCTIONS = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow,
    torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.pow, torch.abs, torch.square,
    torch.sqrt, torch.exp, torch.log, torch.clamp, torch.relu, torch.sigmoid, torch.tanh,
    torch.maximum, torch.minimum,
    functional.relu, functional.relu6, functional.leaky_relu, functional.elu, functional.gelu,
    functional.silu, functional.mish, functional.softplus, functional.hardswish,
    functional.hardsigmoid, functional.hardtanh, functional.dropout, functional.dropout2d,
    network_input,
}  # fmt: skip
POINTWISE_METHODS = {
    "relu", "sigmoid", "tanh", "add", "sub", "mul", "div", "abs", "square", "sqrt", "pow", "exp",
    "clamp", "neg", "contiguous", "clone", "float",
}  # fmt: skip
PADDING_MODULES = (nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d)
WHOLE_IMAGE = nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.GroupNorm
# Functions that read a window of their input, with the names of their positional arguments.
WINDOWED_FUNCTIONS: dict[Any, tuple[str, ...]] = {
    functional.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    functional.max_pool2d: ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    functional.avg_pool2d: ("input", "kernel_size", "stride", "padding", "ceil_mode"),
}


def receptive_field(root: nn.Module, graph: fx.Graph, node: fx.Node) -> ReceptiveField:
    """Receptive field of the units of `node` in `graph`, whose modules live in `root`.

    Raises `NoWindow` if a step before the node reads the whole image or is of an unknown kind.
    """
    image = next(n for n in graph.nodes if n.op == "placeholder")
    first, second = (_needed(root, node, index).get(image) for index in (0, 1))
    if first is None or second is None:
        raise NoWindow(node.name)  # it does not depend on the image
    (top, bottom), (left, right) = first
    (next_top, _), (next_left, _) = second
    return ReceptiveField(
        size=(bottom - top + 1, right - left + 1),
        stride=(next_top - top, next_left - left),
        offset=(top, left),
    )


def sees_whole_image(root: nn.Module, nodes: Iterable[fx.Node]) -> bool:
    """Whether one of these steps takes a mean or maximum over the whole map."""
    return any(isinstance(module_of(root, node), WHOLE_IMAGE) for node in nodes)


def unpad(network: fx.GraphModule) -> fx.GraphModule:
    """The network without padding: an image of the receptive field's size gives a 1 x 1 map.

    network  its output is a tuple of nodes. The receptive field is that of the first node; the
             others lie on the path to it, and of their maps the part that it depends on is returned

    An image that is larger by a multiple of the stride gives the dense map of responses. The new
    network shares its parameters with `network`, which is not changed.
    """
    tail = next(node for node in reversed(network.graph.nodes) if node.op == "output")
    outputs: tuple[fx.Node, ...] = tail.args[0]
    needed = _needed(network, outputs[0], 0)
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in network.graph.nodes:
        if node.op == "placeholder" or not sees_image(node):  # the image, and constants
            copied[node] = graph.node_copy(node, copied.__getitem__)
        elif node in needed:
            box = _window(network, node).reach(needed[node])
            cropped = {
                source: _crop(graph, copied[source], needed.get(source, box), box)
                for source in node.all_input_nodes
            }
            called = module_of(network, node) or node.target
            if called is functional.pad or isinstance(called, PADDING_MODULES):
                copied[node] = cropped[node.all_input_nodes[0]]
            else:
                copied[node] = graph.node_copy(node, cropped.__getitem__)
    graph.output(tuple(copied[node] for node in outputs))
    unpadded = fx.GraphModule(network, graph)
    for node in graph.nodes:
        if sees_image(node):
            _remove_padding(unpadded, node)
    unpadded.recompile()
    return unpadded


def _hull(a: Box, b: Box) -> Box:
    rows, columns = ((min(p[0], q[0]), max(p[1], q[1])) for p, q in zip(a, b, strict=True))
    return rows, columns


def _needed(root: nn.Module, target: fx.Node, index: int) -> dict[fx.Node, Box]:
    """The box of outputs that unit (index, index) of `target` needs of every node before it."""
    needed: dict[fx.Node, Box] = {target: ((index, index), (index, index))}
    for node in reversed(target.graph.nodes):
        if node in needed and node.op != "placeholder":
            box = _window(root, node).reach(needed[node])
            for source in node.all_input_nodes:
                if sees_image(source):
                    needed[source] = _hull(box, needed.get(source, box))
    return needed


def sees_image(node: fx.Node) -> bool:
    """Whether the value of `node` depends on the image (cached on the node)."""
    if "sees_image" not in node.meta:
        node.meta["sees_image"] = node.op == "placeholder" or any(
            sees_image(source) for source in node.all_input_nodes
        )
    return node.meta["sees_image"]


def _crop(graph: fx.Graph, source: fx.Node, has: Box, wants: Box) -> fx.Node:
    """`source`, whose value covers the box `has`, cropped to `wants`.

    The crop is counted from both ends, so that it also holds for larger images. It is a negative
    padding: its gradient, unlike that of an index, keeps the layout of the maps in memory.
    """
    rows, columns = (
        (first - wanted_first, wanted_last - last)
        for (first, last), (wanted_first, wanted_last) in zip(has, wants, strict=True)
    )
    pads = (*columns, *rows)
    return graph.call_function(functional.pad, (source, pads)) if any(pads) else source


def _remove_padding(network: fx.GraphModule, node: fx.Node) -> None:
    """Switch off the padding of the step `node`; the module it calls is replaced by a copy."""
    module = module_of(network, node)
    if module is not None and hasattr(module, "padding"):
        module = copy.copy(module)  # shares the parameters
        module.padding = (0, 0)  # type: ignore[assignment]
        for setup, plain in (("padding_mode", "zeros"), ("ceil_mode", False)):
            if hasattr(module, setup):
                setattr(module, setup, plain)
        network.set_submodule(str(node.target), module)
    elif node.target in WINDOWED_FUNCTIONS:
        arguments = _arguments(node) | {"padding": 0}
        if "ceil_mode" in arguments:
            arguments["ceil_mode"] = False
        node.args, node.kwargs = (arguments.pop("input"),), arguments


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call of one of `WINDOWED_FUNCTIONS`, by name."""
    return {**dict(zip(WINDOWED_FUNCTIONS[node.target], node.args, strict=False)), **node.kwargs}


def _window(root: nn.Module, node: fx.Node) -> Window:
    """The window through which `node` reads its input (cached on the node).

    Raises `NoWindow` for a step without a window of known size.
    """
    if "window" in node.meta:
        return node.meta["window"]
    module, window = module_of(root, node), None
    if module is not None:
        window = _module_window(module)
    elif node.op == "call_function":
        window = _function_window(root, node)
    elif node.op == "call_method" and node.target in POINTWISE_METHODS:
        window = Window()
    if window is None:
        raise NoWindow(node.name)
    node.meta["window"] = window
    return window


def _module_window(module: nn.Module) -> Window | None:
    if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
        dilation = getattr(module, "dilation", 1)
        return _window_of(module.kernel_size, module.stride, module.padding, dilation)
    if isinstance(module, PADDING_MODULES):
        left, _, top, _ = module.padding
        return Window(padding=(top, left))
    return Window() if isinstance(module, POINTWISE_MODULES) else None


def _function_window(root: nn.Module, node: fx.Node) -> Window | None:
    function: Any = node.target
    if function in WINDOWED_FUNCTIONS:
        options = {"stride": None, "padding": 0, "dilation": 1} | _arguments(node)
        if function is functional.conv2d:
            weight = options["weight"]
            if weight.op != "get_attr":
                return None
            options["kernel_size"] = tuple(operator.attrgetter(weight.target)(root).shape[2:])
            options["stride"] = options["stride"] or 1
        names = ("kernel_size", "stride", "padding", "dilation")
        return _window_of(*[options[name] for name in names])
    if function is functional.pad:
        pads: Any = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
        return Window(padding=(pads[2], pads[0])) if len(pads) == 4 else None
    if function in (torch.cat, torch.concat):
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        return Window() if axis in (1, -3) else None
    if function is operator.getitem:  # a choice of channels
        index: Any = node.args[1]
        is_short = isinstance(index, tuple) and len(index) <= 2
        is_choice = is_short and not any(isinstance(i, int) or i is Ellipsis for i in index)
        return Window() if is_choice else None
    return Window() if function in POINTWISE_FUNCTIONS else None


def _window_of(kernel: Any, stride: Any, padding: Any, dilation: Any) -> Window:
    """From the options of a convolution or pooling: numbers, pairs, or a padding's name."""
    kernels, dilations = _pair(kernel), _pair(dilation)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        padding = [d * (k - 1) // 2 for k, d in zip(kernels, dilations, strict=True)]
    strides = _pair(kernel if stride in (None, []) else stride)
    return Window(kernels, strides, _pair(padding), dilations)


def _pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[-1]) if isinstance(value, (tuple, list)) else (value, value)
