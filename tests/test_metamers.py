"""Metamers: images to which a layer answers as to a photograph. docs/method.md, section 11."""

import dataclasses
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import diversevis
from diversevis.cli.main import main
from diversevis.config.compose import compose_config, experiment_of
from diversevis.errors import InputError
from diversevis.method.objective import pairwise_distances
from diversevis.method.response import respond
from diversevis.method.setup import prepare
from diversevis.method.visualize import visualize
from diversevis.models.energy import gabor_pairs
from diversevis.pictures.figure import content_of
from diversevis.runs.folder import RunFolder
from diversevis.runs.identity import science
from diversevis.runs.provenance import sha256_of

STEPS = 20


@pytest.fixture
def photos(tmp_path):
    """Two photographs of coarse noise, 40 x 50 pixels, shown in their own size (`SIDE`)."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        pixels = generator.integers(0, 256, (20, 25, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((50, 40)).save(folder / name)
    return folder


SIDE = "objective.side=40"


def setup_of(reference, *overrides):
    words = ["device=cpu", "objective=metamers", f"objective.reference={reference}", SIDE]
    return prepare(experiment_of(compose_config([*words, *overrides])))


def gabor_photo(folder, pair, share=0.9):
    """A photograph [21, 21] that is a Gabor for `share` of its norm, and noise besides."""
    gabor = gabor_pairs()[2 * pair].double()
    noise = torch.randn(gabor.shape, dtype=torch.float64)
    noise = noise - gabor * (gabor * noise).sum()
    x = share * gabor + math.sqrt(1 - share**2) * noise / noise.norm()
    pixels = 127.5 + x * (126 / x.abs().max())
    array = pixels.round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(array).save(folder / "gabor.png")
    return folder / "gabor.png"


# -- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2])
def test_metamers_of_a_linear_unit(tmp_path, n):
    """The part of the photograph that the unit sees is fixed; what is left of the norm is free: it
    points where it is furthest from the photograph's and from one another (a regular simplex)."""
    setup = setup_of(gabor_photo(tmp_path, 30), "layer=simple", "unit=60", f"n={n}",
                     "objective.side=21")  # fmt: skip
    reference = setup.targets.references[0].double()
    unit = gabor_pairs()[60].double()
    seen = (reference * unit).sum().abs().item()
    rho = setup.norm
    assert seen == pytest.approx(0.9 * rho, rel=0.05)
    (found,) = visualize(setup, [0])
    assert found.metrics["error_max"] < 0.05
    assert found.metrics["error_over"] == 0
    simplex = math.sqrt(2 * (n + 1) / n)  # the photograph is among the images
    pixels = math.sqrt(reference.numel())
    exact, tolerant = (
        simplex * math.sqrt(rho**2 - ((1 - error) * seen) ** 2) / pixels for error in (0, 0.05)
    )
    away = found.metrics["distance_to_reference_min"]
    smallest = away if n == 1 else min(away, found.metrics["distance_min"])
    assert 0.98 * exact < smallest < 1.01 * tolerant


def test_opposite_image_is_a_metamer_of_energy(tmp_path):
    """All phases have one energy: the furthest image is the photograph's negative."""
    photo = gabor_photo(tmp_path, 30)
    setup = setup_of(photo, "layer=complex", "unit=30", "n=1", "objective.side=21",
                     "objective.start=null")  # fmt: skip
    x = -setup.targets.references[:, None]
    assert respond(setup, x, torch.tensor([0])).responses.abs().item() < 1e-5
    (found,) = visualize(setup, [0])
    assert found.metrics["error_max"] < 0.05
    assert found.metrics["distance_to_reference_min"] > 0.95 * 64  # twice the contrast


def test_nothing_is_free_where_nothing_is_lost(photos):
    """64 filters of 27 pixels determine the image."""
    setup = setup_of(
        photos / "a.png", "model=vgg19", "model.weights=random", "layer=conv1_1", "n=2"
    )
    (found,) = visualize(setup, [0])
    assert found.metrics["error_max"] < 0.05
    assert found.metrics["distance_to_reference_mean"] < 0.1 * 32 * math.sqrt(2)


# -- the parts ------------------------------------------------------------------------------------


def test_errors_are_relative(photos):
    setup = setup_of(photos, "layer=complex", "unit=[3,7,40]", "n=2")
    x = 30 * torch.randn(2, 2, *setup.image_shape)
    seen = respond(setup, x, torch.tensor([0, 1]))
    for row in range(2):
        y, target = (
            setup.channels(z / 255)[0].flatten(1)[:, [3, 7, 40]]
            for z in (x[row], setup.targets.references[row][None])
        )
        errors = (y - target).norm(dim=1) / target.norm()
        assert torch.allclose(-seen.responses[row], errors, rtol=1e-4)
    photographs = setup.targets.references[:, None]
    assert respond(setup, photographs, torch.tensor([0, 1])).responses.abs().max() < 1e-5


def test_crop_is_cut_where_it_is_said(photos):
    setup = setup_of(photos / "a.png", "layer=simple", "objective.crop=[5,11]")
    pixels = np.asarray(Image.open(photos / "a.png"))[5:26, 11:32].astype(np.float32)
    x = torch.from_numpy(pixels).permute(2, 0, 1) - 127.5
    x = x * (setup.norm / x.norm())
    assert torch.allclose(setup.targets.references[0], x, atol=1e-2)
    centre = setup_of(photos / "a.png", "layer=simple")
    corner = setup_of(photos / "a.png", "layer=simple", "objective.crop=[10,15]")
    assert torch.equal(centre.targets.references, corner.targets.references)


def test_photographs_together_and_alone(photos):
    words = "layer=complex", "n=2", f"optimizer.steps={STEPS}"
    both = setup_of(photos, *words)
    assert both.targets.names == ("a.png", "b.png")
    together = visualize(both, [0, 1])
    (alone,) = visualize(both, [1])
    (single,) = visualize(setup_of(f"[{photos}/b.png]", *words), [0])
    for other in (together[1], alone):
        assert other.metrics["error_mean"] == pytest.approx(alone.metrics["error_mean"], rel=1e-3)
    assert single.metrics["unit"] == 0
    assert torch.equal(
        both.targets.references[1:], setup_of(photos / "b.png", *words).targets.references
    )


def test_squared_errors_without_tolerance(photos):
    setup = setup_of(photos / "a.png", "layer=complex", "n=2", "objective.tolerance=null",
                     "objective.diversity=0", f"optimizer.steps={STEPS}")  # fmt: skip
    (found,) = visualize(setup, [0])
    assert "error_over" not in found.metrics
    x = found.images[None]
    seen = respond(setup, x, torch.tensor([0]))
    assert torch.allclose(seen.scaled, -seen.responses.square())
    assert found.trace["loss"].min().item() == pytest.approx(
        seen.responses.square().mean().item(), rel=1e-4
    )


def test_photograph_counts_for_distances(photos):
    """The reported and the rewarded distances: among the images, and to the photograph."""
    setup = setup_of(photos / "a.png", "layer=complex", "n=2", "objective.metric=cosine",
                     "objective.distance=simple", f"optimizer.steps={STEPS}")  # fmt: skip
    (found,) = visualize(setup, [0])
    with_photo = torch.cat([setup.targets.references[:, None], found.images[None]], dim=1)
    features = respond(setup, with_photo, torch.tensor([0])).features
    first, second, among = pairwise_distances(features, "cosine")[0].tolist()
    metrics = found.metrics
    assert metrics["distance_to_reference_min"] == pytest.approx(min(first, second), rel=1e-4)
    assert metrics["distance_to_reference_mean"] == pytest.approx((first + second) / 2, rel=1e-4)
    assert metrics["distance_min"] == pytest.approx(among, rel=1e-4)
    step = found.trace["loss"].argmin()
    smallest = min(first, second, among)
    assert found.trace["distance_min"][step].item() == pytest.approx(smallest, rel=1e-3)
    pixels = pairwise_distances(with_photo.flatten(2))[0].tolist()
    assert metrics["distance_pixels_to_reference_min"] == pytest.approx(min(pixels[:2]), rel=1e-4)


def test_hash_follows_pixels_not_names(photos, tmp_path):
    def digest(reference, *words):
        return sha256_of(science(setup_of(reference, "layer=complex", *words)))

    renamed = tmp_path / "other.png"
    renamed.write_bytes((photos / "a.png").read_bytes())
    plain = digest(photos / "a.png")
    assert digest(renamed) == plain
    others = [digest(photos / "b.png"), digest(photos / "a.png", "unit=3"), digest(photos),
              digest(photos / "a.png", "objective.crop=[0,0]"),
              digest(photos / "a.png", "objective.tolerance=0.1")]  # fmt: skip
    assert len({plain, *others}) == 6


class Grey(nn.Module):
    def __init__(self, colors):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(colors, 8, 5)

    def forward(self, x):
        return self.conv(x).relu().mean((2, 3))


def grey(colors):
    return Grey(colors)


def custom(colors):
    half = ",".join(["0.5"] * colors)
    return ["model=custom", "model.target=test_metamers.grey", f"model.arguments.colors={colors}",
            f"model.mean=[{half}]", f"model.std=[{half}]"]  # fmt: skip


def test_metamers_of_grey_and_whole_images(photos):
    words = "n=2", f"optimizer.steps={STEPS}"
    for more in (["layer=conv"], ["layer=output", "size=[20,30]"]):
        setup = setup_of(photos / "a.png", *custom(1), *more, *words)
        (found,) = visualize(setup, [0])
        assert setup.targets.references.shape == (1, *setup.image_shape)
        assert 0 < found.metrics["error_mean"] < 1
        norms = found.images.flatten(1).norm(dim=1)
        assert norms.tolist() == pytest.approx([setup.norm] * 2, rel=1e-4)


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "words", "said"),
    [
        ("none.png", [], "none.png is not a file"),
        ("text.png", [], "text.png cannot be read: no image"),
        ("small.png", [], r"has 12 x 12 pixels, fewer than the image of a unit \(21 x 21\)"),
        ("flat.png", [], "is flat.*objective.crop"),
        ("a.png", ["objective.crop=[30,0]"], r"crop=\[30,0\] is outside of a.png.*rows 0 to 19"),
        ("a.png", ["objective.crop=[3]"], r"crop=\[3\] must be the row and column"),
        ("a.png", ["objective.tolerance=2"], "tolerance=2.0 is a relative error"),
        ("a.png", ["objective.fraction=0.5"], "fraction=0.5 does not go with metamers"),
        ("a.png", ["objective.direction=d.npy"], "direction=d.npy does not go with metamers"),
        ("a.png", ["objective.distance=complex"], "the layer in which metamers answer alike"),
        ("a.png", ["unit=99"], "layer complex has 72 units"),
        ("a.png", ["objective=diverse"], "objective=metamers and objective.reference belong"),
        ("[]", [], "names no photograph"),
        ("a.png", [*custom(5), "layer=conv"], "photographs have 1 or 3 channels"),
    ],
)  # fmt: skip
def test_references_that_are_refused(photos, reference, words, said):
    (photos / "text.png").write_text("no image")
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(photos / "small.png")
    Image.fromarray(np.full((60, 60, 3), 127, np.uint8)).save(photos / "flat.png")
    path = reference if reference == "[]" else photos / reference
    with pytest.raises(InputError, match=said):
        setup_of(path, "layer=complex", *words)


def test_metamers_need_a_photograph(current_folder, capsys):
    assert main(["run", "layer=complex", "objective=metamers"]) == 2
    assert "objective.reference=photo.jpg" in capsys.readouterr().err


# -- runs -----------------------------------------------------------------------------------------


def run(*words):
    return main(["run", "objective=metamers", SIDE, "device=cpu", "n=2",
                 f"optimizer.steps={STEPS}", *words])  # fmt: skip


def test_run_of_metamers(current_folder, photos, capsys):
    words = "layer=complex", f"objective.reference={photos}"
    assert run(*words, "analysis=[phase]", "record=gif") == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parent.name == "metamers-2-photographs"
    arrays, record = (
        load_file(path / "images.safetensors"),
        json.loads((path / "run.json").read_text()),
    )
    assert arrays["reference"].shape == (2, 3, 21, 21)
    assert record["references"] == ["a.png", "b.png"]
    assert "takes analysis=metamers" in record["not_measured"]["phase"]
    files = {file.name for file in path.iterdir()}
    assert {"sheet_unit0000.png", "sheet_unit0001.png", "optimization_unit0001.gif"} <= files
    assert run(*words, "analysis=[phase]") == 0  # finished already
    assert capsys.readouterr().out.strip() == str(path)
    assert main(["show", str(path), "unit=1"]) == 0
    shown = capsys.readouterr().out
    assert "photograph 1 (b.png), metamers" in shown
    assert "relative error of the match" in shown
    assert main(["show", str(path)]) == 0
    assert main(["collect", "outputs"]) == 0
    assert "error_mean" in Path("outputs/table.csv").read_text().splitlines()[0]
    assert main(["status", "outputs"]) == 0
    assert main(["atlas", "outputs"]) == 0
    assert main(["figure", str(path), "kind=sheet", "unit=0"]) == 0


def test_errors_above_the_tolerance_are_told(current_folder, photos, capsys):
    assert run("layer=complex", f"objective.reference={photos}/a.png", "objective.diversity=3") == 0
    out, err = capsys.readouterr()
    (unit,) = json.loads((Path(out.strip()) / "metrics.json").read_text())["units"]
    assert unit["error_over"] == 2
    assert "2 images above objective.tolerance" in err


def test_sweep_keeps_photographs_together(current_folder, photos, capsys):
    words = "layer=complex", f"objective.reference={photos}", "seed=0,1", "units_per_job=1"
    assert run("-m", *words, "unit=0-3") == 0
    made = capsys.readouterr().out.split()
    assert len(made) == 2
    for path in made:
        record = json.loads((Path(path) / "run.json").read_text())
        assert record["units"] == [0, 1]
        assert record["config"]["unit"] == "0-3"
    assert run("-m", *words, "unit=0-3") == 0
    assert "already finished" in capsys.readouterr().err


def test_front_of_metamers(current_folder, photos, capsys):
    assert (
        run("layer=complex", f"objective.reference={photos}/a.png", "objective.front=[0,0.1]") == 0
    )
    path = Path(capsys.readouterr().out.strip())
    (unit,) = json.loads((path / "metrics.json").read_text())["units"]
    assert len(unit["front"]) == 2
    assert (path / "front_unit0000.png").is_file()


def test_energy_network_has_no_random_weights(current_folder, photos, capsys):
    words = "layer=complex", f"objective.reference={photos}/a.png", "analysis=all"
    assert run(*words) == 0
    record = json.loads((Path(capsys.readouterr().out.strip()) / "run.json").read_text())
    assert list(record["not_measured"]) == ["metamers"]
    assert "cannot be drawn at random" in record["not_measured"]["metamers"]


def test_other_runs_take_no_metamers(current_folder, capsys):
    words = ["run", "layer=complex", "device=cpu", "n=2", "optimizer.steps=3", "objective.restarts=1",
             "optimizer.search_steps=1"]  # fmt: skip
    assert main([*words, "analysis=[metamers,dimension]"]) == 0
    record = json.loads((Path(capsys.readouterr().out.strip()) / "run.json").read_text())
    assert "objective=metamers" in record["not_measured"]["metamers"]


def test_control_with_random_weights(current_folder, photos, capsys, tmp_path):
    """The same photograph, another network; its errors by hand."""
    torch.manual_seed(3)
    weights = {
        "features.0.weight": 0.3 * torch.randn(64, 3, 3, 3),
        "features.0.bias": torch.zeros(64),
    }
    weights |= {
        "features.2.weight": 0.05 * torch.randn(64, 64, 3, 3),
        "features.2.bias": torch.zeros(64),
    }
    save_file(weights, tmp_path / "w.safetensors")
    words = ["model=vgg19", f"model.weights={tmp_path}/w.safetensors", "layer=conv1_2",
             f"objective.reference={photos}/a.png"]  # fmt: skip
    assert run(*words, "analysis=metamers") == 0
    path = Path(capsys.readouterr().out.strip())
    arrays = load_file(path / "analysis/metamers.safetensors")
    images = load_file(path / "images.safetensors")
    (unit,) = json.loads((path / "metrics.json").read_text())["units"]
    assert torch.equal(arrays["reference"], images["reference"])
    random = setup_of(photos / "a.png", "model=vgg19", "model.weights=random", "layer=conv1_2")
    for key, x in (("errors", arrays["images"]), ("errors_of_trained", images["images"])):
        expected = -respond(random, x, torch.tensor([0])).responses
        assert torch.allclose(arrays[key], expected, rtol=1e-3)
    mean = arrays["errors_of_trained"].mean().item()
    assert unit["metamers"]["error_of_trained"] == pytest.approx(mean, rel=1e-5)
    assert unit["metamers"]["error_mean"] < mean  # other weights, other metamers
    assert (path / "analysis/metamers_unit0000.png").is_file()
    assert main(["analyze", str(path), "analysis=metamers"]) == 0


def test_pictures_show_the_photograph(current_folder, photos, capsys, tmp_path):
    assert run("layer=complex", f"objective.reference={photos}", "images=tensor") == 0
    path = Path(capsys.readouterr().out.strip())
    content = content_of(RunFolder(path), "sheet", 1)
    tiles = content.panels[0]
    assert len(tiles.images) == 3
    assert tiles.captions[0].startswith("photograph")
    assert all(caption.startswith("error") for caption in tiles.captions[1:])
    loaded = diversevis.load(path)
    again = diversevis.load(loaded.save(tmp_path / "saved"))
    assert torch.equal(again.reference, load_file(path / "images.safetensors")["reference"])
    assert np.array_equal(again.sheet(1), loaded.sheet(1))
    without = dataclasses.replace(loaded, reference=None)
    assert loaded.sheet(1).width >= without.sheet(1).width
    assert not np.array_equal(loaded.sheet(1), without.sheet(1))


def test_trace_of_metamers_shows_errors(current_folder, photos, capsys):
    assert run("layer=complex", f"objective.reference={photos}", "images=tensor") == 0
    path = Path(capsys.readouterr().out.strip())
    figure, axis = plt.subplots()
    content_of(RunFolder(path), "trace", 0).panels[0].draw(axis)
    assert axis.get_ylabel() == "mean relative error"
    entry = json.loads((path / "metrics.json").read_text())["units"][0]
    assert axis.lines[0].get_ydata().min() > 0
    assert axis.lines[0].get_ydata()[-1] < 2 * entry["error_mean"]
    plt.close(figure)


def test_rows_are_called_photographs(current_folder, photos, capsys):
    assert run("layer=complex", f"objective.reference={photos}", "images=tensor") == 0
    out, err = capsys.readouterr()
    path = Path(out.strip())
    entries = json.loads((path / "metrics.json").read_text())["units"]
    head, first, second, _ = [line for line in err.splitlines() if "above" not in line][-4:]
    assert head.split() == ["unit", "error", "distance"]
    for line, entry in zip((first, second), entries, strict=True):
        assert line.split()[1] == f"{100 * entry['error_mean']:.0f}"
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "2 photographs:" in shown
    assert "mean relative error of the match" in shown
    assert "best response" not in shown
    assert "A photograph in full: " in shown
    html = diversevis.load(path)._repr_html_()
    assert "2 photographs:" in html
    assert "direction" not in html


def test_pages_keep_photographs_apart(current_folder, photos, capsys):
    one, other = photos / "a.png", photos / "b.png"
    (photos / "c.png").write_bytes(one.read_bytes())
    for pair in (f"[{one},{other}]", f"[{other},{photos / 'c.png'}]"):
        assert run("layer=complex", f"objective.reference={pair}") == 0
    assert main(["atlas", "outputs"]) == 0
    pages = sorted(Path("outputs/atlas/layers").glob("*/index.html"))
    assert len(pages) == 2
    for page in pages:
        text = page.read_text()
        assert "2 photographs" in text
        assert "direction" not in text
        assert "made earlier" not in text


def test_metamers_are_no_units_to_align(current_folder, photos, capsys):
    assert run("layer=complex", f"objective.reference={photos}", "images=tensor") == 0
    path = capsys.readouterr().out.strip()
    assert main(["align", path]) == 2
    assert "metamers of photographs" in capsys.readouterr().err


def test_seeds_of_metamers_give_errors(current_folder, photos, capsys):
    words = "layer=complex", f"objective.reference={photos}/a.png", "analysis=metamers", "seeds=2"
    assert run(*words) == 0
    path = Path(capsys.readouterr().out.strip())
    (unit,) = json.loads((path / "metrics.json").read_text())["units"]
    assert unit["seeds"]["error_max"]["count"] == 2
    assert unit["seeds"]["distance_to_reference_mean"]["deviation"] > 0


def test_metamers_are_not_compared_with_units(current_folder, photos, capsys):
    assert run("layer=complex", f"objective.reference={photos}/a.png") == 0
    assert main(["run", "device=cpu", "layer=complex", "unit=1", "n=2", "optimizer.steps=5",
                 "analysis=phase"]) == 0  # fmt: skip
    metamers, units = capsys.readouterr().out.split()
    RunFolder(Path(metamers)).write_measure("metamers", {}, [{"error_mean": 0.1}], {})
    assert main(["compare", metamers, units]) == 2
    assert "images of photographs" in capsys.readouterr().err
