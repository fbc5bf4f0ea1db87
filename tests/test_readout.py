"""Only the wanted filter: the same numbers as computing all channels and throwing most away."""

import functools

import pytest
import torch
from conftest import custom_model, open_model, torchvision_model
from torch import nn

from diversevis.models.architectures import EnergyModel
from diversevis.models.load import load
from diversevis.models.readout import read_out
from diversevis.models.receptive_field import unpad


@functools.cache
def unpadded(model, layer, features=()):
    """The network up to a layer without padding, how many channels it has, and its field's size."""
    opened = open_model(model)
    target = opened.layer(layer)
    before = [opened.layer(name) for name in features]
    return unpad(load(opened, target, before).fast), target.channels, opened.field(target).size


def both_routes(module, channels, size, vectors):
    """Responses [unit, image] of two images for each of five units, in float64."""
    module = module.double()
    rows = torch.tensor([0, 2, 1, 2, 0])
    z = torch.randn(10, 3, *size, dtype=torch.float64).to(memory_format=torch.channels_last)
    everything, *others = module(z)
    by_unit = everything.reshape(5, 2, channels)
    expected = torch.einsum("uic,uc->ui", by_unit, vectors[rows])
    reading = read_out(module, vectors)
    found, *also = reading(z, rows)
    for one, other in zip(others, also, strict=True):
        assert torch.equal(one, other)
    return found, expected, reading


TARGETS = [
    ("vgg19", "conv1_1", ()),
    ("vgg19", "conv2_2", ("conv2_1",)),
    ("resnet50", "conv1", ()),
    ("resnet50", "maxpool", ()),
    ("resnet50", "layer1.0", ()),
    ("resnet50", "layer1.1", ("layer1.0", "maxpool")),
    ("resnet50", "layer1.1.conv2", ()),
    ("mobilenet_v2", "features.2.conv.1.0", ()),  # depthwise
    ("densenet121", "features.denseblock1.denselayer2.conv1", ()),
    ("googlenet", "inception3a", ()),  # branches joined: no one filter
]


@pytest.mark.parametrize(("model", "layer", "features"), TARGETS)
@pytest.mark.parametrize("target", ["channels", "directions"])
def test_readout_equals_the_full_layer(model, layer, features, target):
    module, channels, size = unpadded(torchvision_model(model), layer, features)
    if target == "channels":
        vectors = torch.eye(channels, dtype=torch.float64)[[3, 1, channels - 1]]
    else:
        vectors = nn.functional.normalize(torch.randn(3, channels, dtype=torch.float64), dim=1)
    found, expected, _ = both_routes(module, channels, size, vectors)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer", ["simple", "complex", "shift", "bipartite", "bipartite50"])
def test_readout_equals_the_energy_layer(layer):
    energy = EnergyModel(kind="energy", name="energy", default_layer="complex")
    module, channels, size = unpadded(energy, layer)
    vectors = torch.eye(channels, dtype=torch.float64)[[3, 1, channels - 1]]
    found, expected, _ = both_routes(module, channels, size, vectors)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("model", "layer", "last"),
    [("vgg19", "conv2_2", 128 * 128 * 9), ("resnet50", "maxpool", 64 * 3 * 49)],
)
def test_readout_drops_the_other_filters(model, layer, last):
    """The target's own convolution is not called, and its weights of other units not kept."""
    module, channels, size = unpadded(torchvision_model(model), layer)
    vectors = torch.eye(channels, dtype=torch.float64)[[3, 1, 0]]
    *_, reading = both_routes(module, channels, size, vectors)

    def weights(network):
        kept = [*network.parameters(), *network.buffers()]
        return sum(value.numel() for value in kept if value.ndim == 4)

    assert weights(module) - weights(reading) == last // channels * (channels - 3)


class Wide(nn.Module):
    """Its last convolution is dilated, strided and cropped by what follows."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 6, 3, stride=2, dilation=2, groups=2)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x):
        return self.pool(torch.nn.functional.relu(self.second(torch.relu(self.first(x)))))


@pytest.mark.parametrize("layer", ["second", "pool"])
def test_readout_with_dilation_stride_and_groups(layer):
    torch.manual_seed(0)
    custom = custom_model("test_readout.Wide", std=[1.0, 1.0, 1.0])
    module, channels, size = unpadded(custom, layer)
    vectors = torch.eye(channels, dtype=torch.float64)[[5, 1, 0]]
    found, expected, _ = both_routes(module, channels, size, vectors)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)
