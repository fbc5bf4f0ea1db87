"""Distances other than root mean squares of pixels: cosine, and in the other units of the layer."""

import itertools
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, open_model, torchvision_model
from PIL import Image
from torch import nn
from torch.nn import functional

from diversevis.cli.main import main
from diversevis.config.compose import compose_config, experiment_of
from diversevis.errors import InputError
from diversevis.method.objective import Objective, pairwise_distances, smallest_distance
from diversevis.method.response import respond
from diversevis.method.setup import prepare
from diversevis.method.visualize import visualize
from diversevis.runs.identity import science
from diversevis.runs.provenance import sha256_of

FEW = ["n=3", "optimizer.steps=12", "optimizer.search_steps=5", "objective.restarts=2"]
COLORS = ["model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]"]


def setup_of(*overrides):
    return prepare(experiment_of(compose_config(["device=cpu", *overrides])))


# -- cosine ---------------------------------------------------------------------------------------


def cosine_distances(features):
    """Every pair by torch's own similarity, [unit, pair]."""
    pairs = itertools.combinations(range(features.shape[1]), 2)
    return torch.stack(
        [1 - functional.cosine_similarity(features[:, i], features[:, j], dim=1) for i, j in pairs],
        dim=1,
    )


@pytest.mark.parametrize("n", [2, 3, 7])
def test_cosine_distances_are_those_of_torch(n):
    features = torch.randn(4, n, 50, dtype=torch.float64) + 1
    expected = cosine_distances(features)
    assert torch.allclose(pairwise_distances(features, "cosine"), expected, rtol=1e-10)
    smallest = smallest_distance(features, metric="cosine")
    assert torch.allclose(smallest, expected.min(1).values, rtol=1e-10)
    singly = smallest_distance(features.float() * 1000, metric="cosine")  # its length is no matter
    assert torch.allclose(singly.double(), expected.min(1).values, rtol=1e-4)


def test_cosine_distance_of_near_copies():
    base = torch.randn(1, 1, 200)
    features = 100 * (base + 1e-3 * torch.randn(1, 5, 200))
    expected = cosine_distances(features.double()).min()
    assert smallest_distance(features, metric="cosine").item() == pytest.approx(
        expected.item(), 1e-3
    )


def test_gradient_of_the_cosine_distance():
    features = torch.randn(2, 4, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: smallest_distance(f, metric="cosine"), features)


@pytest.mark.parametrize("softness", [0.01, 0.3])
def test_soft_gradient_of_the_cosine_distance(softness):
    """Against the weighted mean over all pairs, whose weights carry no gradient."""
    features = torch.randn(3, 5, 40, dtype=torch.float64) + 0.5
    ours, theirs = (features.clone().requires_grad_(True) for _ in range(2))
    pairs = cosine_distances(theirs)
    lengths = pairs.detach()
    near = (lengths.min(1, keepdim=True).values - lengths) / lengths.mean(1, keepdim=True)
    weights = torch.softmax(near / softness, dim=1)
    (pairs * weights).sum().backward()
    smallest_distance(ours, softness, "cosine").sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


def test_zeros_are_half_way_to_others():
    features = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]], requires_grad=True)
    assert pairwise_distances(features.detach(), "cosine").tolist() == [[0.5, 0.0, 0.5]]
    for softness in (0.0, 0.1):
        distance = smallest_distance(features, softness, "cosine")
        assert distance.item() == 0
        distance.backward()
        assert features.grad.isfinite().all()


def test_objective_rewards_the_cosine_distance():
    responses, features = torch.tensor([[1.0, 3.0]]), torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    ones = torch.ones(1)
    objective = Objective(
        diversity=ones / 2, response_scale=ones, distance_scale=ones / 4, enough=None,
        metric="cosine",
    ).of(torch.tensor([0]))  # fmt: skip
    terms = objective(responses, features)
    assert terms["distance_min"].item() == pytest.approx(1)
    assert terms["diversity"].item() == pytest.approx(0.5 * 1 / 0.25)


def test_run_with_the_cosine_distance():
    """Opposite images of a linear unit's free directions are at most as far as angles allow."""
    setup = setup_of("layer=simple", "unit=8", "n=2", "objective.metric=cosine",
                     "objective.fraction=0.8", "objective.diversity=0.3")  # fmt: skip
    (found,) = visualize(setup, [0])
    flat = found.images.flatten(1).double()
    cosine = functional.cosine_similarity(flat[0], flat[1], dim=0).item()
    assert found.metrics["distance_min"] == pytest.approx(1 - cosine, rel=1e-5)
    rms = (flat[0] - flat[1]).square().mean().sqrt().item()
    assert found.metrics["distance_pixels_min"] == pytest.approx(rms, rel=1e-5)
    # At 0.8 of the best response both are acos(0.8) from the filter, on opposite sides of it.
    assert 1 - cosine == pytest.approx(1 - math.cos(2 * math.acos(0.8)), rel=0.03)


# -- the other units of the layer -----------------------------------------------------------------


class Small(nn.Module):
    """Two convolutions with a GELU and a ReLU; `odd` ones decide as they go: no graph tells."""

    def __init__(self, odd):
        super().__init__()
        torch.manual_seed(0)
        self.odd, self.first, self.second = odd, nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)

    def forward(self, x):
        y = functional.gelu(self.first(x))
        if self.odd and float(y.detach().sum()) == math.pi:
            y = y + 1
        return functional.relu(self.second(y))


def small(odd):
    return Small(odd)


class Mixed(nn.Module):
    """A vector of logits after global pooling."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(functional.relu(self.first(x)).mean((2, 3)))


def mixed():
    return Mixed()


def others(activations, row):
    """Features without the unit `row`, [image, channel - 1]."""
    return torch.cat([activations[:, :row], activations[:, row + 1 :]], dim=1)


def check_population(setup, activations):
    """Distances of features as those of all channels but the unit's own, for every unit.

    activations  images -> [image, channel], written out by hand
    """
    rows = torch.arange(len(setup.targets.units))
    x = 40 * torch.randn(len(rows), 3, *setup.image_shape)
    seen = respond(setup, x, rows)
    std = torch.tensor(setup.network.weights.std)[:, None, None]
    for row in rows.tolist():
        y = activations(x[row] / (255 * std))
        wanted = pairwise_distances(others(y, setup.targets.units[row])[None])
        assert torch.allclose(pairwise_distances(seen.features[row][None]), wanted, rtol=1e-4)
        wanted = pairwise_distances(others(y, setup.targets.units[row])[None], "cosine")
        found = pairwise_distances(seen.features[row][None], "cosine")
        assert torch.allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("odd", ["false", "true"])
@pytest.mark.parametrize("layer", ["first", "second"])
def test_population_on_both_ways(odd, layer):
    words = ["model=custom", "model.target=test_distances.small", f"model.arguments.odd={odd}"]
    setup = setup_of(*words, *COLORS, f"layer={layer}", f"objective.distance={layer}", "unit=1-4")
    assert setup.way == ("plain" if odd == "true" else "fast")
    network = small(odd == "true")

    def activations(z):
        y = functional.gelu(network.first(z))
        return (functional.relu(network.second(y)) if layer == "second" else y).flatten(1).detach()

    check_population(setup, activations)


def test_population_of_logits_and_tokens():
    words = ["model=custom", "model.target=test_distances.mixed", "size=12", *COLORS]
    setup = setup_of(*words, "layer=head", "objective.distance=head", "unit=all")
    network = mixed()
    check_population(setup, lambda z: network(z).detach())  # logits have no nonlinearity
    setup = setup_of("model=custom", "model.target=networks.transformer", "size=[24,40]", *COLORS,
                     "layer=mix", "objective.distance=mix", "token=3", "unit=0-2")  # fmt: skip
    seen = []
    setup.network.root.mix.register_forward_hook(lambda module, inputs, y: seen.append(y))

    def token(z):
        seen.clear()
        setup.network.root(z)
        return seen[0][:, 3].detach()

    check_population(setup, token)


def test_population_of_a_residual_block():
    words = ["model=resnet50", "model.weights=random", "layer=layer1.0", "unit=[0,7]"]
    setup = setup_of(*words, "objective.distance=layer1.0")
    assert setup.way == "fast"
    wanted = setup.channels

    def activations(z):
        return functional.relu(wanted(z)[0].flatten(1))

    check_population(setup, activations)


def test_layers_know_their_nonlinearity():
    vgg = open_model(torchvision_model("vgg19"))
    assert vgg.layer("conv1_1").nonlinearity == "ReLU"
    negative = vgg.layer("conv1_1").activations(torch.tensor([-1.0, 2.0]))
    assert negative.tolist() == [0, 2]
    assert vgg.layer("pool1").nonlinearity is None


def test_population_without_a_direction(tmp_path):
    """What lies along the direction is no part of the distance."""
    vector = torch.zeros(72)
    vector[[3, 5]] = torch.tensor([3.0, 4.0])
    np.save(tmp_path / "d.npy", vector.numpy())
    setup = setup_of("layer=complex", f"objective.direction={tmp_path / 'd.npy'}", "unit=0",
                     "objective.distance=complex")  # fmt: skip
    x = 40 * torch.randn(1, 2, *setup.image_shape)
    features = respond(setup, x, torch.tensor([0])).features[0]
    assert torch.allclose(features @ (vector / 5), torch.zeros(2), atol=1e-3 * features.abs().max())
    y = setup.channels(x[0] / 255)[0].flatten(1)
    apart = (y[0] - y[1]).double()
    along = (apart @ (vector.double() / 5)) ** 2
    rms = ((apart.square().sum() - along) / 71).sqrt().item()
    assert pairwise_distances(features[None]).item() == pytest.approx(rms, rel=1e-4)


@pytest.mark.parametrize(
    "words",
    [["objective.distance=complex"], ["objective.distance=complex", "objective.metric=cosine"]],
)
def test_population_in_a_batch_and_alone(words):
    setup = setup_of("layer=complex", "unit=0-4", *FEW, *words)
    together = visualize(setup, range(5))
    for row in (0, 3):
        (alone,) = visualize(setup, [row])
        assert torch.allclose(alone.responses, together[row].responses, rtol=1e-4)
        for key in ("distance_min", "distance_mean"):
            assert alone.metrics[key] == pytest.approx(together[row].metrics[key], rel=1e-4)


def test_population_with_natural_scales(tmp_path):
    """Channels are scaled before the unit's own is left out."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (256, 256, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "photo.png")
    setup = setup_of("layer=complex", "unit=[2,9]", "objective.distance=complex",
                     "objective.scale=natural", f"objective.photographs={tmp_path}")  # fmt: skip
    gain = setup.channel_gain
    assert gain is not None
    check_population(setup, lambda z: setup.channels(z)[0].flatten(1) * gain)


def test_images_spread_in_the_population():
    """Phases of a complex cell's pattern are the same to all other complex cells: images that are
    far from one another in pixels are not so in the population."""
    words = ["layer=complex", "unit=3", "n=4", "objective.metric=cosine", "objective.fraction=0.8",
             "objective.diversity=0.03"]  # fmt: skip
    population = setup_of(*words, "objective.distance=complex")
    (found,), (phases,) = visualize(population, [0]), visualize(setup_of(*words), [0])
    with torch.no_grad():
        features = respond(population, phases.images[None], torch.tensor([0])).features
    in_population = pairwise_distances(features, "cosine").min().item()
    assert found.metrics["distance_min"] > 5 * in_population
    assert found.metrics["response_min"] > 0.75 * found.metrics["response_best"]


# -- settings, records, refusals ------------------------------------------------------------------


def test_hash_of_plain_runs_stays():
    """Computed before the settings came that are left out while they have their defaults."""
    words = ("layer=complex", "unit=3", "optimizer.learning_rate=2.0", "optimizer.momentum=0.8",
             "optimizer.steps=80", "optimizer.search_steps=50", "optimizer.softness=0.1",
             "optimizer.emphasis=8.0")  # fmt: skip
    # The sum of the weights' last digits may differ between processors.
    plain = {**science(setup_of(*words)), "weights": ""}
    now = plain.pop("search"), plain.pop("ascent")
    assert now == ("halving", "accelerated")  # the same settings led to other images before
    plain = sha256_of(plain)
    assert plain == "5a157e71958e7521b22f2faf1fe051373b5b3e1377e32987184d80df7d8a3222"
    changed = sha256_of({**science(setup_of(*words, "objective.metric=cosine")), "weights": ""})
    assert changed != plain


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["objective.distance=shift"], "does not lie before layer=complex.*target layer itself"),
        (["objective.metric=euclid"], "objective.metric='euclid'.*rms or cosine"),
    ],
)
def test_distances_that_are_refused(words, said):
    with pytest.raises(InputError, match=said):
        setup_of("layer=complex", *words)


def single():
    return nn.Conv2d(3, 1, 3)


def test_population_of_a_single_unit_is_refused():
    words = "model=custom", "model.target=test_distances.single", *COLORS, "layer=output"
    with pytest.raises(InputError, match="has a single one"):
        setup_of(*words, "objective.distance=output")


def run(capsys, *words):
    assert main(["run", "layer=complex", "unit=[1,2]", "device=cpu", "n=3", *QUICK, *words]) == 0
    return Path(capsys.readouterr().out.strip())


def test_metric_is_recorded_and_compared(current_folder, capsys):
    path = run(capsys, "objective.metric=cosine", "analysis=[diversity]", "root=a")
    record = json.loads((path / "run.json").read_text())
    assert (record["metric"], record["distance"]) == ("cosine", "pixels")
    for unit in json.loads((path / "metrics.json").read_text())["units"]:
        assert 0 < unit["distance_min"] <= unit["distance_mean"] <= 2
        assert unit["distance_pixels_min"] > 2
    other = run(capsys, "analysis=[diversity]", "root=b")
    assert main(["compare", str(path), str(other)]) == 2
    assert "metric is cosine in A and rms in B" in capsys.readouterr().err
    (other / "run.json").write_text(
        json.dumps({**json.loads((other / "run.json").read_text()), "metric": "cosine"})
    )
    assert main(["compare", str(path), str(other)]) == 2
    assert 'metric is "cosine", and "rms" in its config' in capsys.readouterr().err


def test_runs_before_the_metric_are_understood(current_folder, capsys):
    path = run(capsys, "analysis=[diversity]", "root=a")
    other = run(capsys, "analysis=[diversity]", "root=b", "seed=1")
    record = json.loads((path / "run.json").read_text())
    del record["metric"], record["config"]["objective"]["metric"]
    (path / "run.json").write_text(json.dumps(record))
    (path / "config.yaml").write_text(json.dumps(record["config"]))
    assert main(["compare", str(path), str(other), "resamples=100", "network=skip"]) == 0
    assert main(["analyze", str(path), "analysis=[dimension]"]) == 0
    assert main([*shlex.split(record["rerun"])[1:], "again=false"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
