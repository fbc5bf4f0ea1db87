import errno
import json
import os
import re
import threading
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

import diversevis
from diversevis.errors import InputError
from diversevis.runs.files import replacing, synced_together
from diversevis.runs.folder import RunFolder
from diversevis.runs.provenance import git_commit
from diversevis.runs.versions import create_version, versions_in, work_folder


def new_version(root, *where):
    """The next version, or None where another process was first."""
    where = where or ("m", "l", "0")
    work = work_folder(root, where)
    every = versions_in(work)

    def fill(folder, path):
        RunFolder(folder).write_record({"at": str(path)})

    made = create_version(work, every[0][0] + 1 if every else 1, fill)
    return None if made is None else RunFolder(made)


def make_versions(root, barrier, count, made):
    barrier.wait()
    while count:
        if (folder := new_version(root)) is not None:
            assert folder.read_record() == {"at": str(folder.path)}
            made.put(folder.path.name)
            count -= 1


@pytest.mark.process
def test_parallel_jobs_never_share_a_version(tmp_path):
    context = get_context("spawn")
    barrier, made = context.Barrier(3), context.Queue()
    jobs = [
        context.Process(target=make_versions, args=(tmp_path, barrier, 10, made)) for _ in range(3)
    ]
    for job in jobs:
        job.start()
    names = [made.get(timeout=60) for _ in range(30)]
    for job in jobs:
        job.join()
    assert sorted(names) == [f"v{number:03d}" for number in range(1, 31)]


def test_versions_continue_after_the_highest(tmp_path):
    new_version(tmp_path).path.rename(tmp_path / "m/l/0/v041")
    (tmp_path / "m/l/0/notes").mkdir()
    assert new_version(tmp_path).path.name == "v042"


def test_names_from_outside_stay_inside_the_root(tmp_path):
    folder = new_version(tmp_path, "../../evil/model", "layer1.0", "0")
    assert folder.path.resolve().is_relative_to(tmp_path.resolve())
    assert folder.path.parent.parent.name == "layer1.0"


def test_unwritable_root_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"root=.*file.*root=/some/where"):
        new_version(tmp_path / "file")


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def fail():
        with replacing(path) as beside:
            beside.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_readers_never_see_half_a_file(tmp_path):
    folder, stop, seen = RunFolder(tmp_path), threading.Event(), []
    folder.write_record({"status": "running", "filler": "x" * 100_000})

    def read():
        while not stop.is_set():
            seen.append(folder.read_record()["status"])

    reader = threading.Thread(target=read)
    reader.start()
    for status in ["running", "finished"] * 20:
        folder.update_record(status=status)
    stop.set()
    reader.join()
    assert set(seen) <= {"running", "finished"}


def test_pictures_are_synced_together(tmp_path, monkeypatch):
    """At the block's end, and by several threads: a disk takes many at once as fast as a file."""
    folder, synced, fsync = RunFolder(tmp_path), [], os.fsync

    def note(descriptor):
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), threading.current_thread()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with synced_together():
        for index in range(5):
            folder.write_image(0, index, b"png")
            folder.write_image(0, index, b"again")
        (tmp_path / "images/unit0000/04.png").unlink()  # somebody does not want it
        assert not synced
    names = sorted(path.name for path, _ in synced)
    assert names == ["00.png", "01.png", "02.png", "03.png"]
    assert all(thread is not threading.main_thread() for _, thread in synced)
    folder.write_image(0, 5, b"png")
    assert len(synced) == 5  # outside of the block at once


def test_leftovers_of_pictures_are_removed(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_image(0, 1, b"png")
    folder.write_measure_picture("phase", 0, b"png")
    left = [".run.json.1", "images/unit0000/.01.png.99", "analysis/.phase_unit0000.png.7"]
    for name in left:
        (tmp_path / name).write_text("half")
    folder.remove_leftovers()
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {"images/unit0000/01.png", "analysis/phase_unit0000.png"}


def test_failed_sync_names_the_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.EDQUOT, "Quota exceeded")

    def write():
        with synced_together():
            RunFolder(tmp_path).write_sheet(3, b"png")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"Quota exceeded: '.*/sheet_unit0003\.png'"):
        write()


def test_arrays_and_numbers_are_read_back(tmp_path):
    folder = RunFolder(tmp_path)
    images, responses = torch.randn(2, 3, 3, 5, 4), torch.randn(2, 3)
    folder.write_images(images, responses, torch.tensor([4, 9]))
    assert torch.equal(folder.read_images()["images"], images)
    assert folder.read_images()["units"].tolist() == [4, 9]
    folder.write_metrics([{"unit": 4, "response_mean": float("nan"), "none": None}])
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "measures": {},
        "units": [{"unit": 4, "response_mean": None, "none": None}],
    }
    folder.write_trace(["loss"], [[1, 4, -0.5], [2, 4, -0.75]])
    assert (tmp_path / "trace.csv").read_text() == "step,unit,loss\n1,4,-0.5\n2,4,-0.75\n"
    assert folder.read_trace() == (["step", "unit", "loss"], [[1, 4, -0.5], [2, 4, -0.75]])


def test_measure_replaces_only_itself(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_metrics([{"unit": 4, "response_mean": 1.0}, {"unit": 9, "response_mean": 2.0}])
    folder.write_measure("phase", {"phases": 8}, [{"f1f0": 1.5}, None], {"units": torch.arange(2)})
    folder.write_measure("shift", {"steps": 3}, [{"mean": 0.1}, {"mean": 0.2}], {})
    folder.write_measure_picture("phase", 4, b"old")
    folder.write_measure_picture("shift", 4, b"kept")
    folder.write_measure("phase", {"phases": 16}, [{"f1f0": 0.5}, None], {"units": torch.ones(2)})
    assert folder.read_metrics() == [
        {"unit": 4, "response_mean": 1.0, "phase": {"f1f0": 0.5}, "shift": {"mean": 0.1}},
        {"unit": 9, "response_mean": 2.0, "phase": None, "shift": {"mean": 0.2}},
    ]
    assert folder.read_measures() == {
        "phase": {"settings": {"phases": 16}}, "shift": {"settings": {"steps": 3}},
    }  # fmt: skip
    assert folder.read_measure("phase")["units"].tolist() == [1, 1]
    left = {path.name for path in (tmp_path / "analysis").iterdir()}
    assert left == {"phase.safetensors", "shift_unit0004.png"}


def test_a_checkout_names_its_commit():
    is_checkout = (Path(diversevis.__file__).parents[1] / ".git").exists()
    assert bool(git_commit()) == is_checkout
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", git_commit() or "0" * 40)
