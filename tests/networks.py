"""Small networks as people write them, and what their units see, derived by hand.

Every function below builds a network; `CASES` says of each which layer is read, the field and
stride of its units, or that they see the whole image. Unless said otherwise a network is
`enter`, a convolution of 5 x 5 pixels with stride 2, and `read`, one of 3 x 3 units: together
5 + 2 * 2 = 9 pixels, stride 2.
"""

import random
import sys
import warnings
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint


class Case(NamedTuple):
    """What is right for a network.

    layer      that is read
    field      rows and columns that its units see; None: the whole image
    stride     of the fields
    colors     of its images
    size       of its images, where units see the whole image; rows and columns
    rectified  whether the module returns its response after a ReLU
    last       whether channels are the last axis
    """

    layer: str = "read"
    field: tuple[int, int] | None = (9, 9)
    stride: tuple[float, float] = (2, 2)
    colors: int = 3
    size: tuple[int, int] = (32, 32)
    rectified: bool = False
    last: bool = False


CASES: dict[str, Case] = {}


def case(**facts):
    def register(build):
        CASES[build.__name__] = Case(**facts)
        return build

    return register


def whole(**facts):
    return case(field=None, **facts)


def conv(channels_in, channels_out, kernel=3, **options):
    return nn.Conv2d(channels_in, channels_out, kernel, **({"padding": kernel // 2} | options))


class Net(nn.Module):
    """A module whose forward is a function of itself and of the images."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def net(between=lambda net, y: torch.relu(y), **parts):
    """`enter`, what lies between, and `read`."""
    first = {"enter": conv(3, 8, 5, stride=2), "read": conv(8, 6)}
    return Net(lambda net, x: net.read(between(net, net.enter(x))), **(first | parts))


def small(between, **parts):
    """The same, with an `enter` of 3 x 3 pixels and stride 1."""
    return net(between, **({"enter": conv(3, 8)} | parts))


# Operations in place


@case()
def relu_as_a_statement():
    def between(net, y):
        F.relu_(y)
        return y

    return net(between)


@case()
def sums_and_products_as_statements():
    def between(net, y):
        y.add_(0.3)
        y.mul_(y.new_tensor(1.7))
        torch.tanh_(y)
        return y

    return net(between)


@case()
def product_on_a_slice():
    def between(net, y):
        y[:, 2:5].mul_(-3.0)
        y[:, 0] = y[:, 1]
        return torch.relu(y)

    return net(between)


@case(layer="enter", field=(5, 5))
def target_overwritten_afterwards():
    def between(net, y):
        F.relu_(y)
        y *= 2
        return y

    return net(between)


class PreActivation(nn.Module):
    """Its shortcut begins after the first nonlinearity, which has overwritten the input."""

    def __init__(self):
        super().__init__()
        self.norm, self.act, self.conv = nn.BatchNorm2d(8), nn.ReLU(inplace=True), conv(8, 8)

    def forward(self, x):
        self.act(x)
        return x + self.conv(self.act(self.norm(x)))


@case(field=(13, 13))
def pre_activation():
    return net(lambda net, y: net.block(y), block=PreActivation())


class Residual(nn.Module):
    """Its sum is written over the first branch; its first line keeps torch.fx out."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True)

    def forward(self, x):
        if x.sum() == 0:
            return x
        y = self.norm(self.conv(x))
        y += x
        return self.act(y)


@case(layer="block", rectified=True)
def sum_written_over_a_branch():
    return net(lambda net, y: net.block(y), block=Residual())


@case(layer="block.conv")
def branch_overwritten_by_the_sum():
    block = Residual()
    block.norm = nn.Identity()
    return net(lambda net, y: net.block(y), block=block)


# Hooks


@case()
def hook_after_a_module():
    network = net()
    network.enter.register_forward_hook(lambda module, inputs, output: output.abs() - 1)
    return network


@case()
def hook_before_a_module():
    network = net()
    network.read.register_forward_pre_hook(lambda module, inputs: (3 * inputs[0],))
    return network


@case()
def hook_on_the_target():
    network = net()
    network.read.register_forward_hook(lambda module, inputs, output: 0.5 * output + 1)
    return network


@case(field=(18, 18), stride=(4, 4))
def hook_before_the_network():
    """It halves the image: 9 pixels of 2 x 2."""
    network = net()
    network.register_forward_pre_hook(lambda module, inputs: (F.avg_pool2d(inputs[0], 2),))
    return network


@case(field=(17, 17), stride=(4, 4))
def hook_that_pools():
    """5 with stride 2, pooled 9 with stride 4, read 9 + 2 * 4."""
    network = net()
    network.enter.register_forward_hook(
        lambda module, inputs, output: F.avg_pool2d(output, 3, 2, 1)
    )
    return network


# Weights that are computed


@case()
def weight_norm():
    norm = parametrizations.weight_norm
    return net(enter=norm(conv(3, 8, 5, stride=2)), read=norm(conv(8, 6)))


@case()
def weight_norm_by_hooks():
    norm = torch.nn.utils.weight_norm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return net(enter=norm(conv(3, 8, 5, stride=2)), read=norm(conv(8, 6)))


@case()
def spectral_norm():
    norm = parametrizations.spectral_norm
    return net(enter=norm(conv(3, 8, 5, stride=2)), read=norm(conv(8, 6)))


@case()
def pruned():
    network = net()
    prune.random_unstructured(network.enter, "weight", 0.4)
    prune.ln_structured(network.read, "weight", 0.5, n=2, dim=1)
    return network


class Standardized(nn.Conv2d):
    def forward(self, x):
        mean, std = self.weight.mean((1, 2, 3), True), self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / std, self.bias)


@case()
def standardized():
    first = Standardized(3, 8, 5, stride=2, padding=2)
    return net(enter=first, read=Standardized(8, 6, 3, padding=1))


@case()
def positive_weights_by_function():
    return net(
        lambda net, y: F.conv2d(y, net.weight.abs()), weight=nn.Parameter(torch.randn(8, 8, 1, 1))
    )


# Attributes that change in forward, modules that are called several times


class Dilating(nn.Module):
    """The same convolution twice, the second time dilated: 3 + 2 * 2 = 7."""

    def __init__(self):
        super().__init__()
        self.shared = conv(8, 8)

    def forward(self, x):
        for dilation in (1, 2):
            self.shared.dilation = self.shared.padding = dilation, dilation
            x = torch.relu(self.shared(x))
        return x


@case(layer="block", field=(7, 7), stride=(1, 1), rectified=True)
def dilation_changed_in_forward():
    return Net(lambda net, x: net.block(net.enter(x)), enter=conv(3, 8, 1), block=Dilating())


class Recurrent(nn.Module):
    """h = relu(enter(x) + again(h)), three times."""

    def __init__(self):
        super().__init__()
        self.enter, self.again, self.act = conv(3, 8), conv(8, 8), nn.ReLU()

    def forward(self, x):
        drive = self.enter(x)
        state = self.act(drive)
        for _ in range(2):
            state = self.act(drive + self.again(state))
        return state


@case(layer="again#2", field=(7, 7), stride=(1, 1))
def recurrent():
    return Recurrent()


@case(layer="act#2", field=(5, 5), stride=(1, 1), rectified=True)
def recurrent_second_step():
    return Recurrent()


# Pooling and its arguments. enter 3, pool of 3 with stride 2: 5; read: 5 + 2 * 2 = 9.


@case()
def max_pool_by_position():
    return small(lambda net, y: F.max_pool2d(y, 3, 2, 0, 1, True))


@case()
def average_pool_by_position():
    return small(lambda net, y: F.avg_pool2d(torch.relu(y), 3, 2, 1, True, False))


@case(field=(8, 8))
def average_pool_with_a_divisor():
    return small(lambda net, y: F.avg_pool2d(torch.relu(y), 2, divisor_override=3))


@case()
def average_pool_rounding_up():
    pool = nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False)
    return small(lambda net, y: net.pool(torch.relu(y)), pool=pool)


@case(field=(8, 8))
def max_pool_with_indices():
    return small(lambda net, y: net.pool(y)[0], pool=nn.MaxPool2d(2, return_indices=True))


@case(field=(9, 14), stride=(2, 6))
def uneven_kernels_and_strides():
    """Rows: 3, pooled 5 with stride 2, read 9. Columns: 5 with stride 3, 5 + 2 * 3 = 11, pooled in
    pairs 14 with stride 6."""
    first = nn.Conv2d(3, 8, (3, 5), stride=(1, 3), padding=(1, 2))
    wide = nn.Conv2d(8, 8, (1, 3), padding=(0, 1))
    pool, read = nn.MaxPool2d((3, 2), (2, 2)), nn.Conv2d(8, 6, (3, 1), padding=(1, 0))
    return nn.Sequential(OrderedDict(first=first, wide=wide, pool=pool, read=read))


# Choices of rows, columns and channels


@case(field=(9, 5), stride=(3, 1))
def every_third_row():
    """3 + 2 * 3 = 9 rows, 3 + 2 columns."""
    return small(lambda net, y: torch.relu(y)[:, :, ::3, 1:])


@case(field=(5, 7), stride=(1, 2))
def every_second_column():
    return small(lambda net, y: torch.relu(y)[..., ::2])


@case()
def channels_by_a_list():
    return net(lambda net, y: torch.relu(y[:, [7, 0, 2, 2, 5, 4, 1, 3]]))


@case()
def channels_flipped_and_rolled():
    return net(lambda net, y: torch.roll(y.flip(1), 3, 1).relu())


@case()
def gates_of_halves():
    def between(net, y):
        drive, gate = y.chunk(2, 1)
        return torch.cat([drive * gate.sigmoid(), F.glu(y, dim=1)], 1)

    return net(between)


class Flagged(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.read = conv(3, 8, 5, stride=2), conv(8, 6)

    def forward(self, x, mask=None, gain=2.0, *, all_layers=False):
        y = self.enter(x) * gain
        if mask is not None:
            y = y * mask
        z = self.read(y.relu())
        return [y, z] if all_layers else z


@case()
def flags_with_defaults():
    return Flagged()


# Constants


class Scaled(nn.Module):
    """A residual block with a factor and a shift per channel."""

    def __init__(self):
        super().__init__()
        self.conv = conv(8, 8)
        self.gamma, self.beta = nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.randn(8))

    def forward(self, x):
        return x + self.gamma * self.conv(x) + self.beta[None, :, None, None]


@case(layer="block")
def factors_as_parameters():
    return net(lambda net, y: torch.relu(net.block(y)), block=Scaled())


@case()
def plain_tensors():
    """No buffers, so that `state_dict` has none of them."""
    network = net(lambda net, y: (y - net.level).div(net.spread).relu())
    network.level, network.spread = torch.randn(1, 8, 1, 1), torch.rand(8, 1, 1) + 0.5
    return network


@case()
def tensors_made_in_forward():
    def between(net, y):
        gain = torch.linspace(0.5, 2, y.shape[1])[:, None, None]
        zeros = torch.zeros(len(y), 2, *y.shape[2:])
        return torch.cat([y * gain + torch.ones_like(y), zeros], 1).relu()

    return net(between, read=conv(10, 6))


@whole()
def coordinates_as_channels():
    def between(net, y):
        rows = torch.linspace(-1, 1, y.shape[2])[:, None].expand_as(y[:, :1])
        return torch.cat([y, rows], 1).relu()

    return net(between, read=conv(9, 6))


# Shapes and types


@case()
def largest_of_groups():
    def between(net, y):
        n, c, h, w = y.shape
        return y.view(n, c // 2, 2, h, w).amax(2)

    return net(between, read=conv(4, 6))


@case()
def channels_shuffled():
    def between(net, y):
        n, c, h, w = y.size()
        y = net.depthwise(y.relu()).reshape(n, 4, c // 4, h, w).transpose(1, 2)
        return y.reshape(n, -1, h, w)

    return net(between, depthwise=conv(8, 8, 1, groups=8), read=conv(8, 6, groups=2))


@case()
def padded_to_an_even_size():
    def function(net, x):
        height, width = x.shape[-2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2))
        return net.read(net.enter(x).relu())

    return Net(function, enter=conv(3, 8, 5, stride=2), read=conv(8, 6))


@case()
def casts():
    return net(lambda net, y: y.double().relu().to(net.read.weight.dtype).type_as(y))


@case()
def branch_on_values():
    return net(lambda net, y: y.relu() if bool(y.isfinite().all()) else y)


class Shortcut(nn.Module):
    """Stride 2 in both branches; the missing channels of the shortcut are zeros."""

    def __init__(self):
        super().__init__()
        self.conv = conv(8, 12, stride=2)

    def forward(self, x):
        short = x[:, :, ::2, ::2]
        zeros = torch.zeros_like(short[:, :4])
        return F.relu(self.conv(x) + torch.cat([short, zeros], 1))


@case(layer="block", field=(5, 5), rectified=True)
def strided_slice_as_shortcut():
    return small(lambda net, y: net.block(y), block=Shortcut(), read=conv(12, 6))


@case()
def pooled_shortcut():
    """The shortcut is a pool of one unit, stride 2."""

    def between(net, y):
        return net.down(y).relu() + F.avg_pool2d(y, 1, 2)

    return small(between, down=conv(8, 8, stride=2))


# Larger maps. A map of twice the size: neighbours 2m and 2m + 1 look at about the same.


@case(field=(4, 4), stride=(0.5, 0.5))
def nearest_neighbours():
    """read sees the units 2m - 1 to 2m + 1 of twice the size, which are m - 1 and m: 3 + 1."""
    return small(lambda net, y: F.interpolate(y.relu(), scale_factor=2.0, mode="nearest"))


@case(field=(5, 5), stride=(0.5, 0.5))
def bilinear():
    """Unit 2m mixes m - 1 and m, unit 2m + 1 mixes m and m + 1: read sees three of 3 pixels."""

    def between(net, y):
        size = [2 * side for side in y.shape[2:]]
        return F.interpolate(y.relu(), size=size, mode="bilinear", align_corners=False)

    return small(between)


@case(field=(7, 7))
def every_second_by_interpolation():
    """Unit m is unit 2m: 3 + 2 * 2."""
    return small(lambda net, y: F.interpolate(y.relu(), scale_factor=0.5))


@case(field=(4, 4), stride=(0.5, 0.5))
def pixel_shuffle():
    return small(lambda net, y: net.up(y.relu()), up=nn.PixelShuffle(2), read=conv(2, 6))


@case(field=(6, 6))
def pixel_unshuffle():
    return Net(lambda net, x: net.read(F.pixel_unshuffle(x, 2)), read=conv(12, 6))


@case(layer="up", field=(4, 4), stride=(0.5, 0.5))
def transposed_convolution():
    """Unit 2m is made from m - 1 and m, unit 2m + 1 from m and m + 1."""
    up = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1)
    return small(lambda net, y: net.up(y.relu()), up=up, read=conv(6, 6))


@case(layer="up", field=(3, 3), stride=(0.5, 0.5))
def transposed_convolution_without_overlap():
    up = nn.ConvTranspose2d(8, 6, 2, stride=2)
    return small(lambda net, y: net.up(y.relu()), up=up, read=conv(6, 6))


class Pyramid(nn.Module):
    """Adds a map of half the size."""

    def __init__(self, kernel):
        super().__init__()
        self.down = conv(8, 8, kernel, stride=2)

    def forward(self, x):
        return x + F.interpolate(self.down(x).relu(), scale_factor=2)


@case(layer="block", field=(5, 5), stride=(1, 1))
def pyramid():
    """Units 2m and 2m + 1 both see unit m of half the size: 3 + 2 pixels from 2m - 2 on."""
    return small(lambda net, y: net.block(y), block=Pyramid(3))


@case(layer="block", field=(7, 7), stride=(1, 1))
def pyramid_from_an_odd_pixel():
    """5 + 2 pixels, from 2m - 3 on."""
    return small(lambda net, y: net.block(y), block=Pyramid(5))


@case(field=(19, 19), stride=(4, 4))
def blurred_before_halving():
    """A triangle over 4 units with stride 2: 5 + 3 * 2 = 11 with stride 4, then 11 + 2 * 4."""

    def between(net, y):
        return F.interpolate(y, scale_factor=0.5, mode="bilinear", antialias=True)

    return net(between)


@whole()
def checkerboard():
    """Every second unit is halved: neighbours answer differently."""

    def between(net, y):
        rows, columns = torch.arange(y.shape[2])[:, None], torch.arange(y.shape[3])
        return y * (1 - 0.5 * ((rows + columns) % 2))

    return net(between)


@whole()
def stripes():
    return net(lambda net, y: y * (1 - 0.5 * (torch.arange(y.shape[2])[:, None] % 2)))


@whole()
def pooled_to_a_grid():
    return net(lambda net, y: F.adaptive_avg_pool2d(y.relu(), (7, 7)))


# Normalization


class ChannelNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@case()
def layer_norm_over_channels():
    return net(lambda net, y: net.norm(y).relu(), norm=ChannelNorm(8))


class HandWritten(nn.BatchNorm2d):
    def forward(self, x):
        std = (self.running_var + self.eps).sqrt()
        shape = 1, -1, 1, 1
        y = (x - self.running_mean.view(shape)) / std.view(shape)
        return y * self.weight.view(shape) + 2 * self.bias.view(shape)


def _moved(norm):
    """With statistics and factors that do something."""
    nn.init.uniform_(norm.running_mean, -0.5, 0.5)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias, -1, 1)
    return norm


@case()
def own_batch_norm():
    return net(lambda net, y: net.norm(y).relu(), norm=_moved(HandWritten(8)))


@case(layer="enter", field=(5, 5))
def own_batch_norm_behind_the_target():
    """The norm belongs to the convolution before it."""
    return net(lambda net, y: net.norm(y).relu(), norm=_moved(HandWritten(8)))


@case(field=(17, 17))
def local_contrast():
    """Mean and spread over 3 x 3 units of stride 2, one upon the other: 9 + 2 * 4."""

    def between(net, y):
        y = y - F.avg_pool2d(y, 3, 1, 1)
        return y / (0.1 + F.avg_pool2d(y.square(), 3, 1, 1)).sqrt()

    return net(between)


@case()
def divisive_over_channels():
    return net(lambda net, y: y / (1 + net.pool(y.square())).sqrt(), pool=_positive())


def _positive():
    pool = conv(8, 8, 1)
    pool.weight.data.abs_()
    pool.bias.data.abs_()
    return pool


@case()
def local_response_norm():
    return net(lambda net, y: F.local_response_norm(y.relu(), 3, alpha=1.0))


@whole()
def group_norm():
    return net(lambda net, y: net.norm(y).relu(), norm=nn.GroupNorm(4, 8))


@whole()
def instance_norm():
    return net(lambda net, y: net.norm(y).relu(), norm=nn.InstanceNorm2d(8))


@whole()
def squeeze_and_excitation():
    def between(net, y):
        return y * net.gate(y.mean((2, 3))).sigmoid()[..., None, None]

    return net(between, gate=nn.Linear(8, 8))


@whole()
def global_response_norm():
    def between(net, y):
        size = y.norm(dim=(2, 3), keepdim=True)
        return y * size / (size.mean(1, keepdim=True) + 1e-6)

    return net(between)


@whole()
def attention():
    """Between 16 x 16 pixels."""

    def between(net, y):
        tokens = y.flatten(2).transpose(1, 2)
        seen, _ = net.heads(tokens, tokens, tokens, need_weights=False)
        return y + seen.transpose(1, 2).reshape(y.shape)

    heads = nn.MultiheadAttention(8, 2, batch_first=True)
    return net(between, heads=heads, enter=conv(3, 8, 16, stride=16, padding=0))


@whole()
def attention_within_windows():
    """Windows of 4 x 4 units: what a unit sees depends on where it is."""

    def between(net, y):
        n, c, h, w = y.shape
        windows = F.unfold(y, 4, stride=4).view(n, c, 16, -1).permute(0, 3, 2, 1).flatten(0, 1)
        seen, _ = net.heads(windows, windows, windows)
        seen = seen.view(n, -1, 16, c).permute(0, 3, 2, 1).reshape(n, 16 * c, -1)
        return F.fold(seen, (h, w), 4, stride=4)

    return net(between, heads=nn.MultiheadAttention(8, 2, batch_first=True))


@whole()
def position_embedding():
    def between(net, y):
        at = F.interpolate(net.at, size=y.shape[2:], mode="bilinear", align_corners=False)
        return (y + at).relu()

    return net(between, at=nn.Parameter(torch.randn(1, 8, 6, 6)))


@whole()
def fourier():
    def between(net, y):
        waves = torch.fft.rfft2(y, norm="ortho")
        return torch.fft.irfft2(waves * net.factors, s=y.shape[2:], norm="ortho").relu()

    return net(between, factors=nn.Parameter(torch.randn(8, 1, 1, dtype=torch.complex64)))


class Tokens(nn.Module):
    """Patches of 8 x 8 pixels, a class token before them, and a layer that mixes them."""

    def __init__(self):
        super().__init__()
        self.patches, self.cls = conv(3, 8, 8, stride=8, padding=0), nn.Parameter(torch.randn(8))
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), 1, -1), tokens], 1)
        return self.head(self.mix(tokens)[:, 0])


@whole(layer="mix")
def transformer():
    return Tokens()


@whole(layer="head", size=(24, 40))
def transformer_head():
    return Tokens()


@whole(layer="head", colors=1, size=(24, 40))
def perceptron():
    """For images of one size."""

    def function(net, x):
        return net.head(net.enter(x).relu().flatten(1))

    return Net(function, enter=conv(1, 4, 5, stride=2), head=nn.Linear(4 * 12 * 20, 7))


@whole(layer="head")
def flattened_by_view():
    """`view` takes maps in one layout only."""

    def function(net, x):
        y = net.enter(x).relu()
        return net.head(y.view(y.size(0), -1))

    return Net(function, enter=conv(3, 4, 5, stride=2), head=nn.Linear(4 * 16 * 16, 7))


@case(field=(9, 9))
def three_dimensional_convolution():
    """Over copies of the map."""
    volume = nn.Conv3d(8, 8, (2, 1, 1))
    return net(
        lambda net, y: net.volume(y[:, :, None].repeat(1, 1, 3, 1, 1)).mean(2), volume=volume
    )


@case()
def empty_images_apart():
    """Another answer, of another form, to an image without contrast."""

    def function(net, x):
        return net.read(net.enter(x).relu()) if x.any() else x

    return Net(function, enter=conv(3, 8, 5, stride=2), read=conv(8, 6))


# Images, wrappers, precisions


@case(colors=1)
def grey():
    return net(enter=conv(1, 8, 5, stride=2))


@case(colors=4)
def four_channels():
    return net(enter=conv(4, 8, 5, stride=2))


@case(layer="module.read")
def data_parallel():
    return nn.DataParallel(net())


@case()
def bfloat16():
    return net().bfloat16()


@case()
def float64():
    return net().double()


@case(layer="1.read")
def several_networks():
    return [net(), nn.DataParallel(net())]


@case(layer="output")
def average_of_networks():
    return [net(), net(), net()]


# What networks do with NaN


@case()
def relu_by_where():
    zero = torch.zeros(())
    return net(lambda net, y: torch.where(y > 0, y, zero))


@case()
def nan_to_num():
    return net(lambda net, y: torch.nan_to_num(y).relu())


@case()
def nan_to_num_of_images():
    def function(net, x):
        return net.read(net.enter(torch.nan_to_num(x)).relu())

    return Net(function, enter=conv(3, 8, 5, stride=2), read=conv(8, 6))


# Sizes


def _only(*sizes):
    def between(net, y):
        if 2 * y.shape[2] not in sizes or y.shape[2] != y.shape[3]:
            raise ValueError(f"images of {sizes} pixels")
        return y.relu()

    return net(between)


@whole(size=(48, 48))
def images_of_one_size():
    return _only(48)


@case()
def images_of_a_common_size():
    return _only(64)


@case()
def multiples_of_sixteen():
    return _only(*range(16, 2048, 16))


# Answers that are no tensor


@case()
def tuple_returned():
    network = net()
    forward = network.function
    network.function = lambda net, x: (forward(net, x), {"in": x})
    return network


@case(layer="block.conv")
def dictionary_returned():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(8, 6)

        def forward(self, x):
            return {"out": self.conv(x)}

    return Net(lambda net, x: net.block(net.enter(x).relu()),
               enter=conv(3, 8, 5, stride=2), block=Named())  # fmt: skip


# Kinds of convolutions and padding


@case(field=(21, 21))
def dilated():
    """5 + 2 * 2 * 4."""
    return net(read=conv(8, 6, dilation=4, padding=4))


@case()
def asymmetric_padding():
    def function(net, x):
        return net.read(net.enter(F.pad(x, (1, 2, 0, 3))).relu())

    return Net(function, enter=conv(3, 8, 5, stride=2, padding=0), read=conv(8, 6))


@case()
def reflected():
    return net(
        lambda net, y: net.pad(y.relu()), pad=nn.ReflectionPad2d(1), read=conv(8, 6, padding=0)
    )


@case()
def circular():
    return net(
        enter=conv(3, 8, 5, stride=2, padding_mode="circular"),
        read=conv(8, 6, padding_mode="replicate"),
    )


@case()
def unfolded():
    """A convolution written as windows times weights."""

    def between(net, y):
        n, _, h, w = y.shape
        windows = net.windows(y.relu())
        return (net.weight @ windows).view(n, 8, h, w)

    weight = nn.Parameter(torch.randn(8, 8 * 9) / 8)
    return net(between, windows=nn.Unfold(3, padding=1), weight=weight, read=conv(8, 6, 1))


@case(layer="block", field=(17, 17))
def channels_last_block():
    """5 + 2 * 6."""
    return net(lambda net, y: net.block(y), block=_Next())


class _Next(nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise, self.norm = conv(8, 8, 7, groups=8), nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)


@case(layer="block.wide", field=(17, 17), last=True)
def target_with_channels_last():
    return net(lambda net, y: net.block(y), block=_Next())


@case(field=(13, 13))
def depthwise_and_groups():
    def between(net, y):
        return net.group(net.depth(y).relu())

    return net(between, depth=conv(8, 16, groups=8), group=conv(16, 8, 1, groups=4))


@case()
def einsum():
    def between(net, y):
        return torch.einsum("nchw,cd->ndhw", y.relu(), net.weight)

    return net(between, weight=nn.Parameter(torch.randn(8, 8)))


# Ways to run modules


@case(field=(13, 13))
def modules_in_lists():
    def between(net, y):
        for part, name in zip(net.parts, ("relu", "tanh"), strict=True):
            y = net.functions[name](part(y))
        return y

    parts = nn.ModuleList([conv(8, 8), conv(8, 8, 1)])
    return net(
        between, parts=parts, functions=nn.ModuleDict({"relu": nn.ReLU(), "tanh": nn.Tanh()})
    )


@case(field=(13, 13))
def checkpointed():
    return net(lambda net, y: checkpoint(net.block, y, use_reentrant=False), block=conv(8, 8))


@case(field=(13, 13))
def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block = torch.jit.script(nn.Sequential(conv(8, 8), nn.ReLU()))
    return net(lambda net, y: net.block(y), block=block)


@case()
def passes_counted():
    def between(net, y):
        net.passes += 1
        return y.relu()

    network = net(between)
    network.register_buffer("passes", torch.zeros((), dtype=torch.long))
    return network


# What is refused: answers that are no function of the image alone, or that have no gradient

REFUSED: dict[str, str] = {}  # name -> what the message says
AT_RANDOM, OF_THE_BATCH = "drawn at random or remembered", "on the other images in its batch"
NO_GRADIENT = "cannot be optimized"


def refused(why):
    def register(build):
        REFUSED[build.__name__] = why
        return build

    return register


@refused(AT_RANDOM)
def dropout_by_function():
    return net(lambda net, y: F.dropout(y.relu(), 0.3))


@refused(AT_RANDOM)
def dropout_of_channels():
    return net(lambda net, y: F.dropout2d(y.relu(), 0.3, training=True))


@refused(AT_RANDOM)
def augmented_by_noise():
    def function(net, x):
        return net.read(net.enter(x + 0.05 * torch.randn_like(x)).relu())

    return Net(function, enter=conv(3, 8, 5, stride=2), read=conv(8, 6))


@refused(AT_RANDOM)
def augmented_by_numpy():
    """A gain of its own generator, which is not torch's."""
    generator = np.random.default_rng(0)
    return net(lambda net, y: float(generator.uniform(0.8, 1.2)) * y)


@refused("(drawn at random|on the other images)")
def augmented_by_flips():
    """A coin for all images of a pass: as often as not, two passes agree."""
    coin = random.Random(0)  # noqa: S311
    return net(lambda net, y: y.flip(3) if coin.random() < 0.5 else y)


@refused(AT_RANDOM)
def remembered_state():
    def between(net, y):
        before = net.state if net.state is not None and net.state.shape == y.shape else 0.0
        net.state = y + 0.5 * before
        return net.state

    return net(between, state=None)


@refused(OF_THE_BATCH)
def batch_statistics():
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    return net(lambda net, y: net.norm(y).relu(), norm=norm)


@refused(OF_THE_BATCH)
def centred_over_the_batch():
    return net(lambda net, y: (y - y.mean(0, keepdim=True)).relu())


@refused(OF_THE_BATCH)
def less_the_first_image():
    return net(lambda net, y: y - 0.5 * y[:1])


@refused(OF_THE_BATCH)
def sum_over_the_batch_so_far():
    return net(lambda net, y: y.cumsum(0))


@refused("fails on a single one")
def squeezed():
    """A single image loses its axis."""
    return net(lambda net, y: y.mean((2, 3)).squeeze(), read=nn.Linear(8, 6))


@refused(NO_GRADIENT)
def without_gradient():
    """torch.fx would leave out `no_grad`; it stops at a branch on values."""
    network = net(lambda net, y: y.relu() if y.isfinite().all() else y)
    network.function = torch.no_grad()(network.function)
    return network


@refused(NO_GRADIENT)
def detached():
    return net(lambda net, y: y.detach().relu())


@refused(NO_GRADIENT)
def overwritten_before_the_gradient():
    """torch refuses the gradient of a sigmoid whose values are gone."""

    def between(net, y):
        torch.sigmoid_(y)
        y.mul_(2)
        return y

    return net(between)


@refused("gives NaN or infinite responses")
def logarithm_of_anything():
    return net(lambda net, y: y.log())


# No networks


def leaves():
    """As argparse does, in a script that reads its arguments when it is imported."""
    sys.exit(3)


def lazy():
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.LazyConv2d(6, 3))
