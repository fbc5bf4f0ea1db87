"""Pictures that other processes draw while a run computes."""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import QUICK, wait_until

from diversevis.cli.main import main
from diversevis.experiment import batches, drawing, measure
from diversevis.experiment.drawing import Drawing
from diversevis.pictures import draw, images
from diversevis.runs.folder import RunFolder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there a fork is safe")
WORDS = ["run", "device=cpu", *QUICK, "unit=0-3", "n=2", "batch=4"]  # two batches of two units


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})


def folder_of(root):
    (record,) = Path(root).rglob("run.json")
    return record.parent


def record_of(root):
    return json.loads((folder_of(root) / "run.json").read_text())


def pictures_of(root):
    folder = folder_of(root)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def quiet(*told):
    pass


def test_pictures_are_those_of_one_process(current_folder, monkeypatch):
    words = [*WORDS, "analysis=[diversity]"]
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    assert main([*words, "root=several"]) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    assert main([*words, "root=one"]) == 0
    several, one = pictures_of("several"), pictures_of("one")
    assert len(one) == 4 * (2 + 1) + 1 + 4 + 1
    assert several == one
    assert record_of("several")["drawn"] == record_of("one")["drawn"]


def test_batch_is_drawn_while_next_computes(current_folder, monkeypatch):
    computed, visualize = [], batches.visualize

    def watched(*given, **more):
        if computed:
            sheet = folder_of(current_folder) / "sheet_unit0001.png"
            wait_for(sheet)
            assert "images" not in record_of(current_folder).get("drawn", [])
        computed.append(visualize(*given, **more))
        return computed[-1]

    monkeypatch.setattr(batches, "visualize", watched)
    assert main(WORDS) == 0
    assert len(computed) == 2
    assert record_of(current_folder)["drawn"] == ["images"]


def test_measure_is_drawn_while_next_is_taken(current_folder, monkeypatch):
    taken, take = [], measure.take_measure

    def watched(subject, name, pulse):
        if taken:
            folder = folder_of(current_folder) / "analysis"
            for picture in ("phase_unit0000.png", "phase_unit0003.png", "phase.png"):
                wait_for(folder / picture)
        taken.append(name)
        return take(subject, name, pulse)

    monkeypatch.setattr(measure, "take_measure", watched)
    assert main([*WORDS, "analysis=[diversity,phase]"]) == 0
    assert taken == ["phase", "diversity"]
    assert record_of(current_folder)["drawn"] == ["images", "phase", "diversity"]


def test_work_left_is_drawn_by_this_process(tmp_path):
    """While the other process is at its first task, this one draws all others, the last first."""
    RunFolder(tmp_path).write_record({})
    drawing_of_run = Drawing(RunFolder(tmp_path), wanted=True)
    for number in range(8):
        drawing_of_run._begin("some", Wait(number, tmp_path / "go"))
    wait_for(tmp_path / "0")
    drawn = drawing_of_run.drawn("some", quiet)
    drawing_of_run.close()
    assert drawn == {number: [] for number in range(8)}
    drew = [(tmp_path / str(number)).read_text() for number in range(8)]
    assert drew[0] != str(os.getpid())
    assert not Path(f"/proc/{drew[0]}").exists()
    assert drew[1:] == [str(os.getpid())] * 7


class Wait:
    """A task; the first waits until the second, which is drawn last, is done."""

    def __init__(self, number, go):
        self.number, self.go = number, go

    def __call__(self):
        self.go.with_name(str(self.number)).write_text(str(os.getpid()))
        if self.number == 0:
            wait_for(self.go)
        if self.number == 1:
            self.go.touch()
        return {self.number: []}


def test_killed_drawing_process_costs_no_picture(current_folder, monkeypatch):
    assert main([*WORDS, "root=undisturbed"]) == 0
    parent, draw_unit = os.getpid(), images.draw_unit

    def killed(folder, record, entry, *rest):
        if os.getpid() != parent and entry["unit"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw_unit(folder, record, entry, *rest)

    monkeypatch.setattr(drawing, "draw_unit", killed)
    assert main([*WORDS, "root=killed", "analysis=[diversity]"]) == 0
    drawn = pictures_of("killed")
    assert (folder_of("killed") / "analysis/diversity_unit0003.png").is_file()
    assert {name: drawn[name] for name in drawn if "analysis" not in name} == pictures_of(
        "undisturbed"
    )


def test_full_disk_while_drawing_is_told(current_folder, capsys, monkeypatch):
    write = RunFolder.write_sheet

    def full(self, unit, png):
        if unit == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "sheet_unit0001.png")
        write(self, unit, png)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_sheet", full)
        assert main(WORDS) == 1
    assert "sheet_unit0001.png: No space left on device" in capsys.readouterr().err
    record = record_of(current_folder)
    assert (record["status"], record["optimized"], record["drawn"]) == ("failed", True, [])
    assert main(WORDS) == 0  # there is room again
    assert record_of(current_folder)["drawn"] == ["images"]
    assert len(pictures_of(current_folder)) == 4 * (2 + 1) + 1


def test_failed_pictures_are_told_once(current_folder, capsys, monkeypatch):
    sheet = images.sheet

    def fail(pixels, captions, record, metrics):
        if metrics["unit"] in (1, 2):
            raise ValueError(f"no sheet {metrics['unit']}")
        return sheet(pixels, captions, record, metrics)

    monkeypatch.setattr(images, "sheet", fail)
    assert main(WORDS) == 0
    err = capsys.readouterr().err
    assert "2 pictures (images) could not be drawn: unit 1: ValueError: no sheet 1" in err
    record = record_of(current_folder)
    assert (record["status"], record["drawn"]) == ("finished", [])
    assert len(pictures_of(current_folder)) == 4 * 2 + 2 + 1


def test_ended_drawing_is_continued(current_folder, monkeypatch):
    """SIGTERM while this process waits for the other: nothing is listed, later all is there."""
    assert main([*WORDS, "root=undisturbed"]) == 0

    def end(self, name, pulse):
        signal.raise_signal(signal.SIGTERM)
        pulse(name, 0, 1)

    with monkeypatch.context() as patch:
        patch.setattr(Drawing, "drawn", end)
        assert main([*WORDS, "root=ended"]) == 128 + signal.SIGTERM
    record = record_of("ended")
    assert (record["status"], record["drawn"]) == ("interrupted", [])
    assert main([*WORDS, "root=ended"]) == 0
    assert pictures_of("ended") == pictures_of("undisturbed")


def test_outdated_pictures_are_not_listed(current_folder, monkeypatch):
    """Of a damaged run that is made again, from its first new picture on."""
    assert main(WORDS) == 0
    (folder_of(current_folder) / "images.safetensors").write_bytes(b"damaged")
    begun, unit = [], Drawing.unit

    def watched(self, *given):
        begun.append(record_of(current_folder)["drawn"])
        unit(self, *given)

    monkeypatch.setattr(Drawing, "unit", watched)
    assert main(WORDS) == 0
    assert begun == [[]] * 4
    assert record_of(current_folder)["drawn"] == ["images"]


@pytest.mark.process
def test_run_killed_while_drawing_is_completed(start_run, current_folder):
    words = ["unit=0-5", "n=2", "batch=4", "layer=simple", "optimizer.search_steps=5", "checkpoint=0",
             "optimizer.steps=300", "objective.restarts=2", "optimizer.tolerance=1e-12"]  # fmt: skip
    process, record = start_run(*words)
    wait_until(process, lambda: list(record.parent.glob("sheet_*.png")))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.kill()
    process.communicate()
    assert json.loads(record.read_text())["status"] == "running"
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):  # draws no more
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert main(["run", "device=cpu", *words]) == 0
    assert main(["run", "device=cpu", *words, "root=undisturbed"]) == 0
    assert pictures_of("outputs") == pictures_of("undisturbed")
    assert not [p for p in record.parent.rglob(".*.png.*") if p.is_file()]


def test_no_process_without_pictures(current_folder, monkeypatch):
    def refuse(self):
        raise AssertionError("no pictures are wanted")

    monkeypatch.setattr(drawing._Process, "__init__", refuse)
    assert main([*WORDS, "images=tensor"]) == 0
    assert draw.missing_pictures(RunFolder(folder_of(current_folder))) == ["images"]


def test_missing_pictures_are_drawn_by_two(current_folder, monkeypatch):
    """Of a finished run without pictures, its measure's included: half of them by this process."""
    words, begun, begin = [*WORDS, "analysis=[diversity]"], [], Drawing._begin

    def watched(self, name, task):
        begun.append(name)
        begin(self, name, task)

    assert main([*words, "root=with"]) == 0
    assert main([*words, "root=later", "images=tensor"]) == 0
    monkeypatch.setattr(Drawing, "_begin", watched)
    assert main([*words, "root=later"]) == 0
    assert begun == ["matplotlib", *["images"] * 5, *["diversity"] * 3]
    assert pictures_of("later") == pictures_of("with")
    assert record_of("later")["drawn"] == ["images", "diversity"]
