"""Weights as people have them: suffixes, containers, prefixes, and what is refused."""

import argparse
import hashlib
import json
import re
import shlex
import warnings
import zipfile

import pytest
import torch
import torchvision
from conftest import QUICK, custom_model, open_model, torchvision_model
from safetensors.torch import save_file
from torch import nn

from diversevis.cli.main import main
from diversevis.errors import InputError
from diversevis.models.load import check_weights, load
from diversevis.models.weights import (
    WeightsFile,
    checked_color,
    checked_colors,
    read_tensors,
    sha256_of_file,
    sha256_of_tensors,
)


@pytest.fixture(scope="module")
def state():
    """Weights of AlexNet's first three convolutions: six tensors."""
    torch.manual_seed(4)
    full = torchvision.models.alexnet(weights=None).state_dict()
    return {k: v.clone() for k, v in full.items() if re.match(r"features\.[036]\.", k)}


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def changed(state):
    """Other weights of the same network: as an average over the training is."""
    return {name: tensor + 1 for name, tensor in state.items()}


def lightning(state, prefix="model."):
    """A checkpoint as PyTorch Lightning writes it."""
    return {
        "epoch": 3, "global_step": 12, "pytorch-lightning_version": "2.1.0", "loops": None,
        "state_dict": prefixed(state, prefix) | {"loss.weight": torch.ones(5)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "hparams_name": "kwargs", "hyper_parameters": {"lr": 0.1},
    }  # fmt: skip


def training(state, key, **more):
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 90, "arch": "alexnet", key: state, "optimizer": optimizer, **more}


def load_alexnet(file, layer="features.6", **changes):
    opened = open_model(torchvision_model("alexnet", weights=str(file), **changes))
    return load(opened, opened.layer(layer))


def used(file, wanted):
    """SHA-256 of the tensors that a network gets from a file."""
    return sha256_of_tensors(read_tensors(file.read, wanted, "file"))


# -- what is read -----------------------------------------------------------------------------


CONTAINERS = [
    ("plain.safetensors", lambda s: s, None),
    ("safetensors-by-content.bin", lambda s: s, None),
    ("plain.pth", lambda s: s, None),
    ("nosuffix", lambda s: s, None),
    ("nested.pth.tar", lambda s: training(s, "state_dict"), "container state_dict"),
    ("lightning.ckpt", lightning, "container state_dict, prefix model."),
    ("deep.ckpt", lambda s: lightning(s, "model.backbone."), "container state_dict, prefix model.backbone."),
    ("parallel.pt", lambda s: training(prefixed(s, "module."), "model_state_dict"),
     "container model_state_dict, prefix module."),
    ("compiled.pt", lambda s: prefixed(s, "_orig_mod."), "prefix _orig_mod."),
    ("stacked.pt", lambda s: prefixed(s, "module._orig_mod."), "prefix module._orig_mod."),
    ("transformers.bin", lambda s: prefixed(s, "backbone.") | {"classifier.weight": torch.ones(3)},
     "prefix backbone."),
    ("old-pickle.pth", lambda s: training(s, "net"), "container net"),
    ("three-deep.pth", lambda s: {"run": {"best": {"weights": s}}}, "container run.best.weights"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wrap", "chosen"), CONTAINERS, ids=[c[0] for c in CONTAINERS])
def test_container_gives_the_same_tensors(name, wrap, chosen, state, tmp_path):
    path, content = tmp_path / name, wrap(state)
    if "safetensors" in name:
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not name.startswith("old"))
    file = WeightsFile.open(path).fitted_to(state)
    assert file.chosen == chosen
    assert file.names >= state.keys()
    assert used(file, state) == sha256_of_tensors(state)
    network = load_alexnet(path)
    assert sha256_of_tensors(network.fast.state_dict()) == sha256_of_tensors(state)
    assert network.weights.chosen == chosen
    assert network.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert network.weights.identity == network.weights.sha256


def test_old_pickle_is_no_archive(state, tmp_path):
    """The case above tests what it says."""
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "old.pth")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32(dtype, state, tmp_path, caplog):
    stored = {name: tensor.to(getattr(torch, dtype)) for name, tensor in state.items()}
    torch.save({"state_dict": stored}, tmp_path / "other.pth")
    network = load_alexnet(tmp_path / "other.pth")
    expected = sha256_of_tensors({name: tensor.float() for name, tensor in stored.items()})
    assert sha256_of_tensors(network.fast.state_dict()) == expected
    assert f"its {dtype} weights are taken as float32" in caplog.text


def test_float64_beyond_float32_is_refused(state, tmp_path):
    large = state | {"features.0.bias": torch.full([64], 1e300, dtype=torch.float64)}
    torch.save(large, tmp_path / "large.pth")
    with pytest.raises(InputError, match=r"features\.0\.bias holds NaN or infinite"):
        load_alexnet(tmp_path / "large.pth")


def test_parameters_lose_their_gradients(state, tmp_path):
    parameters = {name: nn.Parameter(tensor) for name, tensor in state.items()}
    torch.save(parameters, tmp_path / "parameters.pth")
    file = WeightsFile.open(tmp_path / "parameters.pth").fitted_to(state)
    assert not any(t.requires_grad for t in read_tensors(file.read, state, "file").values())


# -- which container, which prefix --------------------------------------------------------------


def test_own_prefix_of_the_network_stays(state, tmp_path):
    own = prefixed(state, "module.")
    both = own | prefixed(changed(own), "module.") | {"ema": changed(own)}
    torch.save(both, tmp_path / "own.pth")
    file = WeightsFile.open(tmp_path / "own.pth").fitted_to(own)
    assert file.chosen is None
    assert used(file, own) == sha256_of_tensors(own)


def test_plain_names_win_within_a_container(state, tmp_path):
    torch.save({"net": state | prefixed(changed(state), "ema.")}, tmp_path / "both.pth")
    network = load_alexnet(tmp_path / "both.pth")
    assert network.weights.chosen == "container net"
    assert sha256_of_tensors(network.fast.state_dict()) == sha256_of_tensors(state)
    network = load_alexnet(tmp_path / "both.pth", container="net.ema")
    assert network.weights.chosen == "container net, prefix ema."
    assert sha256_of_tensors(network.fast.state_dict()) == sha256_of_tensors(changed(state))


def test_different_values_must_be_chosen(state, tmp_path):
    ema = prefixed(changed(state), "module.")
    torch.save({"model": state, "ema": ema}, tmp_path / "two.pth")
    words = r"each has 6 of the 6 .*model, ema\.module\..*model\.container=model"
    with pytest.raises(InputError, match=words):
        load_alexnet(tmp_path / "two.pth")
    model, by_key, by_path = (
        load_alexnet(tmp_path / "two.pth", container=name)
        for name in ("model", "ema", "ema.module")
    )
    assert sha256_of_tensors(model.fast.state_dict()) == sha256_of_tensors(state)
    assert sha256_of_tensors(by_key.fast.state_dict()) == sha256_of_tensors(changed(state))
    assert sha256_of_tensors(by_path.fast.state_dict()) == sha256_of_tensors(changed(state))
    assert model.weights.sha256 == by_key.weights.sha256
    assert model.weights.identity != by_key.weights.identity


def test_equal_values_are_no_conflict(state, tmp_path):
    odd = state | {"features.0.bias": torch.full([64], -0.0)}
    twin = {name: tensor.clone() for name, tensor in odd.items()}
    torch.save({"model": odd, "teacher": twin}, tmp_path / "twins.pth")
    assert load_alexnet(tmp_path / "twins.pth").weights.chosen == "container model"
    twin["features.0.bias"] = -twin["features.0.bias"]  # 0.0 == -0.0, but not to the bit
    torch.save({"model": odd, "teacher": twin}, tmp_path / "twins.pth")
    with pytest.raises(InputError, match="model, teacher"):
        load_alexnet(tmp_path / "twins.pth")


def test_layers_alike_in_both_need_no_choice(state, tmp_path):
    ema = state | {"features.6.bias": state["features.6.bias"] + 1}
    torch.save({"model": state, "ema": ema}, tmp_path / "late.pth")
    assert load_alexnet(tmp_path / "late.pth", "features.3").weights.chosen == "container model"
    with pytest.raises(InputError, match="several sets of weights"):
        load_alexnet(tmp_path / "late.pth", "features.6")


def test_wider_network_elsewhere_is_no_conflict(state, tmp_path):
    teacher = state | {"features.3.weight": torch.ones(192, 128, 5, 5)}
    torch.save({"teacher": teacher, "student": state}, tmp_path / "pair.pth")
    assert load_alexnet(tmp_path / "pair.pth").weights.chosen == "container student"


def test_partial_container_names_what_is_missing(state, tmp_path):
    torch.save(training(prefixed(state, "module."), "model"), tmp_path / "part.pth.tar")
    words = r"needs features\.8\.weight.*has weights for is features\.6"
    with pytest.raises(InputError, match=words):
        load_alexnet(tmp_path / "part.pth.tar", "features.8")
    opened = open_model(torchvision_model("alexnet", weights=str(tmp_path / "part.pth.tar")))
    record, tensors, deepest = check_weights(opened)
    assert (record.chosen, tensors) == ("container model, prefix module.", 6)
    assert deepest.name == "features.6"


def test_nearest_thing_is_named(state, tmp_path):
    less = {k: v for k, v in prefixed(state, "enc.").items() if k != "enc.features.0.weight"}
    torch.save({"net": less}, tmp_path / "less.pth")
    words = r"has 3 of 4 needed tensors by name \(container net, prefix enc\.\); first, features\.0\.weight is missing"
    with pytest.raises(InputError, match=words):
        load_alexnet(tmp_path / "less.pth", "features.3")
    torch.save({"features.0.weight": torch.ones(2)}, tmp_path / "shape.pth")
    words = r"1 of 2 .* first, features\.0\.weight has shape \[2\] instead of \[64, 3, 11, 11\]"
    with pytest.raises(InputError, match=words):
        load_alexnet(tmp_path / "shape.pth", "features.0")
    torch.save({"head.weight": torch.ones(2)}, tmp_path / "none.pth")
    with pytest.raises(InputError, match=r"has 0 of 6 .*its first tensors: head\.weight"):
        load_alexnet(tmp_path / "none.pth")


def test_unknown_container_is_named(state, tmp_path):
    torch.save(training(prefixed(state, "module."), "model_ema"), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"model\.container=ema is not in .*model_ema"):
        load_alexnet(tmp_path / "a.pth", container="ema")
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"Leave model\.container out"):
        load_alexnet(tmp_path / "a.safetensors", container="state_dict")
    with pytest.raises(InputError, match=r"model\.container=ema is for a weights file"):
        load_alexnet("random", container="ema")


def test_chosen_container_of_another_network(state, tmp_path):
    """What was asked for is used, though the network's weights are elsewhere in the file."""
    torch.save(state | {"head": {"weight": torch.ones(2)}}, tmp_path / "head.pth")
    with pytest.raises(InputError, match=r"has 0 of 6 .*its first tensors: weight"):
        load_alexnet(tmp_path / "head.pth", container="head")


# -- buffers --------------------------------------------------------------------------------------


class Shuffled(nn.Module):
    """A convolution whose channels are put in another order and multiplied."""

    def __init__(self, gain=2.0):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.register_buffer("order", torch.tensor([3, 1, 2, 0]))
        self.register_buffer("gain", torch.tensor(gain, dtype=torch.float64), persistent=False)

    def forward(self, x):
        return self.convolution(x)[:, self.order] * self.gain


def doubled():
    torch.manual_seed(0)
    return nn.Sequential(Shuffled())


def tripled():
    torch.manual_seed(0)
    return nn.Sequential(Shuffled(gain=3.0))


def load_shuffled(weights, target="doubled"):
    target = f"test_weights_files.{target}"
    opened = open_model(custom_model(target, weights=str(weights)))
    return load(opened, opened.layer("0"))


def test_buffers_that_files_lack_keep_values(tmp_path):
    convolution, order = nn.Conv2d(3, 4, 3), torch.tensor([2, 0, 3, 1])
    stored = prefixed(convolution.state_dict(), "0.convolution.") | {"0.order": order}
    torch.save(stored, tmp_path / "shuffled.pth")
    network = load_shuffled(tmp_path / "shuffled.pth")
    image = torch.randn(1, 3, 5, 5)
    (response,) = network.fast(image)
    torch.testing.assert_close(response, 2 * convolution(image)[:, order])
    assert response.dtype == torch.float32
    assert network.fast.state_dict()["0.order"].dtype == torch.int64


class Keeping(nn.Module):
    """Has its weights by another name, and in two parts; the branch keeps torch.fx out."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.kept = [self.convolution.weight, self.convolution.bias[:2], self.convolution.bias[2:]]

    def forward(self, x):
        weight, first, second = self.kept
        return nn.functional.conv2d(x, weight, torch.cat([first, second])) if x.any() else x


def test_weights_by_other_names_are_those_of_the_file(tmp_path):
    other = Keeping()
    torch.save(other.state_dict(), tmp_path / "keeping.pth")
    opened = open_model(
        custom_model("test_weights_files.Keeping", weights=str(tmp_path / "keeping.pth"))
    )
    image = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        response = load(opened, opened.layer("output")).root(image)
        torch.testing.assert_close(response, other(image))


def test_own_values_count_all_buffers():
    double, triple = load_shuffled("own"), load_shuffled("own", "tripled")
    image = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(triple.fast(image)[0], 1.5 * double.fast(image)[0])
    assert double.weights.sha256 != triple.weights.sha256
    assert double.weights.sha256 == load_shuffled("own").weights.sha256


def test_whole_numbers_of_another_type_are_refused(tmp_path):
    stored = doubled().state_dict()
    torch.save(stored | {"0.order": stored["0.order"].int()}, tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"0\.order holds torch\.int32, .* needs torch\.int64"):
        load_shuffled(tmp_path / "short.pth")


# -- what is refused ------------------------------------------------------------------------------


def line_of(error):
    """The code of the `python -c "..."` in a message."""
    words = shlex.split(str(error.value).partition("python -c ")[2].partition(" (the key")[0])
    assert len(words) == 1
    return words[0]


def refused(path, words):
    with pytest.raises(InputError, match=words) as error:
        load_alexnet(path)
    assert "\n" not in str(error.value)
    return error


@pytest.mark.parametrize(("name", "zipped"), [("a.pth.tar", True), ("it's $1.ckpt", False)])
def test_trusted_checkpoint_line_extracts_its_weights(name, zipped, state, current_folder):
    content = training(state, "state_dict", args=argparse.Namespace(lr=0.1))
    torch.save(content, name, _use_new_zipfile_serialization=zipped)
    error = refused(name, r"is refused.*argparse\.Namespace\) and could run code")
    exec(line_of(error))  # noqa: S102
    assert load_alexnet("weights.pth").weights.chosen is None
    file = WeightsFile.open(current_folder / "weights.pth").fitted_to(state)
    assert used(file, state) == sha256_of_tensors(state)


def test_torchscript_line_extracts_its_weights(current_folder):
    convolution = nn.Conv2d(3, 4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(convolution).save("script.pt")
        error = refused("script.pt", "is a TorchScript archive")
        exec(line_of(error))  # noqa: S102
    wanted = convolution.state_dict()
    file = WeightsFile.open(current_folder / "weights.pth").fitted_to(wanted)
    assert used(file, wanted) == sha256_of_tensors(wanted)


def test_whole_model_is_refused(tmp_path):
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)), tmp_path / "model.pth")
    error = refused(tmp_path / "model.pth", "is refused.*save file.state_dict()")
    assert "torch.nn.modules.container.Sequential" in str(error.value)


def test_files_of_other_kinds_are_refused(state, tmp_path):
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    refused(tmp_path / "model.h5", "holds no weights: neither safetensors nor")
    (tmp_path / "empty.pth").touch()
    refused(tmp_path / "empty.pth", "holds no weights")
    with zipfile.ZipFile(tmp_path / "arrays.npz", "w") as archive:
        archive.writestr("weight.npy", b"numbers")
    refused(tmp_path / "arrays.npz", "a zip archive, but not one that torch.save wrote")
    torch.save([*state.values()], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "no dictionary of tensors.*holds a list")
    torch.save({"a": {"b": {"c": {"d": state}}}}, tmp_path / "deep.pth")
    refused(tmp_path / "deep.pth", "no dictionary of tensors.*up to 3 deep")
    torch.save({"state": {0: state}}, tmp_path / "optimizer.pth")
    refused(tmp_path / "optimizer.pth", "no dictionary of tensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_cut_files_are_refused(zipped, tmp_path):
    """At every byte: each part of a damaged pickle raises an error of its own."""
    tensors = {"features.0.bias": torch.ones(2)}
    torch.save(tensors, tmp_path / "whole", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "whole").read_bytes()
    for length in range(9, len(whole), 7):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged"):
            WeightsFile.open(tmp_path / "cut")


# -- commands and run.json --------------------------------------------------------------------


ALEXNET = ["model=torchvision", "model.name=alexnet"]


def test_weights_command_says_what_is_used(state, current_folder, capsys):
    half = {name: tensor.half() for name, tensor in state.items()}
    torch.save({"state_dict": prefixed(half, "module.")}, "half.pth.tar")
    assert main(["weights", *ALEXNET, "model.weights=half.pth.tar"]) == 0
    output = capsys.readouterr()
    assert "half.pth.tar: container state_dict, prefix module.\n" in output.err
    assert "float16 weights are taken as float32\n" in output.err
    assert "6 tensors, all finite; serves alexnet up to features.6" in output.out


def test_run_records_the_chosen_container(state, current_folder, capsys):
    torch.save({"model": state, "ema": changed(state)}, "two.ckpt")
    words = [*ALEXNET, "layer=features.0", "unit=0", "n=2", "device=cpu", *QUICK]
    assert main(["run", *words, "model.weights=two.ckpt"]) == 2
    assert "model, ema" in capsys.readouterr().err
    for container in ("model", "ema"):
        more = ["model.weights=two.ckpt", f"model.container={container}"]
        assert main(["run", *words, *more]) == 0
        assert capsys.readouterr().err.count(f"two.ckpt: container {container}\n") == 1
    records = [json.loads(path.read_text()) for path in current_folder.rglob("run.json")]
    assert {record["weights"]["chosen"] for record in records} == {
        "container model", "container ema",
    }  # fmt: skip
    digests = {record["weights"]["sha256"] for record in records}
    assert digests == {sha256_of_file(current_folder / "two.ckpt")}
    assert len({record["config_hash"] for record in records}) == 2


# -- mean and std of the input ----------------------------------------------------------------


def test_colors_have_any_number_of_channels():
    assert checked_color([0.5], "model.mean") == (0.5,)
    assert checked_colors((0, 1, 0.5, 0.1), (1, 2, 3, 4), "model.", 4)[1] == (1, 2, 3, 4)
    with pytest.raises(InputError, match=r"model\.mean must be numbers in \[0, 1\].*not \[\]"):
        checked_color([], "model.mean")
    with pytest.raises(InputError, match=r"model\.std must be numbers above 0.*not \[0\]"):
        checked_color([0], "model.std")
    with pytest.raises(InputError, match=r"must have 1 numbers each, .*not 1 and 2"):
        checked_colors([0.5], [1, 1], "model.", 1)
    with pytest.raises(InputError, match=r"model\.mean=\[0\.5\] and .*have 3 .*not 1 and 1"):
        checked_colors((0.5,), (0.5,), "model.", 3)
