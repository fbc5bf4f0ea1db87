"""`diversevis analyze`, and measures, seeds and fronts within `diversevis run`."""

import json
from pathlib import Path

import pytest
import torch
from conftest import QUICK, unchanged_log
from PIL import Image

from diversevis.cli.main import main
from diversevis.runs.folder import RunFolder

FAST = ["measure.shift.steps=2", "measure.shift.crops=4", "measure.deformation.draws=2",
        "measure.phase.orientations=4", "measure.phase.per_octave=1",
        "measure.align.rotations=2", "measure.align.scales=[1]", "measure.align.steps=2",
        "measure.align.checked=0",
        "measure.bipartite.steps=2", "measure.bipartite.shown=8", "measure.bipartite.crops=4",
        "measure.bipartite.directions=4"]  # fmt: skip


def make_run(capsys, *words):
    assert main(["run", "device=cpu", "layer=simple", *QUICK, *FAST, *words]) == 0
    return Path(capsys.readouterr().out.splitlines()[-1])


def test_run_takes_all_measures(current_folder, capsys):
    words = ["device=cpu", "layer=simple", *QUICK, *FAST, "unit=[3,7]", "n=3", "analysis=all"]
    assert main(["run", *words]) == 0
    said = capsys.readouterr()
    path = Path(said.out.splitlines()[-1])
    assert "natural=FOLDER" in said.err  # said, and the rest goes on
    metrics = json.loads((path / "metrics.json").read_text())
    names = ["gain", "phase", "shift", "deformation", "diversity", "dimension", "bipartite",
             "selectivity", "align"]  # fmt: skip
    assert list(metrics["measures"]) == names
    assert metrics["measures"]["phase"]["settings"]["orientations"] == 4
    for unit in metrics["units"]:
        assert set(names) < set(unit)
        assert set(unit["phase"]) >= {"f1f0", "f0", "orientation", "frequency", "color", "fitted"}
        assert set(unit["shift"]) >= {"mean", "min", "learned"}
        assert set(unit["deformation"]) >= {"stability", "stability_error", "kept"}
        assert set(unit["dimension"]) == {"participation", "path_min", "path_mean", "groups"}
        assert set(unit["align"]) >= {"family", "typical", "to_nearest", "nearest"}
    files = {file.name for file in (path / "analysis").iterdir()}
    assert files == {
        f"{name}{end}" for name in names
        for end in (".safetensors", "_unit0003.png", "_unit0007.png", ".png")
    }  # fmt: skip
    for file in (path / "analysis").glob("*.png"):
        Image.open(file).verify()
    assert RunFolder(path).read_measure("shift")["texture_fixed"].shape == (2, 3, 41, 41)


def test_analyze_keeps_the_other_measures(current_folder, capsys):
    path = make_run(capsys, "unit=5", "analysis=[phase,dimension]")
    before = json.loads((path / "metrics.json").read_text())
    images = (path / "images.safetensors").read_bytes()
    again = ["analyze", str(path), "analysis=[dimension,diversity]", "measure.dimension.points=3"]
    assert main([*again, "device=cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    after = json.loads((path / "metrics.json").read_text())
    assert after["measures"]["phase"] == before["measures"]["phase"]
    assert after["units"][0]["phase"] == before["units"][0]["phase"]
    assert after["measures"]["dimension"]["settings"]["points"] == 3
    assert after["units"][0]["diversity"]["distance_mean"] > 0
    assert (path / "images.safetensors").read_bytes() == images
    assert json.loads((path / "run.json").read_text())["status"] == "finished"
    assert "measured diversity of 1 unit\n" in (path / "run.log").read_text()


def test_analyze_without_a_run(current_folder, capsys):
    words = ["model=energy", "layer=complex", "unit=0-3", "device=cpu", *FAST]
    assert main(["analyze", *words]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path == Path("outputs/energy/complex/0-3/v001")
    metrics = json.loads((path / "metrics.json").read_text())
    assert [one["phase"]["f1f0"] < 0.02 for one in metrics["units"]] == [True] * 4
    assert metrics["units"][0]["phase"]["fitted"] is None
    record = json.loads((path / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["n"] is None
    assert not (path / "images.safetensors").exists()
    assert main(["analyze", str(path), "analysis=phase", "device=cpu", *FAST]) == 0
    assert main(["analyze", *words, "analysis=shift"]) == 2
    assert "images of a run" in capsys.readouterr().err
    assert main(["analyze"]) == 2
    assert "analyze needs run folders" in capsys.readouterr().err


def test_folder_nobody_typed_is_not_told(current_folder, capsys):
    """The run had photographs for another measure than the one that is asked for now."""
    (current_folder / "photographs").mkdir()
    noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save("photographs/noise.png")
    path = make_run(capsys, "natural=photographs", "analysis=natural")
    assert main(["analyze", str(path), "analysis=diversity", "device=cpu"]) == 0
    assert "is not used" not in capsys.readouterr().err
    assert main(["analyze", str(path), "analysis=phase", "natural=photographs", *FAST]) == 0
    assert "natural=photographs is not used" in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """The folder of a finished run of one unit, without pictures; for tests that do not change it."""
    root = tmp_path_factory.mktemp("finished")
    words = ["device=cpu", "layer=simple", *QUICK, *FAST, "unit=5", "images=tensor"]
    with unchanged_log():
        assert main(["run", *words, f"root={root}"]) == 0
    (record,) = root.rglob("run.json")
    return record.parent


@pytest.mark.parametrize(("words", "said"), [
    (["nowhere"], "nowhere cannot be measured: run.json is not there"),
    (["RUN", "n=3"], "n=3: what a run is made of is fixed"),
    (["RUN", "analysis=fase"], "analysis=fase is no measure"),
    (["RUN", "natural=nowhere"], "natural=nowhere is not a folder"),
    (["RUN", "measure.shift.stepss=3"], "There is no setting measure.shift.stepss"),
    (["RUN", "measure.phase.phases=4"], "measure.phase.phases=4 must be 8 or more"),
    (["RUN", "measure.deformation.delta=3"], "measure.deformation.delta=3.0 is not one of"),
    (["RUN", "measure.deformation.cutoff=1"], "cutoff=1.0 must be above 1"),
    (["RUN", "measure.shift.minimum=2"], "measure.shift.minimum=2.0 must be from 0 to 1"),
])  # fmt: skip
def test_analyze_refuses_bad_input(finished_run, current_folder, capsys, words, said):
    path = finished_run
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    typed = [word.replace("RUN", str(path)) for word in words]
    assert main(["analyze", *typed, "device=cpu"]) == 2
    assert said in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


def test_analyze_refuses_unfinished_and_foreign_runs(current_folder, capsys):
    path = make_run(capsys, "unit=5")
    folder = RunFolder(path)
    weights = folder.read_record()["weights"]
    folder.update_record(weights=weights | {"sha256": "0" * 64})
    assert main(["analyze", str(path), "analysis=diversity", "device=cpu"]) == 2
    assert "other weights" in capsys.readouterr().err
    folder.update_record(weights=weights, status="running")
    assert main(["analyze", str(path), "analysis=diversity", "device=cpu"]) == 2
    assert "is running, not finished" in capsys.readouterr().err


def test_seeds_give_mean_and_spread(current_folder, capsys):
    measures = "analysis=[diversity,dimension]", "images=tensor"
    path = make_run(capsys, "unit=[5,6]", "seeds=3", *measures)
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["seeds"] == [0, 1, 2]
    found = metrics["units"][1]["seeds"]
    assert found["response_mean"]["count"] == 3
    assert found["diversity.index"]["deviation"] > 0
    alone = make_run(capsys, "unit=6", "seed=1", *measures)
    other = json.loads((alone / "metrics.json").read_text())["units"][0]
    last = make_run(capsys, "unit=6", "seed=2", *measures)
    third = json.loads((last / "metrics.json").read_text())["units"][0]
    own = metrics["units"][1]
    mean = sum(one["diversity"]["index"] for one in (own, other, third)) / 3
    assert found["diversity.index"]["mean"] == pytest.approx(mean, rel=1e-5, abs=1e-6)


def test_front_is_written_and_drawn(current_folder, capsys):
    path = make_run(capsys, "unit=[5,6]", "n=3", "objective=path", "objective.front=[0,0.1,1]")
    lines = (path / "front.csv").read_text().splitlines()
    assert lines[0].startswith("unit,diversity,response_mean")
    assert len(lines) == 1 + 2 * 3
    arrays = RunFolder(path).read_front()
    assert arrays["images"].shape == (2, 3, 3, 3, 21, 21)
    assert arrays["weights"].tolist() == pytest.approx([0, 0.1, 1])
    one = json.loads((path / "metrics.json").read_text())["units"][0]
    at = [row["diversity"] for row in one["front"]].index(one["knee"])
    assert torch.equal(RunFolder(path).read_images()["images"][0], arrays["images"][0, at])
    for unit in (5, 6):
        Image.open(path / f"front_unit{unit:04d}.png").verify()


@pytest.mark.parametrize(("words", "said"), [
    (["objective=threshold", "objective.fraction=1.5"], "objective.fraction=1.5 is a share"),
    (["objective=threshold", "objective.scale=none"], "goes with objective.scale=best"),
    (["objective=path", "objective.front=[0.1]"], "two or more weights"),
    (["objective=path", "objective.front=[0.2,0.1]"], "ascending"),
    (["objective=path", "record=gif"], "cannot be filmed"),
    (["objective=path", "n=1", "objective.diversity=0"], "a front needs n=2"),
    (["seeds=0"], "seeds=0 must be from 1"),
    (["analysis=[natural]", "natural=nowhere"], "natural=nowhere is not a folder"),
])  # fmt: skip
def test_bad_objectives_and_measures_leave_no_files(current_folder, capsys, words, said):
    assert main(["run", "device=cpu", *QUICK, *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(current_folder.iterdir())
