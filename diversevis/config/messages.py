"""Hydra's errors about what was typed, told in our words."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator, Sequence

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diversevis.config.conf_dir import config_folder
from diversevis.errors import InputError, suggest

LISTS = "unit", "analysis", "device", "objective.front"  # settings that may be lists


@contextlib.contextmanager
def plain_errors(overrides: Sequence[str]) -> Iterator[None]:
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
    if launcher := re.search(r"hydra/launcher/(?:submitit_)?(\w+)'", text):
        return _missing_launcher(launcher[1])
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
        if key.startswith("hydra.launcher."):
            return _unknown_of_launcher(key, overrides)
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
        sweep = (
            f"for a sweep with one run for each put -m before it: diversevis run -m {key}={value}."
        )
        if key in LISTS:
            return (
                f"{key}={value} can mean two things. For one run over the list write "
                f"{key}=[{value}]; {sweep}"
            )
        return (
            f"{key}={value} has commas: {sweep} A single value with commas is quoted twice: "
            f"'{key}=\"{value}\"'."
        )
    return text


def _missing_launcher(name: str) -> str:
    extras = {"slurm": "slurm", "local": "slurm", "joblib": "joblib", "ray": "ray"}
    if name in extras:
        return (
            f"hydra/launcher={name} needs Hydra's plugin for it, which is not installed: "
            f"pip install 'diversevis[{extras[name]}]'."
        )
    return f"hydra/launcher={name} is unknown. {suggest(name, ['basic', *extras])}"


def _unknown_of_launcher(key: str, overrides: Sequence[str]) -> str:
    """Hydra would have it added, where it does nothing or breaks the launcher."""
    chosen = [word.partition("=")[2] for word in overrides if word.startswith("hydra/launcher=")]
    if not chosen or chosen[-1] == "basic":
        return (
            f"{key} is a setting of a launcher, and none is chosen: add hydra/launcher=slurm (or "
            "local, joblib, ray)."
        )
    return (
        f"hydra/launcher={chosen[-1]} has no setting {key.removeprefix('hydra.launcher.')}. "
        f"Those it has: `diversevis run hydra/launcher={chosen[-1]} --cfg hydra -p hydra.launcher`."
    )


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
