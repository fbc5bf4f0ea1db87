"""`diversevis run`: Hydra composes, sweeps and launches."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diversevis.config.compose import experiment_of, text_of
from diversevis.config.explain import plain_errors
from diversevis.config.place import config_folder
from diversevis.config.speak import speak
from diversevis.errors import InputError
from diversevis.words import check_words, quoted, split_flags, with_home

# Hydra itself writes nothing where the user stands: its record goes into the run folder.
HYDRA_SETTINGS = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra.sweep.subdir=.",
    "hydra.hydra_logging.handlers.console.stream=ext://sys.stderr",
)
SWEEPS = "multirun"  # folder below `root` for Hydra's record of a sweep, and its launchers' files


def run_command(arguments: Sequence[str]) -> None:
    """`diversevis run ARGUMENTS`: Hydra composes, sweeps and launches; each job is one run."""
    typed = shlex.join(["diversevis", "run", *arguments])
    flags, overrides = split_flags(arguments)
    check_words(flags, overrides)
    overrides = [with_home(word) for word in overrides]
    here, stamp = os.getpid(), time.strftime("%Y-%m-%d_%H-%M-%S")
    failures: list[Exception] = []
    made: list[Path] = []

    def job(config: DictConfig) -> None:
        try:
            made.append(_one_job(config, typed))
        except Exception as error:
            if os.getpid() != here:  # a launcher's worker: only an exception gets home
                raise
            failures.append(error)  # told below, in our own words

    sweeps = f"${{root}}/{SWEEPS}/{stamp}_{here}"
    settings = [*HYDRA_SETTINGS, f"hydra.sweep.dir={sweeps}"]
    task = hydra_main(version_base="1.3", config_path=config_folder(), config_name="run")(job)
    try:
        with (
            _argv(["diversevis", *flags, *settings, *map(quoted, overrides)]),
            plain_errors(overrides),
        ):
            task()
    finally:
        if not made:
            _remove_sweep(overrides, f"{stamp}_{here}")
    unexpected = next((error for error in failures if not isinstance(error, InputError)), None)
    if unexpected is not None:
        raise unexpected
    if failures:
        raise InputError("\ndiversevis: ".join(dict.fromkeys(map(str, failures))))


def _remove_sweep(overrides: Sequence[str], name: str) -> None:
    """Of a sweep that came to nothing, Hydra's record of it."""
    root = next((word[5:] for word in reversed(overrides) if word.startswith("root=")), "outputs")
    folder = Path(root.strip("\"'")) / SWEEPS / name
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {"multirun.yaml"}:
        return
    (folder / "multirun.yaml").unlink(missing_ok=True)
    for empty in (folder, folder.parent, folder.parent.parent):
        with contextlib.suppress(OSError):
            empty.rmdir()


def _one_job(config: DictConfig, typed: str) -> Path:
    speak()
    hydra = HydraConfig.get()
    experiment = experiment_of(config)
    given = {word.partition("=")[0].lstrip("+") for word in hydra.overrides.task}
    if experiment.norm == "paper" and "contrast" in given:
        raise InputError(
            f"contrast={config.contrast} and norm=paper exclude one another: the paper's "
            "table says the norm. Leave out one of them."
        )

    from diversevis.experiment import run  # with all that a run needs and a table does not

    path = run(
        experiment,
        command=typed,
        config=text_of(config),
        extras={
            ".hydra/config.yaml": OmegaConf.to_yaml(config),
            ".hydra/overrides.yaml": OmegaConf.to_yaml(hydra.overrides.task),
            ".hydra/hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})),
        },
    )
    print(path, flush=True)
    return path


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
