"""Command-line overrides -> a config, by Hydra -> a checked `Experiment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from diversevis.config.arguments import check_words, quoted, split_flags
from diversevis.config.bind import bind, with_settings
from diversevis.config.conf_dir import config_folder
from diversevis.config.messages import plain_errors
from diversevis.method.settings import Config, Experiment, Settled


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Return conf/run.yaml with the overrides; raises InputError where they do not fit."""
    flags, settings = split_flags(overrides)
    check_words(flags, settings, known=())
    with plain_errors(overrides), initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("run", overrides=[quoted(word) for word in settings])


def compose_model(overrides: Sequence[str]) -> Any:
    """Return the model alone, for commands that need no other setting."""
    annotation = get_type_hints(Experiment)["model"]
    return bind(annotation, plain(compose_config(overrides).model), "model")


def plain(config: DictConfig) -> dict[str, Any]:
    """Return the resolved config as plain Python; missing values stay `???`."""
    with plain_errors([]):
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def experiment_of(config: DictConfig) -> Experiment:
    """Return the checked experiment; raises InputError for unknown keys, wrong types, missing
    values."""
    return bind(Experiment, plain(config), "")


def settled(config: Mapping[str, Any]) -> Config:
    """Return a function that replaces settings of the resolved config, given by dotted names."""

    def settle(fixed: Mapping[str, str]) -> Settled:
        content = with_settings(config, fixed)
        return Settled(content, OmegaConf.to_yaml(OmegaConf.create(content)))

    return settle
