"""Where networks come from: torchvision, timm, and a person's own functions."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import CONVENTION, custom_model, open_model, torchvision_model
from torch import nn
from torchvision import models

from diversevis.config.bind import bind
from diversevis.config.compose import compose_opening
from diversevis.errors import InputError
from diversevis.models.architectures import EnergyModel, TimmModel
from diversevis.models.builders import Average, unwrap, unwrapped_name
from diversevis.models.load import load
from diversevis.models.packages import import_timm


def timm_model(name, **changes):
    pytest.importorskip("timm")
    settings = {
        "kind": "timm", "name": name, "default_layer": None, "weights": "random", "container": None, "seed": 0,
        "mean": None, "std": None, **CONVENTION,
    }  # fmt: skip
    return bind(TimmModel, settings | changes, "model")


def model_of(words):
    return compose_opening(words).model


def same(first, second):
    """Whether two modules have the same tensors by name."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def global_states():
    """Without the position in Python's: the tests' own checks of types draw from it."""
    of_python = random.getstate()[1][:-1]
    return torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), of_python


# -- networks that functions return ---------------------------------------------------------------


def plain(width=4, kernels=(3,)):
    """Seeded by nobody; numpy and random have a say in it."""
    convolutions = [nn.Conv2d(3 if not i else width, width, k) for i, k in enumerate(kernels)]
    with torch.no_grad():
        convolutions[0].weight[0, 0, 0, 0] = np.random.rand()
        convolutions[0].weight[0, 0, 0, 1] = random.random()  # noqa: S311
    return nn.Sequential(*convolutions)


def members(count=2, kind=list):
    return kind(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()) for _ in range(count))


def wrapped():
    return nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 3)))


def wrapped_members():
    return [wrapped(), wrapped()]


def named(count):
    return {"networks": members(count)}


def numbers():
    return [18, 34]


def empty():
    with torch.device("meta"):
        return Own()


class Own(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3)

    def forward(self, x):
        return self.first(x)


def test_builder_is_seeded_and_leaves_no_trace():
    random.seed(1)
    random.random()  # noqa: S311
    before = global_states()
    first, again, other = (custom_model("test_sources.plain", seed=s).built() for s in (5, 5, 6))
    assert global_states() == before
    assert same(first, again)
    assert torch.unique(first[0].weight - other[0].weight).numel() == first[0].weight.numel()
    assert not first.training


def test_builder_gets_its_arguments():
    words = ["model=custom", "model.target=test_sources.plain"]
    model = model_of([*words, "model.arguments={width:6,kernels:[5,1]}"])
    shapes = [list(parameter.shape) for parameter in model.built().parameters()]
    assert shapes == [[6, 3, 5, 5], [6], [6, 6, 1, 1], [6]]
    assert model_of([*words, "model.arguments.width=7"]).arguments == {"width": 7}
    assert model_of(words).arguments == {}
    own = model_of(["model=custom", "model.target=test_sources.Own", "model.arguments={width:9}"])
    assert open_model(own).layer("first").channels == 9


def test_list_of_networks_is_averaged():
    image = torch.randn(2, 3, 7, 7)
    for kind in (list, tuple):
        arguments = {"count": 3, "kind": kind}
        average = custom_model("test_sources.members", arguments=arguments).built()
        outputs = [average.get_submodule(name)(image) for name in "012"]
        assert torch.allclose(average(image), torch.stack(outputs).mean(0), atol=1e-6)
        assert not torch.allclose(outputs[0], outputs[1])
    assert torch.equal(Average([average.get_submodule("0")] * 2)(image), outputs[0])
    opened = open_model(custom_model("test_sources.members"))
    network = load(opened, opened.layer("1.0"))
    assert list(network.fast.state_dict()) == ["1.0.weight", "1.0.bias"]


@pytest.mark.parametrize(
    ("target", "arguments", "said"),
    [
        ("members", {"count": 0}, "returned an empty list: it must return an nn.Module, or a list"),
        ("named", {"count": 1}, "returned a dict, not an nn.Module"),
        ("numbers", {}, "returned a int, not an nn.Module"),
        ("plain", {"depth": 3}, r"called as test_sources.plain\(depth=3\).*unexpected keyword"),
        ("named", {}, r"named\(\).*missing 1 required.*'model.arguments={depth:18}'"),
    ],
)
def test_builders_that_fail_are_named(target, arguments, said):
    with pytest.raises(InputError, match=said):
        custom_model(f"test_sources.{target}", arguments=arguments).built()


def test_wrappers_are_taken_off():
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    compiled = torch.compile(nn.DataParallel(network))
    assert unwrap(network) == (network, "")
    assert unwrap(nn.DataParallel(network)) == (network, "module.")
    assert unwrap(compiled) == (network, "_orig_mod.module.")
    assert open_model(custom_model("test_sources.wrapped")).layer("0").channels == 4
    average = custom_model("test_sources.wrapped_members").built()
    assert list(average.state_dict()) == ["0.0.weight", "0.0.bias", "1.0.weight", "1.0.bias"]
    assert unwrapped_name("0.module.0") == "0.0"


def test_builder_may_leave_values_to_a_file():
    assert custom_model("test_sources.empty", weights="x.pth").built().first.weight.is_meta


# -- how images are given to a network -------------------------------------------------------------


def test_conventions_are_read_from_the_command_line():
    words = ["model=custom", "model.target=a.b"]
    grey = model_of([*words, "model.mean=[0.4]", "model.std=[0.2]", "model.scale=255"])
    assert (grey.mean, grey.std, grey.scale) == ((0.4,), (0.2,), 255.0)
    found = model_of([*words, "model.inside=true", "model.order=bgr"])
    assert (found.mean, found.std, found.inside, found.order) == (None, None, True, "bgr")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inside": True}, r"model.std=\[0.5, 0.5, 0.5\] and model.inside=true exclude"),
        ({"mean": [0.5]}, r"mean=\[0.5\] and model.std=\[0.5, 0.5, 0.5\] must be equally long"),
        ({"mean": [], "std": None}, r"model.mean=\[\] has no number"),
        ({"mean": [0.5] * 4, "std": None, "order": "bgr"}, "order=bgr is for colour.* 4 channels"),
        ({"scale": 0}, "model.scale=0.0 must be above 0"),
        ({"scale": float("inf")}, "model.scale=inf"),
        ({"order": "brg"}, "model.order='brg'.*rgb or bgr"),
        ({"arguments": [18]}, r"model.arguments=\[18\].*named values, {depth:18}"),
        ({"arguments": {18: 1}}, "model.arguments={18: 1}"),
    ],
)
def test_contradictory_conventions_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        custom_model("a.b", **changes)


# -- torchvision ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "side"),
    [("vgg19", 224), ("inception_v3", 299), ("efficientnet_b7", 600), ("vit_h_14", 518)],
)
def test_input_size_is_that_of_the_weights(name, side):
    assert torchvision_model(name).input_size == (side, side)


def test_every_classifier_has_published_facts():
    for name in models.list_models(module=models):
        model = torchvision_model(name)
        published = model.published_weights()
        assert published.url.endswith((".pth", ".pt"))
        expected = published.transforms()
        if name not in ("googlenet", "inception_v3"):
            assert model.published_mean_std() == (tuple(expected.mean), tuple(expected.std))
        assert model.input_size == (expected.crop_size[0],) * 2
    assert torchvision_model("efficientnet_v2_l").published_mean_std()[0] == (0.5, 0.5, 0.5)
    assert torchvision_model("inception_v3").published_mean_std()[0] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "name", ["resnet18", "swin_t", "swin_v2_t", "maxvit_t", "shufflenet_v2_x0_5"]
)
def test_built_network_has_true_buffers(name):
    quick = torchvision_model(name, weights="imagenet").built()
    whole = models.get_model(name, weights=None)
    buffers = dict(whole.named_buffers())
    assert not quick.training
    for key, value in quick.named_buffers():
        assert torch.equal(value, buffers[key]), key
    assert len(buffers) > 0


def test_random_network_has_seeded_values():
    first, again = (torchvision_model("resnet18", seed=3).built() for _ in range(2))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = models.resnet18(weights=None)
    assert same(first, again)
    assert same(first, expected)
    assert not same(first, torchvision_model("resnet18", seed=4).built())


def test_position_codes_fit_the_published_size():
    assert torchvision_model("vit_h_14").skeleton().image_size == 518
    assert torchvision_model("vit_b_16").skeleton().image_size == 224


def test_energy_is_built_as_it_is_traced():
    model = EnergyModel(kind="energy", name="energy", default_layer="complex")
    assert same(model.built(), model.skeleton())
    assert model.input_size is custom_model("a.b").input_size is None


# -- timm -----------------------------------------------------------------------------------------


def test_timm_network_is_built():
    model = timm_model("resnet10t", seed=2)
    random.seed(1)
    random.random()  # noqa: S311
    before = global_states()
    built, again = model.built(), model.built()
    assert global_states() == before
    assert same(built, again)
    assert not same(built, timm_model("resnet10t", seed=3).built())
    skeleton = model.skeleton()
    assert all(tensor.is_meta for tensor in skeleton.state_dict().values())
    assert {k: v.shape for k, v in skeleton.state_dict().items()} == {
        k: v.shape for k, v in built.state_dict().items()
    }
    assert open_model(model).layer("layer1.0.conv1").channels == 64


def test_timm_facts_are_those_of_the_weights():
    assert timm_model("resnet50d").input_size == (224, 224)
    assert timm_model("inception_v4.tf_in1k").input_size == (299, 299)
    assert timm_model("inception_v4.tf_in1k").published_mean_std() == ((0.5,) * 3, (0.5,) * 3)
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert timm_model("resnet50d").published_mean_std() == imagenet


@pytest.mark.parametrize(
    ("name", "said"),
    [("resnet50dd", "not a network of timm. Did you mean .*resnet50d"),
     ("resnet50d.ra3_in1k", r"not a network of timm. Did you mean .*resnet50d\.ra2_in1k")],
)  # fmt: skip
def test_unknown_names_of_timm(name, said):
    for ask in (lambda m: m.skeleton(), lambda m: m.built(), lambda m: m.input_size):
        with pytest.raises(InputError, match=said):
            ask(timm_model(name))


def test_timm_without_internet_names_remedies(tmp_path):
    timm_model("resnet10t")  # skipped where timm is not installed
    words = ["model=timm", "model.name=resnet10t"]
    code = f"from diversevis.config.compose import compose_opening as o; o({words}).model.built()"
    away = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    process = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | away, capture_output=True, text=True
    )
    last = process.stderr.splitlines()[-1]
    assert last.startswith("diversevis.errors.InputError: timm's weights of model resnet10t")
    for way in ("diversevis weights model=timm model.name=resnet10t", "model.weights=FILE",
                "model.weights=random", "HF_HOME"):  # fmt: skip
        assert way in last


def test_layers_of_timm_need_no_weights(monkeypatch):
    def download(model):
        raise AssertionError("weights are asked for")

    monkeypatch.setattr(TimmModel, "_download", download)
    opened = open_model(timm_model("resnet10t", weights="pretrained"))
    layers = opened.listing.layers
    assert layers[-1].channels == 1000
    assert opened.fields(layers)[-1] is None


def test_timm_network_without_published_weights():
    with pytest.raises(InputError, match="publishes no weights for model botnet50ts_256"):
        timm_model("botnet50ts_256", weights="pretrained").built()


def test_missing_timm_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install 'diversevis\[timm\]'"):
        import_timm()


def test_networks_come_without_timm():
    code = "from diversevis.models.architectures import Model; import sys; print('timm' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout == "False\n"
