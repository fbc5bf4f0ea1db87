"""`diversevis align`: several layers in a matrix, seeds against one another, what is refused."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from safetensors.torch import load_file

from diversevis.cli.main import main

FEW = ["measure.align.rotations=4", "measure.align.scales=[1]", "measure.align.steps=10",
       "measure.align.checked=2"]  # fmt: skip
UNITS = "unit=[0,4,24]"  # two of luminance, a quarter turn apart, and a red-green unit


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Complex units with two seeds, and simple units, by their names."""
    root = tmp_path_factory.mktemp("runs")
    words = [*QUICK, "optimizer.steps=40", "n=3", "device=cpu", "images=tensor", f"root={root}"]
    layers = {"complex": ["layer=complex", "seed=0"], "other": ["layer=complex", "seed=1"],
              "simple": ["layer=simple", "seed=0"]}  # fmt: skip
    for of_run in layers.values():
        assert main(["run", *words, UNITS, *of_run]) == 0
    assert main(["analyze", "layer=simple", "unit=0-2", "analysis=phase", "device=cpu",
                 f"root={root}"]) == 0  # fmt: skip
    complexes = root / "energy/complex/0,4,24"
    return {"complex": complexes / "v001", "other": complexes / "v002",
            "simple": root / "energy/simple/0,4,24/v001",
            "measures": root / "energy/simple/0-2/v001"}  # fmt: skip


def aligned(capsys, *words):
    assert main(["align", *map(str, words), *FEW, "device=cpu"]) == 0
    said = capsys.readouterr().out
    return said, Path(said.splitlines()[-1])


def test_layers_stand_in_a_matrix(runs, current_folder, capsys):
    said, path = aligned(capsys, runs["complex"], runs["simple"])
    assert path == Path("outputs/align/energy-complex-0,4,24-v001_and_1_more/v001")
    content = json.loads((path / "alignment.json").read_text())
    (group,) = content["groups"]
    assert [(unit["layer"], unit["unit"]) for unit in group["units"]] == [
        (layer, unit) for layer in ("complex", "simple") for unit in (0, 4, 24)
    ]
    assert content["stability"] is None
    arrays = load_file(path / "alignment.safetensors")
    shares = arrays["shares_1"]
    assert shares.shape == (6, 6)
    assert arrays["maps_1"].shape == (6, 6, 2, 3)
    # simple unit 0 has the even filter of pair 0; the phases of complex images cancel for it
    assert shares[3, 0] > 0.9
    assert abs(shares[0, 3]) < 0.2
    assert shares[0, 2].abs() < 1e-3  # colours never meet
    assert shares[0, 1] > 0.98
    rows = list(csv.DictReader((path / "families.csv").read_text().splitlines()))
    assert [row["family"] for row in rows] == [unit["family"] for unit in group["units"]]
    assert rows[0]["nearest"] == "energy complex 4"
    assert (path / "alignment.png").is_file()
    assert "units" in said
    _, again = aligned(capsys, runs["complex"], runs["simple"])
    assert again == path.with_name("v002")


def test_seeds_have_a_matrix_each(runs, current_folder, capsys):
    said, path = aligned(capsys, runs["complex"], runs["other"], "out=seeds")
    assert path == Path("seeds/v001")
    content = json.loads((path / "alignment.json").read_text())
    assert [group["runs"][0]["seed"] for group in content["groups"]] == [0, 1]
    families = [[unit["family"] for unit in group["units"]] for group in content["groups"]]
    assert families[0] == families[1] == ["1", "1", "2"]
    assert content["stability"] == [[1, 1], [1, 1]]
    assert "groups 1 and 2: 1.00" in said
    assert {file.name for file in path.iterdir()} == {
        "alignment.json", "alignment.safetensors", "families.csv", "alignment_1.png",
        "alignment_2.png",
    }  # fmt: skip


def test_command_gives_what_the_measure_gives(runs, current_folder, capsys):
    """Alone in a matrix, a run's shares are those of analysis=align."""
    shutil.copytree(runs["complex"], "copy")
    assert main(["analyze", "copy", "analysis=align", *FEW, "device=cpu"]) == 0
    _, path = aligned(capsys, runs["complex"])
    shares = load_file(path / "alignment.safetensors")["shares_1"]
    measured = load_file("copy/analysis/align.safetensors")["shares"]
    assert torch.allclose(shares, measured, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "align needs run folders"),
        (["nowhere"], "nowhere cannot be measured"),
        (["{measures}"], "has no images, which align moves"),
        (["{complex}", "{complex}"], "hold the same unit 0 with the same seed"),
        (["{complex}", "n=3"], "what a run is made of is fixed in its folder"),
        (["{complex}", "measure.align.steps=-1"], "measure.align.steps=-1 must be 0 or more"),
        (["{complex}", "measure.align.stepss=1"], "measure.align.stepss"),
        (["{complex}", "measure.sample=1"], "has a single unit that can be aligned"),
        (["{complex}", "model.target=a.b"], "model.target=a.b: the records"),
        (["damaged"], "damaged cannot be measured: images.safetensors"),
        (["changed"], "its images were made with"),
    ],
)
def test_align_refuses_in_a_paragraph(runs, current_folder, capsys, words, message):
    for name in ("damaged", "changed"):
        shutil.copytree(runs["complex"], name)
    file = Path("damaged/images.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    record = Path("changed/run.json")
    text = json.loads(record.read_text())
    text["weights"]["sha256"] = "0" * 64
    record.write_text(json.dumps(text))
    assert main(["align", *(word.format(**runs) for word in words), "device=cpu"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not Path("outputs").exists()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_is_the_same_for_every_seed(runs, current_folder, capsys, seed):
    """Whichever run comes first."""
    names = ["complex", "other"] if seed == 0 else ["other", "complex"]
    said, path = aligned(capsys, *(runs[name] for name in names), "measure.sample=2")
    groups = json.loads((path / "alignment.json").read_text())["groups"]
    assert [group["runs"][0]["seed"] for group in groups] == [0, 1]
    sampled = [[unit["unit"] for unit in group["units"]] for group in groups]
    assert sampled[0] == sampled[1]
    assert len(sampled[0]) == 2
    assert "of the 2 units in all groups" in said


def make_run(capsys, units, seed):
    words = ["layer=complex", f"unit={units}", f"seed={seed}", "n=3", "images=tensor", *QUICK]
    assert main(["run", *words, "device=cpu"]) == 0
    return capsys.readouterr().out.splitlines()[-1]


def test_families_are_compared_on_the_units_of_every_seed(runs, current_folder, capsys):
    others = make_run(capsys, "[0,4,8]", 2)
    said, path = aligned(capsys, runs["complex"], others)
    content = json.loads((path / "alignment.json").read_text())
    assert [len(group["units"]) for group in content["groups"]] == [3, 3]
    assert "of the 2 units in all groups" in said


def test_groups_are_of_one_seed(runs, current_folder, capsys):
    """In whatever order runs of several layers are named."""
    simple = make_run(capsys, "[8,9]", 1)
    _, path = aligned(capsys, simple, runs["complex"], runs["other"], make_run(capsys, "[8,9]", 0))
    groups = json.loads((path / "alignment.json").read_text())["groups"]
    seeds = [[run["seed"] for run in group["runs"]] for group in groups]
    assert seeds == [[0, 0], [1, 1]]


def test_seeds_without_units_in_common_are_refused(runs, current_folder, capsys):
    fewer = make_run(capsys, "[0,8]", 2)
    assert main(["align", str(runs["complex"]), fewer, "device=cpu"]) == 2
    assert "have fewer than two units in common" in capsys.readouterr().err
    assert not Path("outputs/align").exists()
