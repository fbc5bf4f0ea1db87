"""A network as a graph whose layers have the names used in the field (conv3_1, layer1.0.conv2).

The response of a layer is its value before its ReLU (or other pointwise nonlinearity). For a
convolution followed by batch normalization it is the value after the normalization.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from diversevis.errors import InputError, suggest

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
DESCRIPTIONS = {
    nn.Conv2d: "convolution", nn.BatchNorm2d: "batch norm",
    nn.MaxPool2d: "max pool", nn.AvgPool2d: "average pool",
}  # fmt: skip
IDENTITIES = ("Identity", "Dropout", "Dropout2d", "StochasticDepth")  # in eval mode
SUMS = (operator.add, operator.iadd, torch.add)
READ_WHOLE_IMAGE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
KEEP_CHANNELS = (nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, *READ_WHOLE_IMAGE)
KEEP_CHANNELS_FUNCTIONS = (*SUMS, nn.functional.max_pool2d, nn.functional.avg_pool2d)
PROBE = 64  # side of the meta-tensor maps with which the channels of every layer are counted


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer: a point of the network where units are read.

    name      as used in the field (`conv3_1`, `layer1.0.conv2`)
    node      the graph node whose value is the response
    features  the node whose value later layers read: the response after its nonlinearity
    channels  number of units
    response  what the response is, in words
    """

    name: str
    node: fx.Node
    features: fx.Node
    channels: int
    response: str


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """A model's graph, its layers in the order of computation, and every other name for them."""

    name: str
    root: nn.Module
    graph: fx.Graph
    layers: tuple[Layer, ...]
    paths: dict[str, str] = field(repr=False)  # module path or layer name -> Layer.name
    calls: dict[str, int] = field(repr=False)  # module path -> how often it is called

    def layer(self, name: str, key: str = "layer", also: tuple[str, ...] = ()) -> Layer:
        """The layer called `name`; raises `InputError` with similar names.

        key   the setting that names the layer, for the error message
        also  other legal values of that setting
        """
        names = {layer.name: layer for layer in self.layers}
        if name in self.paths:
            return names[self.paths[name]]
        calls = self.calls.get(name, 0)
        if calls == 0:
            raise InputError(
                f"{key}={name} is not a layer of {self.name} whose units have a receptive field. "
                f"{suggest(name, [*also, *names])} `diversevis layers` lists them all."
            )
        if calls == 1:
            raise InputError(
                f"{key}={name} of {self.name} has no receptive field of fixed size: it reads the "
                "whole image, or comes after a step that does. `diversevis layers` lists the "
                "layers before that."
            )
        raise InputError(
            f"{key}={name} of {self.name} is a module that is called several times, so it names "
            f"no single response. Name the module around it ({key}={name.rpartition('.')[0]}) or "
            "one of its convolutions; `diversevis layers` lists them."
        )

    def ancestors(self, node: fx.Node) -> set[fx.Node]:
        """All nodes that the value of `node` depends on, itself included."""
        nodes, pending = set(), [node]
        while pending:
            current = pending.pop()
            if current not in nodes:
                nodes.add(current)
                pending.extend(current.all_input_nodes)
        return nodes

    def tensors(self, node: fx.Node) -> dict[str, Tensor]:
        """Parameters and buffers, by state-dict name, that the value of `node` depends on."""
        needed: dict[str, Tensor] = {}
        ancestors = self.ancestors(node)
        for used in self.graph.nodes:  # in order of computation
            if used.op == "call_module" and used in ancestors:
                state = self.root.get_submodule(used.target).state_dict(prefix=f"{used.target}.")
                needed.update(state)
            elif used.op == "get_attr" and used in ancestors:
                needed[used.target] = operator.attrgetter(used.target)(self.root)
        return {k: v for k, v in needed.items() if not k.endswith("num_batches_tracked")}

    def stored_tensors(self, node: fx.Node) -> dict[str, Tensor]:
        """Those of `tensors` that a weights file has: the others keep the module's own values."""
        stored = self.root.state_dict().keys()
        return {name: tensor for name, tensor in self.tensors(node).items() if name in stored}


def trace(name: str, root: nn.Module, field_names: dict[str, str]) -> TracedModel:
    """Trace `root` (eval mode) and find its layers.

    field_names  module path -> name used in the field, where the two differ

    Raises `InputError` if torch.fx cannot trace the network.
    """
    tracer = _LayerTracer()
    try:
        graph = tracer.trace(root)
    except Exception as error:  # user code can raise anything
        raise InputError(
            f"model {name} could not be traced by torch.fx ({error}). Its forward may not branch "
            "on values of the image; a module that does can be wrapped so that tracing skips it."
        ) from error
    _make_functional(root, graph)
    layers, paths = _layers_of(root, graph, tracer.outputs, field_names)
    if not layers:
        raise InputError(
            f"model {name} has no layer that is a map of units over the image, as a convolution is."
        )
    paths |= {layer.name: layer.name for layer in layers}
    calls = {path: len(nodes) for path, nodes in tracer.outputs.items()}
    return TracedModel(name=name, root=root, graph=graph, layers=layers, paths=paths, calls=calls)


def _layers_of(
    root: nn.Module,
    graph: fx.Graph,
    outputs: dict[str, list[fx.Node]],
    field_names: dict[str, str],
) -> tuple[tuple[Layer, ...], dict[str, str]]:
    """The layers in the order of computation, and module path -> name of its layer."""
    channels = _channels(root, graph)
    layers: dict[fx.Node, Layer] = {}
    paths: dict[str, str] = {}
    # A layer is named after the module that computes it, or after the block that ends with it,
    # rather than after the nonlinearity that follows: these come last.
    for path in sorted(outputs, key=lambda p: type(root.get_submodule(p)) in NONLINEARITIES):
        output = outputs[path][0]
        if len(outputs[path]) > 1 or output not in channels:
            continue
        node = _before_nonlinearity(root, output)
        if node.op == "placeholder":
            continue
        if node not in layers:
            layers[node] = Layer(
                name=field_names.get(path, path),
                node=node,
                features=_features(root, node, output),
                channels=channels[output],
                response=_describe(root, node),
            )
        paths[path] = layers[node].name
    return tuple(layers[node] for node in graph.nodes if node in layers), paths


class _LayerTracer(fx.Tracer):
    """Records the output nodes of every module."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, list[fx.Node]] = {}

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        kind = type(m)
        library = kind.__module__.partition(".")[0] in ("torch", "torchvision")
        identity = library and kind.__name__ in IDENTITIES
        output = args[0] if identity else super().call_module(m, forward, args, kwargs)
        if isinstance(output, fx.Proxy):
            self.outputs.setdefault(self.path_of_module(m), []).append(output.node)
        return output


def _make_functional(root: nn.Module, graph: fx.Graph) -> None:
    """Replace in-place operations: they could overwrite a value that another step reads."""
    for module in root.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    for node in graph.nodes:
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
        if node.target is operator.iadd:
            node.target = operator.add
        if node.op == "call_method" and str(node.target).endswith("_"):
            node.target = str(node.target)[:-1]


def _channels(root: nn.Module, graph: fx.Graph) -> dict[fx.Node, int]:
    """Number of channels of every node whose value is a batch of maps, by shapes (meta tensors)."""
    shapeless = fx.GraphModule(copy.deepcopy(root).to("meta"), graph)
    counter = _ChannelCounter(shapeless, garbage_collect_values=False)
    try:
        with torch.no_grad():
            counter.run(torch.empty(1, 3, PROBE, PROBE, device="meta"))
    except InputError:
        raise
    except Exception as error:  # later layers have no maps, or the network is broken
        if not counter.channels:
            raise InputError(f"the network cannot take an image of 3 channels: {error}") from error
    return counter.channels


class _ChannelCounter(fx.Interpreter):
    """Follows the channels through the graph; maps keep their size, on which no channel depends."""

    def __init__(self, module: fx.GraphModule, **options: Any) -> None:
        super().__init__(module, **options)
        self.channels: dict[fx.Node, int] = {}
        self.beyond: set[fx.Node] = set()  # after a global pooling, where units have no maps

    def run_node(self, n: fx.Node) -> Any:
        sources, module = n.all_input_nodes, module_of(self.module, n)
        is_beyond = bool(self.beyond.intersection(sources))
        value = self._value(n, module, is_beyond)
        reads_all = isinstance(module, READ_WHOLE_IMAGE)
        if isinstance(value, Tensor) and value.ndim == 4 and not (is_beyond or reads_all):
            self.channels[n] = value.shape[1]
        elif is_beyond or self.channels.keys() & set(sources):
            self.beyond.add(n)
        return value

    def _value(self, n: fx.Node, module: nn.Module | None, is_beyond: bool) -> Any:
        """A tensor with the right number of channels. Most steps need not run; running their meta
        kernels would load torch's compiler."""
        sources, channels = n.all_input_nodes, self.channels
        keeps_channels = isinstance(module, KEEP_CHANNELS) or _nonlinearity(self.module, n)
        if is_beyond or keeps_channels or (n.target in KEEP_CHANNELS_FUNCTIONS and sources):
            return max((self.env[source] for source in sources), key=torch.numel)
        if isinstance(module, nn.Conv2d):
            if channels.get(sources[0], module.in_channels) != module.in_channels:
                raise InputError(
                    f"the step {n.name!r} takes {module.in_channels} channels where "
                    f"{channels[sources[0]]} come in. Images are RGB: the network must take 3."
                )
            count = module.out_channels
        elif n.target is torch.cat and all(source in channels for source in sources):
            count = sum(channels[source] for source in sources)
        else:
            return super().run_node(n)
        return torch.empty(1, count, PROBE, PROBE, device="meta")


def module_of(root: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that `node` calls, if it calls one."""
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def _nonlinearity(root: nn.Module, node: fx.Node) -> str | None:
    module = module_of(root, node)
    key = type(module) if module is not None else node.target
    return NONLINEARITIES.get(key) if node.op != "placeholder" else None


def _before_nonlinearity(root: nn.Module, node: fx.Node) -> fx.Node:
    """The node of the response: the value of `node` before its nonlinearity."""
    while _nonlinearity(root, node):
        node = node.all_input_nodes[0]
    if node.target is torch.cat and all(_nonlinearity(root, n) for n in node.all_input_nodes):
        parts = [_before_nonlinearity(root, n) for n in node.all_input_nodes]
        with node.graph.inserting_after(node):
            return node.graph.call_function(torch.cat, (parts, 1))
    if isinstance(module_of(root, node), nn.Conv2d) and len(node.users) == 1:
        (user,) = node.users
        if isinstance(module_of(root, user), nn.BatchNorm2d):
            return user
    return node


def _features(root: nn.Module, response: fx.Node, output: fx.Node) -> fx.Node:
    """The node that later layers read for `response`: its nonlinearity's value if it has one."""
    if response.target is torch.cat or (output is not response and _nonlinearity(root, output)):
        return output
    return next((user for user in response.users if _nonlinearity(root, user)), response)


def _describe(root: nn.Module, node: fx.Node) -> str:
    """What the response of `node` is, in words."""
    module, sources = module_of(root, node), node.all_input_nodes
    if isinstance(module, nn.BatchNorm2d) and isinstance(module_of(root, sources[0]), nn.Conv2d):
        what = "convolution + batch norm"
    elif module is not None:
        named = (text for kind, text in DESCRIPTIONS.items() if isinstance(module, kind))
        what = next(named, type(module).__name__)
    elif node.target in SUMS:
        what = "sum of branches"
    elif node.target is torch.cat:
        what = "branches side by side"
    else:
        what = getattr(node.target, "__name__", str(node.target)).replace("_", " ")
    users = list(node.users)
    if node.target is torch.cat and not users:  # made by _before_nonlinearity
        users = [user for part in sources for user in part.users]
    nonlinear = next(filter(None, (_nonlinearity(root, user) for user in users)), None)
    return f"{what}, before its {nonlinear}" if nonlinear else what
