import numpy as np
import pytest
import torch
import torchvision
from conftest import custom_model, open_model, torchvision_model
from torch import fx, nn
from torch.nn import functional

from diversevis.models.load import load
from diversevis.models.receptive_field import receptive_field, unpad
from diversevis.models.weights import WeightsFile

VGG19 = {  # pixels; Cadena et al. 2018
    "conv1_1": 3, "conv1_2": 5, "conv2_1": 10, "conv2_2": 14, "conv3_1": 24, "conv3_2": 32,
    "conv3_3": 40, "conv3_4": 48, "conv4_1": 68, "conv4_2": 84, "conv4_3": 100, "conv4_4": 116,
    "conv5_1": 156, "conv5_2": 188, "conv5_3": 220, "conv5_4": 252,
}  # fmt: skip
RESNET50 = {
    "conv1": 7, "maxpool": 11, "layer1.0": 19, "layer1.1": 27, "layer1.2": 35, "layer2.0": 43,
}  # fmt: skip


def field_of(opened, name):
    return opened.field(opened.layer(name))


@pytest.mark.parametrize(("model", "sizes"), [("vgg19", VGG19), ("resnet50", RESNET50)])
def test_published_sizes(model, sizes):
    opened = open_model(torchvision_model(model))
    for name, size in sizes.items():
        assert field_of(opened, name).size == (size, size), name


def test_all_convolutions_of_vgg19_have_field_names():
    traced = open_model(torchvision_model("vgg19")).traced
    convolutions = [layer.name for layer in traced.layers if layer.name.startswith("conv")]
    assert convolutions == list(VGG19)


def layers_before(traced, last):
    names = [layer.name for layer in traced.layers]
    return list(traced.layers)[: names.index(last) + 1]


def untouched_outputs(network, z, layers):
    """Every layer's padded response by plain torchvision, through forward hooks: the other route.

    A block's sum cannot be hooked; its rectified output is compared instead.
    """
    outputs = {}

    def keep(name):
        return lambda module, args, output: outputs.__setitem__(name, output.clone())

    for layer in layers:
        path = layer.hook_path
        network.get_submodule(path).register_forward_hook(keep(layer.name))
    with torch.no_grad():
        network(z)
    return outputs


class Hooked:
    """A layer with the torchvision module whose output shows its response."""

    def __init__(self, network, layer):
        self.name, self.layer = layer.name, layer
        path = next(p for p in layer.paths if has(network, p))
        self.rectified = layer.response.startswith("sum")
        if "batch norm" in layer.response:  # the norm after the convolution
            owner, _, leaf = path.rpartition(".")
            after = leaf.replace("conv", "bn") if "conv" in leaf else str(int(leaf) + 1)
            path = f"{owner}.{after}" if owner else after
        self.hook_path = path


def has(network, path):
    try:
        network.get_submodule(path)
    except AttributeError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "last", "weights"),
    [("vgg19", "conv4_1", "real"), ("resnet50", "layer2.3", "real"),
     pytest.param("resnet50", "layer2.3", "random", marks=pytest.mark.slow),
     pytest.param("vgg19", "conv4_1", "random", marks=pytest.mark.slow)],
)  # fmt: skip
def test_unpadded_response_equals_the_interior_response(name, last, weights, photograph, request):
    """For every layer: our truncated, folded, unpadded network on the receptive field's crop, and
    torchvision's untouched network on a larger photograph, at several units."""
    network = getattr(torchvision.models, name)(weights=None).eval()
    if weights == "real":
        folder = request.getfixturevalue("real_weights")
        source = str(next(folder.glob(f"{name}*.safetensors")))
        file = WeightsFile.open(next(folder.glob(f"{name}*.safetensors")))
        network.load_state_dict({n: file.read(n) for n in file.names}, strict=False)
    else:
        torch.manual_seed(0)
        for module in network.modules():  # batch norm that does something
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.2, 0.2)
        path = request.getfixturevalue("tmp_path") / "weights.pth"
        torch.save(network.state_dict(), path)
        source = str(path)
    opened = open_model(torchvision_model(name, weights=source))
    traced = opened.traced
    layers = layers_before(traced, last)
    if weights == "real":  # as deep as the file goes
        layers = [one for one in layers if file.names >= set(traced.tensors(one.node))]
        assert len(layers) > 8
    hooked = [Hooked(network, layer) for layer in layers]
    z = (
        (photograph[None] - 0.45) / 0.225
        if weights == "random"
        else (photograph[None] - 0.45) * 255
    )
    padded = untouched_outputs(network, z, hooked)
    for one in hooked:
        loaded = load(opened, one.layer)
        field = opened.field(one.layer)
        size, stride, offset = field.size[0], field.stride[0], field.offset[0]
        first, last_unit = -(offset // stride), (512 - size - offset) // stride
        units = [(first, first), (last_unit, first), ((first + last_unit) // 2, last_unit)]
        corners = [(offset + row * stride, offset + col * stride) for row, col in units]
        crops = torch.cat([z[:, :, r : r + size, c : c + size] for r, c in corners])
        with torch.no_grad():
            (ours,) = unpad(loaded.fast)(crops)
        assert ours.shape == (3, one.layer.channels, 1, 1)
        ours = ours[:, :, 0, 0].relu() if one.rectified else ours[:, :, 0, 0]
        theirs = torch.stack([padded[one.name][0, :, row, col] for row, col in units])
        scale = theirs.abs().max()
        assert scale > 0
        assert ((ours - theirs).abs().max() / scale).item() < 1e-4, one.name


@pytest.mark.parametrize(
    ("name", "layer"),
    [("vgg19", "conv1_2"), pytest.param("vgg19", "conv3_1", marks=pytest.mark.slow),
     pytest.param("vgg19", "pool2", marks=pytest.mark.slow), ("resnet50", "conv1"),
     ("resnet50", "layer1.0"), ("resnet50", "layer1.2"), ("resnet50", "layer2.0")],
)  # fmt: skip
def test_gradient_is_nonzero_exactly_within_the_box(name, layer):
    opened = open_model(torchvision_model(name))
    target = opened.layer(layer)
    field = opened.field(target)
    network = load(opened, target).fast.double()
    side, stride = 2 * field.size[0] + 16, field.stride[0]
    unit = (side // 2 - field.size[0] // 2 - field.offset[0]) // stride
    image = torch.randn(12, 3, side, side, dtype=torch.float64, requires_grad=True)
    (response,) = network(image)
    response[:, :, unit, unit].square().sum().backward()
    touched = image.grad.abs().sum((0, 1)) > 0
    expected = torch.zeros(side, side, dtype=torch.bool)
    first = field.offset[0] + unit * stride
    assert first > 0
    assert first + field.size[0] < side
    expected[first : first + field.size[0], first : first + field.size[0]] = True
    assert torch.equal(touched, expected)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("googlenet", "inception3b"), ("inception_v3", "Mixed_5c"), ("densenet121", "features.pool0"),
     ("densenet121", "features.denseblock1.denselayer3.conv2"), ("squeezenet1_1", "features.4"),
     ("mobilenet_v2", "features.3"), ("alexnet", "features.6"), ("resnet18", "layer2.0")],
)  # fmt: skip
def test_unpadded_branches_equal_the_padded_network(name, layer):
    """Any torchvision network: the unpadded dense map is the padded map's interior."""
    opened = open_model(torchvision_model(name))
    target = opened.layer(layer)
    field = opened.field(target)
    padded = load(opened, target).fast
    (size, stride, offset), count = (field.size[0], field.stride[0], field.offset[0]), 3
    first = -(-max(0, -offset) // stride)
    start = offset + first * stride
    side = start + size + (count - 1) * stride
    image = torch.randn(2, 3, side + 40, side + 40)
    crop = image[:, :, start:side, start:side]
    with torch.no_grad():
        (whole,), (ours,) = padded(image), unpad(padded)(crop)
    assert ours.shape[2:] == (count, count)
    interior = whole[:, :, first : first + count, first : first + count]
    assert torch.allclose(ours, interior, atol=1e-5 * interior.abs().max().item())


class Strange(nn.Module):
    """Functional steps, a strided skip, dilation, `same` and reflected padding, uneven kernels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding="same", dilation=2, padding_mode="reflect")
        self.wide = nn.Conv2d(4, 4, (1, 5), padding=(0, 2))
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.skip = nn.Conv2d(4, 6, 1, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.weight = nn.Parameter(torch.randn(5, 6, 3, 3))
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x = functional.relu(self.first(x), inplace=True)
        x = functional.max_pool2d(x, 3, 1, padding=1)
        x = torch.tanh(self.wide(x)) + x
        y = self.down(x)
        y += self.skip(x)
        y = self.norm(y).relu()
        y = functional.pad(y, (1, 1, 1, 1))
        y = functional.conv2d(y, self.weight)
        y = functional.avg_pool2d(y, 2)
        return self.head(functional.adaptive_avg_pool2d(y, 1).flatten(1))


def strange():
    torch.manual_seed(0)
    return Strange()


CUSTOM = custom_model("test_receptive_field.strange")


def test_custom_network_of_every_operation():
    opened = open_model(CUSTOM)
    # first: 1 + 2*2; pool: +2; wide: +4 columns; norm of down + skip: 3x3 at stride 1 before it.
    assert field_of(opened, "first").size == (5, 5)
    assert field_of(opened, "wide").size == (7, 11)
    assert field_of(opened, "norm").size == (9, 13)
    assert field_of(opened, "norm").stride == (2, 2)
    network = load(opened, opened.layer("norm")).fast
    image = torch.randn(2, 3, 41, 41)
    with torch.no_grad():
        (whole,), (ours,) = network(image), unpad(network)(image[:, :, 12:21, 10:23])
    field = field_of(opened, "norm")
    row, column = (12 - field.offset[0]) // 2, (10 - field.offset[1]) // 2
    assert torch.allclose(ours[:, :, 0, 0], whole[:, :, row, column], atol=1e-5)


def test_functional_operations_of_a_graph():
    traced = open_model(CUSTOM).traced
    pool = next(node for node in traced.graph.nodes if node.target is functional.avg_pool2d)
    field = receptive_field(traced.root, traced.graph, pool)
    # from `norm` (9 x 13, stride 2): a 3x3 convolution adds 4, average pooling of 2 adds 2 more.
    assert field.size == (15, 19)
    assert field.stride == (4, 4)
    truncated = fx.Graph()
    copied = {}
    for node in traced.graph.nodes:
        if node.op != "output":
            copied[node] = truncated.node_copy(node, copied.__getitem__)
        if node is pool:
            break
    truncated.output((copied[pool],))
    network = fx.GraphModule(traced.root, truncated)
    image = torch.randn(1, 3, 64, 64)
    first = [-(o // 4) for o in field.offset]
    top, left = (o + f * 4 for o, f in zip(field.offset, first, strict=True))
    with torch.no_grad():
        (whole,) = network(image)
        (ours,) = unpad(network)(image[:, :, top : top + 15, left : left + 19])
    assert torch.allclose(ours[0, :, 0, 0], whole[0, :, first[0], first[1]], atol=1e-5)


def test_units_behind_global_pooling_have_no_field():
    resnet = open_model(torchvision_model("resnet18"))
    assert field_of(resnet, "avgpool") is None
    assert (resnet.layer("fc").kind, field_of(resnet, "fc")) == ("vector", None)
    squeezed = open_model(torchvision_model("efficientnet_b0"))
    assert field_of(squeezed, "features.1.0.block.0").size == (7, 7)  # 3, and 2 more at stride 2
    assert field_of(squeezed, "features.2.0.block.0.0") is None


def test_field_sized_images_give_one_response():
    opened = open_model(torchvision_model("resnet50"))
    for name in ("layer1.1.conv1", "layer1.1.conv3", "layer2.0.downsample.0", "layer2.0"):
        field = field_of(opened, name)
        network = unpad(load(opened, opened.layer(name)).fast)
        assert network(torch.zeros(1, 3, *field.size))[0].shape[2:] == (1, 1)
    assert np.prod(field.size) == 43 * 43
