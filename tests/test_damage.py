"""Damaged run folders: named with the reason by all who read them, beside runs that are whole."""

import contextlib
import csv
import hashlib
import json
import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import COMMAND, QUICK
from damage import BRACKETS, DAMAGES, SAME, arrays, changed, record
from safetensors.torch import save

from diversevis import load
from diversevis.cli.main import main
from diversevis.errors import InputError
from diversevis.runs.check import read_results
from diversevis.runs.checkpoints import PROGRAM
from diversevis.runs.lease import Claim
from diversevis.sweep.status import states

UNITS = "0-1", "2-3", "4-5"  # the runs of the sweep; the first is damaged
SWEEP = ["-m", "model=energy", "layer=complex", "unit=0-5", "units_per_job=2", "n=3",
         "images=tensor", "analysis=[phase,diversity]", "measure.phase.orientations=4", *QUICK]  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The root of a finished sweep of three runs, and that of a fourth to compare with."""
    above = tmp_path_factory.mktemp("sweep")
    assert main(["run", *SWEEP, f"root={above / 'a'}"]) == 0
    assert main(["run", *SWEEP, "seed=1", f"root={above / 'b'}"]) == 0
    return above


@pytest.fixture
def copied(sweep, tmp_path, monkeypatch):
    """A copy that may be damaged, and the folder in it of the run that is."""
    shutil.copytree(sweep / "a", tmp_path / "a")
    plan = next((tmp_path / "a").rglob("sweep.json"))
    plan.write_text(plan.read_text().replace(str(sweep), str(tmp_path)))
    shutil.copytree(sweep / "b", tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "a/energy/complex/0-1/v001"


def states_of(root):
    return sorted((state.units, state.state) for state in states(root))


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_by_all(copied, capsys, kind):
    damage, words = DAMAGES[kind]
    damage(copied)
    root = Path("a")
    began = time.monotonic()
    assert main(["status", "a"]) == 0
    said = capsys.readouterr().out
    assert words in said
    assert [line.split()[2:] for line in said.splitlines()[1:2]] == [["4/6", "3", "2", "1"]]

    assert main(["collect", "a", "out=table"]) == 0
    table = pd.read_parquet("table/table.parquet")
    assert sorted(table.unit) == [2, 3, 4, 5]
    with Path("table/left_out.csv").open() as file:
        ((folder, reason),) = list(csv.reader(file))[1:]
    assert folder == "energy/complex/0-1/v001"
    assert words in reason

    before = {path: path.lstat().st_mtime_ns for path in copied.iterdir()}
    assert main(["analyze", str(copied), "analysis=phase"]) == 2
    assert words in capsys.readouterr().err
    assert {path: path.lstat().st_mtime_ns for path in copied.iterdir()} == before

    assert main(["compare", "a", "b", "out=compared", "resamples=100"]) == 0
    assert words in capsys.readouterr().err
    comparison = json.loads(Path("compared/v001/comparison.json").read_text())
    assert len(comparison["pairs"]) == 2
    assert main(["compare", str(copied), "b", "out=compared"]) == 2
    assert words in capsys.readouterr().err
    assert [name for _, name in states_of(root)].count("damaged") == 1
    assert {((2, 3), "finished"), ((4, 5), "finished")} < {*states_of(root)}
    assert time.monotonic() - began < 30


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_retry_repeats_what_is_damaged(sweep, copied, capsys, kind):
    DAMAGES[kind][0](copied)
    assert main(["retry", "a"]) == 0
    assert "Traceback" not in capsys.readouterr().err
    finished = [state for state in states(Path("a")) if state.state == "finished"]
    assert sorted(state.units for state in finished) == [(0, 1), (2, 3), (4, 5)]
    for units in UNITS:
        whole = read_results(sweep / f"a/energy/complex/{units}/v001")
        folder = next(s.folder for s in finished if s.units == tuple(whole.units))
        assert [row["phase"] for row in read_results(folder).rows] == [
            row["phase"] for row in whole.rows
        ]


@pytest.mark.parametrize("kind", SAME)
def test_rewritten_file_is_whole(copied, capsys, kind):
    before = read_results(copied, thorough=True)
    SAME[kind](copied)
    after = read_results(copied, thorough=True)
    assert (after.record, after.rows, after.measures) == (
        before.record,
        before.rows,
        before.measures,
    )
    assert [state for _, state in states_of(Path("a"))] == ["finished"] * 3
    assert main(["analyze", str(copied), "analysis=diversity"]) == 0
    assert main(["compare", str(copied), "b/energy/complex/0-1", "resamples=100"]) == 0


LACKING = {
    "sha256": ("run.json", lambda r: r["weights"].pop("sha256"), (2, 0)),
    "network": ("run.json", lambda r: r["config"].pop("model"), (2, 0)),
    "analysis": ("run.json", lambda r: r["config"].pop("analysis"), (0, 0)),
    "diversity": ("run.json", lambda r: r.pop("diversity"), (0, 2)),
    "name": ("run.json", lambda r: r.update(layer="a\x1b[31m\n\udc80"), (0, 0)),
    "stop": ("metrics.json", lambda m: m["units"][0].pop("stop"), (2, 2)),
    "response": ("metrics.json", lambda m: m["units"][0].pop("response_mean"), (2, 2)),
    "best": ("metrics.json", lambda m: m["units"][0].pop("response_best"), (2, 2)),
}


@pytest.mark.parametrize("name", LACKING)
def test_missing_entries_end_in_no_traceback(copied, name):
    """What the check does not ask for: `analyze` and `compare` do without it, or refuse."""
    file, change, statuses = LACKING[name]
    changed(file, change)(copied)
    damaged = statuses == (2, 2)  # the check asks for it
    assert main(["show", str(copied), "unit=0"]) == (2 if damaged else 0)
    said = (
        main(["analyze", str(copied), "analysis=diversity"]),
        main(["compare", str(copied), "b/energy/complex/0-1", "resamples=100"]),
    )
    assert said == statuses


def test_mean_beyond_float32_is_no_damage(copied):
    """Of a unit that diverged: its responses are numbers, their mean in float32 is infinite."""

    def overflow(tensors):
        tensors["responses"][0] = 3e38

    arrays(overflow)(copied)
    told = {"response_mean": None, "stop": "diverged"}
    changed("metrics.json", lambda metrics: metrics["units"][0].update(told))(copied)
    assert len(read_results(copied, thorough=True).units) == 2


def test_file_of_brackets_stops_nothing_else(copied, capsys):
    """In all the places where JSON is read: each is refused in less than a second."""
    for name in ("metrics.json", "run.json", ".claim-0001"):
        (copied / name).write_bytes(BRACKETS)
    other = copied.parents[1] / "2-3/v001"
    record = json.loads((other / "run.json").read_text()) | {"status": "interrupted"}
    (other / "run.json").write_text(json.dumps(record))
    (other / "checkpoint").mkdir()
    (other / "checkpoint/images-done-00000-aa.safetensors").write_bytes(
        len(BRACKETS).to_bytes(8, "little") + BRACKETS
    )
    bomb = Path("a/multirun/bomb")
    bomb.mkdir()
    (bomb / "sweep.json").write_bytes(BRACKETS)
    began = time.monotonic()
    assert states_of(Path("a"))[0] == ((0, 1), "damaged")
    assert time.monotonic() - began < 1
    assert "multirun/bomb: sweep.json is nested too deeply" in capsys.readouterr().err
    assert main(["retry", "a"]) == 0
    finished = [units for units, state in states_of(Path("a")) if state == "finished"]
    assert finished == [(0, 1), (2, 3), (4, 5)]


def test_folder_counts_once_in_status(copied, capsys):
    """A damaged run that does not say what it was is what the sweep planned there."""
    (copied / "run.json").write_text("{")
    (state,) = (state for state in states(Path("a")) if state.state == "damaged")
    assert (state.units, state.folder.resolve()) == ((0, 1), copied)
    assert state.planned is not None
    shutil.rmtree("a/multirun")
    assert [state.hash for state in states(Path("a")) if state.state == "damaged"] == [None]


def test_pixels_beyond_the_sample_are_checked(copied, monkeypatch):
    """`analyze` reads all images; `status` some of them, if they are large."""
    from diversevis.runs import tensors

    monkeypatch.setattr(tensors, "SAMPLE", 100)
    DAMAGES["a pixel is NaN"][0](copied)  # in the second unit
    assert [state for _, state in states_of(Path("a"))] == ["finished"] * 3
    assert main(["analyze", str(copied)]) == 2
    assert main(["show", str(copied)]) == 0  # it shows no image
    DAMAGES["pixels are doubled"][0](copied)
    assert [state for _, state in states_of(Path("a"))] == ["damaged", "finished", "finished"]


def test_damaged_arrays_of_measures_are_named(copied, capsys):
    path = copied / "analysis/phase.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["analyze", str(copied), "analysis=diversity"]) == 2
    assert "analysis/phase.safetensors is cut off" in capsys.readouterr().err


def test_program_refuses_a_bomb_at_once(copied):
    (copied / "run.json").write_bytes(BRACKETS)
    done = subprocess.run([*COMMAND, "status", "a"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "nested too deeply" in done.stdout


@pytest.mark.parametrize("name", ["vgg\x1b[31m\x1b]0;title\x07\x9b5m", "a\0b", "\ud800"])
def test_names_change_no_terminal(copied, capsys, name):
    """What stands in a file is printed without terminal commands, and breaks no table."""
    record(model=name, layer=name, direction=name)(copied)
    for words in (["status", "a"], ["collect", "a", "out=table"], ["show", str(copied)],
                  ["compare", "a", "b", "out=compared", "resamples=100"]):  # fmt: skip
        assert main(words) == 0
    record(distance=name)(copied)
    assert main(["compare", "a", "b", "out=compared", "resamples=100"]) == 0
    said = "".join(capsys.readouterr())
    assert all(character.isprintable() or character == "\n" for character in said)


def test_wider_images_are_compared(copied, capsys):
    SAME["images.safetensors by another tool"](copied)
    assert main(["compare", "a", "b", "out=compared", "resamples=100"]) == 0
    assert load(copied).images.dtype == torch.float32


def test_damaged_measures_are_taken_anew(copied, capsys):
    path = copied / "analysis/phase.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="analysis=phase"):
        load(copied)
    assert main(["show", str(copied)]) == 0  # it needs the numbers only
    assert main(["analyze", str(copied), "analysis=phase", "measure.phase.orientations=4"]) == 0
    assert load(copied).units == (0, 1)


def test_arrays_of_other_units_are_refused(copied):
    shutil.copy(copied.parents[1] / "2-3/v001/analysis/phase.safetensors", copied / "analysis")
    with pytest.raises(InputError, match="is of other units"):
        load(copied)


@pytest.mark.parametrize("target", ["link", "pipe", "folder"])
def test_log_is_written_to_no_other_file(copied, capsys, target):
    """Else a folder from somebody else could append to any file of this user."""
    log, other = copied / "run.log", Path("other")
    log.unlink()
    other.write_text("mine\n")
    {"link": lambda: log.symlink_to(other.absolute()), "pipe": lambda: os.mkfifo(log),
     "folder": log.mkdir}[target]()  # fmt: skip
    assert main(["analyze", str(copied), "analysis=diversity"]) == 0
    assert "no log is written" in capsys.readouterr().err
    assert other.read_text() == "mine\n"


@pytest.mark.parametrize("damage", [
    lambda path: path.write_text("x"), lambda path: path.symlink_to(path.name),
])  # fmt: skip
def test_analysis_that_is_no_folder(copied, capsys, damage):
    shutil.rmtree(copied / "analysis")
    damage(copied / "analysis")
    assert main(["show", str(copied), "unit=0"]) == 0
    with contextlib.suppress(InputError):
        assert load(copied).units == (0, 1)
    assert main(["analyze", str(copied), "analysis=phase"]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("change", [
    lambda config: config.pop("model"), lambda config: config.update(model="x"),
    lambda config: config.update(analysis=7), lambda config: config.update(objective=[]),
])  # fmt: skip
def test_config_of_other_kinds_is_refused(copied, capsys, change):
    """`analyze` builds the network from it; numbers are read without it."""
    changed("run.json", lambda content: change(content["config"]))(copied)
    assert main(["analyze", str(copied), "analysis=diversity"]) == 2
    assert [state for _, state in states_of(Path("a"))] == ["finished"] * 3


def checkpoint(facts, *, rows=(0, 1), kind="done"):
    """A checkpoint of the run's work with these facts, beside what every checkpoint has."""

    def damage(path):
        common = {"work": json.loads((path / "run.json").read_text())["config_hash"],
                  "program": PROGRAM, "rows": list(rows)}  # fmt: skip
        content = json.dumps(common | facts) if isinstance(facts, dict) else facts
        digest = hashlib.sha256(repr(list(rows)).encode()).hexdigest()[:12]
        (path / "checkpoint").mkdir()
        (path / f"checkpoint/images-{kind}-00000-{digest}.safetensors").write_bytes(
            save({"a": torch.zeros(3)}, {"facts": content, "strides": "{}"})
        )

    return damage


def in_checkpoints(make):
    def damage(path):
        (path / "checkpoint").mkdir()
        make(path / "checkpoint/images-done-00000-aa.safetensors")

    return damage


@pytest.mark.parametrize("damage", [
    checkpoint("[" * 200_000), checkpoint("[]"), checkpoint({"results": 5}),
    checkpoint({"results": {"units": [{}]}}), checkpoint({"rows": 5}), checkpoint({"rows": []}),
    checkpoint({}, kind="state"), in_checkpoints(Path.mkdir), in_checkpoints(os.mkfifo),
    in_checkpoints(lambda path: path.symlink_to("/dev/zero")), record(batch=0),
    record(batch=1e308), record(batch=-5), record(device="\ud800"),
])  # fmt: skip
def test_unusable_checkpoints_are_left_out(copied, capsys, damage):
    record(status="interrupted", optimized=False)(copied)
    damage(copied)
    assert main(["retry", "a"]) == 0
    assert [state for _, state in states_of(Path("a"))] == ["finished"] * 3
    assert not (copied / "checkpoint").exists()


def claim(number, **content):
    """An old claim, as of a process on another machine that has died."""

    def damage(path):
        file = path / f".claim-{number}"
        file.write_text(json.dumps(content))
        os.utime(file, (0, 0))

    return damage


@pytest.mark.parametrize("damage", [
    claim("9999999999", released=True), claim("9" * 200, released=True), claim("١٢٣٤"),
    claim("0001", released=True, time=10**400, progress=[1]),
])  # fmt: skip
def test_odd_claims_hold_no_folder(copied, capsys, damage):
    record(status="interrupted", optimized=False)(copied)
    damage(copied)
    assert main(["retry", "a"]) == 0
    assert [state for _, state in states_of(Path("a"))] == ["finished"] * 3


@pytest.mark.parametrize("future", [1e11, 1e308, 10**400])
def test_signs_from_the_future_are_none(copied, future):
    """`status` would say for ever that such a run is running."""
    record(status="interrupted", optimized=False)(copied)
    claim("0001", time=future, host="elsewhere")(copied)
    assert next(state for _, state in states_of(Path("a"))) == "interrupted"


@pytest.mark.parametrize("make", [
    lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path.name),
    lambda path: path.write_text("x"),
])  # fmt: skip
def test_work_folder_that_is_none(copied, capsys, make):
    """In place of the folder with a work's versions: that work fails, and nothing waits."""
    work = copied.parent
    shutil.rmtree(work)
    make(work)
    assert main(["status", "a"]) == 0
    assert main(["retry", "a"]) == 1
    assert str(work) in capsys.readouterr().err
    assert [state for _, state in states_of(Path("a"))] == ["failed", "finished", "finished"]
    work.unlink()
    assert main(["retry", "a"]) == 0


def test_full_disk_leaves_no_claim(tmp_path):
    """An empty claim would hold the folder: nobody could say whose it is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            Claim.make(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
