import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone

import pytest
from conftest import complete_run

from diversevis.cli.status import last_words, progress, status_command
from diversevis.errors import InputError, plain
from diversevis.runs import find as runs_module
from diversevis.runs.lease import Claim
from diversevis.sweep import queue as launched_module
from diversevis.sweep import status as status_module
from diversevis.sweep.queue import read_launched, squeue_ids
from diversevis.sweep.record import Planned, Sweep
from diversevis.sweep.status import natural, state_of_works, states


@pytest.fixture(autouse=True)
def without_slurm(monkeypatch):
    """This machine may have one, with jobs of the same numbers."""
    monkeypatch.setenv("PATH", "/nowhere")


def run(root, where="m/l/0/v001", *, status="finished", hash="h", changed=None, **more):
    """A run folder with its record."""
    folder = root / where
    folder.mkdir(parents=True, exist_ok=True)
    model, layer = folder.parts[-4:-2]
    record = {"status": status, "config_hash": hash, "model": model, "layer": layer,
              "units": [0], "n": 6, "job": None, "sweep": None}  # fmt: skip
    if status == "finished":
        complete_run(folder, record | more)
    else:
        (folder / "run.json").write_text(json.dumps(record | more))
    if changed is not None:
        os.utime(folder / "run.json", (changed, changed))
    return folder


def write_remote_claim(folder, age, **more):
    """Of a process on another machine, its last sign so many seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"host": "elsewhere", "pid": 7, "job": "5_1", "token": "t", "sign": 3,
               "time": time.time() - age, "released": False, "progress": {}}  # fmt: skip
    (folder / ".claim-0001").write_text(json.dumps(content | more))


def planned_run(hash, where=("m", "l", "0"), units=(0,), **config):
    return Planned(
        hash=hash, model=where[0], layer=where[1], units=units, where=where, config=config
    )


def sweep(root, name, works, jobs=None, start="2026-01-01T00:00:00+00:00"):
    made = Sweep(
        folder=root / "multirun" / name,
        command="diversevis run -m",
        launcher=(),
        start=start,
        works=tuple(works),
        jobs=tuple((place,) for place in range(len(works))) if jobs is None else jobs,
    )
    made.write()
    return made


def write_submitted(made, *ids, slurm=True):
    """What submitit leaves of jobs that it has sent, in this order."""
    folder = made.folder / ".submitit"
    folder.mkdir(exist_ok=True)
    for seconds, name in enumerate(ids):
        path = folder / f"{name}_submitted.pkl"
        path.write_bytes(b"pickle")
        os.utime(path, (1000 + seconds, 1000 + seconds))
        if slurm:
            (folder / f"{name.partition('_')[0]}_submission.sh").write_text("")


def states_below(root, **more):
    """Hash -> state of all below `root`."""
    return {one.hash: one.state for one in states(root, **more)}


def only_state(root, **more):
    (one,) = states(root, **more)
    return one


# -- one run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["finished", "interrupted", "failed"])
def test_record_counts_where_no_process_works(tmp_path, status):
    folder = run(tmp_path, status=status, units=[3, 4], error="Traceback\nValueError: no")
    one = only_state(tmp_path)
    assert (one.state, one.model, one.layer, one.units) == (status, "m", "l", (3, 4))
    assert (one.folder, one.hash, one.record["n"], one.sign) == (
        folder,
        "h",
        6,
        None,
    )
    assert one.error == ("Traceback\nValueError: no" if status == "failed" else None)
    assert (one.planned, one.sweep) == (None, None)


def test_killed_process_makes_a_lost_run(tmp_path):
    folder = run(tmp_path, status="running")
    code = (
        "import sys, time; from pathlib import Path; from diversevis.runs.lease import Claim;"
        "claim = Claim.make(Path(sys.argv[1])); claim.progress = {'done': 1, 'units': 4};"
        "claim.sign(); print('ready', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        one = only_state(tmp_path)
        assert (one.state, one.sign.holder.progress) == ("running", {"done": 1, "units": 4})
        assert 0 <= one.sign.age < 60
        claim = json.loads((folder / ".claim-0001").read_text())
        (folder / ".claim-0001").write_text(json.dumps(claim | {"time": claim["time"] - 1000}))
        assert only_state(tmp_path).state == "running"  # silent, stopped perhaps, but there
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    one = only_state(tmp_path)
    assert (one.state, one.error) == ("lost", None)
    assert one.sign.holder.progress == {"done": 1, "units": 4}
    assert 1000 <= one.sign.age < 1060


@pytest.mark.parametrize(
    ("age", "state"), [(-30, "running"), (80, "running"), (91, "lost"), (9999, "lost")]
)
def test_remote_process_lives_by_its_last_sign(tmp_path, age, state):
    write_remote_claim(run(tmp_path, status="running"), age)
    one = only_state(tmp_path)
    assert (one.state, one.sign.holder.words) == (state, "process 7 on elsewhere, job 5_1")
    assert max(0, age) <= one.sign.age < max(0, age) + 5


def test_released_claim_does_not_hold(tmp_path):
    write_remote_claim(run(tmp_path, status="running"), 1, released=True)
    assert only_state(tmp_path).state == "lost"


def test_running_without_a_claim_is_lost(tmp_path):
    run(tmp_path, status="running")
    assert only_state(tmp_path).state == "lost"


def test_empty_claim_is_dated_by_its_file(tmp_path):
    folder = run(tmp_path, status="running")
    path = folder / ".claim-0002"
    path.write_text("")
    assert only_state(tmp_path).state == "running"
    old = time.time() - 100
    os.utime(path, (old, old))
    assert only_state(tmp_path).state == "lost"


@pytest.mark.parametrize("status", ["interrupted", "failed"])
@pytest.mark.parametrize(("age", "still"), [(1, False), (100, True)])
def test_continued_run_is_running(tmp_path, status, age, still):
    write_remote_claim(run(tmp_path, status=status), age)
    assert only_state(tmp_path).state == (status if still else "running")


def test_stale_claim_of_a_living_process(tmp_path):
    folder = run(tmp_path, status="failed")
    Claim.make(folder)  # this very process is alive
    path = folder / ".claim-0001"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"time": time.time() - 91}))
    assert only_state(tmp_path).state == "failed"


def test_run_that_ends_while_status_reads(tmp_path, monkeypatch):
    folder = run(tmp_path, status="running")

    def look(_):
        run(tmp_path)  # its record says finished, then the claim goes

    monkeypatch.setattr(status_module, "sign_of", look)
    one = only_state(tmp_path)
    assert (one.state, one.record["status"], one.folder) == ("finished", "finished", folder)


# -- several runs ---------------------------------------------------------------------------------


def test_only_the_newest_version_counts(tmp_path):
    run(tmp_path, "m/l/0/v001", status="failed")
    run(tmp_path, "m/l/0/v999")
    run(tmp_path, "m/l/0/v1000", status="interrupted")
    run(tmp_path, "m/l/0/v002-copy")
    assert only_state(tmp_path).folder.name == "v1000"


def test_config_is_read_for_unfinished_runs_only(tmp_path):
    """Of finished runs there may be tens of thousands."""
    more = {"config": {"seed": 3}, "attempts": 2}
    run(tmp_path, "m/l/0/v001", **more)
    run(tmp_path, "m/l/1/v001", status="failed", **more)
    finished, failed = states(tmp_path)
    assert (finished.record.get("config"), finished.record["attempts"]) == (None, 2)
    assert failed.record["config"] == {"seed": 3}


def test_runs_differ_by_settings_and_folder(tmp_path):
    run(tmp_path, "m/l/0/v001", hash="a", status="failed")
    run(tmp_path, "m/l/0/v002", hash="b")
    run(tmp_path, "m/l/1/v001", hash="a")
    run(tmp_path, "m/l/1/v002", hash=None)  # whose work is not known
    run(tmp_path, "m/l/1/v003", hash=None)
    assert sorted((one.hash or "-", one.state) for one in states(tmp_path)) == [
        ("-", "damaged"), ("-", "damaged"), ("a", "failed"), ("a", "finished"), ("b", "finished"),
    ]  # fmt: skip


def test_measures_without_images_are_no_run(tmp_path):
    run(tmp_path, "m/l/0/v001", n=None)
    assert states(tmp_path) == []


def test_runs_are_sorted_naturally(tmp_path):
    for layer in ["conv1_10", "conv1_2", "conv10_1"]:
        run(tmp_path, f"vgg/{layer}/0/v001", hash=layer)
    run(tmp_path, "vgg/conv1_2/10-11/v001", units=[10, 11])
    run(tmp_path, "vgg/conv1_2/9/v001", units=[9])
    assert [(one.layer, one.units) for one in states(tmp_path)] == [
        ("conv1_2", (0,)), ("conv1_2", (9,)), ("conv1_2", (10, 11)), ("conv1_10", (0,)),
        ("conv10_1", (0,)),
    ]  # fmt: skip
    assert sorted(["b", "a10", "a9", "²", "9" * 5000], key=natural)[1:4] == ["a9", "a10", "b"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"status": "fin', "run.json is not JSON"),
        ("", "run.json is empty"),
        ("[" * 10**5, "nested too deeply"),
        ("[1, 2]", "holds no object"),
        ({"status": "strange"}, 'status is "strange"'),
        ({"units": "all"}, 'units is "all"'),
        ({"units": [1, "2"]}, 'units is [1, "2"]'),
        ({"layer": None}, "layer is null"),
    ],
)
def test_damaged_record_is_named_with_its_reason(tmp_path, content, words):
    good = run(tmp_path, "m/l/0/v001")
    bad = run(tmp_path, "vgg/conv/0-3/v002", **(content if isinstance(content, dict) else {}))
    if isinstance(content, str):
        (bad / "run.json").write_text(content)
    first, one = states(tmp_path)
    assert first.folder == good
    assert (one.state, one.model, one.layer, one.units) == ("damaged", "vgg", "conv", ())
    assert (one.folder, one.record) == (bad, None)
    assert words in one.error


def test_a_record_must_say_how_many_images(tmp_path):
    folder = run(tmp_path)
    record = json.loads((folder / "run.json").read_text())
    del record["n"]
    (folder / "run.json").write_text(json.dumps(record))
    assert (only_state(tmp_path).state, only_state(tmp_path).error) == (
        "damaged",
        "run.json lacks n",
    )


def test_unreadable_record_is_damaged(tmp_path):
    (tmp_path / "m/l/0/v001/run.json").mkdir(parents=True)
    assert only_state(tmp_path).error == "run.json cannot be read (Is a directory)"


# -- the walk -------------------------------------------------------------------------------------


def test_which_folders_are_searched_for_runs(tmp_path):
    folder = run(tmp_path, "m/l/0/v001")
    for inside in ["images", "analysis", "checkpoint", ".hydra"]:
        run(folder, inside, hash=inside)
    run(tmp_path, ".hidden/l/0/v001", hash="hidden")
    run(tmp_path, "multirun/l/0/v001", hash="multirun")
    run(tmp_path, "m/images/0/v001", hash="a layer of this name")
    (tmp_path / "m/l/1").mkdir()  # without a run
    assert states_below(tmp_path) == {"h": "finished", "a layer of this name": "finished"}
    assert states_below(tmp_path / "m") == states_below(tmp_path)
    assert states_below(folder) == {"h": "finished"}


def test_links_are_followed_without_circles(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    run(root, "m/l/0/v001")
    run(other, "m/l/0/v001", hash="other")
    (root / "linked").symlink_to(other)
    (root / "again").symlink_to(root / "m")
    (other / "up").symlink_to(tmp_path)
    (other / "loop").symlink_to(other / "loop")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    run(tmp_path, "third/m/l/0/v001", hash="above the root")
    assert sorted(str(one.folder.relative_to(root)) for one in states(root)) == [
        "linked/m/l/0/v001", "m/l/0/v001",
    ]  # fmt: skip


def test_closed_folder_is_reported(tmp_path, monkeypatch):
    run(tmp_path, "m/l/0/v001")
    (tmp_path / "m/secret").mkdir()
    scandir = os.scandir

    def closed(path):
        if path.endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(runs_module.os, "scandir", closed)
    one = next(one for one in states(tmp_path) if one.state == "damaged")
    assert (one.folder, one.model) == (tmp_path / "m/secret", "?")
    assert one.error == "the folder cannot be listed (Permission denied)"


# -- sweeps ---------------------------------------------------------------------------------------


def test_planned_runs_follow_their_sweep(tmp_path):
    works = [planned_run("done"), planned_run("broken", units=(4, 5)), planned_run("left")]
    made = sweep(tmp_path, "s", works)
    run(tmp_path, hash="done")
    made.write_failure(works[1], "no weights")
    assert states_below(tmp_path) == {"done": "finished", "broken": "failed", "left": "missing"}
    write_remote_claim(made.folder, 1)
    assert states_below(tmp_path) == {"done": "finished", "broken": "failed", "left": "waiting"}
    write_remote_claim(made.folder, 100)
    assert states_below(tmp_path)["left"] == "missing"
    by_hash = {one.hash: one for one in states(tmp_path)}
    assert (by_hash["broken"].error, by_hash["broken"].units) == ("no weights", (4, 5))
    assert (by_hash["broken"].folder, by_hash["broken"].record) == (None, None)
    assert by_hash["left"].planned == works[2]
    assert by_hash["done"].planned == works[0]
    assert by_hash["done"].sweep.name == "s"
    assert states_below(tmp_path / "m") == {
        "done": "finished"
    }  # sweeps are known to the root alone


def test_launching_process_makes_runs_waiting(tmp_path):
    made = sweep(tmp_path, "s", [planned_run("left")])
    claim = Claim.make(made.folder)
    assert states_below(tmp_path) == {"left": "waiting"}
    claim.release()
    assert states_below(tmp_path) == {"left": "missing"}


@pytest.mark.parametrize(
    ("older", "newer", "state"),
    [
        ("failed", "dead", "failed"),
        ("failed", "alive", "waiting"),
        ("alive", "dead", "waiting"),
        ("alive", "failed", "failed"),
        ("dead", "dead", "missing"),
    ],
)
def test_newest_sweep_comes_first(tmp_path, older, newer, state):
    for name, fate in [("2026-01", older), ("2026-02", newer)]:
        made = sweep(tmp_path, name, [planned_run("w")])
        if fate == "failed":
            made.write_failure(planned_run("w"), f"error of {name}")
        if fate == "alive":
            write_remote_claim(made.folder, 1)
    one = only_state(tmp_path)
    assert (one.state, one.sweep.name) == (state, "2026-02")


def test_slurms_queue_overrules_the_launching_process(tmp_path):
    made = sweep(tmp_path, "s", [planned_run(str(number)) for number in range(12)])
    write_remote_claim(made.folder, 1)
    write_submitted(made, *(f"77_{place}" for place in range(11)))  # the last one is not sent yet
    states_by_hash = states_below(tmp_path, queued=lambda: {"77_2", "77_10", "11", "78_0"})
    waiting = {hash for hash, state in states_by_hash.items() if state == "waiting"}
    assert waiting == {"2", "10", "11"}
    assert set(states_by_hash.values()) == {"waiting", "missing"}
    assert set(states_below(tmp_path, queued=lambda: None).values()) == {"waiting"}


def test_job_arrays_are_in_order(tmp_path):
    made = sweep(tmp_path, "s", [planned_run(name) for name in "abcde"])
    write_submitted(
        made, "100", "99_1", "9_0", "9_1", "99_0"
    )  # in this order they were written last
    assert states_below(tmp_path, queued=lambda: {"9_1", "100"}) == {
        "a": "missing", "b": "waiting", "c": "missing", "d": "missing", "e": "waiting",
    }  # fmt: skip


def test_requeued_job_keeps_its_number(tmp_path):
    made = sweep(tmp_path, "s", [planned_run(name) for name in "abc"])
    write_submitted(made, "5_0", "5_1", "5_2")
    folder = made.folder / ".submitit"
    (folder / "5_1_submitted.pkl").unlink()  # while submitit writes it anew
    (folder / "5_1_0_log.err").write_text("")
    assert states_below(tmp_path, queued=lambda: {"5_2"}) == {
        "a": "missing", "b": "missing", "c": "waiting",
    }  # fmt: skip


def test_local_jobs_are_not_in_slurm(tmp_path):
    made = sweep(tmp_path, "s", [planned_run("a")])
    write_remote_claim(made.folder, 1)
    write_submitted(made, "4711", slurm=False)
    assert states_below(tmp_path, queued=set) == {"a": "waiting"}


def test_local_jobs_are_ordered_by_start(tmp_path):
    made = sweep(tmp_path, "s", [planned_run("a"), planned_run("b")])
    write_submitted(made, "32767", "300", slurm=False)
    assert [read_launched(made).job(name) for name in "ab"] == ["32767", "300"]


def test_job_continues_with_its_next_run(tmp_path):
    made = sweep(tmp_path, "s", [planned_run(name) for name in "abc"], jobs=((0, 1), (2,)))
    write_remote_claim(run(tmp_path, hash="a", status="running"), 1)
    assert states_below(tmp_path) == {"a": "running", "b": "waiting", "c": "missing"}
    write_remote_claim(run(tmp_path, hash="a", status="running"), 100)
    assert states_below(tmp_path) == {"a": "lost", "b": "missing", "c": "missing"}
    assert made.name == "s"


@pytest.mark.parametrize(
    ("record", "state"),
    [
        ({"status": "interrupted", "ended_by": "SIGUSR2"}, "waiting"),
        ({"status": "interrupted", "ended_by": "SIGTERM"}, "waiting"),
        ({"status": "interrupted", "ended_by": "Ctrl-C"}, "interrupted"),
        ({"status": "interrupted", "ended_by": "SIGTERM", "job": "8"}, "lost"),
        ({"status": "interrupted", "ended_by": "Ctrl-C", "job": "8"}, "interrupted"),
        ({"status": "interrupted", "ended_by": "SIGTERM", "job": None}, "interrupted"),
        ({"status": "running", "sweep": "s"}, "waiting"),
        ({"status": "running", "sweep": None}, "lost"),  # killed in a shell that goes on
        ({"status": "failed", "error": "ValueError"}, "failed"),
    ],
)
def test_runs_of_requeued_slurm_jobs(tmp_path, record, state):
    run(tmp_path, **{"job": "7_3"} | record)
    assert only_state(tmp_path, queued=lambda: {"7_3"}).state == state
    assert only_state(tmp_path, queued=set).state != "waiting"


def test_later_sweep_takes_up_failed_runs(tmp_path):
    start = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()
    made = sweep(tmp_path, "s", [planned_run("h")])
    run(tmp_path, status="failed", error="of yesterday", changed=start - 5)
    assert only_state(tmp_path).state == "failed"
    write_remote_claim(made.folder, 1)
    one = only_state(tmp_path)
    assert (one.state, one.error) == ("waiting", None)
    made.write_failure(planned_run("h"), "of today")  # before it came to the folder
    one = only_state(tmp_path)
    assert (one.state, one.error) == ("failed", "of today")
    run(tmp_path, status="failed", error="of now", changed=start + 5)
    one = only_state(tmp_path)
    assert (one.state, one.error) == ("failed", "of now")


def test_sweep_asks_for_new_versions(tmp_path):
    run(tmp_path, "m/l/0/v001", origin="first")
    sweep(tmp_path, "first", [planned_run("h")])
    assert states_below(tmp_path) == {"h": "finished"}
    sweep(tmp_path, "second", [planned_run("h", again=True)])
    assert states_below(tmp_path) == {"h": "missing"}
    run(tmp_path, "m/l/0/v002", origin="second", status="interrupted")
    assert only_state(tmp_path).folder.name == "v002"
    run(tmp_path, "m/l/0/v003", origin=None)  # made by hand since
    assert only_state(tmp_path).folder.name == "v003"


def test_damaged_sweep_is_left_out(tmp_path):
    made = sweep(tmp_path, "s", [planned_run("a")], jobs=((0, 9),), start="yesterday")
    assert states_below(tmp_path) == {"a": "missing"}
    (made.folder / "sweep.json").write_text("{")
    assert states_below(tmp_path) == {}


# -- the end of a sweep ---------------------------------------------------------------------------


def test_states_of_one_sweep(tmp_path, monkeypatch):
    units = [str(unit) for unit in range(4)]
    works = [planned_run(f"h{unit}", ("m", "l:1", unit), units=(int(unit),)) for unit in units]
    made = sweep(tmp_path, "s", works)
    run(tmp_path, "m/l_1/3/v001", hash="h3", status="failed")
    run(tmp_path, "m/l_1/3/v002", hash="h3")
    run(tmp_path, "m/l_1/3/v003", hash="another")
    made.write_failure(works[1], "no weights")
    claim = Claim.make(made.folder)  # by this process, which asks what has come of it
    run(tmp_path, "m/l_1/far/v001", hash="h0")
    read, real = [], runs_module.read_run
    monkeypatch.setattr(
        runs_module, "read_run", lambda folder: (read.append(folder.name), real(folder))[1]
    )
    ended = state_of_works(tmp_path, works[::-1], sweep=made)
    assert [(one.hash, one.state, one.error) for one in ended] == [
        ("h3", "finished", None), ("h2", "missing", None), ("h1", "failed", "no weights"),
        ("h0", "missing", None),
    ]  # fmt: skip
    assert ended[0].folder == tmp_path / "m/l_1/3/v002"
    assert sorted(read) == ["v001", "v002", "v003"]  # nothing else was looked at
    claim.remove()
    write_submitted(made, "5_0", "5_1", "5_2", "5_3")  # it goes on without us
    ended = state_of_works(tmp_path, works, sweep=made, queued=lambda: {"5_2"})
    assert [one.state for one in ended] == ["missing", "failed", "waiting", "finished"]
    ended = state_of_works(tmp_path, works[:2])  # without the sweep, errors are not known
    assert [(one.state, one.planned) for one in ended] == [("missing", one) for one in works[:2]]


# -- Slurm ----------------------------------------------------------------------------------------


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Puts a program of this text in the place of Slurm's."""

    def put(text):
        path = tmp_path / "squeue"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return put


def test_slurm_is_asked_once_for_all_jobs(squeue, monkeypatch):
    monkeypatch.setenv("SQUEUE_USERS", "nobody")
    squeue('[ -z "$SQUEUE_USERS" ] && [ "$*" = "-h -r -o %i" ] && printf "12\\n13_4\\n"')
    assert squeue_ids() == {"12", "13_4"}
    squeue("true")
    assert squeue_ids() == set()


def test_silent_slurm_gives_none(squeue, monkeypatch, tmp_path):
    squeue("echo 12; exit 1")
    assert squeue_ids() is None
    squeue("exec sleep 60")
    monkeypatch.setattr(launched_module, "PATIENCE", 0.2)
    began = time.monotonic()
    assert squeue_ids() is None
    assert time.monotonic() - began < 30
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert squeue_ids() is None


# -- what is said ---------------------------------------------------------------------------------


def status_lines(capsys, *words):
    status_command([str(word) for word in words])
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_table_counts_units_and_runs(tmp_path, capsys):
    run(tmp_path, "vgg/conv1_10/0-3/v001", units=[0, 1, 2, 3])
    run(tmp_path, "vgg/conv1_10/4-5/v001", units=[4, 5], status="interrupted")
    run(tmp_path, "vgg/conv1_2/7/v001", units=[7])
    sweep(tmp_path, "s", [planned_run("w", ("vgg", "conv1_2", "8-9"), units=(8, 9))])
    assert status_lines(capsys, tmp_path) == [
        "model  layer     units  runs  finished  interrupted  missing",
        "vgg    conv1_2     1/3     2         1            -        1",
        "vgg    conv1_10    4/6     2         1            1        -",
        "all                5/9     4         2            1        1",
        "",
        f"All of these, with their logs: diversevis status {tmp_path} --failed",
        "",
        "To repeat what is interrupted or missing:",
        f"  diversevis retry {tmp_path}",
    ]


def test_finished_runs_need_few_lines(tmp_path, capsys):
    run(tmp_path)
    assert status_lines(capsys, tmp_path) == [
        "model  layer  units  runs  finished", "m      l        1/1     1         1",
    ]  # fmt: skip
    assert status_lines(capsys, tmp_path, "--failed")[2:] == [
        "", "Nothing is failed, lost, missing or damaged.",
    ]  # fmt: skip


def test_running_line_names_process_and_progress(tmp_path, capsys):
    folder = run(tmp_path, status="running")
    write_remote_claim(folder, 3, progress={
        "done": 12, "units": 64, "steps": {"search": 50, "diverse": 80},
        "phase": "diverse", "step": 40,
    })  # fmt: skip
    assert status_lines(capsys, tmp_path)[2:] == [
        "",
        "running",
        f"  {folder}: 12/64 units, diverse step 40/80, sign of life 3 s ago "
        "(process 7 on elsewhere, job 5_1)",
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, ["beginning"]),
        ({"done": 3, "units": 64}, ["3/64 units"]),
        ({"phase": "shift", "done": 3, "units": 64}, ["shift of 3/64 units"]),
        ({"phase": "search", "step": 7}, ["search step 7"]),
        ({"done": 0, "units": 2, "steps": {"search": 9}, "phase": "search", "step": 7},
         ["0/2 units", "search step 7/9"]),
        ({"done": "x", "units": [], "steps": 4, "phase": "search", "step": 7}, ["search step 7"]),
        ({"phase": ["x"], "step": {}}, ["beginning"]),
    ],
)  # fmt: skip
def test_progress_in_words(given, words):
    assert progress(given) == words


def test_at_most_twenty_failures_are_named(tmp_path, capsys):
    for unit in range(23):
        run(tmp_path, f"m/l/{unit}/v001", units=[unit], status="failed", error=f"E: {unit}")
    lost = run(tmp_path, "m/l/99/v001", units=[99], status="running")
    write_remote_claim(lost, 7300)
    damaged = tmp_path / "m/l/100/v001"
    damaged.mkdir(parents=True)
    (damaged / "run.json").write_text("[]")
    lines = status_lines(capsys, tmp_path)
    failed = lines.index("failed")
    assert lines[failed + 1] == f"  {tmp_path}/m/l/0/v001: E: 0"
    assert lines[failed + 20] == f"  {tmp_path}/m/l/19/v001: E: 19"
    assert lines[failed + 21 : failed + 30] == [
        "  and 3 more",
        "",
        "lost",
        f"  {lost}: the process died without an error (out of memory, or its node failed), its "
        "last sign of life 2 h ago",
        "",
        "damaged",
        f"  {damaged}: run.json holds no object",
        "",
        f"All of these, with their logs: diversevis status {tmp_path} --failed",
    ]


def test_failed_flag_names_logs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    works = [planned_run("a", units=(4, 5, 9)), planned_run("b"), planned_run("c")]
    made = sweep(tmp_path / "outputs", "s", works)
    write_submitted(made, "5_0", "5_1", "5_2")
    said_by_launcher = made.folder / ".submitit/5_0_0_log.err"
    said_by_launcher.write_text("Killed")
    (made.folder / ".submitit/5_0_0_log.out").write_text("")  # with nothing in it
    job = tmp_path / "job.err"
    job.write_text("...")
    folder = run(tmp_path / "outputs", hash="b", status="failed", attempts=2, job_log=str(job),
                 error='Traceback:\n  File "x", line 3, in f\n    f()\nValueError: no\n')  # fmt: skip
    (folder / "run.log").write_text("...")
    made.write_failure(works[2], "OSError: no weights")
    lines = status_lines(capsys, "--failed")
    begin = lines.index("failed m l 0")
    assert lines[begin - 1 :] == [
        "",
        "failed m l 0",
        "  because   OSError: no weights",
        "  sweep     outputs/multirun/s",
        "",
        "failed outputs/m/l/0/v001",
        "  because   ValueError: no",
        "  attempts  2",
        "  sweep     outputs/multirun/s",
        "  log       outputs/m/l/0/v001/run.log",
        f"  log       {job}",
        "",
        "missing m l 4-5,9",
        "  because   its job is gone and left no error",
        "  sweep     outputs/multirun/s",
        "  log       outputs/multirun/s/.submitit/5_0_0_log.err",
        "",
        "To repeat what is failed or missing:",
        "  diversevis retry outputs",
    ]


def test_log_is_named_once(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = sweep(tmp_path, "s", [planned_run("h")])
    write_submitted(made, "5")
    log = made.folder / ".submitit/5_0_log.err"  # the launcher's, seen from here without tmp_path
    log.write_text("...")
    run(tmp_path, status="failed", job_log=str(log))
    assert [line for line in status_lines(capsys, ".", "--failed") if "  log " in line] == [
        f"  log       {log}"
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("", ""),
        ("one line\n\n", "one line"),
        ('Traceback (most recent call last):\n  File "a", line 1, in f\n    f()\n    ^^^\n'
         "RuntimeError: CUDA error: an assert\nCompile with `TORCH_USE_CUDA_DSA`.\n",
         "RuntimeError: CUDA error: an assert"),
        ('Traceback:\n  File "a", line 1\nKeyError: 1\n\nDuring handling of the above:\n\n'
         'Traceback:\n  File "b", line 2\n    g()\nValueError: two\n\tmore\n', "ValueError: two"),
        ("RuntimeError: no trace\nof where", "of where"),
    ],
)  # fmt: skip
def test_last_exception_of_a_traceback(error, words):
    assert last_words(error) == words


def test_control_characters_are_removed(tmp_path, capsys):
    evil = "\x1b[31mred\x1b]0;title\x07\x1bc\x9b2J\u202egnp\r\x00"
    folder = run(tmp_path, "m/l/0/v001", status="failed", model=f"vgg{evil}", layer="a\nb",
                 error=f"Error: {evil}" + "x" * 300)  # fmt: skip
    write_remote_claim(run(tmp_path, "m/l/1/v001", hash="r", status="running"), 1, host=evil)
    lines = status_lines(capsys, tmp_path, "--failed") + status_lines(capsys, tmp_path)
    assert all(line.isprintable() for line in lines)
    assert lines[1].split()[:3] == ["m", "l", "0/1"]
    assert lines[2].split()[:4] == ["vggredgnp", "a", "b", "0/1"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert f"  {folder}: Error: redgnp" + "x" * 184 + "..." in lines
    assert plain("a\x1b]8;;http://x\x1b\\b\ud800é中") == "abé中"


def test_failure_without_an_error_is_explained(tmp_path, capsys):
    folder = run(tmp_path, status="failed ".strip())  # marked in place, on a full disk
    line = f"  {folder}: its error could not be written: the disk may have been full"
    assert line in status_lines(capsys, tmp_path)


def test_retry_command_is_quoted(tmp_path, capsys):
    root = tmp_path / "my runs"
    run(root, status="interrupted")
    assert status_lines(capsys, root)[-1] == f"  diversevis retry '{root}'"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        ([], "outputs: there is no such folder"),
        (["."], r"\.: there is no run and no sweep"),
        (["a", "b"], "given 2"),
        (["--all"], "no flag --all"),
        (["~nobody-at-all/x"], "home folder"),
    ],
)
def test_bad_arguments_of_status(current_folder, words, message):
    with pytest.raises(InputError, match=message):
        status_command(words)


def test_launchers_error_is_shown(tmp_path, capsys):
    made = sweep(tmp_path, "s", [planned_run("h"), planned_run("i", where=("m", "l", "1"))])
    assert made.read_end() is None
    made.write_end("n_jobs == 0\x1b[2J has no meaning")
    run(tmp_path, status="running", hash="h", sweep="s")
    status_command([str(tmp_path), "--failed"])
    status_lines = capsys.readouterr().out
    assert "its launcher ended: n_jobs == 0 has no meaning" in status_lines
    assert "the process died without an error" in status_lines
    made.write_end("Ctrl-C")
    status_command([str(tmp_path), "--failed"])
    assert "killed when its sweep was ended by Ctrl-C" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a=b", "-dash", "--failed=yes"])
def test_existing_folder_is_no_flag(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    run(tmp_path / name)
    status_command([name])
    assert "m      l        1/1     1         1" in capsys.readouterr().out
    with pytest.raises(InputError, match="no flag -other"):
        status_command(["-other"])
