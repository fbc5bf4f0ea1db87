"""Hydra configs -> a checked `Experiment`. Hydra and OmegaConf live here and in no other module."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from diversevis.bind import bind
from diversevis.errors import InputError, suggest
from diversevis.run_folder import RunFolder
from diversevis.settings import Experiment
from diversevis.words import check_words, quoted, split_flags, with_home

# Hydra itself writes nothing where the user stands: its record goes into the run folder.
HYDRA_SETTINGS = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra.sweep.subdir=.",
    "hydra.hydra_logging.handlers.console.stream=ext://sys.stderr",
)
# What may differ when a run is looked at again; the rest is the run's own.
TODAYS = ("analysis", "measure", "natural", "device", "batch")
SWEEPS = "multirun"  # folder below `root` for Hydra's record of a sweep, and its launchers' files


def config_folder() -> str:
    """`conf/`: inside the installed package, or at the top of the repository."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


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
            _plain_errors(overrides),
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
    _speak()
    from diversevis.experiment import analyze_run

    for run, experiment in zip(runs, experiments, strict=True):
        analyze_run(run, experiment)
        print(run.path, flush=True)


def _analyze_units(settings: Sequence[str], typed: str) -> Path:
    config = compose_config(settings)
    _speak()
    from diversevis.experiment import analyze_units

    return analyze_units(experiment_of(config), command=typed, config=_text_of(config))


def _finished_run(path: Path) -> RunFolder:
    """The run folder at `path`; raises `InputError` where there is none that is done."""
    folder = RunFolder(path)
    try:
        record = folder.read_record()
        folder.read_metrics()
        status = record["status"]
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


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The config that `overrides` make of the defaults."""
    flags, settings = split_flags(overrides)
    check_words(flags, settings, known=())
    with _plain_errors(overrides), initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("run", overrides=[quoted(word) for word in settings])


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


def _one_job(config: DictConfig, typed: str) -> Path:
    _speak()
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
        config=_text_of(config),
        extras={
            ".hydra/config.yaml": OmegaConf.to_yaml(config),
            ".hydra/overrides.yaml": OmegaConf.to_yaml(hydra.overrides.task),
            ".hydra/hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})),
        },
    )
    print(path, flush=True)
    return path


def _text_of(config: DictConfig) -> Callable[[Mapping[str, str]], str]:
    """The resolved config as text, with some settings in place of what was typed."""

    def text(fixed: Mapping[str, str]) -> str:
        whole = OmegaConf.create(plain(config))
        for key, value in fixed.items():
            OmegaConf.update(whole, key, value)
        return OmegaConf.to_yaml(whole)

    return text


class _ToPerson(logging.Handler):
    """Warnings go to stderr; the run folder's log has more."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"diversevis: {record.getMessage()}", file=sys.stderr)


def _speak() -> None:
    log = logging.getLogger("diversevis")
    log.setLevel(logging.INFO)
    log.propagate = False  # Hydra has the root logger print too
    if not log.handlers:
        log.addHandler(_ToPerson(logging.WARNING))


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
        if key in legal:
            return f"{key} is fixed in this config and cannot be chosen anew: set {key}.name=..."
        if legal:
            return f"There is no setting {key}. {suggest(key, legal, limit=40)}"
    if missing := re.search(
        r"(?:Could not find|In '[^']+': Could not find) '([\w/]+)/([\w.]+)'", text
    ):
        group, name = missing[1], missing[2]
        options = text.partition(f"Available options in '{group}':")[2]
        legal = options.partition("Config search path")[0].split()
        if legal:
            more = _torchvision_hint(name) if group == "model" else ""
            return f"{group}={name} is unknown. {more or suggest(name, legal)}"
    if "LexerNoViableAlt" in text or "mismatched input" in text or "extraneous input" in text:
        typed = text.removeprefix("Error parsing override").strip().split("'")[1:2]
        return (
            f"{typed[0] if typed else ' '.join(overrides)} cannot be read. A value with spaces or "
            "other special characters is quoted twice: 'key=\"value\"'."
        )
    if "Ambiguous value for argument" in text:
        word = re.search(r"argument '([^']+)'", text)
        key, _, value = (word[1] if word else "unit=0,1,2").partition("=")
        return (
            f"{key}={value} can mean two things. For one run over the list write {key}=[{value}]; "
            f"for a sweep with one run for each put -m before it: diversevis run -m {key}={value}."
        )
    return text


def _torchvision_hint(name: str) -> str:
    from diversevis.models.architectures import import_torchvision_models

    models = import_torchvision_models()
    known = name in models.list_models(module=models)
    return (
        f"It is one of torchvision's: write model=torchvision model.name={name}." if known else ""
    )


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
