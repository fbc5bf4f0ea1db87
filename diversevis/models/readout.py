"""Only the wanted filter: a network that answers with one response per image, not a layer's worth.

The last steps before a target are rewritten so that every image meets its own unit's filter alone.
Nothing else of the layer is computed, and nothing behind or beside the way to it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, fx, nn
from torch.nn import functional

from diversevis.models.trace import SUMS

# Steps that treat every channel alike, and do not mix them.
CHANNEL_BY_CHANNEL = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Identity, nn.Dropout,
)  # fmt: skip
LINEAR = (nn.AvgPool2d, nn.Identity, nn.Dropout)  # of these, the linear ones (in eval mode)
POINTWISE_FUNCTIONS = (torch.square, torch.abs, torch.relu, torch.sqrt)
FEW = 4  # inputs of a grouped convolution's filter: so many filters before it are chosen one by one


def read_out(module: fx.GraphModule, vectors: Float[Tensor, "row channel"]) -> fx.GraphModule:
    """`module` with its first output replaced by the projections on `vectors`.

    module   unpadded: z [image, 3, h, w] -> a tuple of the target [image, channel, 1, 1] and
             further outputs
    vectors  of unit norm, one per row

    Returns a module that takes z, its images sorted by unit, as many for each, and rows [unit], the
    vector of each unit: it gives responses [unit, image], then the further outputs. The result is
    the same as projecting all channels; each linear step before the target is asked for the
    projection directly.
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
            (target, *others) = node.args[0]
        else:
            copied[node] = graph.node_copy(node, copied.__getitem__)
            if node.op == "placeholder":
                rows = graph.placeholder("rows")
    reader = _Reader(module, parts, graph, copied, rows, vectors)
    answer = graph.call_function(_by_unit, (reader.select(target, is_output=True), rows))
    graph.output((answer, *(copied[other] for other in others)))
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)
    used = {node.target for node in graph.nodes if node.op in ("call_module", "get_attr")}
    found = fx.GraphModule({name: parts[name] for name in parts if name in used}, graph)
    return found.eval().requires_grad_(False)


class _Reader:
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
        """A node that gives [image, 1, h, w]: the projection of the value of `node`."""
        if len(node.users) > 1 and not is_output:
            return self._project(node)  # its channels are all computed for someone else anyway
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
            channels = self._keep("channels", self.channels)
            return self.graph.call_function(_pick, (self.copied[node], channels, self.rows))
        vectors = self._keep("vectors", self.vectors)
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
        kept_bias = None if biases is None else self._keep("biases", biases.detach().clone())
        # Channels last, as images are laid out on the way here.
        flat = filters.detach().permute(0, 2, 3, 1).contiguous()
        return self.graph.call_function(
            _own_filter,
            (ahead, self._keep("filters", flat), kept_bias, self.rows),
            {"stride": convolution.stride, "dilation": convolution.dilation},
        )

    def _select_many(self, node: fx.Node, inputs: Int[Tensor, "row input"]) -> fx.Node:
        """A node that gives [image, input, h, w]: of the value of `node`, each unit's inputs."""
        called = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        alone = len(node.users) == 1 and inputs.shape[1] <= FEW
        if alone and isinstance(called, nn.Conv2d) and called.groups == 1:
            weight, bias = called.weight.detach(), called.bias
            return self.graph.call_function(
                _chosen_filters,
                (
                    self.copied[node.all_input_nodes[0]],
                    self._keep("weight", weight),
                    None if bias is None else self._keep("bias", bias.detach()),
                    self._keep("inputs", inputs),
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
        kept = self._keep("inputs", inputs)
        return self.graph.call_function(_pick_many, (self.copied[node], kept, self.rows))

    def _keep(self, name: str, value: Tensor) -> fx.Node:
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
    each = channels[rows].repeat_interleave(len(maps) // len(rows))
    return maps.gather(1, each[:, None, None, None].expand(-1, 1, *maps.shape[2:]))


def _pick_many(
    maps: Float[Tensor, "image channel h w"],
    channels: Int[Tensor, "row few"],
    rows: Int[Tensor, " unit"],
) -> Float[Tensor, "image few h w"]:
    each = channels[rows].repeat_interleave(len(maps) // len(rows), dim=0)
    return maps.gather(1, each[:, :, None, None].expand(-1, -1, *maps.shape[2:]))


def _mix(
    maps: Float[Tensor, "image channel h w"],
    vectors: Float[Tensor, "row channel"],
    rows: Int[Tensor, " unit"],
) -> Float[Tensor, "image 1 h w"]:
    by_unit = maps.reshape(len(rows), -1, *maps.shape[1:])
    return torch.einsum("uichw,uc->uihw", by_unit, vectors[rows]).flatten(0, 1)[:, None]


def _own_filter(
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
    if maps.shape[2:] == kernel and tuple(dilation) == (1, 1):  # the filter sees all there is
        seen = maps.permute(0, 2, 3, 1).reshape(units, len(maps) // units, -1)
        # Not a product of matrices, whose rounding would depend on how many units there are.
        answer = (seen * filters[rows].reshape(units, 1, -1)).sum(2, keepdim=True)
        size = [1, 1]
    else:
        windows = functional.unfold(maps, kernel, dilation=dilation, stride=stride)
        flat = filters[rows].permute(0, 3, 1, 2).reshape(units, 1, 1, -1)
        answer = (flat @ windows.reshape(units, -1, *windows.shape[1:]))[
            :, :, 0
        ]  # [unit, image, position]
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
    """Convolution of every image with the few filters that its unit needs, where these see all of
    it; with all filters, of which these are taken, where there are many positions to see."""
    options: dict[str, Any] = {"stride": stride, "dilation": dilation}
    if maps.shape[2:] != weight.shape[2:]:
        return _pick_many(functional.conv2d(maps, weight, bias, **options), inputs, rows)
    filters = weight.permute(0, 2, 3, 1)
    found = [
        _own_filter(maps, filters[own], None if bias is None else bias[own], rows, **options)
        for own in inputs.T
    ]
    return torch.cat(found, dim=1)


def _keeps_channels(index: Any) -> bool:
    """Whether it is a crop: a choice of rows and columns alone."""
    return (
        isinstance(index, tuple)
        and len(index) == 4
        and all(isinstance(part, slice) for part in index)
        and index[:2] == (slice(None), slice(None))
    )
