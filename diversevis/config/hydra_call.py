"""Hydra called from within: it composes the config and has its launcher call a function with it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from hydra import main as hydra_main
from omegaconf import DictConfig

from diversevis.config.arguments import quoted
from diversevis.config.conf_dir import config_folder
from diversevis.config.messages import plain_errors

# Hydra itself writes nothing where the user stands: its record goes into the run folder.
HYDRA_SETTINGS = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra.sweep.subdir=.",
    "hydra.hydra_logging.handlers.console.stream=ext://sys.stderr",
)


def call_hydra(
    job: Callable[[DictConfig], object], flags: Sequence[str], overrides: Sequence[str]
) -> None:
    """Have Hydra compose the config, and call `job` with it, here or wherever it launches."""
    task = hydra_main(version_base="1.3", config_path=config_folder(), config_name="run")(job)
    words = ["diversevis", *flags, *HYDRA_SETTINGS, *map(quoted, overrides)]
    with _argv(words), plain_errors(overrides):
        task()


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    """Hydra reads the command line itself; and raises what it meets, for `plain_errors`."""
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = words, "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
