"""`diversevis run`: one run, or with -m a sweep."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from diversevis.config import arguments as command_line
from diversevis.config.bind import bind
from diversevis.config.compose import combinations, settled
from diversevis.config.hydra_call import call_with_config
from diversevis.config.log import show_warnings
from diversevis.errors import InputError
from diversevis.method.settings import Experiment
from diversevis.runs import signals
from diversevis.runs.versions import SWEEPS
from diversevis.sweep.jobs import shown
from diversevis.sweep.launch import launch

SHOW_FLAGS = {"--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc"}


def run_command(arguments: Sequence[str]) -> None:
    """Print the folder of the finished run, or the folders of a sweep.

    Raises InputError before anything is begun, SweepUnfinished where not all is finished.
    """
    typed = shlex.join(["diversevis", "run", *arguments])
    flags, overrides = command_line.split_flags(arguments)
    command_line.check_words(flags, overrides)
    overrides = [  # shells leave ~ as it is after `=`
        f"root={command_line.named_folder(word.removeprefix('root='))}"
        if word.startswith("root=~")
        else word
        for word in overrides
    ]
    if _is_sweep(flags, overrides):
        _sweep(flags, overrides, typed)
        return
    launcher = [
        word for word in command_line.split_hydra_overrides(overrides)[1] if "launcher" in word
    ]
    if launcher and not flags:
        raise InputError(
            f"{' '.join(launcher)}: a single run is made here, in this process. Launchers are for "
            "sweeps: put -m before it, as in `diversevis run -m ... hydra/launcher=slurm`."
        )
    started = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
    folder = f"hydra.sweep.dir=${{root}}/{SWEEPS}/{started}"  # of other sweepers (hydra/sweeper=)
    call_with_config(
        lambda config, record: _one_run(config, record, overrides, typed),
        flags,
        [folder, *overrides],
    )


def _is_sweep(flags: Sequence[str], overrides: Sequence[str]) -> bool:
    """Whether a sweep is planned here: not if Hydra only shows configs, nor for another sweeper,
    which chooses combinations as it goes."""
    multirun = bool({"-m", "--multirun"} & set(flags))
    other_sweeper = any(re.match(r"\+?hydra/sweeper=(?!basic$)", word) for word in overrides)
    return multirun and not SHOW_FLAGS & set(flags) and not other_sweeper


def _one_run(
    config: dict[str, Any], record: dict[str, str], overrides: Sequence[str], typed: str
) -> None:
    show_warnings()
    experiment = bind(Experiment, config, "")
    given = {word.partition("=")[0].lstrip("+") for word in overrides}
    if experiment.norm == "paper" and "contrast" in given:
        raise InputError(
            f"contrast={config['contrast']} and norm=paper exclude one another: the paper's table "
            "gives the norm. Leave out one of them."
        )
    from diversevis.experiment.run import run

    with signals.listening():
        done = run(experiment, command=typed, config=settled(config), extras=record)
    if done.how == "found":
        print(
            f"diversevis: skipped: already finished in {done.path}; again=true recomputes it as a "
            "new version.",
            file=sys.stderr,
        )
    print(done.path, flush=True)


def _sweep(flags: Sequence[str], overrides: Sequence[str], typed: str) -> None:
    show_warnings()
    task_overrides, launcher = command_line.split_hydra_overrides(overrides)
    configs = list(combinations(flags, task_overrides))
    from diversevis.sweep.plan import plan

    jobs, finished = plan(configs, launcher)
    for folder, units in finished.items():
        words = f"skipped: {units} of these units are already finished in {shown(folder)}"
        print(f"diversevis: {words}", file=sys.stderr)
    if jobs:
        launch(jobs, launcher, typed)
    else:
        print(
            "diversevis: all units are already finished; again=true recomputes them as new "
            "versions.",
            file=sys.stderr,
        )
    for folder in finished:
        print(shown(folder), flush=True)
