"""`diversevis run`: Hydra composes one run, or a sweep is planned and launched."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diversevis.cli.sweep import apart, is_sweep, sweep_command
from diversevis.config.arguments import check_words, split_flags, with_home
from diversevis.config.compose import experiment_of, plain, settled
from diversevis.config.hydra_call import call_hydra
from diversevis.config.log import speak
from diversevis.errors import InputError
from diversevis.runs import signals
from diversevis.runs.versions import SWEEPS


def run_command(arguments: Sequence[str]) -> None:
    """`diversevis run ARGUMENTS`: one run, or with `-m` a sweep."""
    typed = shlex.join(["diversevis", "run", *arguments])
    flags, overrides = split_flags(arguments)
    check_words(flags, overrides)
    overrides = [with_home(word) for word in overrides]
    if is_sweep(flags, overrides):
        sweep_command(flags, overrides, typed)
        return

    if not flags and (launcher := [one for one in apart(overrides)[1] if "launcher" in one]):
        raise InputError(
            f"{' '.join(launcher)}: one run is made here, in this process. Launchers are for "
            "sweeps: put -m before it, as in `diversevis run -m ... hydra/launcher=slurm`."
        )
    here = os.getpid()
    failures: list[Exception] = []

    def job(config: DictConfig) -> None:
        try:
            _one_run(config, typed)
        except Exception as error:
            if os.getpid() != here:  # a launcher's worker: only an exception gets home
                raise
            failures.append(error)  # told below, in our own words

    record = f"hydra.sweep.dir=${{root}}/{SWEEPS}/{time.strftime('%Y-%m-%d_%H-%M-%S')}_{here}"
    call_hydra(job, flags, [record, *overrides])
    unexpected = next((error for error in failures if not isinstance(error, InputError)), None)
    if unexpected is not None:
        raise unexpected
    if failures:
        raise InputError("\ndiversevis: ".join(dict.fromkeys(map(str, failures))))


def _one_run(config: DictConfig, typed: str) -> None:
    speak()
    hydra = HydraConfig.get()
    experiment = experiment_of(config)
    given = {word.partition("=")[0].lstrip("+") for word in hydra.overrides.task}
    if experiment.norm == "paper" and "contrast" in given:
        raise InputError(
            f"contrast={config.contrast} and norm=paper exclude one another: the paper's "
            "table says the norm. Leave out one of them."
        )

    from diversevis.experiment.run import run

    with signals.listening():
        done = run(
            experiment,
            command=typed,
            config=settled(plain(config)),
            extras={
                ".hydra/config.yaml": OmegaConf.to_yaml(config),
                ".hydra/overrides.yaml": OmegaConf.to_yaml(hydra.overrides.task),
                ".hydra/hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})),
            },
        )
    say_found(done.how, str(done.path))
    print(done.path, flush=True)


def say_found(how: str, path: str) -> None:
    """That work was there already."""
    if how == "found":
        print(
            f"diversevis: {path} is this very work, finished. again=true makes a new version.",
            file=sys.stderr,
        )
