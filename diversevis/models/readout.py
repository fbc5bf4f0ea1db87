"""Compute for every image only the response of its unit, instead of all channels of the layer.

The last steps before the target layer are rewritten: an image is convolved only with the filter of
its unit. Steps that the target does not need are removed.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, fx, nn
from torch.nn import functional

from diversevis.models.trace import SUMS

# Steps that act on every channel separately and in the same way.
CHANNEL_BY_CHANNEL = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Identity, nn.Dropout,
)  # fmt: skip
LINEAR = (nn.AvgPool2d, nn.Identity, nn.Dropout)  # those that are linear in eval mode
POINTWISE_FUNCTIONS = (torch.square, torch.abs, torch.relu, torch.sqrt)
# Largest number of input channels of a grouped convolution's filter for which the convolution
# before it is computed channel by channel (complex cells of the energy network have 2).
FEW = 4


def read_out(module: fx.GraphModule, vectors: Float[Tensor, "row channel"]) -> fx.GraphModule:
    """Return `module` with its first output replaced by the projections on `vectors`.

    module   without padding: z [image, 3, h, w] -> a tuple of the target [image, channel, 1, 1] and
             further outputs
    vectors  unit-norm directions in channel space, a row per target

    The new module takes z (images sorted by unit, equally many per unit) and rows [unit], the index
    of every unit's vector. It returns responses [unit, image], then the further outputs. The result
    is the same as projecting all channels: the projection is moved before every linear step.
    """
    parts: dict[str, Any] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            parts[node.target] = module.get_submodule(node.target)
        elif node.op == "get_attr":
            parts[node.target] = operator.attrgetter(node.target)(module)
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            (target, *further) = node.args[0]
        else:
            copied[node] = graph.node_copy(node, copied.__getitem__)
            if node.op == "placeholder":
                rows = graph.placeholder("rows")
    reader = _Reader(module, parts, graph, copied, rows, vectors)
    responses = graph.call_function(_by_unit, (reader.select(target, is_output=True), rows))
    graph.output((responses, *(copied[node] for node in further)))
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)
    used = {node.target for node in graph.nodes if node.op in ("call_module", "get_attr")}
    readout = fx.GraphModule({name: parts[name] for name in parts if name in used}, graph)
    return readout.eval().requires_grad_(False)


class _Reader:
    """Builds the graph's last steps, from the target towards the image."""

    def __init__(
        self,
        module: fx.GraphModule,
        parts: dict[str, Any],
        graph: fx.Graph,
        copied: dict[fx.Node, fx.Node],
        rows: fx.Node,
        vectors: Tensor,
    ) -> None:
        self.module, self.parts, self.graph = module, parts, graph
        self.copied, self.rows, self.vectors = copied, rows, vectors
        one_hot = (vectors == 1).sum(1) + (vectors == 0).sum(1) == vectors.shape[1]
        self.channels = vectors.argmax(1) if bool(one_hot.all()) else None

    def select(self, node: fx.Node, is_output: bool = False) -> fx.Node:
        """Return a node with the projection of the value of `node`, [image, 1, h, w]."""
        if len(node.users) > 1 and not is_output:
            return self._project(node)  # another step needs all its channels anyway
        called = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(called, nn.Conv2d) and (called.groups == 1 or self.channels is not None):
            return self._filter(node, called)
        if isinstance(called, CHANNEL_BY_CHANNEL) and (
            self.channels is not None or isinstance(called, LINEAR)
        ):
            source = self.select(node.all_input_nodes[0])
            return self.graph.call_module(str(node.target), (source,))
        if node.target in SUMS and len(node.all_input_nodes) == 2 and not node.kwargs:
            parts = tuple(self.select(source) for source in node.all_input_nodes)
            return self.graph.call_function(operator.add, parts)
        if node.target is operator.getitem and _keeps_channels(node.args[1]):
            source = self.select(node.all_input_nodes[0])
            return self.graph.call_function(operator.getitem, (source, node.args[1]))
        return self._project(node)

    def _project(self, node: fx.Node) -> fx.Node:
        if self.channels is not None:
            channels = self._constant("channels", self.channels)
            return self.graph.call_function(_pick, (self.copied[node], channels, self.rows))
        vectors = self._constant("vectors", self.vectors)
        return self.graph.call_function(_mix, (self.copied[node], vectors, self.rows))

    def _filter(self, node: fx.Node, convolution: nn.Conv2d) -> fx.Node:
        weight, bias = convolution.weight, convolution.bias
        groups, inputs = convolution.groups, None
        if self.channels is not None:
            filters = weight[self.channels]
            biases = bias[self.channels] if bias is not None else None
            if groups > 1:
                width = weight.shape[1]
                group = self.channels // (weight.shape[0] // groups)
                inputs = group[:, None] * width + torch.arange(width, device=group.device)
        else:
            filters = torch.einsum("rc,cikl->rikl", self.vectors, weight)
            biases = self.vectors @ bias if bias is not None else None
        ahead = (
            self.copied[node.all_input_nodes[0]]
            if inputs is None
            else self._select_many(node.all_input_nodes[0], inputs)
        )
        bias_node = None if biases is None else self._constant("biases", biases.detach().clone())
        # Channels last, as images are laid out on the way here.
        flat = filters.detach().permute(0, 2, 3, 1).contiguous()
        return self.graph.call_function(
            _filter_of_unit,
            (ahead, self._constant("filters", flat), bias_node, self.rows),
            {"stride": convolution.stride, "dilation": convolution.dilation},
        )

    def _select_many(self, node: fx.Node, inputs: Int[Tensor, "row input"]) -> fx.Node:
        """Return a node with the channels of `node` that every image's unit reads,
        [image, input, h, w]."""
        called = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        alone = len(node.users) == 1 and inputs.shape[1] <= FEW
        if alone and isinstance(called, nn.Conv2d) and called.groups == 1:
            weight, bias = called.weight.detach(), called.bias
            return self.graph.call_function(
                _chosen_filters,
                (
                    self.copied[node.all_input_nodes[0]],
                    self._constant("weight", weight),
                    None if bias is None else self._constant("bias", bias.detach()),
                    self._constant("inputs", inputs),
                    self.rows,
                ),
                {"stride": called.stride, "dilation": called.dilation},
            )
        if alone and isinstance(called, CHANNEL_BY_CHANNEL):
            source = self._select_many(node.all_input_nodes[0], inputs)
            return self.graph.call_module(str(node.target), (source,))
        if alone and node.target in POINTWISE_FUNCTIONS:
            source = self._select_many(node.all_input_nodes[0], inputs)
            return self.graph.call_function(node.target, (source,))
        constant = self._constant("inputs", inputs)
        return self.graph.call_function(_pick_many, (self.copied[node], constant, self.rows))

    def _constant(self, name: str, value: Tensor) -> fx.Node:
        """Store a tensor with the new module and return a node that gives it."""
        path = f"read_out_{name}_{len(self.parts)}"
        self.parts[path] = value
        return self.graph.get_attr(path)


def _by_unit(answer: Tensor, rows: Int[Tensor, " unit"]) -> Float[Tensor, "unit image"]:
    return answer.reshape(len(rows), -1)


def _pick(
    maps: Float[Tensor, "image channel h w"],
    channels: Int[Tensor, " row"],
    rows: Int[Tensor, " unit"],
) -> Float[Tensor, "image 1 h w"]:
    channel_of_image = channels[rows].repeat_interleave(len(maps) // len(rows))
    return maps.gather(1, channel_of_image[:, None, None, None].expand(-1, 1, *maps.shape[2:]))


def _pick_many(
    maps: Float[Tensor, "image channel h w"],
    channels: Int[Tensor, "row few"],
    rows: Int[Tensor, " unit"],
) -> Float[Tensor, "image few h w"]:
    channels_of_image = channels[rows].repeat_interleave(len(maps) // len(rows), dim=0)
    return maps.gather(1, channels_of_image[:, :, None, None].expand(-1, -1, *maps.shape[2:]))


def _mix(
    maps: Float[Tensor, "image channel h w"],
    vectors: Float[Tensor, "row channel"],
    rows: Int[Tensor, " unit"],
) -> Float[Tensor, "image 1 h w"]:
    by_unit = maps.reshape(len(rows), -1, *maps.shape[1:])
    return torch.einsum("uichw,uc->uihw", by_unit, vectors[rows]).flatten(0, 1)[:, None]


def _filter_of_unit(
    maps: Float[Tensor, "image channel h w"],
    filters: Float[Tensor, "row kh kw channel"],
    biases: Float[Tensor, " row"] | None,
    rows: Int[Tensor, " unit"],
    *,
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Float[Tensor, "image 1 rows columns"]:
    """Convolution of every image with the filter of its unit."""
    units, kernel = len(rows), filters.shape[1:3]
    if maps.shape[2:] == kernel and tuple(dilation) == (1, 1):  # the filter covers the whole map
        seen = maps.permute(0, 2, 3, 1).reshape(units, len(maps) // units, -1)
        # A sum, not a matrix product: the rounding of a product depends on the number of units.
        answer = (seen * filters[rows].reshape(units, 1, -1)).sum(2, keepdim=True)
        size = [1, 1]
    else:
        windows = functional.unfold(maps, kernel, dilation=dilation, stride=stride)
        flat = filters[rows].permute(0, 3, 1, 2).reshape(units, 1, 1, -1)
        by_unit = windows.reshape(units, -1, *windows.shape[1:])
        answer = (flat @ by_unit)[:, :, 0]  # [unit, image, position]
        size = [
            (maps.shape[2 + axis] - (kernel[axis] - 1) * dilation[axis] - 1) // stride[axis] + 1
            for axis in (0, 1)
        ]
    if biases is not None:
        answer = answer + biases[rows][:, None, None]
    return answer.reshape(len(maps), 1, *size)


def _chosen_filters(
    maps: Float[Tensor, "image channel h w"],
    weight: Float[Tensor, "filter channel kh kw"],
    bias: Float[Tensor, " filter"] | None,
    inputs: Int[Tensor, "row input"],
    rows: Int[Tensor, " unit"],
    *,
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Float[Tensor, "image input rows columns"]:
    """Convolution of every image with the filters that its unit needs.

    Where a filter covers the whole map, only these filters are computed; elsewhere all filters are
    computed and the needed channels are picked, which is faster.
    """
    options: dict[str, Any] = {"stride": stride, "dilation": dilation}
    if maps.shape[2:] != weight.shape[2:]:
        return _pick_many(functional.conv2d(maps, weight, bias, **options), inputs, rows)
    filters = weight.permute(0, 2, 3, 1)
    channels = [
        _filter_of_unit(
            maps, filters[index], None if bias is None else bias[index], rows, **options
        )
        for index in inputs.T
    ]
    return torch.cat(channels, dim=1)


def _keeps_channels(index: Any) -> bool:
    """Whether `index` crops rows and columns and keeps all channels."""
    return (
        isinstance(index, tuple)
        and len(index) == 4
        and all(isinstance(part, slice) for part in index)
        and index[:2] == (slice(None), slice(None))
    )
