"""A run's network must still give the responses to the run's images that were recorded."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from torch import nn

from diversevis.cli.main import main
from diversevis.errors import InputError
from diversevis.experiment.check import check_results
from diversevis.experiment.results import UnitResult
from diversevis.method.answers import Answers, Misfit, in_words, largest_change
from diversevis.method.result import Visualization
from diversevis.models.energy import EnergyNetwork
from diversevis.runs.folder import RunFolder

FAST = ["run", "device=cpu", "layer=simple", "n=2", "images=tensor", "analysis=diversity", *QUICK]


@pytest.fixture
def make(current_folder, capsys):
    """Makes a run, and returns its folder."""

    def run(*words):
        assert main([*FAST, *words]) == 0
        return Path(capsys.readouterr().out.split()[-1])

    return run


def change_network(monkeypatch, factor):
    """The analytic network from now on: as with another version of a library."""
    original = EnergyNetwork.forward
    monkeypatch.setattr(
        EnergyNetwork, "forward", lambda self, x: tuple(factor * y for y in original(self, x))
    )
    initialize = EnergyNetwork.__init__

    def scaled(self):
        initialize(self)
        self.simple.weight.data *= factor

    monkeypatch.setattr(EnergyNetwork, "__init__", scaled)
    monkeypatch.setattr(EnergyNetwork, "forward", original)
    monkeypatch.setattr("diversevis.models.weights.sha256_of_tensors", lambda tensors: "same")


def change_responses(folder, row=0, factor=2.0):
    """Recorded responses that the network does not give."""
    arrays = RunFolder(folder).read_images()
    responses = arrays["responses"].clone()
    responses[row] *= factor
    RunFolder(folder).write_images(arrays["images"].clone(), responses, arrays["units"].clone())
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("response_mean", "response_min", "response_max"):
        metrics["units"][row][name] *= factor
    (folder / "metrics.json").write_text(json.dumps(metrics))


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_analyze_refuses_other_responses(make, capsys):
    folder = make("unit=3-5")
    change_responses(folder, row=2)
    before = files_of(folder)
    assert main(["analyze", str(folder), "analysis=dimension", "device=cpu"]) == 2
    said = capsys.readouterr().err
    assert "differ by up to 50 % of a unit's response" in said
    assert files_of(folder) == before


def test_analyze_measures_difference_of_weights(make, capsys, monkeypatch):
    monkeypatch.setattr("diversevis.models.weights.sha256_of_tensors", lambda tensors: "before")
    folder = make("unit=3")
    change_network(monkeypatch, 1.25)
    assert main(["analyze", str(folder), "analysis=dimension", "device=cpu"]) == 2
    said = capsys.readouterr().err
    assert "other weights" in said
    assert "differ by up to 20 % of a unit's response" in said


def test_same_responses_of_other_weights(make, capsys):
    folder = make("unit=3")
    weights = RunFolder(folder).read_record()["weights"]
    RunFolder(folder).update_record(weights=weights | {"sha256": "0" * 64})
    assert main(["analyze", str(folder), "analysis=dimension", "device=cpu"]) == 2
    assert "are the same to 0.1% of a unit's response" in capsys.readouterr().err


def test_images_that_do_not_fit(make, capsys):
    folder = make("unit=3")
    arrays = RunFolder(folder).read_images()
    smaller = arrays["images"][..., :20].clone()
    record = RunFolder(folder).read_record()
    smaller *= record["norm"] / smaller.flatten(2).norm(dim=2)[..., None, None, None]
    field = record["receptive_field"] | {"size": [21, 20]}
    RunFolder(folder).update_record(receptive_field=field)
    RunFolder(folder).write_images(smaller, arrays["responses"].clone(), arrays["units"].clone())
    assert main(["analyze", str(folder), "analysis=dimension", "device=cpu"]) == 2
    assert "3 x 21 x 20" in capsys.readouterr().err


def test_continued_run_checks_its_network(make, capsys, monkeypatch):
    folder = make("unit=3")
    monkeypatch.setattr("diversevis.models.weights.sha256_of_tensors", lambda tensors: "same")
    words = [*FAST, "unit=3", "root=same", "analysis=diversity"]
    assert main(words) == 0
    change_network(monkeypatch, 1.25)
    folder = Path("same").joinpath(*folder.parts[-4:])
    before = files_of(folder)
    assert main([*words[:-1], "analysis=[diversity,dimension]"]) == 2
    said = capsys.readouterr().err
    assert "differ by up to 20 % of a unit's response" in said
    assert "again=true" in said
    assert files_of(folder) == before
    assert main(words) == 0  # nothing is missing


def test_changed_work_fails_alone(make, capsys):
    folders = [make(f"unit={unit}") for unit in (3, 4)]
    change_responses(folders[0])
    words = [*FAST[1:], "unit=3-4", "units_per_job=1", "analysis=[diversity,dimension]"]
    assert main(["run", "-m", *words]) == 1
    assert "1 failed" in capsys.readouterr().err
    assert [("dimension" in RunFolder(folder).read_measures()) for folder in folders] == [0, 1]
    assert "% of a unit's response" in next(Path("outputs").rglob("failures/*.json")).read_text()
    assert main(["status", "outputs", "--failed"]) == 0
    assert "gave other responses than energy does now" in capsys.readouterr().out


def test_results_of_earlier_processes_are_checked(make, monkeypatch):
    from diversevis.config.bind import bind
    from diversevis.method.settings import Experiment
    from diversevis.method.setup import prepare

    folder = make("unit=3-4")
    setup = prepare(bind(Experiment, RunFolder(folder).read_record()["config"], ""))
    arrays = RunFolder(folder).read_images()
    results = [
        UnitResult(Visualization(unit=unit, images=x, responses=y, metrics={}, trace={},
                                 interrupted=False), [])
        for unit, x, y in zip((3, 4), arrays["images"], arrays["responses"], strict=True)
    ]  # fmt: skip
    check_results(setup, results)
    wrong = replace(results[1].visualization, responses=2 * arrays["responses"][1])
    with pytest.raises(InputError, match="differ by up to 50 %"):
        check_results(setup, [results[0], UnitResult(wrong, [])])


def make_pair(make):
    return make("unit=3-5", "root=a"), make("unit=3-5", "seed=1", "root=b")


def test_compare_refuses_other_responses(make, capsys):
    _, b = make_pair(make)
    assert main(["compare", "a", "b", "resamples=100"]) == 0
    assert "not checked" not in capsys.readouterr().err
    change_responses(b, factor=1.25)
    assert main(["compare", "a", "b", "resamples=100"]) == 2
    said = capsys.readouterr().err
    assert str(b) in said
    assert "differ by up to 20 % of a unit's response" in said
    assert main(["compare", "a", "b", "resamples=100", "network=skip"]) == 0
    assert main(["compare", "a", "b", "network=no"]) == 2


def test_compare_says_what_is_unchecked(make, capsys):
    a, _ = make_pair(make)
    record = RunFolder(a).read_record()
    model = {"kind": "custom", "target": "evil.build", "arguments": {}}
    RunFolder(a).update_record(config=record["config"] | {"model": model})
    assert main(["compare", "a", "b", "resamples=100"]) == 0
    said = capsys.readouterr().err
    assert f"{a}: not checked against the network that made it: the record that names" in said
    for changes, reason in (
        ({"kind": "memory"}, "a module in a Python program"),
        ({"kind": "torchvision", "name": "vgg19", "weights": "imagenet"}, "not on this machine"),
    ):
        other = RunFolder(a).read_record()["config"] | {"model": changes}
        RunFolder(a).update_record(config=other)
        os.environ.pop("DIVERSEVIS_WEIGHTS", None)
        assert main(["compare", "a", "b", "resamples=100"]) == 0
        assert reason in capsys.readouterr().err


def test_compare_opens_trusted_code(make, capsys):
    Path("net.py").write_text("from diversevis.models.energy import EnergyNetwork as build\n")
    custom = ["model=custom", "model.target=net.build", "model.mean=[0.5,0.5,0.5]",
              "model.std=[1,1,1]", "unit=3-5"]  # fmt: skip
    a, b = make(*custom, "root=a"), make("unit=3-5", "root=b")
    assert main(["compare", str(a), str(b), "resamples=100"]) == 0
    assert "not checked" not in capsys.readouterr().err


# -- the measure of the difference ---------------------------------------------------------------


def answers(respond, units=4, zero=None, batch=64):
    return Answers(
        respond=respond, units=range(units), zero=torch.zeros(units) if zero is None else zero,
        shape=(1, 2, 2), device=torch.device("cpu"), batch=batch,
    )  # fmt: skip


def mean_of(x, rows):
    return x.mean((2, 3, 4)) * (rows[:, None] + 1)


@pytest.fixture
def images():
    return 1 + torch.rand(4, 3, 1, 2, 2)


def recorded(images):
    return mean_of(images, torch.arange(len(images)))


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_difference_is_relative_to_unit(images, batch):
    asked, y = answers(mean_of, batch=batch), recorded(images)
    assert largest_change(asked, images, y, range(4)) == 0
    y[1] *= 1.25
    assert largest_change(asked, images, y, range(4)) == pytest.approx(0.2)
    assert largest_change(asked, images[1:2], y[1:2], [1]) == pytest.approx(0.2)


def test_rounding_is_no_difference(images):
    assert largest_change(answers(mean_of), images, recorded(images) * (1 + 5e-4), range(4)) == 0
    change = largest_change(answers(mean_of), images, recorded(images) * (1 + 2e-3), range(4))
    assert change == pytest.approx(2e-3, rel=0.01)


def test_missing_responses_are_left_out(images):
    y = recorded(images)
    y[2] = math.nan
    assert largest_change(answers(mean_of), images, y, range(4)) == 0
    assert largest_change(answers(mean_of), images[2:3], y[2:3], [2]) is None
    now_nan = answers(lambda x, rows: mean_of(x, rows) * math.nan)
    assert largest_change(now_nan, images, y, range(4)) == math.inf
    assert in_words(math.inf) == "its responses to the run's own images are no numbers now"


def test_every_unit_is_asked(images):
    """As long as there are fewer units than images to ask about; and no more images than these."""
    many = images.repeat(25, 2, 1, 1, 1)
    asked = []

    def respond(x, rows):
        asked.extend(rows.repeat_interleave(x.shape[1]).tolist())
        return mean_of(x, rows)

    largest_change(answers(respond, units=100), many, recorded(many), range(100), most=250)
    assert set(asked) == set(range(100))
    assert len(asked) == 200
    asked.clear()
    largest_change(answers(respond, units=100), many, recorded(many), range(100), most=10)
    assert len(asked) == 10
    assert {0, 99} <= set(asked)


def test_units_and_images_must_fit(images):
    with pytest.raises(Misfit, match="no unit 9"):
        largest_change(answers(mean_of), images, recorded(images), [0, 1, 2, 9])
    with pytest.raises(Misfit, match="1 x 2 x 1, and it takes 1 x 2 x 2"):
        largest_change(answers(mean_of), images[..., :1], recorded(images), range(4))


def test_optimum_of_mse_is_no_scale(images):
    """Its value is 0, so that the rounding of a sum would be a large part of it."""
    zero, y = -torch.ones(4), torch.full((4, 3), -1e-6)
    asked = answers(lambda x, rows: torch.full(x.shape[:2], -3e-6), zero=zero)
    assert largest_change(asked, images, y, range(4)) == 0


def test_sixteen_bits_are_rounded(images):
    layer = nn.Conv2d(1, 1, 2)

    def respond(x, rows):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x.flatten(0, 1)).flatten().reshape(x.shape[:2]).float()

    y = respond(images, None).detach()
    assert largest_change(answers(respond), images, 1.01 * y, range(4)) == 0
    assert largest_change(answers(respond), images, 1.1 * y, range(4)) > 0.05


def test_compare_needs_no_hydra(make):
    make_pair(make)
    from test_house import loaded_after

    code = (
        "from diversevis.cli.main import main; assert main(['compare', 'a', 'b', 'resamples=100'])"
        " == 0"
    )
    assert loaded_after(code, "hydra") == []
