import contextlib
import functools
import hashlib
import http.server
import pickle
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torchvision
from conftest import custom_model, open_model, torchvision_model
from safetensors.torch import load_file, save_file

from diversevis.errors import InputError
from diversevis.models import listen, weights
from diversevis.models.architectures import TorchvisionModel
from diversevis.models.load import check_weights, load
from diversevis.models.receptive_field import unpad


@pytest.fixture(scope="module")
def alexnet():
    """A seeded network's state: small enough to write to disk again and again."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = torchvision.models.alexnet(weights=None).state_dict()
    return {k: v.clone() for k, v in state.items() if k.startswith("features")}


def load_alexnet(layer="features.3", **changes):
    opened = open_model(torchvision_model("alexnet", **changes))
    return load(opened, opened.layer(layer))


def listen_to(module, z):
    with torch.no_grad(), listen.ShapesAlone():
        return listen.listen(module, z, {})


def response(network, size=51):
    image = torch.linspace(-2, 2, 3 * size * size).reshape(1, 3, size, size).sin()
    return unpad(network.fast)(image)[0]


# -- layers -----------------------------------------------------------------------------------


def test_layer_names_and_responses():
    vgg = open_model(torchvision_model("vgg19"))
    assert vgg.layer("conv3_1").channels == 256
    assert vgg.layer("conv3_1").response == "convolution, before its ReLU"
    assert vgg.layer("features.10").name == "conv3_1"
    assert vgg.layer("features.11").name == "conv3_1"  # a ReLU's response is before it
    assert vgg.layer("pool2").response == "max pool"
    resnet = open_model(torchvision_model("resnet50"))
    assert resnet.layer("layer1.0").response == "sum of branches, before its ReLU"
    assert resnet.layer("layer1.0.conv2").response == "convolution + batch norm, before its ReLU"
    assert resnet.layer("layer1.0.bn2").name == "layer1.0.conv2"
    assert resnet.layer("layer1").name == "layer1.2"
    google = open_model(torchvision_model("googlenet"))
    assert google.layer("inception3a").response == "branches side by side, before its ReLU"


def test_unknown_layers_get_the_nearest_name():
    resnet = open_model(torchvision_model("resnet50"))
    with pytest.raises(InputError, match=r"layer=layer1\.9 .*Did you mean .*layer1\.0"):
        resnet.layer("layer1.9")
    with pytest.raises(InputError, match=r"called 3 times.*layer=layer1\.0\.relu#1 to .*relu#3"):
        resnet.layer("layer1.0.relu")
    with pytest.raises(InputError, match="vgg18 is not a classifier.*vgg19"):
        open_model(torchvision_model("vgg18")).layer("conv1_1")


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_listing_equals_that_of_computing(name, monkeypatch):
    """Convolutions that return zeros, grouped and strided ones too, show the same layers."""
    listings = [open_model(torchvision_model(name)).listing]
    monkeypatch.setattr("diversevis.models.network.ShapesAlone", contextlib.nullcontext)
    listings.append(open_model(torchvision_model(name)).listing)
    short, computed = (
        [replace(layer, node=None, features=None) for layer in listing.layers]
        for listing in listings
    )
    assert short == computed
    assert listings[0][1:] == listings[1][1:]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(listen.ForwardFailed, match="expected input.* to have 3 channels"):
        listen_to(torch.nn.Conv2d(3, 4, 3), torch.zeros(3, 4, 8, 8))
    with pytest.raises(listen.ForwardFailed, match="Kernel size can't be greater"):
        listen_to(torch.nn.Conv2d(3, 4, 3), torch.zeros(3, 3, 2, 2))
    with pytest.raises(listen.ForwardFailed, match="shapes cannot be multiplied"):
        listen_to(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 4)), torch.zeros(3, 4, 1, 1)
        )


def test_layers_of_densenet_are_always_the_same():
    """Joined maps that are not kept must not be mistaken for later ones at their address."""
    densenet = open_model(torchvision_model("densenet121"))
    names = {layer.name for layer in densenet.listing.layers}
    convolutions = {f"features.denseblock1.denselayer{k}.conv2" for k in range(1, 7)}
    assert convolutions <= names
    assert "features.transition3.conv" in names


def test_calls_of_a_module_are_numbered():
    resnet = open_model(torchvision_model("resnet50"))
    names = [resnet.layer(f"layer1.0.relu#{call}").name for call in (1, 2, 3)]
    assert names == ["layer1.0.conv1", "layer1.0.conv2", "layer1.0"]


def test_networks_of_every_family_open():
    regnet = open_model(torchvision_model("regnet_x_400mf"))
    assert regnet.layer("trunk_output.block1.block1-0.f.b").channels == 32
    last = regnet.traced.layers[-1]
    assert last.name == "trunk_output.block4.block4-11"
    assert regnet.layer("trunk_output.block4.block4-11.activation") == last
    vit = open_model(torchvision_model("vit_b_16"))
    tokens = vit.layer("encoder.layers.encoder_layer_3.ln_2")
    assert (tokens.kind, tokens.channels, vit.field(tokens)) == ("tokens", 768, None)
    assert vit.field(vit.layer("conv_proj")).size == (16, 16)
    head = check_weights(vit)[2]
    assert (head.name, head.kind, head.channels) == ("heads.head", "vector", 1000)


def test_loaded_network_is_truncated_and_frozen():
    opened = open_model(torchvision_model("resnet50"))
    assert all(p.is_meta for p in opened.traced.root.parameters())
    network = load(opened, opened.layer("layer1.0.conv2"))
    names = {name for name, _ in network.fast.named_parameters()}
    assert names == {
        "conv1.weight", "conv1.bias", "layer1.0.conv1.weight", "layer1.0.conv1.bias",
        "layer1.0.conv2.weight", "layer1.0.conv2.bias",
    }  # fmt: skip
    assert not any(p.requires_grad or p.is_meta for p in network.fast.parameters())
    assert all(p.is_meta for p in opened.traced.root.parameters())  # the graph stays empty
    assert not any(p.requires_grad or p.is_meta for p in network.root.parameters())


def test_features_are_taken_after_the_relu():
    opened = open_model(torchvision_model("resnet50"))
    target, earlier = opened.layer("layer1.1"), opened.layer("layer1.0")
    network = load(opened, target, [earlier])
    response, features = unpad(network.fast)(torch.randn(2, 3, 27, 27))
    assert response.shape == (2, 256, 1, 1)
    assert features.shape == (2, 256, 3, 3)
    assert features.min() == 0
    assert response.min() < 0
    for late in ("layer1.1", "layer1.2", "layer1.1.downsample"):
        with pytest.raises(InputError, match="before layer=layer1.1|is not a layer"):
            load(opened, target, [opened.layer(late)])


# -- where weights come from ------------------------------------------------------------------


def test_random_weights_are_seeded():
    state = torch.random.get_rng_state()
    first, again, other = (response(load_alexnet(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert load_alexnet(seed=1).weights.source == "random, seed 1"


def test_safetensors_and_pth_give_the_same_network(alexnet, tmp_path):
    save_file(alexnet, tmp_path / "a.safetensors", {"mean": "[0.1, 0.2, 0.3]", "std": "[1, 1, 1]"})
    torch.save(alexnet, tmp_path / "a.pth")
    torch.save({"state_dict": alexnet}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    files = ("a.safetensors", "a.pth", "old.pt")
    safe, plain, old = (load_alexnet(weights=str(tmp_path / file)) for file in files)
    assert torch.equal(response(safe), response(plain))
    assert torch.equal(response(safe), response(old))
    assert safe.weights.mean == (0.1, 0.2, 0.3)
    assert safe.weights.mean_std_source == "weights file"
    assert plain.weights.mean == (0.485, 0.456, 0.406)
    assert plain.weights.mean_std_source == "torchvision"
    digest = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    assert safe.weights.sha256 == digest
    said = load_alexnet(weights=str(tmp_path / "a.safetensors"), mean=[0, 0, 0], std=[1, 1, 2])
    assert (said.weights.std, said.weights.mean_std_source) == ((1, 1, 2), "config")


def test_partial_weights_name_what_is_missing(alexnet, tmp_path):
    partial = {k: v for k, v in alexnet.items() if not k.startswith(("features.8", "features.10"))}
    save_file(partial, tmp_path / "part.safetensors")
    file = str(tmp_path / "part.safetensors")
    assert response(load_alexnet("features.6", weights=file), 99).shape[1] == 384
    with pytest.raises(
        InputError, match=r"needs features\.8\.weight.*has weights for is features\.6"
    ):
        load_alexnet("features.10", weights=file)
    _, tensors, deepest = check_weights(open_model(torchvision_model("alexnet", weights=file)))
    assert (deepest.name, tensors) == ("features.6", 6)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(lambda t: t.fill_(float("nan")), "features.0.bias holds NaN"),
     (lambda t: t.index_fill_(0, torch.tensor([5]), float("inf")), "features.0.bias holds NaN or inf"),
     (lambda t: t[:7], r"features.0.bias has shape \[7\].*needs \[64\]"),
     (lambda t: t.to(torch.int32), "features.0.bias holds torch.int32")],
)  # fmt: skip
def test_bad_tensors_are_refused_by_name(alexnet, tmp_path, spoil, words):
    spoiled = {k: v.clone() for k, v in alexnet.items()}
    spoiled["features.0.bias"] = spoil(spoiled["features.0.bias"]).contiguous()
    save_file(spoiled, tmp_path / "spoiled.safetensors")
    with pytest.raises(InputError, match=words):
        load_alexnet(weights=str(tmp_path / "spoiled.safetensors"))


def test_foreign_damaged_and_missing_weights_are_refused(alexnet, tmp_path):
    save_file(alexnet, tmp_path / "vgg.safetensors", {"architecture": "torchvision.models.vgg19"})
    with pytest.raises(InputError, match="vgg19, not of alexnet"):
        load_alexnet(weights=str(tmp_path / "vgg.safetensors"))
    save_file({"some.thing": torch.ones(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="not a weights file of alexnet.*some.thing"):
        load_alexnet(weights=str(tmp_path / "foreign.safetensors"))
    whole = (tmp_path / "vgg.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save(alexnet, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:100_000])
    (tmp_path / "words.pth").write_text("not a network")
    (tmp_path / "a.h5").write_text("")
    for name, words in [
        ("cut.safetensors", "cut.safetensors cannot be read"), ("cut.pth", "cut.pth"),
        ("words.pth", "words.pth"), ("none.pth", "is not a file"), ("a.h5", "end in .safetensors"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            load_alexnet(weights=str(tmp_path / name))


class Malice:
    """A pickle that runs code when read."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return exec, (f"open({str(self.proof)!r}, 'w').close()",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_runs_code_is_refused(tmp_path, zipped):
    proof = tmp_path / "it-ran"
    file = tmp_path / "malice.pth"
    if zipped:
        torch.save({"features.0.weight": Malice(proof)}, file)
    else:
        file.write_bytes(pickle.dumps({"features.0.weight": Malice(proof)}))
    with pytest.raises(InputError, match=r"malice\.pth is refused"):
        load_alexnet(weights=str(file))
    assert not proof.exists()


def test_weights_folder_comes_before_a_download(alexnet, tmp_path, monkeypatch):
    monkeypatch.setenv("DIVERSEVIS_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(weights, "download", lambda model: pytest.fail("downloaded"))
    save_file(alexnet, tmp_path / "alexnet-mine.safetensors")
    assert load_alexnet(weights="imagenet").weights.source.endswith("alexnet-mine.safetensors")
    save_file(alexnet, tmp_path / "alexnet-other.safetensors")
    with pytest.raises(InputError, match="several files for alexnet: alexnet-mine"):
        load_alexnet(weights="imagenet")
    monkeypatch.setenv("DIVERSEVIS_WEIGHTS", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="absent is not a folder"):
        load_alexnet(weights="imagenet")


def test_weights_of_a_similar_name_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("DIVERSEVIS_WEIGHTS", str(tmp_path))
    save_file({"x": torch.ones(1)}, tmp_path / "vgg19_bn-mine.safetensors")
    asked = []
    monkeypatch.setattr(
        weights, "download", lambda model: asked.append(model.name) or (tmp_path, None)
    )
    weights.find_weights_file(torchvision_model("vgg19", weights="imagenet"))
    assert asked == ["vgg19"]


# -- downloads, from a server on this machine ---------------------------------------------------


@pytest.fixture
def server(alexnet, tmp_path, monkeypatch, without_weights_folder):
    """torchvision's download server, played by one on loopback; counts the requests."""
    served = tmp_path / "served"
    served.mkdir()
    torch.save(alexnet, served / "alexnet.pth")
    prefix = hashlib.sha256((served / "alexnet.pth").read_bytes()).hexdigest()[:8]
    name = f"alexnet-{prefix}.pth"
    (served / "alexnet.pth").rename(served / name)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.path)

    handler = functools.partial(Handler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{running.server_port}/{name}"
        monkeypatch.setattr(
            TorchvisionModel, "published_weights", lambda self: SimpleNamespace(url=url)
        )
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        yield SimpleNamespace(
            file=served / name,
            url=url,
            requests=requests,
            cached=tmp_path / "hub/checkpoints" / name,
        )
        running.shutdown()
        thread.join()


def test_weights_are_downloaded_once(server, alexnet, capsys):
    first, again = load_alexnet(weights="imagenet"), load_alexnet(weights="imagenet")
    assert len(server.requests) == 1
    assert server.cached.is_file()
    assert first.weights.url == server.url
    assert first.weights.sha256 == hashlib.sha256(server.file.read_bytes()).hexdigest()
    assert torch.equal(response(first), response(again))
    convolution = first.fast.get_submodule("features.0")
    assert torch.equal(convolution.weight, alexnet["features.0.weight"])


def test_download_with_wrong_digest_is_refused(server):
    server.file.write_bytes(server.file.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="does not have the published hash"):
        load_alexnet(weights="imagenet")
    assert not server.cached.exists()


def test_damaged_cached_weights_are_refused(server):
    load_alexnet(weights="imagenet")
    server.cached.write_bytes(server.cached.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"damaged .*Delete that file"):
        load_alexnet(weights="imagenet")


def test_without_internet_three_remedies_are_named(server, monkeypatch):
    url = "http://127.0.0.1:1/alexnet-00000000.pth"  # nobody listens there
    monkeypatch.setattr(
        TorchvisionModel, "published_weights", lambda self: SimpleNamespace(url=url)
    )
    with pytest.raises(InputError) as error:
        load_alexnet(weights="imagenet")
    for way in (
        "diversevis weights model=torchvision model.name=alexnet",
        "model.weights=FILE",
        "model=energy",
    ):
        assert way in str(error.value)


def test_published_weights_are_imagenet_v1():
    for name, start in [("vgg19", "vgg19-dcbb9e9d.pth"), ("resnet50", "resnet50-0676ba61.pth")]:
        assert torchvision_model(name).published_weights().url.endswith(f"/{start}")


# -- custom networks ----------------------------------------------------------------------------


def broken():
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.first(x) @ torch.ones(2, 2)

    return Broken()


def silent():
    class Silent(torch.nn.Module):
        def forward(self, x):
            return {"maps": x}

    return Silent()


def test_bad_custom_networks_are_refused():
    for target, words in [
        ("no.such.module", "cannot be imported"), ("test_models.nothing", "cannot be imported"),
        ("nodots", "cannot be imported"), ("test_models.custom_number", "returned a int"),
        ("test_models.broken", "fails on images of 3 channels and 256 x 256 .* after its layer first"),
        ("test_models.silent", "has no layer: .*it returns a dict"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            open_model(custom_model(target)).layer("second")
    opened = open_model(custom_model("test_receptive_field:strange", mean=None, std=None))
    with pytest.raises(InputError, match="needs the mean and std"):
        load(opened, opened.layer("first"))


def custom_number():
    return 3


# -- published numbers --------------------------------------------------------------------------


def test_published_images_give_the_published_responses(real_weights, published_images):
    """Proportional to the published responses; coefficient of variation under 0.5 %."""
    opened = open_model(torchvision_model("vgg19", weights="imagenet"))
    network = load(opened, opened.layer("conv3_1"))
    x = torch.from_numpy(published_images["images"]).float().permute(0, 3, 1, 2) - 128
    x = x * (2651.66 / 2 / x.flatten(1).norm(dim=1))[:, None, None, None]
    z = x / (255 * torch.tensor(network.weights.std)[:, None, None])
    with torch.no_grad():
        ours = unpad(network.fast)(z)[0][:, 21, 0, 0]
    factor = ours / torch.from_numpy(published_images["activations"]).float()
    assert (factor.std() / factor.mean()).item() < 0.005
    assert factor.mean().item() == pytest.approx(138.65, rel=1e-3)


def test_real_files_are_loaded_in_part(real_weights):
    file = next(real_weights.glob("vgg19*.safetensors"))
    opened = open_model(torchvision_model("vgg19", weights="imagenet"))
    network = load(opened, opened.layer("conv1_2"))
    stored = load_file(file)
    assert torch.equal(network.fast.get_submodule("features.2").weight, stored["features.2.weight"])
    assert len(network.fast.state_dict()) == 4
    with pytest.raises(InputError, match=r"layer=conv4_1 needs features\.19\.weight.*pool3"):
        load(opened, opened.layer("conv4_1"))
