"""A network as a graph whose layers have the names used in the field (conv3_1, layer1.0.conv2).

The response of a layer is its value before its ReLU (or other pointwise nonlinearity). For a
convolution followed by batch normalization it is the value after the normalization.
"""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from diversevis.models.layer import NONLINEARITIES, Layer, Tap, described

IDENTITIES = ("Identity", "Dropout", "Dropout2d", "StochasticDepth")  # in eval mode
SUMS = (operator.add, operator.iadd, torch.add)
READ_WHOLE_IMAGE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
KEEP_CHANNELS = (nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, *READ_WHOLE_IMAGE)
KEEP_CHANNELS_FUNCTIONS = (*SUMS, nn.functional.max_pool2d, nn.functional.avg_pool2d)
SIDE = 64  # side of the meta-tensor maps with which the channels of every layer are counted


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """A model's graph, and its layers that are maps, in the order of computation.

    outputs  of modules that are called once: module path -> the node that it returns
    """

    root: nn.Module
    graph: fx.Graph
    layers: tuple[Layer, ...]
    outputs: Mapping[str, fx.Node]

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


def trace(root: nn.Module, colors: int, field_names: Mapping[str, str]) -> TracedModel:
    """Trace `root` (eval mode), whose modules are changed, and find its layers.

    colors       number of channels of its images
    field_names  module path -> name used in the field, where the two differ

    Raises an error of any kind where torch.fx cannot trace the network.
    """
    tracer = _LayerTracer()
    graph = tracer.trace(root)
    _make_functional(root, graph)
    layers = _layers_of(root, graph, tracer.outputs, _channels(root, graph, colors), field_names)
    outputs = {path: nodes[0] for path, nodes in tracer.outputs.items() if len(nodes) == 1}
    return TracedModel(root=root, graph=graph, layers=layers, outputs=outputs)


def _layers_of(
    root: nn.Module,
    graph: fx.Graph,
    outputs: Mapping[str, Sequence[fx.Node]],
    channels: Mapping[fx.Node, int],
    field_names: Mapping[str, str],
) -> tuple[Layer, ...]:
    """The layers in the order of computation."""
    named: dict[fx.Node, list[str]] = {}
    # A layer is named after the module that computes it, or after the block that ends with it,
    # rather than after the nonlinearity that follows: these come last.
    for path in sorted(outputs, key=lambda p: type(root.get_submodule(p)) in NONLINEARITIES):
        output = outputs[path][0]
        if len(outputs[path]) > 1 or output not in channels:
            continue
        node = _before_nonlinearity(root, output)
        if node.op != "placeholder":
            named.setdefault(node, []).append(path)
    layers = {}
    for node, paths in named.items():
        # Read where the response itself is returned, if a module does so.
        direct = [path for path in paths if outputs[path][0] is node]
        read, name = (direct or paths)[0], field_names.get(paths[0], paths[0])
        output = outputs[paths[0]][0]
        what, nonlinear = _described(root, node, paths[0])
        layers[node] = Layer(
            name=name,
            paths=tuple(dict.fromkeys((name, *paths))),
            tap=Tap(read, 0, not direct),
            kind="maps",
            channels=channels[output],
            response=f"{what}, before its {nonlinear}" if nonlinear else what,
            node=node,
            features=_features(root, node, output),
            nonlinearity=nonlinear,
        )
    return tuple(layers[node] for node in graph.nodes if node in layers)


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


def _channels(root: nn.Module, graph: fx.Graph, colors: int) -> dict[fx.Node, int]:
    """Number of channels of every node whose value is a batch of maps, by shapes (meta tensors)."""
    shapeless = fx.GraphModule(copy.deepcopy(root).to("meta"), graph)
    counter = _ChannelCounter(shapeless, garbage_collect_values=False)
    # Later layers may have no maps. What is wrong with a network shows when it is run itself.
    with torch.no_grad(), contextlib.suppress(Exception):
        counter.run(torch.empty(1, colors, SIDE, SIDE, device="meta"))
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
            count = module.out_channels
        elif n.target is torch.cat and all(source in channels for source in sources):
            count = sum(channels[source] for source in sources)
        else:
            return super().run_node(n)
        return torch.empty(1, count, SIDE, SIDE, device="meta")


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


def _described(root: nn.Module, node: fx.Node, path: str) -> tuple[str, str | None]:
    """What computes the response of `node`, and the nonlinearity that reads it, in words.

    path  of a module that returns it
    """
    module, sources = module_of(root, node), node.all_input_nodes
    if isinstance(module, nn.BatchNorm2d) and isinstance(module_of(root, sources[0]), nn.Conv2d):
        what = "convolution + batch norm"
    elif module is not None:
        what = described(module)
    elif node.target in SUMS:
        what = "sum of branches"
    elif node.target is torch.cat:
        what = "branches side by side"
    else:
        what = described(root.get_submodule(path))
    users = list(node.users)
    if node.target is torch.cat and not users:  # made by _before_nonlinearity
        users = [user for part in sources for user in part.users]
    return what, next(filter(None, (_nonlinearity(root, user) for user in users)), None)
