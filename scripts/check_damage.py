"""What each command says of a damaged run: prints the table of docs/run-folder.md.

    python scripts/check_damage.py [--only WORDS]

Makes a sweep of three runs of the analytic network, damages a file of the first in every way of
tests/damage.py, and calls `status`, `collect`, `analyze`, `compare`, `show` and `retry`. A row says
what they answer, and how long the slowest of them took but for `retry`, which repeats the run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
DAMAGES = importlib.import_module("damage").DAMAGES

RUN = "model=energy layer=complex unit=0-5 units_per_job=2 n=3 images=tensor"
RUN += " analysis=[phase,diversity] measure.phase.orientations=4 optimizer.steps=12"
RUN += " optimizer.search_steps=5 objective.restarts=2"
DAMAGED = "a/energy/complex/0-1/v001"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="damages whose name has these words")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as above:
        whole = Path(above, "whole")
        whole.mkdir()
        for root, seed in (("a", 0), ("b", 1)):
            command(whole, "run", "-m", *RUN.split(), f"seed={seed}", f"root={root}")
        print("| damage | said of it | named by | rows | pairs | after `retry` | s |")
        print("|---|---|---|---|---|---|---|")
        for name, (damage, words) in DAMAGES.items():
            if only in name:
                here = Path(above, "here")
                shutil.copytree(whole, here)
                plan = next(here.rglob("sweep.json"))
                plan.write_text(plan.read_text().replace(str(whole), str(here)))
                damage(here / DAMAGED)
                print(row(here, name, words), flush=True)
                shutil.rmtree(here)


def row(here: Path, name: str, words: str) -> str:
    """A row of the table."""
    answers, seconds = {}, 0.0
    for words_of_command in (
        "status a", "collect a out=table", f"analyze {DAMAGED} analysis=phase",
        "compare a b resamples=100 out=compared", f"show {DAMAGED}",
    ):  # fmt: skip
        began = time.monotonic()
        kind, *rest = words_of_command.split()
        answers[kind] = command(here, kind, *rest)
        seconds = max(seconds, time.monotonic() - began)
    named = [kind for kind, text in answers.items() if words in text]
    said = re.search(rf"[^:;(|]*{re.escape(words)}[^;|).]*", answers["analyze"])
    rows = re.search(r"(\d+) units? of (\d+) runs?", answers["collect"])
    pairs = len(re.findall(r"^A: ", answers["compare"], re.MULTILINE))
    command(here, "retry", "a")
    states = command(here, "status", "a")
    finished = re.search(r"^energy.*?(\d+/\d+)", states, re.MULTILINE)
    cells = (
        name, said[0].strip() if said else "-", "all" if len(named) == 5 else ", ".join(named),
        rows[0] if rows else "-", str(pairs), f"{finished[1] if finished else '-'} units",
        f"{seconds:.1f}",
    )  # fmt: skip
    traceback = any("Traceback" in text for text in answers.values())
    return f"| {' | '.join(cells)} |" + (" TRACEBACK" if traceback else "")


def command(here: Path, *words: str) -> str:
    """What a command prints on both streams."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "diversevis", *words], cwd=here, env=environment, text=True,
        capture_output=True, timeout=300,
    )  # fmt: skip
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
