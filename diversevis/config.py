"""Hydra configs -> a checked `Experiment`. Hydra and OmegaConf live here and in no other module."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diversevis.errors import InputError, suggest
from diversevis.experiment import run
from diversevis.settings import Experiment

# Hydra itself writes nothing where the user stands: its record goes into the run folder.
HYDRA_SETTINGS = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra.sweep.dir=${root}/multirun/${now:%Y-%m-%d_%H-%M-%S}",
    "hydra.sweep.subdir=.",
)


FLAGS_WITH_VALUE = (
    "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c",
    "--package", "-p",
)  # fmt: skip


def config_folder() -> str:
    """`conf/`: inside the installed package, or at the top of the repository."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def run_command(arguments: Sequence[str]) -> None:
    """`diversevis run ARGUMENTS`: Hydra composes, sweeps and launches; each job is one run."""
    typed = shlex.join(["diversevis", "run", *arguments])
    here, refused = os.getpid(), list[InputError]()

    def job(config: DictConfig) -> None:
        try:
            _one_job(config, typed)
        except InputError as error:
            if os.getpid() != here:  # a launcher's worker: only an exception gets home
                raise
            refused.append(error)

    flags, overrides = split_flags(arguments)
    task = hydra_main(version_base="1.3", config_path=config_folder(), config_name="run")(job)
    if any(flag.startswith("--exp") for flag in flags):
        raise InputError("--experimental-rerun unpickles a file. Use a run's own `rerun` line.")
    with _argv(["diversevis", *flags, *HYDRA_SETTINGS, *overrides]), _plain_errors(overrides):
        task()
    if refused:
        raise InputError("\ndiversevis: ".join(dict.fromkeys(map(str, refused))))


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the overrides; Hydra's parser wants them apart."""
    flags: list[str] = []
    overrides: list[str] = []
    before = ""
    for word in words:
        is_value = before in FLAGS_WITH_VALUE or (before in ("--info", "-i") and "=" not in word)
        (flags if word.startswith("-") or is_value else overrides).append(word)
        before = word
    return flags, overrides


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The config that `overrides` make of the defaults."""
    with _plain_errors(overrides), initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("run", overrides=list(overrides))


def compose_model(overrides: Sequence[str]) -> Any:
    """The model alone, for commands that need nothing else."""
    hints = get_type_hints(Experiment)
    return bind(hints["model"], plain(compose_config(overrides).model), "model")


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved config as plain Python; missing values stay `???`."""
    with _plain_errors([]):
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def experiment_of(config: DictConfig) -> Experiment:
    """The checked experiment; raises `InputError` for unknown keys, wrong types, missing values."""
    return bind(Experiment, plain(config), "")


def bind(kind: Any, value: Any, key: str) -> Any:
    """`value` as a `kind`: dataclasses by field name, everything else by its annotation.

    Raises `InputError` that names the key, the value and what is legal.
    """
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value == "???" or (value is None and type(None) not in choices):
        more = " `diversevis layers` with the same model lists them." if key == "layer" else ""
        raise InputError(f"{key} has no default here: say which, {key}=...{more}")
    if all(is_dataclass(choice) for choice in choices):
        return _bind_dataclass(choices, value, key)
    for choice in choices:
        fitting, result = _fit(choice, value)
        if fitting:
            return result
    legal = " or ".join(_words(choice) for choice in choices)
    raise InputError(f"{key}={value!r} is of the wrong kind: it must be {legal}.")


def _bind_dataclass(choices: Sequence[Any], value: Any, key: str) -> Any:
    dot = f"{key}." if key else ""
    if not isinstance(value, dict):
        raise InputError(f"{key}={value!r} must be a group of settings ({dot}...=...).")
    kind = choices[0]
    if len(choices) > 1:  # told apart by their `kind`
        kinds = {get_args(get_type_hints(c)["kind"])[0]: c for c in choices}
        said = value.get("kind")
        if said not in kinds:
            raise InputError(f"{dot}kind={said} is unknown. {suggest(str(said), kinds)}")
        kind = kinds[said]
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for name in value:
        if name not in names:
            raise InputError(f"There is no setting {dot}{name}. {suggest(name, names)}")
    for field in fields(kind):
        if field.name not in value and field.default is MISSING:
            raise InputError(f"The setting {dot}{field.name} is missing from the config.")
    return kind(**{name: bind(hints[name], value[name], f"{dot}{name}") for name in value})


def _fit(kind: Any, value: Any) -> tuple[bool, Any]:
    """Whether `value` is a `kind`, and the value as one."""
    if get_origin(kind) is Literal:
        return value in get_args(kind), value
    if kind is type(None):
        return value is None, None
    if get_origin(kind) in (tuple, list):
        inner = get_args(kind)
        if not isinstance(value, (list, tuple)):
            return False, None
        if get_origin(kind) is tuple and len(value) != len(inner):
            return False, None
        kinds = inner if get_origin(kind) is tuple else inner * len(value)
        fits = [
            _fit_any(get_args(k) if get_origin(k) in (Union, types.UnionType) else (k,), v)
            for k, v in zip(kinds, value, strict=True)
        ]
        return all(f for f, _ in fits), get_origin(kind)(v for _, v in fits)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), value


def _fit_any(kinds: Sequence[Any], value: Any) -> tuple[bool, Any]:
    return next((fit for kind in kinds if (fit := _fit(kind, value))[0]), (False, None))


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"{len(get_args(kind))} numbers, [0.5,0.5,0.5]"
    if get_origin(kind) is list:
        return "a list, [1,5,9]"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false",
            type(None): "null"}.get(kind, str(kind))  # fmt: skip


def _one_job(config: DictConfig, typed: str) -> None:
    _speak()
    hydra = HydraConfig.get()
    experiment = experiment_of(config)
    path = run(
        experiment,
        command=typed,
        config=OmegaConf.to_yaml(config, resolve=True),
        extras={
            ".hydra/config.yaml": OmegaConf.to_yaml(config),
            ".hydra/overrides.yaml": OmegaConf.to_yaml(hydra.overrides.task),
            ".hydra/hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})),
        },
    )
    print(path, flush=True)


def _speak() -> None:
    """Warnings go to stderr; the run folder's log has more."""
    log = logging.getLogger("diversevis")
    log.setLevel(logging.INFO)
    log.propagate = False  # Hydra has the root logger print to stdout, where results go
    if not log.handlers:
        to_person = logging.StreamHandler()
        to_person.setLevel(logging.WARNING)
        to_person.setFormatter(logging.Formatter("diversevis: %(message)s"))
        log.addHandler(to_person)


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    """Hydra reads the command line itself; and raises what it meets, for `_plain_errors`."""
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


@contextlib.contextmanager
def _plain_errors(overrides: Sequence[str]) -> Iterator[None]:
    """Hydra's errors about what was typed become one paragraph."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_explain(error, overrides)) from error
    except ValueError as error:
        if not _raised_by_hydra(error):
            raise
        raise InputError(f"{error} (in: {' '.join(overrides)})") from error


def _raised_by_hydra(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(("hydra.", "omegaconf."))


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    text = " ".join(str(error).split())
    if unknown := re.search(r"Could not override '([^']+)'", text):
        key = unknown[1]
        group = key.rpartition(".")[0]
        legal = _legal_keys(
            group, [word for word in overrides if not word.lstrip("+~").startswith(key)]
        )
        if legal:
            return f"There is no setting {key}. {suggest(key, legal, limit=40)}"
    if missing := re.search(
        r"(?:Could not find|In '[^']+': Could not find) '([\w/]+)/([\w.]+)'", text
    ):
        group, name = missing[1], missing[2]
        legal = re.findall(r"\S+", text.partition(f"Available options in '{group}':")[2])
        if legal:
            return f"{group}={name} is unknown. {suggest(name, legal)}"
    if "Ambiguous value for argument" in text:
        word = re.search(r"argument '([^']+)'", text)
        key, _, value = (word[1] if word else "unit=0,1,2").partition("=")
        return (
            f"{key}={value} can mean two things. For one run over the list write {key}=[{value}]; "
            f"for a sweep with one run for each put -m before it: diversevis run -m {key}={value}."
        )
    return text


def _legal_keys(group: str, overrides: Sequence[str]) -> list[str]:
    """The settings one can give beside a misspelt one."""
    words = [word for word in overrides if "=" in word and not word.startswith("-")]
    for attempt in (words, []):
        try:
            with initialize_config_dir(config_folder(), version_base="1.3"):
                config = compose("run", overrides=list(attempt))
            found = OmegaConf.select(config, group) if group else config
            if isinstance(found, DictConfig):
                return [f"{group}.{name!s}" if group else str(name) for name in found]
        except (HydraException, OmegaConfBaseException):
            continue
    return []
