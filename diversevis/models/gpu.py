"""A network rewritten for tensor cores: the same numbers but for rounding."""

from __future__ import annotations

import copy

from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn import functional

from diversevis.models.trace import module_of


def pad_input(module: fx.GraphModule, channels: int) -> fx.GraphModule:
    """`module` whose convolutions of the image see it with so many channels, the last of them 0.

    NVIDIA's guide asks for multiples of 4 (TF32) and to pad the 3 channels of an image
    (docs.nvidia.com/deeplearning/performance/dl-performance-convolutional, "Channels In And Out").
    """
    padded = fx.GraphModule(module, copy.deepcopy(module.graph))
    for index, node in enumerate(list(padded.graph.nodes)):
        called = module_of(padded, node)
        if not isinstance(called, nn.Conv2d) or node.all_input_nodes[0].op != "placeholder":
            continue
        if called.groups == 1 and called.in_channels < channels and called.padding == (0, 0):
            node.target = f"padded_{index}"
            padded.add_submodule(node.target, PaddedConvolution(called, channels))
    padded.delete_all_unused_submodules()
    padded.recompile()
    return padded.eval()


class PaddedConvolution(nn.Module):
    """A convolution of images to which channels of 0 are added."""

    def __init__(self, convolution: nn.Conv2d, channels: int) -> None:
        super().__init__()
        self.missing = channels - convolution.in_channels
        weight = self._pad(convolution.weight.detach())
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), convolution.bias
        self.stride: tuple[int, int] = tuple(convolution.stride)  # type: ignore[assignment]
        self.dilation: tuple[int, int] = tuple(convolution.dilation)  # type: ignore[assignment]

    def forward(self, x: Float[Tensor, "image few h w"]) -> Float[Tensor, "image filter rows cols"]:
        stride, dilation = self.stride, self.dilation
        padded = self._pad(x)
        return functional.conv2d(padded, self.weight, self.bias, stride=stride, dilation=dilation)

    def _pad(self, maps: Float[Tensor, "many few h w"]) -> Float[Tensor, "many channel h w"]:
        return functional.pad(maps, (0, 0, 0, 0, 0, self.missing))
