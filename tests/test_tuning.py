"""A network's versions for a CPU and for a GPU: the same responses and gradients."""

import pytest
import torch
from conftest import open_model, torchvision_model
from torch import fx, nn

from diversevis.config.compose import compose_config, experiment_of
from diversevis.method.setup import prepare
from diversevis.models.cpu import FirstConvolution, tune_for_cpu
from diversevis.models.load import load
from diversevis.models.receptive_field import unpad


def setup_of(*overrides):
    return prepare(experiment_of(compose_config(["device=cpu", *overrides])))


@pytest.mark.parametrize(("kernel", "stride", "height", "width"),
                         [(3, 1, 9, 8), (7, 2, 19, 21), (7, 2, 20, 20), (8, 3, 25, 24), (3, 4, 19, 22), (11, 4, 31, 27),
                          ((3, 6), 2, 12, 15), (5, (3, 1), 12, 5), (1, 1, 2, 2)])  # fmt: skip
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


class Pooled(nn.Module):
    """Rectified, then pooled; `shown` also returns what is rectified."""

    def __init__(self, shown, indices):
        super().__init__()
        self.shown, self.indices = shown, indices
        self.convolution, self.relu = nn.Conv2d(3, 8, 3), nn.ReLU()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1, return_indices=indices)

    def forward(self, x):
        y = self.relu(self.convolution(x))
        pooled = self.pool(y)[0] if self.indices else self.pool(y)
        return (pooled, y) if self.shown else (pooled,)


@pytest.mark.parametrize(
    ("shown", "indices", "first"),
    [(False, False, True), (True, False, False), (False, True, False)],
)
def test_pooling_before_rectification_changes_no_bit(shown, indices, first):
    module = Pooled(shown, indices)
    module.convolution.weight.data = module.convolution.weight.data.sign()  # many equal numbers
    module.convolution.bias.data.fill_(-2.0)  # and windows with none above 0
    tuned = tune_for_cpu(fx.symbolic_trace(module))
    calls = [node.target for node in tuned.graph.nodes if node.op == "call_module"]
    assert calls.index("pool") == (1 if first else 2)
    ours = torch.randint(-1, 2, (4, 3, 12, 13)).float().requires_grad_(True)
    theirs = ours.detach().clone().requires_grad_(True)
    found, expected = tuned(ours), module(theirs)
    assert 0.05 < (expected[0] == 0).float().mean() < 0.95
    outer = torch.randint(-3, 4, expected[0].shape).float()
    for out, of in ((found, ours), (expected, theirs)):
        (outer * out[0]).sum().backward()
        assert of.grad.any()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(ours.grad, theirs.grad)
