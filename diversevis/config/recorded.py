"""The config of a run folder that `diversevis run` is given, checked before Hydra reads it.

Hydra builds whatever objects a config names below `hydra`, reads the files of its defaults list,
and puts environment variables where `${oc.env:...}` stands. A run's config has nothing of that.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from diversevis.errors import InputError
from diversevis.method.settings import Experiment
from diversevis.runs.files import Damaged, read_file, read_json
from diversevis.runs.trust import code_of, distrust, is_trusted, typed_targets

LARGEST = 2**16  # characters; a run's config has a few thousand, and more where it lists units
BRACKETS = 200  # lists are written line by line; a parser takes minutes for thousands of these
REFERENCE = re.compile(r"\$\{[\w.]+\}")  # to another setting: .hydra/config.yaml has some
PACKAGE = re.compile(r"^\s*#\s*@", re.MULTILINE)  # Hydra's way to say where the content goes


def check_recorded(flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Check the config of a run folder, where --config-dir and --config-name name one.

    Raises `InputError` for a config that holds more than settings, and for code that is neither
    typed (`model.target=...`) nor shown by the run's record to be this account's.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("-cp", "--config-path", type=Path)
    parser.add_argument("-cn", "--config-name", default="run")
    given, _ = parser.parse_known_args(flags)
    for folder in (given.config_dir, given.config_path):
        if folder is None:
            continue
        file = folder / f"{given.config_name.removesuffix('.yaml')}.yaml"
        if (run := _run_of(folder, file)) is not None:
            _check(run, folder, file, given.config_dir, overrides)


def _run_of(folder: Path, file: Path) -> Path | None:
    """The run folder that the config is in, or in a folder of; None where it is in none."""
    inside = [folder.resolve(), file.parent.resolve(), file.resolve().parent]
    for path in [*inside, *(path.parent for path in inside)]:
        if (path / "run.json").exists():
            return path
    return None


def _check(
    run: Path, folder: Path, file: Path, given_dir: Path | None, overrides: Sequence[str]
) -> None:
    try:
        if folder != given_dir or file.parent != folder or (folder / "hydra").exists():
            raise ValueError("Hydra would read further files from there")
        config = _settings(read_file(file.parent, file.name)[0].decode())
        record = read_json(run, "run.json")
    except (Damaged, ValueError, RecursionError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())[:300]
        raise InputError(
            f"{file} is not used: it is in the run folder {run}, and {words}. To repeat a run take "
            f"the settings that it wrote itself: --config-dir {run} --config-name config. A config "
            "of yours belongs in a folder of its own, without run.json."
        ) from error
    model = config.get("model")
    if not isinstance(model, dict) or "target" not in model or typed_targets(overrides)[0]:
        return  # a typed target is the one that is used
    code = code_of({**model, "kind": "custom"})
    if code is not None and not is_trusted(run, code, record.get("made_by")):
        raise InputError(distrust(str(run), code))


def _settings(text: str) -> dict[str, Any]:
    """The settings in a YAML text; raises `ValueError` where there is anything else."""
    if len(text) > LARGEST or sum(map(text.count, "[{")) > BRACKETS:
        raise ValueError("it is too long, or too nested, for settings")
    if PACKAGE.search(text):
        raise ValueError("it has a line for Hydra (# @...)")
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError("it has aliases (*...)")
    config: Any = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(config, dict):
        raise ValueError("it holds no settings")
    known = {field.name for field in fields(Experiment)}
    for name in config:
        if name not in known:
            raise ValueError(f"{name} is no setting of a run")
    for value in _texts(config):
        if "${" in REFERENCE.sub("", value):
            raise ValueError(f"{value[:80]} asks Hydra for more than another setting")
    if any("${" in value for value in _texts(config.get("model"))):
        raise ValueError("its model refers to other settings")
    return config


def _texts(content: Any) -> Iterator[str]:
    """All text in nested settings, names included."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for name, value in content.items():
            yield from _texts(name)
            yield from _texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value)
