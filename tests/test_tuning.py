"""The CPU's version of a network: the same responses and gradients."""

import pytest
import torch
from conftest import open_model, torchvision_model
from torch import nn

from diversevis.models.cpu import FirstConvolution, tune_for_cpu
from diversevis.models.load import load
from diversevis.models.receptive_field import unpad


@pytest.mark.parametrize(("kernel", "stride", "height", "width"),
                         [(3, 1, 9, 8), (7, 2, 19, 21), (7, 2, 20, 20), (5, (3, 1), 12, 5), (1, 1, 2, 2)])  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_gradient_of_the_first_convolution(kernel, stride, height, width, bias):
    """Against torch's own, in float64."""
    convolution = nn.Conv2d(3, 10, kernel, stride=stride, bias=bias).double()
    x = torch.randn(4, 3, height, width, dtype=torch.float64)
    ours, theirs = (x.clone().requires_grad_(True) for _ in range(2))
    found, expected = FirstConvolution(convolution)(ours), convolution(theirs)
    assert torch.equal(found, expected)
    outer = torch.randn_like(expected)
    found.backward(outer)
    expected.backward(outer)
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "layer", "features"),
    [("vgg19", "conv2_2", "conv1_2"), ("resnet50", "layer1.1", "layer1.0"),
     ("googlenet", "inception3a", "conv2"), ("densenet121", "features.denseblock1.denselayer2.conv1",
     "features.conv0")],
)  # fmt: skip
def test_tuned_network_gives_the_same_numbers(model, layer, features):
    opened = open_model(torchvision_model(model))
    target, before = opened.layer(layer), [opened.layer(features)]
    size = opened.field(target).size
    module = unpad(load(opened, target, before).fast).double()
    tuned = tune_for_cpu(module)
    z = torch.randn(3, 3, *size, dtype=torch.float64)
    ours, theirs = (z.clone().requires_grad_(True) for _ in range(2))
    for _ in range(2):  # in place, but not upon anything that is used again
        found, expected = tuned(ours), module(theirs)
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
    sum(out.square().sum() for out in found).backward()
    sum(out.square().sum() for out in expected).backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)
    assert sum(isinstance(part, FirstConvolution) for part in tuned.modules()) == 1
