"""PixelCNN++ (Salimans, Karpathy, Chen & Kingma 2017): pixel by pixel, in the order of reading.

Two streams of features go through the image: `above` knows the rows above a pixel, `left` these
and the pixels to its left. No kernel is masked: images are padded so that none sees more.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from diversevis.priors.logistics import OUTPUTS, Images, Outputs, log_likelihood

# A stream's features, and their concatenated ELU, which several layers read.
Stream = tuple[Tensor, Tensor]


class PixelCNN(nn.Module):
    """Images -> negative log-likelihood, nats per pixel and channel.

    colors    3, or 1 for grey
    channels  of either stream
    blocks    gated residual blocks per stream and resolution; on the way down one more where the
              resolution is lower
    mixtures  components of the mixture of logistics
    stages    number of resolutions; each has half the rows and columns of the one before
    dropout   share of features that `loss` leaves out (section 2.5: 0.5)

    The buffers `offset` [color, 1, 1] and `scale` turn grey levels into values in [-1, 1]:
    `(x + offset) / scale`. They begin at 0 and 127.5, for grey levels around the middle one.
    Weights are drawn from torch's global generator, and normalized (Salimans & Kingma 2016).
    """

    offset: Tensor
    scale: Tensor

    def __init__(
        self, *, colors: int, channels: int, blocks: int, mixtures: int, stages: int = 3,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sizes = {
            "colors": colors, "channels": channels, "blocks": blocks, "mixtures": mixtures,
            "stages": stages,
        }  # fmt: skip
        self.register_buffer("offset", torch.zeros(colors, 1, 1))
        self.register_buffer("scale", torch.tensor(127.5))
        self.first_above = Above(colors + 1, channels)
        self.first_row = Above(colors + 1, channels, rows=1)
        self.first_left = Left(colors + 1, channels, columns=1)
        down = [blocks] + [blocks + 1] * (stages - 1)
        self.up = nn.ModuleList(Stage(channels, blocks, False, dropout) for _ in down)
        self.down = nn.ModuleList(Stage(channels, n, True, dropout) for n in down)
        steps = range(stages - 1)
        self.shrink_above = nn.ModuleList(Above(channels, channels, stride=2) for _ in steps)
        self.shrink_left = nn.ModuleList(Left(channels, channels, stride=2) for _ in steps)
        self.grow_above = nn.ModuleList(_grow(channels, columns=3) for _ in steps)
        self.grow_left = nn.ModuleList(_grow(channels, columns=2) for _ in steps)
        self.output = Pointwise(channels, OUTPUTS[colors] * mixtures)
        self.output.bias = nn.Parameter(_wide_mixture(colors, mixtures))

    def forward(self, x: Images) -> Float[Tensor, " image"]:
        """Mean over the pixels and channels of `-log P(its grey level | all earlier ones)`, nats.

        x  grey levels around the prior's mean; below black and above white is black and white
        """
        return self._cost(x, None)

    def loss(self, x: Images, generator: torch.Generator) -> Float[Tensor, ""]:
        """What training minimizes: the mean over images, with dropout drawn from `generator`, on
        the device of the images."""
        return self._cost(x, generator).mean()

    def folded(self) -> PixelCNN:
        """A copy for use: the same function, its weights normalized once, without gradients."""
        # Not a deepcopy, which shares classes with the original: torch would change both models.
        with torch.device("meta"):
            model = PixelCNN(**self.sizes)
        for module in list(model.modules()):
            if parametrize.is_parametrized(module):
                parametrize.remove_parametrizations(module, "weight")
        state = {}
        for name in model.state_dict():
            path, _, own = name.rpartition(".")
            state[name] = getattr(self.get_submodule(path), own).detach().clone()
        model.load_state_dict(state, assign=True)
        return model.requires_grad_(False)

    def values(self, x: Images) -> Images:
        """Grey levels around the prior's mean -> what the network is shown, in [-1, 1]."""
        return ((x + self.offset) / self.scale).clamp(-1, 1)

    def outputs(self, values: Images, generator: torch.Generator | None = None) -> Outputs:
        """Parameters of every pixel's mixture, which depend on earlier pixels alone."""
        height, width = values.shape[2:]
        unit = 2 ** (len(self.up) - 1)
        x = functional.pad(values, (0, -width % unit, 0, -height % unit))
        # With a channel of ones the network can tell a value of 0 from the outside of the image.
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        above = _stream(_down(self.first_above(x)))
        left = _stream(_down(self.first_row(x)) + _right(self.first_left(x)))
        skips = [(above[1], left[1])]
        for index, stage in enumerate(self.up):
            if index:
                above = _stream(self.shrink_above[index - 1](above[0]))
                left = _stream(self.shrink_left[index - 1](left[0]))
                skips.append((above[1], left[1]))
            above, left = stage(above, left, skips, generator)
        skips.pop()  # the way down begins with these
        for index, stage in enumerate(self.down):
            if index:
                above = _stream(self.grow_above[index - 1](above[0]))
                left = _stream(self.grow_left[index - 1](left[0]))
            above, left = stage(above, left, skips, generator)
        elu = left[1][:, : left[0].shape[1]]
        return self.output(elu)[:, :, :height, :width]

    def _cost(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        values = self.values(x)
        likelihood = log_likelihood(values, self.outputs(values, generator))
        return -likelihood.mean((1, 2)) / values.shape[1]


class Above(nn.Conv2d):
    """A convolution that sees the pixel's row and the one above, a column either side."""

    def __init__(self, inputs: int, outputs: int, *, rows: int = 2, stride: int = 1) -> None:
        super().__init__(inputs, outputs, (rows, 3), stride)
        weight_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, (1, 1, self.kernel_size[0] - 1, 0)))


class Left(nn.Conv2d):
    """A convolution that sees the pixel, the row above, and the column to the left."""

    def __init__(self, inputs: int, outputs: int, *, columns: int = 2, stride: int = 1) -> None:
        super().__init__(inputs, outputs, (2, columns), stride)
        weight_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, (self.kernel_size[1] - 1, 0, 1, 0)))


class Pointwise(nn.Linear):
    """A linear layer for the channels of every pixel ("network in network")."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        weight_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        # A product for each image: a convolution of one pixel is rounded by the size of the batch.
        weights = self.weight.expand(len(x), -1, -1)
        y = torch.baddbmm(self.bias[:, None], weights, x.flatten(2))
        return torch.unflatten(y, 2, x.shape[2:])


class GatedBlock(nn.Module):
    """A residual block whose step is gated; it also reads the features of `skips` streams."""

    def __init__(
        self, convolution: type[Above | Left], channels: int, skips: int, dropout: float
    ) -> None:
        super().__init__()
        self.conv_in = convolution(2 * channels, channels)
        if skips:
            self.skip = Pointwise(2 * skips * channels, channels)
        self.conv_out = convolution(2 * channels, 2 * channels)
        self.dropout = dropout

    def forward(
        self, stream: Stream, skip: Tensor | None, generator: torch.Generator | None
    ) -> Stream:
        hidden = self.conv_in(stream[1])
        if skip is not None:
            hidden = hidden + self.skip(skip)
        hidden = _ConcatElu.apply(hidden)
        if self.dropout and generator is not None:
            drawn = torch.rand(hidden.shape, generator=generator, device=hidden.device)
            hidden = hidden * (drawn >= self.dropout) / (1 - self.dropout)
        return _stream(stream[0] + functional.glu(self.conv_out(hidden), 1))


class Stage(nn.Module):
    """The blocks of one resolution, on the way up, or `down` with what was kept on the way up."""

    def __init__(self, channels: int, blocks: int, down: bool, dropout: float) -> None:
        super().__init__()
        self.is_down = down
        self.above, self.left = (
            nn.ModuleList(GatedBlock(kind, channels, skips, dropout) for _ in range(blocks))
            for kind, skips in ((Above, int(down)), (Left, 1 + down))
        )

    def forward(
        self,
        above: Stream,
        left: Stream,
        skips: list[tuple[Tensor, Tensor]],
        generator: torch.Generator | None,
    ) -> tuple[Stream, Stream]:
        """Both streams. Adds features to `skips`; on the way down takes the last of them."""
        for of_above, of_left in zip(self.above, self.left, strict=True):
            if self.is_down:
                skip_above, skip_left = skips.pop()
                above = of_above(above, skip_above, generator)
                left = of_left(left, torch.cat([above[1], skip_left], 1), generator)
            else:
                above = of_above(above, None, generator)
                left = of_left(left, above[1], generator)
                skips.append((above[1], left[1]))
        return above, left


class _ConcatElu(torch.autograd.Function):
    """ELU of x and of -x, as twice as many channels.

    With one exponential for both: torch's two ELUs take almost as long as a convolution.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        signed = torch.cat([x, -x], 1)
        negative = x.abs().neg_().exp_().sub_(1)  # ELU of whichever of x and -x is negative
        for half in signed.chunk(2, 1):
            torch.maximum(half, negative, out=half)
        ctx.save_for_backward(signed)
        return signed

    @staticmethod
    def backward(ctx, outer: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (signed,) = ctx.saved_tensors
        # The derivative of the ELU, from its value (True).
        inner = torch.ops.aten.elu_backward(outer, 1.0, 1.0, 1.0, True, signed)
        positive, negative = inner.chunk(2, 1)
        return positive - negative


def _stream(features: Tensor) -> Stream:
    return features, _ConcatElu.apply(features)


def _grow(channels: int, *, columns: int) -> nn.ConvTranspose2d:
    """To twice the rows and columns. Of 3 columns the outer ones are shared by neighbours."""
    side = 0, columns - 2  # cut off at the left, and at the right where it sticks out
    return weight_norm(
        nn.ConvTranspose2d(
            channels, channels, (2, columns), stride=2, padding=side, output_padding=side
        )
    )


def _down(x: Tensor) -> Tensor:
    return functional.pad(x, (0, 0, 1, -1))


def _right(x: Tensor) -> Tensor:
    return functional.pad(x, (1, -1, 0, 0))


def _wide_mixture(colors: int, mixtures: int) -> Float[Tensor, " output"]:
    """Components that differ, and of which each covers most grey levels: about log 256 nats."""
    of_colors = torch.zeros(colors, (OUTPUTS[colors] - 1) // colors, mixtures)
    of_colors[:, 0] = (torch.arange(mixtures) + 0.5) / mixtures - 0.5
    of_colors[:, 1] = math.log(0.3)
    return torch.cat([torch.zeros(mixtures), of_colors.flatten()])
