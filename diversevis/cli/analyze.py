"""`diversevis analyze`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from diversevis.config.arguments import split_flags
from diversevis.config.bind import bind
from diversevis.config.compose import compose_config, experiment_of, plain, settled
from diversevis.config.log import speak
from diversevis.errors import InputError
from diversevis.method.settings import Experiment
from diversevis.runs.folder import RunFolder
from diversevis.runs.integrity import flaw_of

# What may differ when a run is looked at again; the rest is the run's own.
TODAYS = ("analysis", "measure", "natural", "device", "batch", "images")


def analyze_command(arguments: Sequence[str]) -> None:
    """`diversevis analyze FOLDER... [key=value ...]`, or without a folder the units named."""
    folders = [
        word
        for word in arguments
        if not word.startswith("-") and ("=" not in word or Path(word).is_dir())
    ]
    settings = [word for word in arguments if word not in folders]
    if not any(word.startswith("analysis=") for word in settings):
        settings.append("analysis=all")
    if not folders and not any(word.startswith(("model=", "layer=")) for word in settings):
        raise InputError(
            "analyze needs run folders, or units of a layer: diversevis analyze "
            "outputs/vgg19/conv2_1/12/v001, or model=vgg19 layer=conv2_1 unit=all."
        )
    if not folders:
        print(_analyze_units(settings, shlex.join(["diversevis", "analyze", *arguments])))
        return
    for word in split_flags(settings)[1]:
        if word.split("=")[0].split(".")[0].lstrip("+") not in TODAYS:
            raise InputError(
                f"{word}: what a run is made of is fixed in its folder. With folders, "
                f"`diversevis analyze` takes {', '.join(f'{key}=...' for key in TODAYS)}."
            )
    today = plain(compose_config(settings))
    runs = [_finished_run(Path(folder)) for folder in folders]
    experiments = [_with_todays(run, today) for run in runs]  # all checked before any is begun
    speak()
    from diversevis.experiment.analyze import analyze_run

    for run, experiment in zip(runs, experiments, strict=True):
        analyze_run(run, experiment)
        print(run.path, flush=True)


def _analyze_units(settings: Sequence[str], typed: str) -> Path:
    config = compose_config(settings)
    speak()
    from diversevis.experiment.analyze import analyze_units

    return analyze_units(experiment_of(config), command=typed, config=settled(plain(config)))


def _finished_run(path: Path) -> RunFolder:
    """The run folder at `path`; raises `InputError` where there is none that is done."""
    folder = RunFolder(path)
    try:
        record = folder.read_record()
        status, made = record["status"], record["n"] is not None
        if status == "finished" and made and (flaw := flaw_of(path)):
            raise InputError(f"{path}: {flaw}. Its command, typed again, makes it whole.")
        folder.read_metrics()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is no folder of a run that is done ({error}). Name run folders, such as "
            "outputs/vgg19/conv2_1/12/v001, or units: model=vgg19 layer=conv2_1 unit=all."
        ) from error
    if status not in ("finished", "interrupted", "failed"):  # with numbers, as was seen above
        raise InputError(f"{path}: this run is {status}, not finished. Run it again first.")
    return folder


def _with_todays(folder: RunFolder, today: Mapping[str, Any]) -> Experiment:
    """The folder's own settings, with those of today where a later look may differ."""
    try:
        own = plain(OmegaConf.load(folder.path / "config.yaml"))  # type: ignore[arg-type]
    except (OSError, ValueError, YAMLError) as error:
        raise InputError(f"{folder.path}: its config.yaml cannot be read ({error}).") from error
    own["objective"] = {"fraction": None, "front": None} | own["objective"]
    kept = {key: value for key, value in own.items() if key in today}
    natural = today["natural"] if today["natural"] is not None else own.get("natural")
    changed = {key: today[key] for key in TODAYS} | {"natural": natural, "seeds": 1}
    return bind(Experiment, dict(today) | kept | changed, "")
