"""Compute for every image only the response of its unit, instead of all channels of the layer.

The last steps before the target layer are rewritten: an image is convolved only with the filter of
its unit. Steps that the target does not need are removed.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, fx, nn
from torch.nn import functional

from diversevis.models.receptive_field import sees_image
from diversevis.models.trace import SUMS, module_of

# Steps that act on every channel separately and in the same way.
CHANNEL_BY_CHANNEL = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Identity, nn.Dropout,
)  # fmt: skip
LINEAR = (nn.AvgPool2d, nn.Identity, nn.Dropout)  # those that are linear in eval mode
POINTWISE_FUNCTIONS = (torch.square, torch.abs, torch.relu, torch.sqrt)
# Largest number of input channels of a grouped convolution's filter for which the convolution
# before it is computed channel by channel (complex cells of the energy network have 2).
FEW = 4

Maps = Float[Tensor, "image channel h w"]
Rows = Int[Tensor, " unit"]


def read_out(module: fx.GraphModule, vectors: Float[Tensor, "row channel"]) -> fx.GraphModule:
    """Return `module` with its first output replaced by the projections on `vectors`.

    module   without padding: z [image, 3, h, w] -> a tuple of the target [image, channel, 1, 1] and
             further outputs
    vectors  unit-norm directions in channel space, a row per target

    The new module takes z (images sorted by unit, equally many per unit) and rows [unit], the index
    of every unit's vector. It returns responses [unit, image], then the further outputs. The result
    is the same as projecting all channels: the projection is moved before every linear step.
    """
    rewritten = fx.GraphModule(module, copy.deepcopy(module.graph))
    graph = rewritten.graph
    image = next(node for node in graph.nodes if node.op == "placeholder")
    output = next(node for node in graph.nodes if node.op == "output")
    target, *further = output.args[0]
    with graph.inserting_after(image):
        rows = graph.placeholder("rows")
    with graph.inserting_before(output):
        selected = _Reader(rewritten, rows, vectors).select(target, is_output=True)
        responses = graph.call_function(_by_unit, (selected, rows))
    output.args = ((responses, *further),)
    graph.eliminate_dead_code()
    # A new module, without the modules and tensors that no step uses any more.
    return fx.GraphModule(rewritten, graph).eval().requires_grad_(False)


class _Reader:
    """Adds the graph's last steps, from the target towards the image.

    A step's users are counted while steps are added. That is safe: a step with a single user is
    reached once, through that user.
    """

    def __init__(self, module: fx.GraphModule, rows: fx.Node, vectors: Tensor) -> None:
        self.module, self.graph = module, module.graph
        self.rows, self.vectors = rows, vectors
        one_hot = (vectors == 1).sum(1) + (vectors == 0).sum(1) == vectors.shape[1]
        self.channels = vectors.argmax(1) if bool(one_hot.all()) else None

    def select(self, node: fx.Node, is_output: bool = False) -> fx.Node:
        """Return a node with the projection of the value of `node`, [image, 1, h, w]."""
        if len(node.users) > 1 and not is_output:
            return self._project(node)  # another step needs all its channels anyway
        called, sources = module_of(self.module, node), node.all_input_nodes
        if isinstance(called, nn.Conv2d) and (called.groups == 1 or self.channels is not None):
            return self._filter(sources[0], called)
        keeps = CHANNEL_BY_CHANNEL if self.channels is not None else LINEAR
        if isinstance(called, keeps):
            return self.graph.call_module(str(node.target), (self.select(sources[0]),))
        # A constant among the terms (a bias) has no images to choose for.
        two = len(sources) == 2 and all(map(sees_image, sources))
        if node.target in SUMS and two and not node.kwargs:
            return self._call(operator.add, *[self.select(source) for source in sources])
        if self.channels is not None and node.target in POINTWISE_FUNCTIONS:
            return self._call(node.target, self.select(sources[0]))
        if node.target is functional.pad:  # a crop
            return self._call(functional.pad, self.select(sources[0]), node.args[1])
        return self._project(node)

    def _project(self, node: fx.Node) -> fx.Node:
        if self.channels is not None:
            return self._call(_pick, node, self.channels[:, None], self.rows)
        return self._call(_mix, node, self.vectors, self.rows)

    def _filter(self, source: fx.Node, convolution: nn.Conv2d) -> fx.Node:
        """Return a node with the projection of `convolution` applied to `source`."""
        weight, bias = convolution.weight.detach(), convolution.bias
        if self.channels is None:
            filters = torch.einsum("rc,cikl->rikl", self.vectors, weight)
            biases = self.vectors @ bias if bias is not None else None
        else:
            filters = weight[self.channels]
            biases = bias[self.channels] if bias is not None else None
            if convolution.groups > 1:
                width = weight.shape[1]
                group = self.channels // (len(weight) // convolution.groups)
                inputs = group[:, None] * width + torch.arange(width, device=group.device)
                source = self._select_many(source, inputs)
        # Channels last, as images are laid out on the way here.
        flat = filters.permute(0, 2, 3, 1).contiguous()
        window = {"stride": convolution.stride, "dilation": convolution.dilation}
        return self._call(_filter_of_unit, source, flat, biases, self.rows, **window)

    def _select_many(self, node: fx.Node, inputs: Int[Tensor, "row input"]) -> fx.Node:
        """Return a node with the channels of `node` that a unit reads, [image, input, h, w]."""
        if len(node.users) > 1 or inputs.shape[1] > FEW:
            return self._call(_pick, node, inputs, self.rows)
        called, sources = module_of(self.module, node), node.all_input_nodes
        if isinstance(called, nn.Conv2d) and called.groups == 1:
            tensors = called.weight, called.bias, inputs
            window = {"stride": called.stride, "dilation": called.dilation}
            return self._call(_chosen_filters, sources[0], *tensors, self.rows, **window)
        if isinstance(called, CHANNEL_BY_CHANNEL):
            selected = self._select_many(sources[0], inputs)
            return self.graph.call_module(str(node.target), (selected,))
        if node.target in POINTWISE_FUNCTIONS:
            return self._call(node.target, self._select_many(sources[0], inputs))
        return self._call(_pick, node, inputs, self.rows)

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> fx.Node:
        """Add a call of `function`; tensors among the arguments are stored with the new module."""
        nodes = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                name = f"read_out_{len(self.graph.nodes)}"
                self.module.register_buffer(name, argument.detach())
                argument = self.graph.get_attr(name)
            nodes.append(argument)
        return self.graph.call_function(function, tuple(nodes), options)


def _by_unit(answer: Tensor, rows: Rows) -> Float[Tensor, "unit image"]:
    return answer.reshape(len(rows), -1)


def _pick(
    maps: Maps, channels: Int[Tensor, "row few"], rows: Rows
) -> Float[Tensor, "image few h w"]:
    of_image = channels[rows].repeat_interleave(len(maps) // len(rows), dim=0)[:, None, None]
    by_pixel = maps.permute(0, 2, 3, 1)  # a gradient with channels last, like the maps
    picked = by_pixel.gather(3, of_image.expand(-1, *by_pixel.shape[1:3], -1))
    return picked.permute(0, 3, 1, 2)


def _mix(
    maps: Maps, vectors: Float[Tensor, "row channel"], rows: Rows
) -> Float[Tensor, "image 1 h w"]:
    by_unit = maps.reshape(len(rows), -1, *maps.shape[1:])
    return torch.einsum("uichw,uc->uihw", by_unit, vectors[rows]).flatten(0, 1)[:, None]


def _filter_of_unit(
    maps: Maps,
    filters: Float[Tensor, "row kh kw channel"],
    biases: Float[Tensor, " row"] | None,
    rows: Rows,
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
    maps: Maps,
    weight: Float[Tensor, "filter channel kh kw"],
    bias: Float[Tensor, " filter"] | None,
    inputs: Int[Tensor, "row input"],
    rows: Rows,
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
        return _pick(functional.conv2d(maps, weight, bias, **options), inputs, rows)
    filters = weight.permute(0, 2, 3, 1)
    channels = []
    for index in inputs.T:
        biases = bias[index] if bias is not None else None
        channels.append(_filter_of_unit(maps, filters[index], biases, rows, **options))
    return torch.cat(channels, dim=1)
