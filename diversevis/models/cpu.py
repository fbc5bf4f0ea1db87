"""A network rewritten for the CPU: the same numbers but for rounding, in less time.

A forward and backward pass without it takes 1.12 times as long for vgg19 conv2_2 (32 units of 6
images), 1.10 for vgg19 conv3_1 (16 units) and 1.45 for resnet50 layer1.2 (16 units), whose first
filters are large; the order of pooling and rectification alone makes 1.02, 1.03 and 1.06 of these.
(Ratios of medians over 50 or 100 passes, alternating in one process, one thread, twice; torch 2.14
on an Intel Xeon with AVX-512.)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn import functional

from diversevis.models.trace import module_of

# Positions of a filter on an image. With fewer there is nothing to gain, and the rounding of such a
# small matrix product would depend on the number of images.
FEW_POSITIONS = 16
SHARES_AT_ONCE = 2**22  # numbers that stay in a cache between the product and its adding up
FEW_CHANNELS = 4  # of an image; the libraries' convolutions are made for many channels
# With fewer images, oneDNN's 1 x 1 convolutions add up in another order on a single thread. More
# images than there are would cost too much on larger maps.
FEW_IMAGES, SMALL_MAP = 16, 256


def tune_for_cpu(module: fx.GraphModule) -> fx.GraphModule:
    """`module` with rectifications in place and after max pooling, a faster gradient of its first
    convolution, and 1 x 1 convolutions that round few images like many.

    Parameters are shared with `module`, which stays as it was.
    """
    tuned = fx.GraphModule(module, copy.deepcopy(module.graph))
    calls = [node for node in tuned.graph.nodes if node.op == "call_module"]
    for node in calls:
        _pool_first(tuned, node)
    replacements = [_replacement(tuned, node) for node in calls]
    for index, (node, replacement) in enumerate(zip(calls, replacements, strict=True)):
        if replacement is not None:
            node.target = f"tuned_{index}"
            tuned.add_submodule(node.target, replacement)
    tuned.delete_all_unused_submodules()
    tuned.recompile()
    return tuned.eval()


def _pool_first(module: fx.GraphModule, node: fx.Node) -> None:
    """Let a max pooling `node` and the ReLU before it change places: the same values and the same
    gradient, with fewer numbers to rectify."""
    source = node.all_input_nodes[0]
    relu, pool = module_of(module, source), module_of(module, node)
    pools = isinstance(pool, nn.MaxPool2d) and not pool.return_indices
    if isinstance(relu, nn.ReLU) and pools and len(source.users) == 1:
        source.target, node.target = node.target, source.target


def _replacement(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The faster module for the call `node`; None if its module stays."""
    called, source = module_of(module, node), node.all_input_nodes[0]
    # In place only if no other step, and no gradient, needs the value before the ReLU.
    not_needed = isinstance(module_of(module, source), (nn.Conv2d, nn.MaxPool2d))
    if isinstance(called, nn.ReLU) and not_needed and len(source.users) == 1:
        return nn.ReLU(inplace=True)
    if isinstance(called, nn.Conv2d) and called.kernel_size == (1, 1):
        return PointConvolution(called)
    if (
        source.op == "placeholder"
        and isinstance(called, nn.Conv2d)
        and called.in_channels <= FEW_CHANNELS
        and (called.groups, called.dilation, called.padding) == (1, (1, 1), (0, 0))
    ):
        return FirstConvolution(called)
    return None


class PointConvolution(nn.Module):
    """A 1 x 1 convolution that rounds few images like many, so that a unit alone gives the same as
    among others; on maps of at most 256 positions."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Float[Tensor, "image channel h w"]) -> Float[Tensor, "image filter h2 w2"]:
        missing = FEW_IMAGES - len(x)
        if missing <= 0 or x[0, 0].numel() > SMALL_MAP:
            return self.convolution(x)
        more = functional.pad(x, (0, 0, 0, 0, 0, 0, 0, missing))
        return self.convolution(more)[: len(x)].clone()  # what follows may work in place


class FirstConvolution(nn.Module):
    """A convolution of images whose gradient is computed for all three colours and several pixels
    at once.

    The libraries compute a gradient with respect to blocks of many channels; of an image's three,
    most of such a block is computed in vain. With a stride that is the same down and right, pixels
    that lie alike under the filters become channels (`_by_phases`, 1.5 to 1.8 times as fast as the
    other way); else the positions in a filter are rows of a matrix product, added up by offsets
    (`_by_offsets`, 1.3 to 1.9 times as fast as the other way for a stride of 1).
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.stride: tuple[int, int] = tuple(convolution.stride)  # type: ignore[assignment]

    def forward(self, x: Float[Tensor, "image few h w"]) -> Float[Tensor, "image filter rows cols"]:
        return _FirstConvolution.apply(x, self.weight, self.bias, self.stride)


class _FirstConvolution(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return functional.conv2d(x, weight, bias, stride=stride)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        (down, right), size = ctx.stride, x.shape[2:]
        if gradient[0, 0].numel() < FEW_POSITIONS:
            arguments = [0, 0], [1, 1], False, [0, 0], 1, [True, False, False]
            gradients = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ctx.stride, *arguments
            )
            return gradients[0], None, None, None
        if down == right > 1:
            return _by_phases(gradient, weight, down, size), None, None, None
        return _by_offsets(gradient, weight, ctx.stride, size), None, None, None


Gradient = Float[Tensor, "image filter rows cols"]  # with respect to the answers
Weight = Float[Tensor, "filter few tall wide"]


def _by_phases(
    gradient: Gradient, weight: Weight, stride: int, size: Sequence[int]
) -> Float[Tensor, "image few h w"]:
    """The gradient with respect to images, for the same stride down and right.

    The pixels with one remainder of row and column by the stride get a convolution of `gradient`
    with every stride-th number of the filters: stride^2 convolutions, computed as channels of one.
    """
    filters, few, *sides = weight.shape
    tall, wide = (-(-side // stride) for side in sides)
    more_rows, more_columns = tall * stride - sides[0], wide * stride - sides[1]
    by_phase = functional.pad(weight, (0, more_columns, 0, more_rows))
    by_phase = by_phase.reshape(filters, few, tall, stride, wide, stride).flip(2, 4)
    by_phase = by_phase.permute(1, 3, 5, 0, 2, 4).reshape(-1, filters, tall, wide)
    by_phase = by_phase.contiguous(memory_format=torch.channels_last)
    phases = functional.conv2d(gradient, by_phase, padding=(tall - 1, wide - 1))
    to_x = functional.pixel_shuffle(phases, stride)
    # Pixels beyond the last filter have no gradient; a filter's padding lies beyond the image.
    return functional.pad(to_x, (0, size[1] - to_x.shape[3], 0, size[0] - to_x.shape[2]))


def _by_offsets(
    gradient: Gradient, weight: Weight, stride: tuple[int, int], size: Sequence[int]
) -> Float[Tensor, "image few h w"]:
    """The gradient with respect to images, for every stride."""
    (down, right), (filters, few, tall, wide) = stride, weight.shape
    images, _, rows, columns = gradient.shape
    to_x = gradient.new_zeros(few, images, *size)
    at_once = max(1, SHARES_AT_ONCE // (weight[0].numel() * rows * columns))
    for part, sums in zip(
        torch.split(gradient, at_once), torch.split(to_x, at_once, dim=1), strict=True
    ):
        flat = part.permute(0, 2, 3, 1).reshape(-1, filters)  # a view where channels are last
        shares = weight.reshape(filters, -1).T @ flat.T
        shares = shares.reshape(few, tall, wide, len(part), rows, columns)
        for i in range(tall):
            for j in range(wide):
                to_rows = slice(i, i + down * (rows - 1) + 1, down)
                to_columns = slice(j, j + right * (columns - 1) + 1, right)
                sums[:, :, to_rows, to_columns] += shares[:, i, j]
    return to_x.transpose(0, 1)
