#!/usr/bin/env python3
"""Checks that sweeps survive kills, and many processes that start the same sweep at once.

    python scripts/check_survival.py                      # 50 kills over 8 runs; 16 processes
    python scripts/check_survival.py --kills 200 --words model=vgg19 layer=conv1_2 unit=0-3

A sweep of eight runs is killed (SIGKILL) at random moments and started again until it is finished.
Its images must equal those of an undisturbed sweep to the bit, and no run may be computed twice.
Then sixteen processes start the same eight runs at once. All processes are forked from a server
that has imported the program already, so that most kills hit real work, not imports.
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        began = time.monotonic()
        run_to_the_end(root / "undisturbed", options.words)
        seconds = time.monotonic() - began
        print(f"undisturbed: {len(runs(root / 'undisturbed'))} runs in {seconds:.1f} s")
        counts = kill(root / "killed", options.words, options.kills, seconds, options.seed)
        print(f"killed {counts['kills']} times, {counts['during_work']} of them during work, "
              f"{counts['resumed']} batches continued from a checkpoint")  # fmt: skip
        compare(root / "undisturbed", root / "killed", killed=True)
        print("same images to the bit, no run computed twice")
        statuses = crowd(root / "crowd", options.words, options.processes)
        compare(root / "undisturbed", root / "crowd", killed=False)
        print(f"{options.processes} processes at once: exit statuses {set(statuses)}, "
              f"{len(runs(root / 'crowd'))} runs, the same images")  # fmt: skip


def run_to_the_end(root: Path, words: Sequence[str]) -> None:
    """Run the sweep without killing it. Raises `SystemExit` with its output if it fails."""
    process = start(root, words)
    process.join()
    if process.exitcode != 0:
        raise SystemExit(output(root))


def kill(root: Path, words: Sequence[str], kills: int, seconds: float, seed: int) -> dict[str, int]:
    """Start the sweep and kill it at a random moment, `kills` times; then let it finish.

    seconds  duration of the undisturbed sweep

    Four of five kills come after the process has begun a run, after a time short enough that the
    kills are spread over the sweep. Every fifth may come earlier, while the process starts.
    Returns how many kills there were, how many during a run, and how many batches were resumed.
    """
    rng = random.Random(seed)  # noqa: S311  (moments, not secrets)
    done, during_work = 0, 0
    while done < kills:
        process = start(root, words)
        if done % 5:  # four of five kills
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
            raise SystemExit(output(root))
        elif all_finished(root):
            break
    run_to_the_end(root, words)
    logs = [(folder / "run.log").read_text() for folder in folders(root)]
    resumed = sum(log.count("going on from step") for log in logs)
    return {"kills": done, "during_work": during_work, "resumed": resumed}


def crowd(root: Path, words: Sequence[str], processes: int) -> list[int | None]:
    """Start the same sweep in many processes at once; return their exit statuses."""
    started = [start(root, words, name=str(number)) for number in range(processes)]
    for process in started:
        process.join()
    return [process.exitcode for process in started]


def compare(undisturbed: Path, other: Path, *, killed: bool) -> None:
    """Compare two sweeps.

    Raises `AssertionError` if images differ, a run was computed twice, or files were left behind.
    """
    from safetensors.numpy import load_file

    expected, actual = runs(undisturbed), runs(other)
    # ruff: noqa: S101  (these are the checks)
    assert expected.keys() == actual.keys(), (sorted(expected), sorted(actual))
    for name, reference in expected.items():
        folder = actual[name]
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "finished", (name, record["status"])
        arrays, copies = (load_file(p / "images.safetensors") for p in (reference, folder))
        for key, array in arrays.items():
            assert array.tobytes() == copies[key].tobytes(), (name, key)
        log = (folder / "run.log").read_text()
        times = log.count("INFO finished after")  # 0 if a kill came just before the log line
        assert times == 1 or (killed and times == 0), (name, f"finished {times} times")
        left = {p.name for p in folder.iterdir()} - {p.name for p in reference.iterdir()}
        assert not left, (name, left)


def runs(root: Path) -> dict[str, Path]:
    """Run folders by layer, units, seed and diversity weight, which identify a run of the sweep."""
    by_name: dict[str, Path] = {}
    for folder in folders(root):
        record = json.loads((folder / "run.json").read_text())
        name = f"{record['layer']} {record['units']} {record['seed']} {record['diversity']}"
        assert name not in by_name, f"two folders of {name}"
        by_name[name] = folder
    return by_name


def folders(root: Path) -> list[Path]:
    """Every run folder, whatever its state."""
    return sorted(path.parent for path in root.glob("*/*/*/v*/run.json"))


def all_finished(root: Path) -> bool:
    states = [json.loads((folder / "run.json").read_text())["status"] for folder in folders(root)]
    return bool(states) and set(states) == {"finished"}


def at_work(root: Path, pid: int | None) -> bool:
    """Whether this process holds a run folder."""
    holders = [holder_of(folder) for folder in folders(root)]
    return any(holder is not None and holder.content.get("pid") == pid for holder in holders)


def start(root: Path, words: Sequence[str], name: str = "") -> BaseProcess:
    """Start `diversevis run -m device=cpu root=... WORDS` as a new process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    root.mkdir(parents=True, exist_ok=True)
    arguments = ["run", "-m", "device=cpu", f"root={root}", *words]
    process = context.Process(target=_child, args=(arguments, str(root / f"output{name}.txt")))
    process.start()
    return process


def output(root: Path) -> str:
    """Output of the sweep's process."""
    return (root / "output.txt").read_text()


def _child(arguments: list[str], log: str) -> None:
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    from diversevis.cli.main import main as diversevis

    torch.set_num_threads(1)  # with more, the processes would slow each other down
    sys.exit(diversevis(arguments))


if __name__ == "__main__":
    main()
