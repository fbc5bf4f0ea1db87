"""Hydra called from within: it composes the config and has its launcher call a function."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra import main as hydra_main
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict

from diversevis.config.arguments import check_words, in_quotes, split_flags
from diversevis.config.compose import completed, plain
from diversevis.config.conf_files import config_folder
from diversevis.config.messages import plain_errors
from diversevis.config.words import for_hydra

# Hydra itself writes nothing to the current folder: its record goes into the run folder.
HYDRA_SETTINGS = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra.sweep.subdir=.",
    "hydra.hydra_logging.handlers.console.stream=ext://sys.stderr",
)


# The resolved config, and Hydra's record for the run folder: file name -> text.
Job = Callable[[dict[str, Any], dict[str, str]], None]


def call_with_config(job: Job, flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Have Hydra compose the config and call `job` with it.

    Raises InputError for overrides that do not fit, and what `job` raises.
    """
    composed: list[tuple[DictConfig, dict[str, str]]] = []

    def task(config: DictConfig) -> None:
        composed.append((config, _record(config, HydraConfig.get())))

    _call_hydra(task, flags, overrides)
    for composed_config, record in composed:  # none where Hydra only shows the config
        config = plain(composed_config)  # not in `task`: of its errors Hydra prints lines too
        job(completed(config) if flags else config, record)


def compose_run(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the resolved config and Hydra's record, without a call of Hydra's application, which
    would set up logging anew. The record lacks the output folder, which is the current one.

    Raises InputError for flags, and for overrides that do not fit.
    """
    flags, settings = split_flags(overrides)
    check_words(flags, settings, known=())
    words = [*HYDRA_SETTINGS, "hydra.mode=RUN", *map(for_hydra, settings)]
    folder = config_folder()
    with plain_errors(overrides), initialize_config_dir(folder, "diversevis", version_base="1.3"):
        config = compose("run", overrides=words, return_hydra_config=True)
    hydra = config.hydra
    with open_dict(config):
        del config["hydra"]
    return plain(config), _record(config, hydra)


@contextlib.contextmanager
def own_hydra() -> Iterator[None]:
    """Hydra is free to be used within the `with` block; afterwards it is as the caller had it."""
    in_use, version = GlobalHydra.instance().hydra, VersionBase.instance().getbase()
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = in_use
        VersionBase.instance().version_base = version


def _record(config: DictConfig, hydra: Any) -> dict[str, str]:
    return {
        ".hydra/config.yaml": OmegaConf.to_yaml(config),
        ".hydra/overrides.yaml": OmegaConf.to_yaml(hydra.overrides.task),
        ".hydra/hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})),
    }


def launch_jobs(
    job: Callable[[int], object], numbers: range, launcher: Sequence[str], folder: Path
) -> None:
    """Have Hydra's launcher call `job` with every number; returns when the launcher does.

    launcher  overrides that choose and set it; `folder` is for its files
    """

    def task(config: DictConfig) -> object:
        # This closure is pickled and sent to the job's process. It must use nothing of this module,
        # whose import takes seconds in which the process would not hear a signal.
        return job(config.planned_job)

    first, last = numbers.start, numbers.stop
    swept = f"range({first},{last})" if last - first > 1 else str(first)
    words = [
        *launcher,
        f"hydra.sweep.dir={in_quotes(str(folder))}",
        "hydra.job.name=diversevis",
        "hydra.hydra_logging.root.level=WARNING",  # its lines name jobs by this word, not by work
        f"+planned_job={swept}",
    ]
    _call_hydra(task, ["-m"], words)


def _call_hydra(
    task: Callable[[DictConfig], object], flags: Sequence[str], overrides: Sequence[str]
) -> None:
    """Give Hydra its command line, and have it raise errors (for `plain_errors`), not print them.

    Hydra reads both from the process, not from arguments.
    """
    main = hydra_main(version_base="1.3", config_path=config_folder(), config_name="run")(task)
    arguments, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["diversevis", *flags, *HYDRA_SETTINGS, *map(for_hydra, overrides)]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with plain_errors(overrides):
            main()
    finally:
        sys.argv = arguments
        del os.environ["HYDRA_FULL_ERROR"]
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error
