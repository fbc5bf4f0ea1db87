"""The command line as a person meets it: exit status, words, and what is left on disk."""

import errno
import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch
from conftest import QUICK, unchanged_log, wait_for_checkpoint
from safetensors.torch import load_file
from torch import nn

from diversevis import __version__
from diversevis.cli.main import main
from diversevis.experiment import batches
from diversevis.runs.folder import RunFolder
from diversevis.runs.lease import Claim


def run(*words):
    return main(["run", "device=cpu", *QUICK, *words])


def test_help_and_version(capsys):
    assert main([]) == main(["--help"]) == main(["help"]) == 0
    assert "diversevis run model=vgg19 layer=conv2_1 unit=12" in capsys.readouterr().out
    for command in ("run", "layers", "weights", "analyze", "compare", "status", "retry", "collect"):
        assert main([command, "--help"]) == 0
        assert f"diversevis {command}" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"diversevis {__version__}\n"


def test_run_writes_exactly_these_files(current_folder, capsys):
    assert run("unit=[3,7]", "n=4", "record=gif") == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path == Path("outputs/energy/complex/3,7/v001")
    assert [p.name for p in current_folder.iterdir()] == ["outputs"]
    files = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    units = ["unit0003", "unit0007"]
    expected = {"run.json", "config.yaml", "metrics.json", "images.safetensors", "trace.csv",
                "trace.png", "run.log", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"}  # fmt: skip
    expected |= {f"sheet_{u}.png" for u in units} | {f"optimization_{u}.gif" for u in units}
    expected |= {f"images/{u}/{i:02d}.png" for u in units for i in range(4)}
    assert files == expected

    record = json.loads((path / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["units"] == [3, 7]
    assert record["weights"]["source"] == "analytic"
    assert {"command", "rerun", "config_hash", "seed", "versions", "device_name", "threads", "start",
            "seconds", "peak_memory"} <= set(record)  # fmt: skip
    assert {"python", "torch", "torchvision", "diversevis", "git_commit"} == set(record["versions"])

    arrays = load_file(path / "images.safetensors")
    assert arrays["images"].shape == (2, 4, 3, 21, 21)
    assert arrays["images"].dtype == torch.float32
    assert arrays["units"].tolist() == [3, 7]
    norms = arrays["images"].flatten(2).norm(dim=2)
    assert torch.allclose(norms, torch.tensor(32.0 * (3 * 21 * 21) ** 0.5), rtol=1e-5)
    metrics = json.loads((path / "metrics.json").read_text())["units"]
    for one, responses in zip(metrics, arrays["responses"], strict=True):
        assert one["response_mean"] == pytest.approx(responses.mean().item(), rel=1e-5)
        assert one["response_max"] == pytest.approx(responses.max().item(), rel=1e-5)
        assert one["distance_min"] == one["distance_pixels_min"] <= one["distance_mean"]
        assert (one["steps"], one["stop"]) == (12, "annealed")
        share = one["response_mean"] / one["response_best"]
        assert one["response_mean_scaled"] == pytest.approx(share, rel=1e-5)
    header, *rows = (path / "trace.csv").read_text().splitlines()
    assert header.startswith("step,unit,response_mean,response,distance_min,diversity,loss")
    assert len(rows) == 2 * 12


def test_rerun_is_equal_to_the_bit(current_folder, capsys):
    for words in (["seed=5"], ["seed=5", "root=other"], ["seed=6"]):  # two works of one folder
        assert run(*words, "images=tensor") == 0
    first, elsewhere, other = (Path(line) for line in capsys.readouterr().out.splitlines())
    assert elsewhere == Path("other/energy/complex/0/v001")
    images = [load_file(p / "images.safetensors")["images"] for p in (first, elsewhere, other)]
    hashes = [
        json.loads((p / "run.json").read_text())["config_hash"] for p in (first, elsewhere, other)
    ]
    assert torch.equal(images[0], images[1])
    assert hashes[0] == hashes[1] != hashes[2]
    assert not torch.allclose(images[0], images[2])

    rerun = shlex.split(json.loads((first / "run.json").read_text())["rerun"])
    assert main(rerun[1:]) == 0
    again = Path(capsys.readouterr().out.splitlines()[-1])
    assert again == Path("outputs/energy/complex/0/v003")
    assert torch.equal(load_file(again / "images.safetensors")["images"], images[0])
    assert json.loads((again / "run.json").read_text())["config_hash"] == hashes[0]


def test_unit_of_a_run_equals_unit_alone(current_folder, capsys):
    assert run("unit=0-2", "images=tensor") == 0
    assert run("unit=1", "images=tensor") == 0
    together, alone = (Path(line) for line in capsys.readouterr().out.splitlines())
    assert torch.equal(
        load_file(together / "images.safetensors")["images"][1],
        load_file(alone / "images.safetensors")["images"][0],
    )


def test_finished_run_is_not_computed_again(current_folder, capsys):
    assert run("unit=[3,7]") == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    assert run("unit=3,7".replace("3,7", "[7,3]")) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(path)]
    assert f"skipped: already finished in {path}; again=true recomputes it as a new version" in err
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before
    assert run("unit=[3,7]", "again=true") == 0
    assert Path(capsys.readouterr().out.splitlines()[-1]).name == "v002"


def test_finished_run_gets_missing_measures_and_seeds(current_folder, capsys):
    assert run("unit=3") == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    images = (path / "images.safetensors").read_bytes()
    for _ in range(2):  # the second time there is nothing to do
        assert run("unit=3", "analysis=[diversity]", "seeds=2") == 0
        assert capsys.readouterr().out.splitlines() == [str(path)]
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["units"][0]["diversity"]["index"] > 0
    assert metrics["seeds"] == [0, 1]
    assert (path / "images.safetensors").read_bytes() == images
    record = json.loads((path / "run.json").read_text())
    assert (record["status"], record["attempts"]) == ("finished", 2)
    assert not list(path.glob(".claim*"))
    assert not (path / "checkpoint").exists()


def test_measures_with_other_settings_are_taken_again(current_folder, capsys):
    words = ["unit=3", "analysis=[dimension]", "images=tensor"]
    found = []
    for points in (8, 8, 16):
        assert run(*words, f"measure.dimension.points={points}") == 0
        (record,) = current_folder.rglob("run.json")
        measures = json.loads((record.parent / "metrics.json").read_text())["measures"]
        found.append(
            (json.loads(record.read_text())["attempts"], measures["dimension"]["settings"])
        )
    assert [attempts for attempts, _ in found] == [1, 1, 2]
    assert found[0][1] == found[1][1] != found[2][1]
    capsys.readouterr()
    assert run("-m", "unit=4", "measure.dimension.points=8,16") == 2
    assert "is asked for twice" in capsys.readouterr().err
    assert run("-m", "unit=4", "measure.dimension.points=8", "root=one,other") == 2
    assert "a sweep has one root" in capsys.readouterr().err
    assert not (current_folder / "one").exists()


def test_sweep_with_a_bad_value_does_nothing(current_folder, capsys):
    """Nobody wants to learn tomorrow that one of a thousand jobs had a typing error."""
    for words, said in (
        (["unit=0,99,2"], "there is no unit 99"),
        (["layer=simple,complx"], "complx"),
    ):
        assert run("-m", *words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert said in err
        assert list(current_folder.iterdir()) == []


def test_sweep_skips_finished_units(current_folder, capsys):
    assert run("-m", "unit=0,1,4-5", "images=tensor") == 0
    assert capsys.readouterr().out.splitlines() == ["outputs/energy/complex/0-1,4-5/v001"]
    assert run("-m", "unit=0-7", "units_per_job=4", "seed=0,1", "images=tensor") == 0
    out, err = capsys.readouterr()
    made = {
        f"outputs/energy/complex/{name}"
        for name in ("2-3/v001", "6-7/v001", "0-3/v001", "4-7/v001")
    }
    assert set(out.splitlines()) == made | {"outputs/energy/complex/0-1,4-5/v001"}
    assert "skipped: 4 units, already finished in outputs/energy/complex/0-1,4-5/v001" in err
    assert "4 runs, all finished" in err
    alone = load_file("outputs/energy/complex/0-1,4-5/v001/images.safetensors")
    assert run("unit=0-1", "root=other", "images=tensor") == 0
    pair = load_file("other/energy/complex/0-1/v001/images.safetensors")
    assert torch.equal(alone["images"][:2], pair["images"])
    assert run("-m", "unit=0-7", "units_per_job=4", "seed=0,1", "images=tensor") == 0
    assert "all units are already finished" in capsys.readouterr().err


def test_sweep_names_work_not_overrides(current_folder, capsys, monkeypatch):
    assert run("-m", "unit=0", "images=tensor") == 0
    err = capsys.readouterr().err
    assert "1 unit in 1 run, 1 job\n" in err
    assert "1 run, all finished" in err
    assert err.count("job 1 of 1: energy/complex/0\n") == 1
    assert "HYDRA" not in err
    monkeypatch.setattr("diversevis.sweep.jobs.LISTED", 0)  # too many to be named at once
    assert run("-m", "unit=1", "images=tensor") == 0
    assert "diversevis: job 1 of 1: energy/complex/1\n" in capsys.readouterr().err


@pytest.mark.slow
def test_small_runs_share_a_job(current_folder, capsys):
    words = ["unit=0-2", "objective.diversity=0.1,0.2", "layer=simple,complex", "images=tensor"]
    assert run("-m", *words) == 0
    err = capsys.readouterr().err
    assert "12 units in 4 runs, 2 jobs" in err
    assert "job 1 of 2: energy/simple/0-2, energy/simple/0-2" in err
    assert run("-m", *words, "units_per_job=1", "again=true") == 0
    assert "12 units in 12 runs, 12 jobs" in capsys.readouterr().err
    assert len(list(current_folder.glob("outputs/energy/*/0-2/v001"))) == 2
    assert len(list(current_folder.glob("outputs/energy/*/[012]/v00[12]"))) == 12


def test_failed_job_leaves_the_others_running(current_folder, capsys, monkeypatch):
    whole = batches.visualize

    def broken(setup, rows, **options):
        if setup.experiment.seed == 1:
            raise RuntimeError("a cosmic ray")
        return whole(setup, rows, **options)

    monkeypatch.setattr(batches, "visualize", broken)
    assert run("-m", "seed=0,1,2", "images=tensor") == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "a cosmic ray" in err
    assert "3 runs: 2 finished, 1 failed" in err
    assert "`diversevis retry outputs`" in err
    records = [json.loads(path.read_text()) for path in current_folder.rglob("run.json")]
    (failed,) = [one for one in records if one["status"] == "failed"]
    assert "RuntimeError: a cosmic ray" in failed["error"]
    assert failed["seed"] == 1
    assert main(["status"]) == 0
    assert "a cosmic ray" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.chdir(current_folder)
    assert main(["retry"]) == 0
    (again,) = capsys.readouterr().out.splitlines()
    assert json.loads((Path(again) / "run.json").read_text())["attempts"] == 2
    assert main(["retry"]) == 0
    assert "nothing to retry" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [(["retry", "n=3"], "takes one folder"), (["retry", "nowhere"], "nowhere"),
     (["status", "nowhere"], "nowhere"), (["collect", "nowhere"], "nowhere"),
     (["run", "checkpoint=-1"], "checkpoint=-1"), (["run", "units_per_job=0"], "units_per_job=0"),
     (["run", "images=jpeg"], "images='jpeg'"),
     (["run", "hydra/launcher=slurm"], "Launchers are for sweeps"),
     (["run", "-m", "hydra.launcher.partition=gpu"], "none is chosen: add hydra/launcher=slurm"),
     (["run", "-m", "hydra/launcher=joblib", "hydra.launcher.njobs=2"], "joblib has no setting njobs"),
     (["run", "seed=0,1"], "seed=0,1 has commas: for a sweep"),
     (["run", "seed=range(0,2)"], "seed=range(0,2) lists values: for a sweep put -m first"),
     (["run", "-m", "seed=range(0,5,0)"], "seed=range(0,5,0) never ends"),
     (["run", "-m", "seed=range(3,0)"], "seed=range(3,0) lists no value"),
     (["run", "-m", "hydra/sweeper=optuna"], "hydra/sweeper=optuna: a sweep is planned here"),
     (["run", "hydra/sweeper=ax"], "hydra/sweeper=ax: a sweep is planned here"),
     (["run", "-m", "hydra.sweeper.n_trials=3"], "hydra.sweeper.n_trials=3: a sweep"),
     (["run", "hydra.mode=MULTIRUN", "seed=0,1"], "hydra.mode=MULTIRUN: a sweep"),
     (["retry", "hydra/sweeper=optuna"], "hydra/sweeper=optuna: a sweep"),
     (["run", "unit=0,1"], "For one run over the list write unit=[0,1]")],
)  # fmt: skip
def test_bad_input_of_sweep_commands(current_folder, capsys, words, said):
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert list(current_folder.iterdir()) == []


def deep():
    """A network whose layers 0.1 and 0.10 are the same number."""
    return nn.Sequential(nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(11))))


CUSTOM = (
    "model=custom",
    "model.target=test_cli.deep",
    "model.mean=[.5,.5,.5]",
    "model.std=[1,1,1]",
)


def test_layers_may_look_like_numbers(current_folder, capsys):
    words = *CUSTOM, "images=tensor"
    assert run("layer=0.10", *words) == 0
    assert run("-m", "layer=0.0,0.10", "seed=1", *words) == 0
    made = capsys.readouterr().out.splitlines()
    assert made == [
        f"outputs/test_cli.deep/{name}" for name in ("0.10/0/v001", "0.0/0/v001", "0.10/0/v002")
    ]
    record = json.loads(Path(made[0], "run.json").read_text())
    assert record["layer"] == record["config"]["layer"] == "0.10"
    assert main(shlex.split(record["rerun"])[1:]) == 0
    assert capsys.readouterr().out == "outputs/test_cli.deep/0.10/0/v003\n"
    Path(made[2], "metrics.json").unlink()
    assert main(["retry"]) == 0
    assert capsys.readouterr().out == f"{made[2]}\n"
    assert main(["analyze", *CUSTOM, "layer=0.1", "analysis=phase", "unit=0"]) == 0
    assert capsys.readouterr().out == "outputs/test_cli.deep/0.1/0/v001\n"
    assert main(["weights", *CUSTOM, "layer=0.1"]) == 0
    assert "4 tensors, all finite; serves test_cli.deep up to 0.1\n" in capsys.readouterr().out


def test_every_file_of_a_group_is_swept(current_folder, capsys):
    words = "device=cpu", "optimizer.steps=12", "objective.restarts=2", "images=tensor"
    assert main(["run", "-m", "optimizer=glob(*)", *words]) == 0
    made = capsys.readouterr().out.splitlines()
    kinds = [
        json.loads(Path(p, "run.json").read_text())["config"]["optimizer"]["kind"] for p in made
    ]
    assert kinds == ["annealed", "adam", "sphere"]


def test_runs_of_older_versions_are_understood(current_folder, capsys):
    """Records that lack settings: those of version 0.1.0 had no size, position and token."""
    assert run(*CUSTOM, "layer=0.0", "images=tensor") == 0
    path = Path(capsys.readouterr().out.strip())
    record = json.loads((path / "run.json").read_text())
    for key in ("size", "position", "token"):
        del record["config"][key]
    for key in ("arguments", "seed", "inside", "scale", "order"):
        del record["config"]["model"][key]
    (path / "run.json").write_text(json.dumps(record))
    (path / "config.yaml").write_text(json.dumps(record["config"]))
    (path / "metrics.json").unlink()
    assert main(["retry"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(path)]
    assert main(["analyze", str(path), "analysis=[diversity]"]) == 0
    assert main(shlex.split(record["rerun"])[1:]) == 0
    again = Path(capsys.readouterr().out.splitlines()[-1])
    assert again.name == "v002"
    assert torch.equal(*(load_file(p / "images.safetensors")["images"] for p in (path, again)))


def test_images_as_tensors_need_few_files(current_folder, capsys):
    assert run("unit=0-3", "images=tensor", "analysis=[diversity]") == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    files = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert files == {
        "run.json", "config.yaml", "metrics.json", "images.safetensors", "trace.csv", "run.log",
        "analysis/diversity.safetensors", ".hydra/config.yaml", ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
    }  # fmt: skip


def test_finished_run_gets_missing_pictures(current_folder, capsys):
    words = "unit=0-1", "analysis=[diversity]"
    assert run(*words, "images=tensor") == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    before = (path / "images.safetensors").read_bytes()
    assert run(*words, "record=gif") == 0
    found = capsys.readouterr()
    assert "was made without a film: again=true makes one" in found.err
    assert found.out.splitlines()[-1] == str(path)
    assert {p.name for p in path.glob("*.png")} > {"sheet_unit0000.png", "sheet_unit0001.png"}
    assert len(list(path.glob("images/unit*/*.png"))) == 2 * 6
    assert (path / "analysis/diversity_unit0001.png").exists()
    assert (path / "images.safetensors").read_bytes() == before
    assert not list(path.glob("*.gif"))


def test_interrupted_drawing_is_completed_later(current_folder, capsys, monkeypatch):
    words = "unit=0-2", "analysis=[diversity]"
    assert run(*words, "images=tensor") == 0
    (record,) = current_folder.rglob("run.json")
    for which, status in (("write_sheet", 0), ("write_measure_picture", 128 + signal.SIGTERM)):
        write, drawn = getattr(RunFolder, which), []

        def cut(self, *rest, write=write, drawn=drawn, status=status):
            drawn.append(rest)
            if len(drawn) == 2:
                if status == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                signal.raise_signal(signal.SIGTERM)
            write(self, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, which, cut)
            assert run(*words) == status
        assert json.loads(record.read_text())["status"] == "finished"
        assert not list(record.parent.glob(".claim*"))
    assert "no pictures drawn (OSError: [Errno 28]" in capsys.readouterr().err
    assert len(list(record.parent.glob("analysis/diversity_unit*.png"))) == 2
    assert run(*words) == 0
    assert len(list(record.parent.glob("sheet_*.png"))) == 3
    assert len(list(record.parent.glob("analysis/diversity*.png"))) == 3 + 1
    assert (record.parent / "trace.png").exists()
    sheet = record.parent / "sheet_unit0000.png"
    sheet.unlink()  # somebody does not want it
    assert run(*words) == 0
    assert not sheet.exists()


def test_failed_drawing_leaves_a_run_finished(current_folder, capsys):
    assert run("unit=0-1", "images=tensor") == 0
    (record,) = current_folder.rglob("run.json")
    before = record.read_bytes()
    claim = Claim.make(record.parent)
    claim.begin()
    try:
        assert run("unit=0-1") == 0  # another process may be drawing them
    finally:
        claim.remove()
    assert not list(record.parent.glob("*.png"))
    (record.parent / "trace.csv").write_text("")
    capsys.readouterr()
    assert run("unit=0-1") == 0
    found = capsys.readouterr()
    assert "1 picture (images) could not be drawn: trace: ValueError" in found.err
    assert found.out == f"{record.parent.relative_to(current_folder)}\n"
    assert record.read_bytes() == before


MEASURED = "unit=0-1", "images=tensor", "analysis=[diversity]"


@pytest.fixture(scope="module")
def measured_run(tmp_path_factory):
    """The folder `outputs` of one finished run; tests that change it copy it."""
    root = tmp_path_factory.mktemp("measured") / "outputs"
    with unchanged_log():
        assert run(*MEASURED, f"root={root}") == 0
    return root


@pytest.mark.parametrize("name", ["metrics.json", "images.safetensors"])
@pytest.mark.parametrize("how", ["gone", "empty", "cut off"])
def test_damaged_run_is_named_and_repaired(measured_run, current_folder, capsys, name, how):
    shutil.copytree(measured_run, current_folder / "outputs")
    (record,) = current_folder.rglob("run.json")
    whole = (record.parent / "images.safetensors").read_bytes()
    damaged = record.parent / name
    if how == "gone":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:-3] if how == "cut off" else b"")
    capsys.readouterr()
    assert main(["status", "outputs"]) == 0
    said = capsys.readouterr().out
    assert f"{name} is " in said
    assert "To repeat what is damaged:" in said
    if how == "gone":
        assert main(["analyze", str(record.parent), "analysis=dimension"]) == 2
        assert f"{name} is not there" in capsys.readouterr().err
    assert (main(["retry", "outputs"]) if how == "empty" else run(*MEASURED)) == 0
    assert (record.parent / "images.safetensors").read_bytes() == whole
    assert "diversity" in json.loads((record.parent / "metrics.json").read_text())["measures"]
    assert json.loads(record.read_text())["status"] == "finished"
    assert len(list(current_folder.rglob("run.json"))) == 1


def test_partly_repaired_run_is_not_finished(current_folder, monkeypatch):
    words = "unit=0-1", "images=tensor", "batch=6"
    assert run(*words) == 0
    (record,) = current_folder.rglob("run.json")
    images = record.parent / "images.safetensors"
    whole = images.read_bytes()
    images.unlink()
    visualize, seen = batches.visualize, []

    def cut(setup, rows, **others):
        seen.append(rows)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return visualize(setup, rows, **others)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "visualize", cut)
        assert run(*words) == 130
    assert load_file(images)["units"].tolist() == [0]
    assert json.loads(record.read_text())["status"] == "interrupted"
    assert run(*words) == 0
    assert images.read_bytes() == whole


@pytest.mark.slow
def test_sweep_adds_missing_pictures(current_folder, capsys):
    sweep = "-m", "unit=0-1", "seed=0,1", "units_per_job=1"
    assert run(*sweep, "images=tensor") == 0
    assert not list(current_folder.rglob("*.png"))
    assert run(*sweep) == 0
    assert len(list(current_folder.rglob("sheet_*.png"))) == 2 * 2
    assert len(list(current_folder.rglob("run.json"))) == 4
    capsys.readouterr()
    assert run(*sweep) == 0
    assert "all units are already finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["unit=72"], "layer complex has 72 units"),
        (["unit=[]"], "names no unit"),
        (["unit=a-b"], "neither a unit nor a range"),
        (["layer=complx"], "layer=complx is not a layer of energy.*Did you mean complex"),
        (["layr=simple"], "no setting layr"),
        (["n=0"], "n=0"), (["n=1"], "n=1"), (["contrast=0"], "contrast=0"),
        (["objective.distance=shift"], "shift does not lie before layer=complex"),
        (["objective.distance=pixel"], "objective.distance=pixel is not a layer.*Did you mean pixels"),
        (["objective.direction=none.npy"], "none.npy is not a file"),
        (["norm=paper"], "norm=contrast"),
        (["device=cuda:77"], "device=cuda:77"), (["device=tpu"], "device=tpu is unknown"),
        (["root=/proc/nowhere"], "root=/proc/nowhere"),
        (["model=vgg19", "layer=conv9_9"], "layer=conv9_9"),
        (["model=vgg19", "layer=conv1_1", "model.weights=none.pth"], "none.pth is not a file"),
        (["objective.scale=natural", "objective.photographs=none"], "none is not a folder"),
    ],
)  # fmt: skip
def test_bad_input_gives_one_line(current_folder, capsys, words, said):
    import re

    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("diversevis: ")
    assert re.search(said, err), err
    assert list(current_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [(["fly"], "no command 'fly'"), (["layers", "model=vgg"], "model=vgg is unknown. Did you mean vgg19"),
     (["layers", "model=torchvision"], "model.name has no default"),
     (["weights", "model=vgg19", "model.weights=x.pth"], "x.pth is not a file")],
)  # fmt: skip
def test_bad_input_of_the_other_commands(current_folder, capsys, words, said):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_layers_prints_the_table(capsys):
    assert main(["layers", "model=resnet50"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:2] == ["layer", "units"]
    assert ["layer1.1", "256", "27", "4", "sum", "of", "branches,", "before", "its", "ReLU"] in rows
    assert ["avgpool", "2048", "whole", "image", "-", "AdaptiveAvgPool2d"] in rows


def test_weights_prints_source_and_digest(capsys):
    assert main(["weights", "model=energy"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "analytic"
    assert out[1].startswith("sha256 ")


def test_failed_write_makes_a_failed_run(current_folder, capsys, monkeypatch):
    def full(self, *arrays):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "images.safetensors")

    monkeypatch.setattr(RunFolder, "write_images", full)
    assert run() == 1
    assert "No space left" in capsys.readouterr().err
    record = json.loads(next(current_folder.rglob("run.json")).read_text())
    assert record["status"] == "failed"
    assert "No space left" in record["error"]


def test_unrecorded_end_is_not_logged_as_finished(current_folder, monkeypatch):
    update = RunFolder.update_record

    def full(self, **changes):
        if changes.get("status") == "finished":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run.json")
        update(self, **changes)

    monkeypatch.setattr(RunFolder, "update_record", full)
    assert run() == 1
    assert json.loads(next(current_folder.rglob("run.json")).read_text())["status"] == "failed"
    assert "finished after" not in next(current_folder.rglob("run.log")).read_text()


def test_failure_is_recorded(current_folder, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(batches, "visualize", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        run()
    record = json.loads(next(current_folder.rglob("run.json")).read_text())
    assert record["status"] == "failed"
    assert "RuntimeError: out of memory" in record["error"]


@pytest.mark.process
def test_ctrl_c_keeps_the_images_so_far(start_run):
    words = ["optimizer.steps=100000000", "optimizer.search_steps=3", "checkpoint=0.1"]
    process, record = start_run("unit=0-9", *words)
    wait_for_checkpoint(process, record)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert json.loads(record.read_text())["status"] == "interrupted"
    metrics = json.loads((record.parent / "metrics.json").read_text())["units"]
    assert [(one["unit"], one["stop"]) for one in metrics] == [
        (unit, "interrupted") for unit in range(10)
    ]
    assert (record.parent / "sheet_unit0000.png").is_file()


@pytest.mark.process
def test_run_started_with_ctrl_c_ignored_finishes(start_run):
    """As a shell starts what runs in the background; Ctrl-C is then for others."""
    words = ["optimizer.steps=3000", "optimizer.search_steps=3", "checkpoint=0.05",
             "optimizer.tolerance=1e-30"]  # fmt: skip
    process, record = start_run(*words, "images=tensor", sigint=signal.SIG_IGN)
    wait_for_checkpoint(process, record)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(record.read_text())["status"] == "finished"


@pytest.mark.process
def test_ctrl_c_before_the_first_images(start_run):
    process, record = start_run(
        "optimizer=paper", "optimizer.search_steps=100000000", "optimizer.patience=100000000",
        "checkpoint=0.1",
    )  # fmt: skip
    wait_for_checkpoint(process, record, "search")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "0 of 1 unit are saved" in err
    assert json.loads(record.read_text())["status"] == "interrupted"


def test_refused_sweep_leaves_no_files(current_folder, capsys):
    for words in (["-m", "unit=98,99"], ["unit=0", "-m", "unitt=1,2"], ["-m", "unit=0,x"]):
        assert run(*words) == 2
        assert capsys.readouterr().out == ""
        assert list(current_folder.iterdir()) == []


def test_rerun_command_works_from_any_folder(current_folder, capsys, monkeypatch):
    import numpy as np

    np.save("d.npy", np.ones(72, np.float32))
    assert run("objective.direction=d.npy", "images=tensor") == 0
    first = Path(capsys.readouterr().out.splitlines()[-1]).resolve()
    assert first.parent.name == "direction-d"
    rerun = shlex.split(json.loads((first / "run.json").read_text())["rerun"])
    elsewhere = current_folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(rerun[1:]) == 0
    again = Path(capsys.readouterr().out.splitlines()[-1])
    assert torch.equal(*(load_file(p / "images.safetensors")["images"] for p in (first, again)))
    assert main([*rerun[1:], "model=resnet50"]) == 2
    assert "model is fixed in this config" in capsys.readouterr().err


def test_full_disk_leaves_no_truncated_file(small_disk, capsys):
    """Status failed, nothing truncated."""
    disk = small_disk("size=48k")
    assert run(f"root={disk.name}") == 1
    err = capsys.readouterr().err
    assert "No space left" in err
    assert "Traceback" not in err
    record = json.loads(next(disk.rglob("run.json")).read_text())
    assert record["status"] == "failed"
    for path in disk.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        assert path.name != "images.safetensors"
        assert not path.name.startswith(".run.json")


def test_failed_picture_costs_only_itself(current_folder, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("a picture too many")

    with monkeypatch.context() as broken:
        broken.setattr("diversevis.pictures.images.sheet", fail)
        broken.setattr("diversevis.pictures.measures.diversity.picture", fail)
        assert run("unit=3-4", "analysis=diversity") == 0
    folder = current_folder / "outputs/energy/complex/3-4/v001"
    err = capsys.readouterr().err
    said = "2 pictures (images) could not be drawn: unit 3: ValueError: a picture too many"
    assert said in err
    assert err.count("could not be drawn") == 2
    assert json.loads((folder / "metrics.json").read_text())["units"][1]["diversity"]["index"] > 0
    assert (folder / "trace.png").is_file()
    assert (folder / "analysis/diversity.png").is_file()
    assert run("unit=3-4", "analysis=diversity") == 0  # a repaired program draws them
    assert (folder / "sheet_unit0003.png").is_file()
    assert (folder / "analysis/diversity_unit0004.png").is_file()


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_film_of_many_images_is_made(current_folder, kind):
    """128 images of an mp4 ended in an encoder's traceback after the optimization."""
    if kind == "mp4":
        pytest.importorskip("av", reason="PyAV (the extra `video`) is not installed")
    words = ["unit=3", "n=130", f"record={kind}", "optimizer.steps=2", "optimizer.search_steps=2"]
    assert run(*words) == 0
    path = current_folder / f"outputs/energy/complex/3/v001/optimization_unit0003.{kind}"
    height, width = iio.imread(path).shape[1:3]
    assert (height <= 1080, width <= 1920) == (True, True)


def test_impossible_film_leaves_no_files(current_folder, capsys, monkeypatch):
    monkeypatch.setattr("diversevis.pictures.film.HEIGHT", 20)
    assert run("unit=3", "n=130", "record=gif") == 2
    assert "record=gif: 130 images of" in capsys.readouterr().err
    assert list(current_folder.iterdir()) == []


def test_norm_and_contrast_exclude_one_another(current_folder, capsys):
    words = ["model=vgg19", "model.weights=random", "layer=conv1_1", "norm=paper", "contrast=30"]
    assert run(*words) == 2
    assert "exclude one another" in capsys.readouterr().err
