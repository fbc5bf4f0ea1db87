"""Hydra's and OmegaConf's errors in plain words.

Hydra has no error classes or codes for most of these, so its texts are matched.
"""

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
EXTRAS = {"slurm": "slurm", "local": "slurm", "joblib": "joblib", "ray": "ray"}  # of launchers


@contextlib.contextmanager
def plain_errors(overrides: Sequence[str]) -> Iterator[None]:
    """Turn Hydra's errors about the overrides into an InputError of one paragraph."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        text = " ".join(str(error).split())
        explain = _launcher, _key, _choice, _grammar, _commas
        explanations = (message for words in explain if (message := words(text, overrides)))
        raise InputError(next(explanations, text)) from error
    except ValueError as error:
        if not _raised_by_hydra(error):
            raise
        raise InputError(f"{error} (in: {' '.join(overrides)})") from error


def _raised_by_hydra(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(("hydra.", "omegaconf."))


def _launcher(text: str, overrides: Sequence[str]) -> str | None:
    """About a launcher that Hydra does not have."""
    match = re.search(r"hydra/launcher/(?:submitit_)?(\w+)'", text)
    if match is None:
        return None
    name = match[1]
    if name not in EXTRAS:
        return f"hydra/launcher={name} is unknown. {suggest(name, ['basic', *EXTRAS])}"
    return (
        f"hydra/launcher={name} needs Hydra's plugin for it, which is not installed: "
        f"pip install 'diversevis[{EXTRAS[name]}]'."
    )


def _key(text: str, overrides: Sequence[str]) -> str | None:
    """About a setting that does not exist."""
    match = re.search(r"Could not override '([^']+)'", text)
    if match is None:
        return None
    key = match[1]
    others = [word for word in overrides if not word.lstrip("+~").startswith(key)]
    legal = _legal_keys(key.rpartition(".")[0], others)
    if key in legal:
        return f"{key} is fixed in this config and cannot be chosen again: set {key}.name=..."
    if legal:
        return f"There is no setting {key}. {suggest(key, legal, limit=40)}"
    return _launcher_key(key, overrides) if key.startswith("hydra.launcher.") else None


def _launcher_key(key: str, overrides: Sequence[str]) -> str:
    """Hydra itself suggests to add the setting, where it does nothing or breaks the launcher."""
    chosen = [word.partition("=")[2] for word in overrides if word.startswith("hydra/launcher=")]
    if not chosen or chosen[-1] == "basic":
        return (
            f"{key} is a setting of a launcher, and none is chosen: add hydra/launcher=slurm (or "
            "local, joblib, ray)."
        )
    return (
        f"hydra/launcher={chosen[-1]} has no setting {key.removeprefix('hydra.launcher.')}. "
        f"To list them: `diversevis run hydra/launcher={chosen[-1]} --cfg hydra -p hydra.launcher`."
    )


def _choice(text: str, overrides: Sequence[str]) -> str | None:
    """About a config file that a group does not have."""
    match = re.search(r"(?:Could not find|In '[^']+': Could not find) '([\w/]+)/([\w.]+)'", text)
    if match is None:
        return None
    group, name = match[1], match[2]
    options = text.partition(f"Available options in '{group}':")[2]
    legal = options.partition("Config search path")[0].split()
    if not legal:
        return None
    hint = _torchvision_hint(name) if group == "model" else None
    return f"{group}={name} is unknown. {hint or suggest(name, legal)}"


def _torchvision_hint(name: str) -> str | None:
    from diversevis.models.architectures import import_torchvision_models

    models = import_torchvision_models()
    if name not in models.list_models(module=models):
        return None
    return f"It is one of torchvision's: write model=torchvision model.name={name}."


def _grammar(text: str, overrides: Sequence[str]) -> str | None:
    """About a word that Hydra's grammar does not allow."""
    if not any(s in text for s in ("LexerNoViableAlt", "mismatched input", "extraneous input")):
        return None
    typed = text.removeprefix("Error parsing override").strip().split("'")[1:2]
    return (
        f"{typed[0] if typed else ' '.join(overrides)} cannot be read. A value with spaces or "
        "other special characters is quoted twice: 'key=\"value\"'."
    )


def _commas(text: str, overrides: Sequence[str]) -> str | None:
    """About several values without -m."""
    if "Ambiguous value for argument" not in text:
        return None
    match = re.search(r"argument '([^']+)'", text)
    key, _, value = (match[1] if match else "unit=0,1,2").partition("=")
    sweep = f"for a sweep with a run for every value put -m first: diversevis run -m {key}={value}."
    if key in LISTS:
        return (
            f"{key}={value} can mean two things. For one run over the list write "
            f"{key}=[{value}]; {sweep}"
        )
    return (
        f"{key}={value} has commas: {sweep} A single value with commas is quoted twice: "
        f"'{key}=\"{value}\"'."
    )


def _legal_keys(group: str, overrides: Sequence[str]) -> list[str]:
    """The settings of a group, dotted; of the whole config where `group` is empty."""
    settings = [word for word in overrides if "=" in word and not word.startswith("-")]
    for words in (settings, []):  # the other overrides may be wrong, too
        with contextlib.suppress(HydraException, OmegaConfBaseException):
            with initialize_config_dir(config_folder(), version_base="1.3"):
                config = compose("run", overrides=list(words))
            selected = OmegaConf.select(config, group) if group else config
            if isinstance(selected, DictConfig):
                return [f"{group}.{name!s}" if group else str(name) for name in selected]
    return []
