"""Command-line overrides -> a config, by Hydra -> a checked `Experiment`."""

from __future__ import annotations

import argparse
import functools
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from diversevis.config.arguments import check_words, split_flags
from diversevis.config.bind import bind, with_settings
from diversevis.config.conf_files import config_folder
from diversevis.config.messages import plain_errors
from diversevis.config.words import for_hydra
from diversevis.errors import InputError
from diversevis.method.settings import Config, Experiment, Settled, checked_size


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Return conf/run.yaml with the overrides; raises InputError where they do not fit."""
    flags, settings = split_flags(overrides)
    check_words(flags, settings, known=())
    with plain_errors(overrides), initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("run", overrides=[for_hydra(word) for word in settings])


def compose_training(overrides: Sequence[str]) -> dict[str, Any]:
    """Return conf/train.yaml with the overrides; raises InputError where they do not fit."""
    with (
        plain_errors(overrides, "train"),
        initialize_config_dir(config_folder(), version_base="1.3"),
    ):
        return plain(compose("train", overrides=[for_hydra(word) for word in overrides]))


class Opening(NamedTuple):
    """A network, rows and columns of its images where they are given, and a layer if one is."""

    model: Any
    size: tuple[int, int] | None
    layer: str | None


def compose_opening(overrides: Sequence[str]) -> Opening:
    """Return the settings of commands that only open a network."""
    hints, config = get_type_hints(Experiment), plain(compose_config(overrides))
    size = bind(hints["size"], config["size"], "size")
    return Opening(
        model=bind(hints["model"], config["model"], "model"),
        size=checked_size(size),
        layer=bind(str | None, config["layer"], "layer"),
    )


def plain(config: DictConfig) -> dict[str, Any]:
    """Return the resolved config as plain Python; missing values stay `???`."""
    with plain_errors([]):
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def experiment_of(config: DictConfig) -> Experiment:
    """Return the experiment; raises InputError for unknown keys, wrong types, missing values."""
    return bind(Experiment, plain(config), "")


def experiment_with(config: Mapping[str, Any], given: Collection[str]) -> Experiment:
    """Return the experiment of a plain config.

    given  the dotted names of the settings that a person gave

    Raises InputError as `experiment_of`, and for settings that exclude one another.
    """
    experiment = bind(Experiment, config, "")
    if experiment.norm == "paper" and "contrast" in given:
        raise InputError(
            f"contrast={config['contrast']} and norm=paper exclude one another: the paper's table "
            "gives the norm. Leave out one of them."
        )
    return experiment


def settled(config: Mapping[str, Any]) -> Config:
    """Return a function that replaces settings of the resolved config, given by dotted names."""

    def settle(fixed: Mapping[str, str]) -> Settled:
        content = with_settings(config, fixed)
        return Settled(content, OmegaConf.to_yaml(OmegaConf.create(content)))

    return settle


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config that another version recorded, with defaults for settings it did not have."""
    model = config.get("model")
    kind = model.get("kind") if isinstance(model, Mapping) else None
    if model is None or not Path(config_folder(), "model", f"{kind}.yaml").is_file():
        return dict(config)
    defaults = _defaults(kind)
    groups = {
        name: {**defaults[name], **config[name]}
        for name in ("model", "objective", "measure")
        if isinstance(config.get(name), Mapping)
    }
    return {**defaults, **config, **groups}


@functools.cache
def _defaults(kind: str) -> dict[str, Any]:
    return plain(compose_config([f"model={kind}"]))


def combinations(flags: Sequence[str], overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Return a config, with all units, for every combination of the values that overrides list.

    flags  Hydra's, of which --config-dir and --config-name count

    Raises InputError for overrides that do not fit.
    """
    with plain_errors(overrides):
        parsed = OverridesParser.create().parse_overrides([for_hydra(word) for word in overrides])
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("-cn", "--config-name", default="run")
    given, _ = parser.parse_known_args(flags)
    with plain_errors(overrides), initialize_config_dir(config_folder(), version_base="1.3"):
        if given.config_dir is not None:
            _search_in(given.config_dir)
        axes: dict[str, list[str]] = {}
        for override in parsed:
            axes[override.get_key_element()] = _words(override)
        configs = [
            compose(given.config_name, overrides=[*words])
            for words in itertools.product(*axes.values())
        ]
    found = [plain(config) for config in configs]
    return [completed(config) for config in found] if flags else found


def _search_in(folder: Path) -> None:
    """Have Hydra look for configs in `folder` too, after conf/, as its flag --config-dir does.

    The setting `hydra.searchpath` is not enough: Hydra reads it in the config that --config-name
    names. Raises InputError where there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"--config-dir {folder} is not a folder.")
    loader: Any = GlobalHydra.instance().config_loader()
    loader.get_search_path().append("command-line", str(folder.resolve()), anchor="main")
    loader.repository.initialize_sources(loader.get_search_path())


def _words(override: Override) -> list[str]:
    """An override for every value that this one sweeps over; for `unit`, one with all units."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key, values = override.get_key_element(), _values(override)
    if key == "unit":
        units = [unit for value in values for unit in value.strip("[]").split(",")]
        values = ["all"] if "all" in units else [f"[{','.join(units)}]"]
    return [for_hydra(f"{key}={value}") for value in values]


def _values(override: Override) -> list[str]:
    """The values that an override sweeps over; raises InputError where these cannot be listed."""
    if not override.is_discrete_sweep():
        raise InputError(
            f"{override.input_line} has no steps, so that its values cannot be listed. Write a "
            "list, key=1,2,3, or range(start,stop,step)."
        )
    swept: Any = override.value()
    if isinstance(swept, Glob):
        loader = GlobalHydra.instance().config_loader()
        values = swept.filter(loader.get_group_options(override.key_or_group))
    else:
        if isinstance(swept, RangeSweep):
            _check_range(swept, override)
        values = list(override.sweep_string_iterator())
    if not values:
        raise InputError(
            f"{override.input_line} lists no value, so there is nothing to do. A range goes from "
            "its first number up to, and without, its second: range(0,3) is 0,1,2. A glob is for "
            "groups of settings that are files: optimizer=glob(*)."
        )
    return values


def _check_range(swept: RangeSweep, override: Override) -> None:
    """Raises InputError for a range without an end."""
    numbers = [number or 0 for number in (swept.start, swept.stop, swept.step)]
    if not swept.step or not all(map(math.isfinite, numbers)):
        raise InputError(
            f"{override.input_line} never ends: the step of a range is a number other than 0, and "
            "its ends are finite, as in range(0,5,1)."
        )
