"""Hydra's and OmegaConf's errors in plain words.

Hydra has a class for missing config files alone; of all other errors, the texts are matched.
"""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator, Sequence

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diversevis.config.conf_files import config_folder
from diversevis.config.user_files import check_left_open, user_files_checked
from diversevis.errors import InputError, suggest

LISTS = "unit", "analysis", "device", "objective.front"  # settings that may be lists
EXTRAS = {"slurm": "slurm", "local": "slurm", "joblib": "joblib", "ray": "ray"}  # of launchers


@contextlib.contextmanager
def plain_errors(overrides: Sequence[str], primary: str = "run") -> Iterator[None]:
    """Turn Hydra's errors about the overrides of conf/PRIMARY.yaml into an InputError of one
    paragraph."""
    try:
        with user_files_checked():
            yield
        check_left_open(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_explain(error, overrides, primary)) from error
    except ValueError as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not str(frame.f_globals.get("__name__")).startswith(("hydra.", "omegaconf.")):
            raise  # from elsewhere: not about the overrides
        raise InputError(f"{error} (in: {' '.join(overrides)})") from error


def _explain(error: Exception, overrides: Sequence[str], primary: str) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and (explained := _missing_file(error)):
        return explained
    if match := re.fullmatch(r"(.*?) full_key: (\S+)( object_type=\S+)?", text):
        return f"{match[2]}: {match[1]}."
    if match := re.match(r"In '([^']+)': Could not find '([^']+)'", text):
        return f"{match[2]}, in the defaults list of {match[1]}, is no file of settings."
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], overrides, primary) or text
    if match := re.search(r"Ambiguous value for argument '([^'=]+)=([^']*)'", text):
        return _commas(match[1], match[2])
    if match := re.match(r"Additional config directory '(.+)' not found", text):
        return f"--config-dir {match[1]} is not a folder."
    if match := re.search(r"Sweep parameters '(.+)' requires --multirun", text):
        return f"{match[1]} lists values: for a sweep put -m first: diversevis run -m '{match[1]}'."
    if re.search("LexerNoViableAlt|mismatched input|extraneous input", text):
        typed = re.match(r"Error parsing override '([^']+)", text)
        return (
            f"{typed[1] if typed else ' '.join(overrides)} cannot be read. A value with spaces or "
            "other special characters is quoted twice: 'key=\"value\"'."
        )
    return text


def _missing_file(error: MissingConfigException) -> str | None:
    """About a config file that a group does not have, such as a launcher's."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if str(error).startswith("Cannot find primary config"):
        return (
            f"--config-name {name}: there is no file {name.removesuffix('.yaml')}.yaml in conf/ or "
            "in the folder that --config-dir names."
        )
    if group == "hydra/launcher":
        name = name.removeprefix("submitit_")
        if name not in EXTRAS:
            return f"hydra/launcher={name} is unknown. {suggest(name, ['basic', *EXTRAS])}"
        return (
            f"hydra/launcher={name} needs Hydra's plugin for it, which is not installed: "
            f"pip install 'diversevis[{EXTRAS[name]}]'."
        )
    if not error.options:
        return None
    hint = suggest(name, error.options)
    if group == "model":
        from diversevis.models.packages import import_torchvision_models

        models = import_torchvision_models()
        if name in models.list_models(module=models):
            hint = f"It is one of torchvision's: write model=torchvision model.name={name}."
    group = group.replace("training", "prior")  # as it is typed
    return f"{group}={name} is unknown. {hint}"


def _unknown_key(key: str, overrides: Sequence[str], primary: str) -> str | None:
    others = [word for word in overrides if not word.lstrip("+~").startswith(key)]
    legal = _legal_keys(key.rpartition(".")[0], others, primary)
    if key in legal:
        return f"{key} is fixed in this config and cannot be chosen again: set {key}.name=..."
    if legal == ["prior.kind"]:
        return f"{key} is a setting of priors, and none is chosen: add prior=patches, or another."
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


def _commas(key: str, value: str) -> str:
    """About several values without -m."""
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


def _legal_keys(group: str, overrides: Sequence[str], primary: str) -> list[str]:
    """The settings of a group, dotted; of the complete config where `group` is empty."""
    settings = [word for word in overrides if "=" in word and not word.startswith("-")]
    for words in (settings, []):  # the other overrides may be wrong, too
        with contextlib.suppress(HydraException, OmegaConfBaseException):
            with initialize_config_dir(config_folder(), version_base="1.3"):
                config = compose(primary, overrides=words)
            selected = OmegaConf.select(config, group) if group else config
            if isinstance(selected, DictConfig):
                names = map(str, selected)
                return [f"{group}.{name}" if group else name for name in names]
    return []
