"""Training of priors: the same result after a kill, what they are judged by, what is refused."""

import json
import math
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COMMAND
from PIL import Image
from safetensors.torch import load_file

from diversevis.cli.main import main
from diversevis.config.bind import bind
from diversevis.config.compose import compose_training
from diversevis.config.conf_files import config_folder
from diversevis.errors import InputError
from diversevis.priors.model_file import read_prior
from diversevis.priors.training import (
    Photographs,
    TrainingSettings,
    gaussian_cost,
    generator_of,
    learning_rate,
    open_photographs,
)

SMALL = {
    "patches": ["prior.components=4", "prior.factors=2", "prior.batch=256", "prior.steps=40"],
    "mcgsm": ["prior.components=2", "prior.scales=2", "prior.features=4", "prior.reach=2",
              "prior.crop=8", "prior.batch=16", "prior.steps=30"],
    "denoiser": ["prior.channels=8", "prior.layers=3", "prior.crop=8", "prior.batch=16",
                 "prior.steps=30"],
    "pixelcnn": ["prior.channels=4", "prior.blocks=1", "prior.mixtures=2", "prior.stages=2",
                 "prior.crop=8", "prior.batch=8", "prior.steps=20"],
}  # fmt: skip
PHOTOGRAPHS = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Blotches with edges, whose contrast varies from place to place: unlike a Gaussian."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(PHOTOGRAPHS):
        random = np.random.default_rng(index)
        coarse = random.normal(size=(20, 20, 3)).repeat(8, 0).repeat(8, 1)
        fine = random.normal(size=(160, 160, 3)) * random.choice([0.02, 0.5], (20, 20, 1)).repeat(
            8, 0
        ).repeat(8, 1)
        pixels = 127 + 40 * (coarse + fine)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


def words(kind, photos, root, *more):
    return ["train-prior", f"prior={kind}", f"data={photos}", f"root={root}", "side=160",
            "device=cpu", *SMALL[kind], *more]  # fmt: skip


def settings_of(photos, *more):
    config = compose_training([f"data={photos}", "side=160", *more])
    return bind(TrainingSettings, config, "")


@pytest.mark.parametrize("kind", SMALL)
def test_training_makes_a_file_that_a_run_can_use(kind, photos, tmp_path, capsys):
    assert main(words(kind, photos, tmp_path)) == 0
    said = capsys.readouterr()
    path = tmp_path / kind / "v001" / "prior.safetensors"
    assert said.out.strip() == str(path)
    assert "bits per dimension" in said.err
    trained = read_prior(path, "prior.file")
    assert trained.kind == kind
    record = json.loads((path.parent / "training.json").read_text())
    assert trained.record["results"] == record["results"]
    assert record["photographs"]["trained"] + record["photographs"]["judged"] == PHOTOGRAPHS
    assert 0 < record["results"]["bits_per_dimension"] < (100 if kind == "denoiser" else 12)
    assert {file.name for file in path.parent.iterdir()} == {
        "prior.safetensors", "training.json", "training.csv",
    }  # fmt: skip
    run = ["run", "layer=complex", "n=2", "optimizer.steps=4", "optimizer.search_steps=4",
           f"root={tmp_path / 'runs'}", f"prior={kind}", f"prior.file={path}"]  # fmt: skip
    assert main(run) == 0
    (metrics,) = (tmp_path / "runs").rglob("metrics.json")
    (unit,) = json.loads(metrics.read_text())["units"]
    assert math.isfinite(unit["prior_cost_images"])
    assert (metrics.parent / "prior.png").is_file()


def test_every_config_of_training_makes_settings(photos):
    for path in Path(config_folder(), "training").glob("*.yaml"):
        settings = settings_of(photos, f"training@prior={path.stem}")
        assert settings.prior.kind == path.stem
        assert path.read_text().startswith("#")


def test_same_training_is_done_once(photos, tmp_path, capsys):
    command = words("patches", photos, tmp_path)
    assert [main(command), main(command), main([*command, "again=true"])] == [0, 0, 0]
    lines = capsys.readouterr().out.split()
    versions = [line.split("/")[-2] for line in lines]
    assert versions == ["v001", "v001", "v002"]
    first, second = (load_file(tmp_path / f"patches/{v}/prior.safetensors") for v in versions[1:])
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["patches", "pixelcnn"])
def test_killed_training_continues_to_the_bit(kind, number, photos, tmp_path):
    steps = "prior.steps=400" if kind == "patches" else "prior.steps=120"
    whole, parts = (words(kind, photos, tmp_path / name, steps) for name in ("whole", "parts"))
    assert main(whole) == 0
    process = subprocess.Popen([*COMMAND, *parts, "checkpoint=0"], stderr=subprocess.PIPE)
    state = tmp_path / "parts" / kind / "v001" / "state.safetensors"
    while not state.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    assert process.returncode in (-9, 130, 143)
    assert state.is_file()
    assert main(parts) == 0
    found, expected = (
        load_file(tmp_path / name / kind / "v001" / "prior.safetensors")
        for name in ("parts", "whole")
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not state.exists()


def test_photographs_are_on_one_side(photos):
    """Split by photograph: none that is judged was trained on."""
    settings = settings_of(photos, "validation=0.4")
    trained, judged, _ = open_photographs(settings)
    assert (len(trained.pixels), len(judged.pixels)) == (4, 2)
    bytes_of = [{pixels.tobytes() for pixels in part.pixels} for part in (trained, judged)]
    assert not bytes_of[0] & bytes_of[1]
    other = open_photographs(settings_of(photos, "validation=0.4", "seed=3"))[1]
    assert {pixels.tobytes() for pixels in other.pixels} != bytes_of[1]


def test_crops_are_of_the_photographs():
    """Around the mean, within half a level, some of them as in a mirror."""
    pixels = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3) % 200
    whole = Photographs(pixels=[pixels], mean=(0.4, 0.4, 0.4), whole=True)
    filled = Photographs(pixels=[pixels], mean=(0.4, 0.4, 0.4), whole=False)
    x = whole.crops(50, 4, torch.Generator().manual_seed(0)) + 102
    windows = torch.from_numpy(pixels).permute(2, 0, 1).unfold(1, 4, 1).unfold(2, 4, 1)
    windows = windows.permute(1, 2, 0, 3, 4).flatten(0, 1).float()
    known = torch.cat([windows, windows.flip(3)])
    places = [(known == crop).flatten(1).all(1).nonzero()[0].item() for crop in x.round()]
    assert min(places) < len(windows) <= max(places)
    y = filled.crops(50, 4, torch.Generator().manual_seed(0)) + 102
    assert (y - x).abs().max() <= 0.5 + 1e-4
    assert (y - x).std().item() == pytest.approx(1 / math.sqrt(12), rel=0.05)


def test_gaussian_is_that_of_the_crops():
    """Of photographs that are a Gaussian texture, its entropy."""
    random = np.random.default_rng(0)
    pixels = [random.normal(128, 20, (200, 200, 1)).round().astype(np.uint8) for _ in range(4)]
    photographs = Photographs(pixels=pixels, mean=(0.5,), whole=False)
    cost = gaussian_cost(photographs, 4, torch.Generator().manual_seed(0))
    crops = photographs.crops(4000, 4, torch.Generator().manual_seed(1))
    expected = math.log(20 * math.sqrt(2 * math.pi * math.e))
    assert cost(crops).mean().item() == pytest.approx(expected, rel=0.01)


def test_learning_rate_rises_and_falls(photos):
    settings = settings_of(photos, "prior.steps=1000", "prior.learning_rate=0.5")
    rates = [learning_rate(settings, step) for step in (1, 10, 501, 1000)]
    assert rates == pytest.approx([0.05, 0.5, 0.25, 0.0], abs=1e-3)


def test_crops_depend_on_the_step_alone(photos):
    settings = settings_of(photos)
    trained, _, _ = open_photographs(settings)
    one, other = (trained.crops(8, 8, generator_of(settings, 7)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, trained.crops(8, 8, generator_of(settings, 8)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["data=/nowhere"], "data=/nowhere is not a folder"),
        (["validation=1"], "validation=1"),
        (["prior.crop=9"], "prior.crop=9"),
        (["prior.steps=0"], "prior.steps=0"),
        (["prior.learning_rate=inf"], "prior.learning_rate=inf"),
        (["prior=denoiser", "prior.layers=1"], "prior.layers=1"),
        (["prior=denoiser", "prior.channels=4"], "prior.channels=4"),
        (["colors=2"], "colors=2"),
        (["prior=pixelcnn", "prior.crop=64"], "prior.crop=64"),
        (["side=4"], "side=4"),
    ],
)
def test_what_cannot_be_trained_is_refused(more, message, photos):
    with pytest.raises(InputError, match=message):
        open_photographs(settings_of(photos, *[word.replace("prior=", "training@prior=")
                                               for word in more]))  # fmt: skip


def test_diverging_training_is_told_and_begun_anew(photos, tmp_path, capsys):
    command = words("patches", photos, tmp_path, "prior.learning_rate=1e30", "checkpoint=0")
    for _ in range(2):
        assert main(command) == 2
        assert "diverged at step" in capsys.readouterr().err
    folder = tmp_path / "patches" / "v001"
    assert json.loads((folder / "training.json").read_text())["status"] == "failed"
    assert not (folder / "state.safetensors").exists()


def test_root_that_cannot_be_written(photos, capsys):
    assert main(words("patches", photos, "/proc/nowhere")) == 2
    assert "root=/proc/nowhere" in capsys.readouterr().err


def test_a_single_photograph_is_refused(photos, tmp_path):
    (tmp_path / "one.png").write_bytes((photos / "0.png").read_bytes())
    (tmp_path / "copy.png").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(InputError, match="holds a single photograph"):
        open_photographs(settings_of(tmp_path))


def test_unknown_prior_is_refused(photos, capsys):
    assert main(["train-prior", "prior=tv", f"data={photos}"]) == 2
    assert "patches" in capsys.readouterr().err
    assert main(["train-prior"]) == 2
    assert "data" in capsys.readouterr().err
