"""`diversevis run`: one run, or with -m a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from typing import Any

from diversevis.config.arguments import check_words, split_flags, split_hydra_overrides, with_home
from diversevis.config.compose import combinations, experiment_with, settled
from diversevis.config.hydra_call import call_with_config
from diversevis.config.log import note, show_warnings
from diversevis.config.recorded import check_recorded
from diversevis.errors import InputError
from diversevis.method.device import keep_pages
from diversevis.runs import signals
from diversevis.sweep.jobs import shown
from diversevis.sweep.launch import launch
from diversevis.units import counted

SHOW_FLAGS = {"--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc"}


def run_command(arguments: Sequence[str]) -> None:
    """Print the folder of the finished run, or the folders of a sweep.

    Raises InputError before anything is begun, SweepUnfinished where not all is finished.
    """
    typed = shlex.join(["diversevis", "run", *arguments])
    flags, overrides = split_flags(arguments)
    check_words(flags, overrides)
    overrides = [with_home(word) for word in overrides]
    check_recorded(flags, overrides)
    settings, of_hydra = split_hydra_overrides(overrides)
    if {"-m", "--multirun"} & set(flags) and not SHOW_FLAGS & set(flags):
        _sweep(flags, settings, of_hydra, typed)
        return
    launcher = [word for word in of_hydra if "launcher" in word]
    if launcher and not flags:
        raise InputError(
            f"{' '.join(launcher)}: a single run is made here, in this process. Launchers are for "
            "sweeps: put -m before it, as in `diversevis run -m ... hydra/launcher=slurm`."
        )
    call_with_config(partial(_one_run, overrides=overrides, typed=typed), flags, overrides)


def _one_run(
    config: dict[str, Any], record: dict[str, str], overrides: Sequence[str], typed: str
) -> None:
    show_warnings()
    given = {word.partition("=")[0].lstrip("+") for word in overrides}
    experiment = experiment_with(config, given)
    from diversevis.cli.summary import say_findings
    from diversevis.experiment.run import run

    keep_pages()
    with signals.listening():
        done = run(experiment, command=typed, config=settled(config), extras=record)
    if done.how == "found":
        again = "again=true recomputes it as a new version"
        note(f"skipped: already finished in {done.path}; {again}.")
    say_findings(done.path)
    print(done.path, flush=True)


def _sweep(
    flags: Sequence[str], settings: Sequence[str], launcher: Sequence[str], typed: str
) -> None:
    show_warnings()
    configs = combinations(flags, settings)
    from diversevis.sweep.plan import plan

    jobs, finished = plan(configs, launcher)
    for folder, units in finished.items():
        note(f"skipped: {counted(units, 'unit')}, already finished in {shown(folder)}")
    if jobs:
        launch(jobs, launcher, typed)
    else:
        note("all units are already finished; again=true recomputes them as new versions.")
    for folder in finished:
        print(shown(folder), flush=True)
