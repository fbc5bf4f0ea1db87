"""What clusters do to a sweep: kill it, give it twice, warn it, fill its disk, delete its folders."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import QUICK, unchanged_log, wait_for_checkpoint

from diversevis.cli.main import main
from diversevis.errors import FolderLost, Stopped
from diversevis.experiment.progress import ProgressDisplay
from diversevis.method.optimize.loop import State
from diversevis.runs import checkpoints, signals
from diversevis.runs.folder import RunFolder
from diversevis.runs.holder import holder_of
from diversevis.runs.lease import Claim, Watch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))  # its processes, too

import check_survival

LONG = ["optimizer.steps=100000000", "optimizer.search_steps=3", "objective.restarts=2"]


SWEEP = [word.replace("seed=0,1,2,3,4,5,6,7", "seed=0,1,2,3") for word in check_survival.SWEEP]


@pytest.fixture(autouse=True)
def ctrl_c():
    """Ctrl-C has Python's handler, also where a shell started the tests with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The sweep undisturbed, and how many seconds it takes."""
    root = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    check_survival.run_to_the_end(root, SWEEP)
    return root, time.monotonic() - began


@pytest.mark.process
def test_killed_sweep_ends_with_same_images(undisturbed, tmp_path):
    root, seconds = undisturbed
    found = check_survival.kill(tmp_path, SWEEP, kills=8, seconds=seconds, seed=0)
    assert found["during_work"] >= 3
    assert found["resumed"] >= 1
    check_survival.compare(root, tmp_path, killed=True)


@pytest.mark.process
def test_many_processes_do_a_sweep_once(undisturbed, tmp_path):
    root, _ = undisturbed
    assert check_survival.crowd(tmp_path, SWEEP, processes=6) == [0] * 6
    check_survival.compare(root, tmp_path, killed=False)


def test_killed_run_ends_with_same_images(start_run, current_folder):
    words = ["layer=simple", "unit=1-2", "n=3", "objective.restarts=2", "optimizer.search_steps=5",
             "optimizer.steps=300", "optimizer.tolerance=1e-12", "checkpoint=0.05", "images=tensor"]  # fmt: skip
    process, record = start_run(*words)
    wait_for_checkpoint(process, record)
    process.kill()
    process.communicate()
    assert json.loads(record.read_text())["status"] == "running"  # it does not look finished
    assert not (record.parent / "metrics.json").exists()
    assert main(["run", "device=cpu", *words]) == 0
    assert "going on from step" in (record.parent / "run.log").read_text()
    assert main(["run", "device=cpu", *words, "root=undisturbed"]) == 0
    for name in ("images.safetensors", "trace.csv"):
        killed, undisturbed = (
            next(current_folder.glob(f"{root}/**/{name}")) for root in ("outputs", "undisturbed")
        )
        assert killed.read_bytes() == undisturbed.read_bytes()


SIGNALLED = ["run", "device=cpu", "unit=1-2", "layer=simple", "optimizer=paper", "n=2", "record=gif", "images=tensor",
             "checkpoint=1000", "objective.restarts=2", "optimizer.steps=60", "optimizer.search_steps=40"]  # fmt: skip


@pytest.fixture(scope="module")
def unsignalled(tmp_path_factory):
    """The root of a run to which no signal is sent."""
    root = tmp_path_factory.mktemp("unsignalled")
    with unchanged_log():
        assert main([*SIGNALLED, f"root={root}"]) == 0
    return root


@pytest.mark.parametrize(
    ("number", "phase"),
    [(signal.SIGTERM, "search"), (signal.SIGINT, "diverse"),
     pytest.param(signal.SIGUSR2, "diverse", marks=pytest.mark.slow),
     pytest.param(signal.SIGINT, "search", marks=pytest.mark.slow)],
)  # fmt: skip
def test_signalled_run_continues_from_its_checkpoint(
    unsignalled, current_folder, capsys, monkeypatch, number, phase
):
    before = signal.getsignal(number)
    words = SIGNALLED
    asked = []

    def at_some_step(self, step, *rest):
        if self._phase == phase and step == 25:
            asked.append(step)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(ProgressDisplay, "step", at_some_step)
    assert main(words) == 128 + number
    assert asked == [25]
    err = capsys.readouterr().err
    by = "Ctrl-C" if number == signal.SIGINT else number.name
    said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert f"{said}. The same command continues." in err
    (record,) = current_folder.rglob("run.json")
    found = json.loads(record.read_text())
    assert (found["status"], found["ended_by"]) == ("interrupted", by)
    assert holder_of(record.parent).released
    kept = number == signal.SIGINT and phase == "diverse"  # a person may want to see them
    assert (record.parent / "images.safetensors").exists() == kept
    assert len(list((record.parent / "checkpoint").iterdir())) == 1
    monkeypatch.undo()
    monkeypatch.chdir(current_folder)
    assert main(words) == 0
    assert f"going on from step 25 of the {phase}" in (record.parent / "run.log").read_text()
    for name in ("images.safetensors", "trace.csv", "optimization_unit0002.gif"):
        undisturbed, ours = (
            next(root.rglob(name)) for root in (unsignalled, current_folder / "outputs")
        )
        assert undisturbed.read_bytes() == ours.read_bytes()
    assert len(list(current_folder.glob("outputs/*/*/*/v*"))) == 1
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("context", [signals.defer_sigint, signals.ignore_sigint])
def test_ctrl_c_that_is_ignored_stays_ignored(context):
    """As in `nohup bash -c ... &`, where Python installs no handler."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with context():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    signals.raise_if_interrupted()


def test_ignored_ctrl_c_works_again_afterwards():
    with signals.ignore_sigint():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("context", [signals.defer_sigint, signals.ignore_sigint])
def test_a_handler_from_c_is_left_alone(context, monkeypatch):
    """A program in C that embeds Python may have its own; Python cannot put it back."""
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with pytest.raises(KeyboardInterrupt), context():
        signal.raise_signal(signal.SIGINT)  # the handler of this test stands in for C's
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_signal_handlers_set_in_c_are_kept(monkeypatch):
    install = signal.signal
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    monkeypatch.setattr(signal, "signal", lambda *words: install(*words) and None)
    with signals.listening():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            signals.check()
    monkeypatch.undo()
    for number, handler in before.items():
        assert signal.signal(number, handler) == signal.SIG_DFL


def test_run_finishes_with_ctrl_c_ignored(current_folder):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert main(["run", "device=cpu", *QUICK, "checkpoint=0"]) == 0
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_second_ctrl_c_ends_at_once():
    heard = []
    with signals.defer_sigint():
        signal.raise_signal(signal.SIGINT)
        heard.append("waits")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not signals.is_waiting()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signals.raise_if_interrupted()
        signals.raise_if_interrupted()
    assert heard == ["waits"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.process
def test_run_with_deleted_folder_ends(start_run, current_folder):
    import shutil

    process, record = start_run("unit=0", "checkpoint=0.1", *LONG)
    wait_for_checkpoint(process, record)
    while record.parent.exists():  # files come and go in it meanwhile
        shutil.rmtree(record.parent, ignore_errors=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "was deleted or moved while" in err
    assert "Traceback" not in err
    assert not record.parent.exists()


@pytest.mark.process
def test_process_stopped_too_long_gives_way(start_run, current_folder, monkeypatch):
    """Stopped, it looks dead from another machine, where another process takes the run over."""
    process, record = start_run("unit=0", "checkpoint=0.1", *LONG)
    wait_for_checkpoint(process, record)
    process.send_signal(signal.SIGSTOP)
    watch = Watch(record.parent, silence=0.3)
    assert watch.holder() is not None  # on this machine it is known to live
    monkeypatch.setattr(
        "diversevis.runs.process.this_process", lambda: HERE | {"host": "elsewhere"}
    )
    assert Claim.take(watch) is None
    time.sleep(0.4)
    claim = Claim.take(watch)
    assert claim.number == 2
    before = record.read_text()
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "has taken this run over" in err
    assert record.read_text() == before
    claim.confirm()


HERE = {"host": "here", "boot": "b", "namespace": "n", "pid": 1, "started": 1, "job": None, "restarts": 0}  # fmt: skip


@pytest.fixture
def claim_seen_from(tmp_path, monkeypatch):
    """A folder claimed by some process, as this process sees it from where `mine` says."""

    def make(theirs, mine):
        monkeypatch.setattr("diversevis.runs.process.this_process", lambda: HERE | theirs)
        claim = Claim.make(tmp_path)
        monkeypatch.setattr("diversevis.runs.process.this_process", lambda: HERE | mine)
        return claim

    return make


def test_one_of_many_takes_a_claim_over(tmp_path):
    make = "import sys, pathlib; from diversevis.runs.lease import Claim; Claim.make(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", make, str(tmp_path)], check=True)
    taken, barrier = [], threading.Barrier(16)

    def take():
        barrier.wait()
        taken.append(Claim.take(Watch(tmp_path)))

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [claim for claim in taken if claim is not None]
    assert winner.number == 2
    winner.confirm()
    assert [path.name for path in tmp_path.iterdir()] == [".claim-0002"]


@pytest.mark.parametrize(
    ("theirs", "mine", "alive"),
    [
        ({"pid": 2**22 + 1}, {}, False),  # this machine has no such process
        ({"pid": os.getpid(), "started": -1}, {}, False),  # another process with its number
        ({"host": "a"}, {"host": "b"}, None),
        ({"namespace": "a"}, {"namespace": "b"}, None),  # containers on one machine
        ({"namespace": None}, {"namespace": None}, None),  # no Linux: nothing to look it up in
        ({"job": "7", "host": "a"}, {"job": "7", "restarts": 1}, False),  # requeued elsewhere
        ({"job": "7", "host": "a"}, {"job": "8", "restarts": 1}, None),
    ],
)
def test_when_a_holder_is_alive(claim_seen_from, tmp_path, theirs, mine, alive):
    claim_seen_from(theirs, mine)
    assert holder_of(tmp_path).is_alive() is alive


def test_jumping_clock_keeps_a_claim(claim_seen_from, tmp_path, monkeypatch):
    """A holder elsewhere whose clock, or ours, jumps back or ahead is alive as long as it signs."""
    claim = claim_seen_from({"host": "a"}, {"host": "a"})
    watch = Watch(tmp_path, silence=0.4)
    for clock in (1e9, 5.0, 4e9, 0.0):
        monkeypatch.setattr("diversevis.runs.lease.time.time", lambda clock=clock: clock)
        monkeypatch.setattr("diversevis.runs.process.this_process", lambda: HERE | {"host": "a"})
        claim.sign()
        monkeypatch.setattr("diversevis.runs.process.this_process", lambda: HERE | {"host": "b"})
        assert Claim.take(watch) is None
        time.sleep(0.2)
    time.sleep(0.3)
    assert Claim.take(watch) is not None


def test_claim_notices_takeover_and_deletion(tmp_path):
    folder = tmp_path / "v001"
    folder.mkdir()
    claim = Claim.make(folder)
    claim.confirm()
    assert Claim.make(folder) is None
    claim.release()
    again = Claim.take(Watch(folder))
    assert again.number == 2
    with pytest.raises(FolderLost, match="has taken this run over"):
        claim.confirm()
    again.remove()
    assert list(folder.iterdir()) == []
    folder.rmdir()
    with pytest.raises(FolderLost, match="was deleted or moved"):
        again.confirm()
    with pytest.raises(FolderLost, match="was deleted"):
        RunFolder(folder).write_metrics([])
    assert not folder.exists()


def test_jumping_clock_keeps_a_run_correct(current_folder, capsys, monkeypatch):
    real, calls = time.time, []

    def backwards():
        calls.append(1)
        return real() - 3600 * len(calls)

    monkeypatch.setattr("time.time", backwards)
    assert main(["run", "device=cpu", *QUICK, "checkpoint=0"]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    record = json.loads((path / "run.json").read_text())
    assert record["status"] == "finished"
    assert 0 < record["seconds"] < 60


def test_read_only_root_is_refused(capsys, small_disk):
    """Read-only, as a node's mount may be: root himself is kept out by a mount alone."""
    place = small_disk("ro,size=1m")
    for words in (["run"], ["run", "-m", "seed=0,1"]):
        assert main([*words, "device=cpu", *QUICK, "root=disk"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "root=" in err
        assert "Read-only" in err
        assert err.count("\n") == 1
    assert list(place.iterdir()) == []


def test_failed_checkpoints_do_not_end_a_run(current_folder, capsys, monkeypatch):
    def full(self, *arguments):
        raise OSError(28, os.strerror(28), "checkpoint")

    monkeypatch.setattr(RunFolder, "write_checkpoint", full)
    monkeypatch.setattr(checkpoints, "SHARE", 1e9)  # after every step, whatever it costs
    assert main(["run", "device=cpu", *QUICK, "checkpoint=0", "images=tensor"]) == 0
    err = capsys.readouterr().err
    assert "no checkpoint at step 1: " in err
    assert "the results of a batch could not be kept: " in err
    assert err.count("No space left") >= 3
    record = json.loads(next(current_folder.rglob("run.json")).read_text())
    assert record["status"] == "finished"


def test_a_disk_that_stalls_once_delays_no_checkpoint(monkeypatch, tmp_path):
    """Slow writes are made rarely, but one slow write among others changes nothing."""
    clock, written, costs = [0.0], [], [10.0, 0.01, 10.0, 10.0, 0.01]

    def write(*given):
        written.append(clock[0])
        clock[0] += costs.pop(0)

    class Nothing:
        def state(self):
            return State({}, {"step": 1})

        def restore(self, state):
            pass

    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoints.Checkpoints, "write", write)
    files = checkpoints.Checkpoints(
        folder=RunFolder(tmp_path), part="images", work="", seconds=1.0, claim=None,
        device=torch.device("cpu"),
    )  # fmt: skip
    batch = checkpoints.BatchCheckpoint(files, [0], Nothing())
    while costs:
        clock[0] += 0.5
        batch(1, Nothing().state)
    waits = [after - before for before, after in pairwise(written)]
    assert max(waits[0] - 10, waits[1], waits[2] - 10) < 3  # a slow write is between quick ones
    assert waits[3] > 200  # after two slow writes: 5 % of the time
