"""Runs in folders, from Python: made or found, and loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from diversevis.config.arguments import named_folder, split_hydra_overrides, with_home
from diversevis.errors import InputError
from diversevis.interface.visualized import Visualized
from diversevis.runs import check, files
from diversevis.runs.files import Damaged
from diversevis.runs.folder import RunFolder
from diversevis.runs.tensors import check_arrays

SWEEPS = {"-m", "--multirun"}


def run(words: Sequence[Any]) -> Visualized:
    """The run that the words of the command line describe: diversevis.run."""
    from diversevis.config.compose import experiment_with, settled
    from diversevis.config.hydra_call import compose_run, own_hydra
    from diversevis.config.log import warnings_shown
    from diversevis.experiment import run as experiments
    from diversevis.interface.state import own_state
    from diversevis.runs import signals

    overrides = _checked_words(words)
    with warnings_shown(), own_hydra(), own_state(), signals.listening():
        config, extras = compose_run(overrides)
        experiment = experiment_with(config, given=[word.partition("=")[0] for word in overrides])
        typed = f"diversevis.run({', '.join(map(json.dumps, words))})"
        done = experiments.run(experiment, command=typed, config=settled(config), extras=extras)
    return load(done.path)


def _checked_words(words: Sequence[Any]) -> list[str]:
    for word in words:
        if not isinstance(word, str):
            raise InputError(
                f"run takes the words of the command line, each as text, such as "
                f'"model=vgg19", "n=6"; not {word!r}.'
            )
    if SWEEPS & {*words}:
        raise InputError(
            "A sweep is no single run: call diversevis.run in a loop, or type `diversevis run -m "
            "...` in a terminal."
        )
    settings, of_hydra = split_hydra_overrides(words)
    if of_hydra:
        raise InputError(
            f"{' '.join(of_hydra)}: a run is made here, in this process, without Hydra's launchers "
            "and settings."
        )
    return [with_home(word) for word in settings]


def load(folder: str | os.PathLike[str]) -> Visualized:
    """The result in a run folder: diversevis.load."""
    path = named_folder(os.fspath(folder))
    status = ""
    try:
        record, changed = files.read_record(path)
        status = f" (the run is {record['status']})"
        if record["n"] is None:
            raise InputError(f"{path} has measures without images: `diversevis.collect` reads it.")
        return _loaded(path, check.check(check.read_rest(path, record, changed, thorough=True)))
    except (Damaged, SafetensorError) as error:
        raise InputError(
            f"{path} is not the folder of a run that can be loaded: {error}{status}. It must be a "
            "folder such as outputs/vgg19/conv2_1/12/v001."
        ) from error


def _loaded(path: Path, results: check.Results) -> Visualized:
    check_arrays(path, results.measures)
    tensors = RunFolder(path).read_images()
    return Visualized(
        units=tuple(results.units), images=tensors["images"], responses=tensors["responses"],
        metrics=results.rows,
        settings={name: entry.get("settings", {}) for name, entry in results.measures.items()},
        arrays={name: _arrays(path, name, results.units) for name in results.measures},
        record=results.record, path=path, reference=tensors.get("reference"),
    )  # fmt: skip


def _arrays(path: Path, name: str, units: list[int]) -> dict[str, Tensor]:
    """The arrays of a measure; some have none."""
    try:
        arrays = RunFolder(path).read_measure(name)
    except FileNotFoundError:
        return {}
    if "units" in arrays and arrays["units"].tolist() != units:
        raise Damaged(f"analysis/{name}.safetensors is of other units than metrics.json")
    return arrays
