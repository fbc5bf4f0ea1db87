"""Command-line overrides -> a config, by Hydra -> a checked `Experiment`."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from diversevis.config.arguments import check_words, in_quotes, split_flags
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


def compose_opening(overrides: Sequence[str]) -> tuple[Any, tuple[int, int] | None]:
    """Return the model, and rows and columns of its images where they are given, for commands that
    need no other setting."""
    hints, config = get_type_hints(Experiment), plain(compose_config(overrides))
    size = bind(hints["size"], config["size"], "size")
    return bind(hints["model"], config["model"], "model"), checked_size(size)


def plain(config: DictConfig) -> dict[str, Any]:
    """Return the resolved config as plain Python; missing values stay `???`."""
    with plain_errors([]):
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def experiment_of(config: DictConfig) -> Experiment:
    """Return the experiment; raises InputError for unknown keys, wrong types, missing values."""
    return bind(Experiment, plain(config), "")


def settled(config: Mapping[str, Any]) -> Config:
    """Return a function that replaces settings of the resolved config, given by dotted names."""

    def settle(fixed: Mapping[str, str]) -> Settled:
        content = with_settings(config, fixed)
        return Settled(content, OmegaConf.to_yaml(OmegaConf.create(content)))

    return settle


def combinations(flags: Sequence[str], overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a config, with all units, for every combination of the values that overrides list.

    flags  Hydra's, of which --config-dir and --config-name count

    Raises InputError for overrides that do not fit.
    """
    with plain_errors(overrides):
        parsed = OverridesParser.create().parse_overrides([for_hydra(word) for word in overrides])
    axes: dict[str, list[str]] = {}
    for override in parsed:
        key = override.get_key_element()
        axes[key] = [f"{key}={value}" for value in _values(override)]
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("-cn", "--config-name", default="run")
    given, _ = parser.parse_known_args(flags)
    folder = given.config_dir and in_quotes(str(given.config_dir.resolve()))
    search = [f"hydra.searchpath=[{folder}]"] if folder else []
    with plain_errors(overrides), initialize_config_dir(config_folder(), version_base="1.3"):
        for words in itertools.product(*axes.values()):
            yield plain(compose(given.config_name, overrides=[*words, *search]))


def _values(override: Override) -> list[str]:
    """The values that an override sweeps over; for `unit`, a single value with all units."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise InputError(
            f"{override.input_line}: a range without steps needs another sweeper "
            "(hydra/sweeper=...). Write a list, key=1,2,3, or range(start,stop,step)."
        )
    values = list(override.sweep_string_iterator())
    if override.get_key_element() != "unit":
        return values
    units = [unit for value in values for unit in value.strip("[]").split(",")]
    return ["all"] if "all" in units else [f"[{','.join(units)}]"]
