#!/usr/bin/env python3
"""Sweeps that are killed, and sweeps that many processes are given at once.

    python scripts/check_survival.py                      # 50 kills over 8 runs; 16 processes
    python scripts/check_survival.py --kills 200 --words model=vgg19 layer=conv1_2 unit=0-3

A sweep of eight runs is killed (SIGKILL) at random moments and started again until it is through;
its images must be those of an undisturbed sweep to the bit, and no run may be done twice. Then
sixteen processes get the same eight works at once. Processes are forked from one that has imported
everything, so that most moments are those of real work.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from diversevis.runs.holder import holder_of

PRELOADED = ["diversevis.cli.run", "diversevis.experiment.run", "diversevis.sweep.plan",
             "diversevis.sweep.jobs", "diversevis.sweep.status"]  # fmt: skip
SWEEP = ["layer=simple", "unit=0-4", "seed=0,1,2,3,4,5,6,7", "n=3", "units_per_job=5", "batch=6",
         "optimizer.steps=120", "optimizer.search_steps=40", "objective.restarts=2",
         "checkpoint=0.05", "images=tensor"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", nargs="*", default=SWEEP, help="settings of the sweep")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        began = time.monotonic()
        undisturbed(root / "whole", given.words)
        seconds = time.monotonic() - began
        print(f"undisturbed: {len(runs(root / 'whole'))} runs in {seconds:.1f} s")
        found = kill(root / "killed", given.words, given.kills, seconds, given.seed)
        print(f"killed {found['kills']} times, {found['during_work']} of them during work, "
              f"{found['resumed']} batches went on from a checkpoint")  # fmt: skip
        compare(root / "whole", root / "killed", killed=True)
        print("same images to the bit, no run done twice")
        statuses = crowd(root / "crowd", given.words, given.processes)
        compare(root / "whole", root / "crowd", killed=False)
        print(f"{given.processes} processes at once: statuses {set(statuses)}, "
              f"{len(runs(root / 'crowd'))} runs, the same images")  # fmt: skip


def undisturbed(root: Path, words: Sequence[str]) -> None:
    """The sweep as it should be."""
    process = start(root, words)
    process.join()
    if process.exitcode != 0:
        raise SystemExit(said(root))


def kill(root: Path, words: Sequence[str], kills: int, seconds: float, seed: int) -> dict[str, int]:
    """Start the sweep, kill it at a random moment, start it again, ...: then let it end.

    seconds  that it takes undisturbed

    Most moments are after the process has begun to work, and so that the last of the kills comes
    about before the sweep is done; every fifth is anywhere in what comes before.
    """
    rng = random.Random(seed)  # noqa: S311  (moments, not secrets)
    done, during_work = 0, 0
    while done < kills:
        process = start(root, words)
        if done % 5:
            while process.exitcode is None and not at_work(root, process.pid):
                process.join(0.01)
            process.join(rng.uniform(0, 0.4 * seconds / kills))
        else:
            process.join(rng.uniform(0, 3))
        if process.exitcode is None:
            during_work += at_work(root, process.pid)
            process.kill()
            process.join()
            done += 1
        elif process.exitcode != 0:
            raise SystemExit(said(root))
        elif all_finished(root):
            break
    undisturbed(root, words)
    logs = [(place / "run.log").read_text() for place in folders(root)]
    resumed = sum(log.count("going on from step") for log in logs)
    return {"kills": done, "during_work": during_work, "resumed": resumed}


def crowd(root: Path, words: Sequence[str], processes: int) -> list[int | None]:
    """The same sweep given to many processes at once: their exit statuses."""
    started = [start(root, words, name=str(number)) for number in range(processes)]
    for process in started:
        process.join()
    return [process.exitcode for process in started]


def compare(whole: Path, other: Path, *, killed: bool) -> None:
    """Raises `AssertionError` where there is a difference, or something was done twice."""
    from safetensors.numpy import load_file

    expected, found = runs(whole), runs(other)
    # ruff: noqa: S101  (these are the checks)
    assert expected.keys() == found.keys(), (sorted(expected), sorted(found))
    for name, place in expected.items():
        mine = found[name]
        record = json.loads((mine / "run.json").read_text())
        assert record["status"] == "finished", (name, record["status"])
        arrays, others = (load_file(p / "images.safetensors") for p in (place, mine))
        for key, array in arrays.items():
            assert array.tobytes() == others[key].tobytes(), (name, key)
        log = (mine / "run.log").read_text()
        times = log.count("INFO finished after")  # a kill may come just before it is said
        assert times == 1 or (killed and times == 0), (name, f"finished {times} times")
        left = {p.name for p in mine.iterdir()} - {p.name for p in place.iterdir()}
        assert not left, (name, left)


def runs(root: Path) -> dict[str, Path]:
    """Run folders by what tells the works of the sweep apart."""
    found: dict[str, Path] = {}
    for place in folders(root):
        record = json.loads((place / "run.json").read_text())
        name = f"{record['layer']} {record['units']} {record['seed']} {record['diversity']}"
        assert name not in found, f"two folders of {name}"
        found[name] = place
    return found


def folders(root: Path) -> list[Path]:
    """Every run folder, whatever its state."""
    return sorted(path.parent for path in root.glob("*/*/*/v*/run.json"))


def all_finished(root: Path) -> bool:
    states = [json.loads((place / "run.json").read_text())["status"] for place in folders(root)]
    return bool(states) and set(states) == {"finished"}


def at_work(root: Path, pid: int | None) -> bool:
    """Whether this process holds a run folder."""
    holders = [holder_of(place) for place in folders(root)]
    return any(one is not None and one.content.get("pid") == pid for one in holders)


def start(root: Path, words: Sequence[str], name: str = "") -> BaseProcess:
    """`diversevis run -m device=cpu root=... WORDS` as a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    root.mkdir(parents=True, exist_ok=True)
    typed = ["run", "-m", "device=cpu", f"root={root}", *words]
    process = context.Process(target=_child, args=(typed, str(root / f"said{name}.txt")))
    process.start()
    return process


def said(root: Path) -> str:
    """What the process had to say."""
    return (root / "said.txt").read_text()


def _child(typed: list[str], log: str) -> None:
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    from diversevis.cli.main import main as diversevis

    torch.set_num_threads(1)  # many processes with several each would wait for one another
    sys.exit(diversevis(typed))


if __name__ == "__main__":
    main()
