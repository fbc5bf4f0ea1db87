"""The benchmark measures what it says: operations, exponents, the published protocol."""

import json
import sys
from pathlib import Path

import pytest
import torch

from diversevis.config.compose import compose_config, experiment_of
from diversevis.method.images import noise, precondition, render, to_network_input
from diversevis.method.objective import Objective
from diversevis.method.optimize.descend import steps_of_rivals
from diversevis.method.optimize.loop import Problem
from diversevis.method.setup import prepare
from diversevis.method.visualize import visualize

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import benchmark
import check_gpu
import gpu_options
from bench import operations_per_image, whole_network
from benchmark import slope
from peers import Peer, Work, run_peer
from published import published

RANDOM = ["device=cpu", "model=vgg19", "model.weights=random", "unit=3"]


def test_operations_are_those_of_unpadded_convolutions():
    """By hand: multiplications and additions, forward and backward, at every position; without
    the target layer."""
    expected = 12**2 * 64 * 27 + 10**2 * 64 * 64 * 9 + 3**2 * 128 * 64 * 9
    found = operations_per_image("vgg19", "conv2_2", ["model.weights=random"])
    assert found == 2 * 2 * expected


def test_slope_is_the_exponent_of_a_power():
    assert slope([1, 10, 100], [5.0, 5 * 10**1.3, 5 * 10**2.6]) == pytest.approx(1.3)


@pytest.mark.slow
def test_published_protocol_equals_our_paper_optimizer():
    """Two routes to the published protocol: plainly written, and ours."""
    words = [*RANDOM, "layer=conv2_1", "optimizer=paper", "optimizer.steps=40"]
    setup = prepare(experiment_of(compose_config(words)))
    raw = noise((6, 3, *setup.field.size), torch.Generator().manual_seed(1))
    scales = {"response_scale": 2.0, "distance_scale": 30.0, "diversity": 0.3}
    std = setup.network.weights.std
    plain = published(whole_network(setup), raw, 3, norm=setup.norm, std=std, steps=40, **scales)
    objective = Objective(diversity=torch.tensor([0.3]), response_scale=torch.tensor([2.0]),
                          distance_scale=torch.tensor([30.0]), enough=None)  # fmt: skip

    def evaluate(x, rows, *, emphasis, softness):
        z = to_network_input(x.flatten(0, 1), std)
        return objective(setup.readout(z, rows)[0], x.flatten(2), emphasis, softness)

    problem = Problem(
        evaluate=evaluate,
        render=lambda raw: render(raw, setup.norm),
        precondition=lambda gradient: precondition(gradient, "sqrt"),
    )
    ours = setup.experiment.optimizer(problem, raw[None])
    best = ours.trace["loss"][:, 0].argmin()
    assert plain.steps == ours.steps[0] == 40
    assert plain.response == pytest.approx(2 * ours.trace["response"][best, 0].item(), rel=2e-3)
    assert plain.distance == pytest.approx(ours.trace["distance_min"][best, 0].item(), rel=2e-3)


def test_missing_and_failing_peers_are_reported():
    features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    mean = torch.full((3,), 0.5)
    work = Work(features, unit=1, mean=mean, std=mean, response=lambda x: x.mean((1, 2, 3)))
    absent = Peer("no-such-package", lambda *args: None, 24, 1.0, "")
    assert run_peer(absent, work, 24).note == "not installed"
    broken = Peer("numpy", lambda *args: 1 / 0, 24, 1.0, "")
    assert run_peer(broken, work, 24).note.startswith("failed: ZeroDivisionError")


@pytest.mark.slow
def test_default_optimizer_beats_the_papers(real_weights):
    """Mean response and smallest distance over units of two layers, same noise and calibration."""
    for model, layer in (("vgg19", "conv1_2"), ("resnet50", "layer1.0")):
        words = ["device=cpu", f"model={model}", f"layer={layer}", "unit=0-11"]
        found = {
            name: visualize(prepare(experiment_of(compose_config([*words, *more]))), range(12))
            for name, more in (("sphere", []), ("paper", ["optimizer=paper"]))
        }
        for key in ("response_mean", "distance_min"):
            ours, theirs = (
                torch.tensor([one.metrics[key] for one in found[name]])
                for name in ("sphere", "paper")
            )
            assert (ours / theirs).median().item() >= 1
            assert ours.mean() >= theirs.mean()
        steps = {name: sum(one.metrics["steps"] for one in found[name]) for name in found}
        assert steps["sphere"] < steps["paper"] / 2


@pytest.mark.slow
def test_benchmark_compares_the_options(tmp_path):
    """On the CPU, with small sizes: the code that measures a GPU."""
    words = ["--device", "cpu", "--parts", "options", "--quick", "--repeats", "1"]
    benchmark.main([*words, "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    rows = [row for row in json.loads(file.read_text())["rows"] if row["part"] == "options"]
    known = [
        option.name
        for option in gpu_options.OPTIONS
        if option.precision == "float32" and option.algorithms == "same"
    ]
    assert [row["what"].split(": ")[1] for row in rows] == known
    for row in rows:
        assert row["median"] > 0
        assert row["share_of_ceiling"] > 0
        assert row["checkpoint"]["bytes"] > 0
        assert row["warnings"] == []
    assert rows[0]["image_steps"] == 2 * (steps_of_rivals(2, 6) + 6 * 6)
    assert rows[0]["response_mean"] > rows[1]["response_mean"] > 0  # of fewer steps


def test_options_without_time_are_named(tmp_path):
    words = ["--device", "cpu", "--parts", "options", "--quick", "--repeats", "1", "--budget", "0"]
    benchmark.main([*words, "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    rows = [row for row in json.loads(file.read_text())["rows"] if row["part"] == "options"]
    assert [row["left_out"] for row in rows] == ["no time left"] * 2


@pytest.mark.slow
def test_gpu_check_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    assert check_gpu.main(["--device", "cpu", "--quick", "--out", "gpu.json"]) == 0
    results = json.loads(Path("gpu.json").read_text())["results"]
    assert len(results) == 3 + len(check_gpu.PRIORS)
    assert results["repeated"]["without_graphs"] == 0
    assert results["killed, and two at a time"]["continued"]


def test_failed_check_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(check_gpu, "compare", lambda *arguments: 1 / 0)
    words = ["--device", "cpu", "--quick", "--budget", "-1", "--out", str(tmp_path / "gpu.json")]
    report = check_gpu.Report(tmp_path / "gpu.json", {}, 1.0)
    report.add("unit", check_gpu.compare)
    assert not report.agrees
    assert "ZeroDivisionError" in report.content["results"]["unit"]["failed"]
    assert check_gpu.main(words) == 0  # nothing was computed, and that is said
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert {row["left_out"] for row in results.values()} == {"no time left"}
