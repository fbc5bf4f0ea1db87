"""Hydra configs -> a checked `Experiment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from diversevis.config.arguments import check_words, quoted, split_flags
from diversevis.config.bind import bind
from diversevis.config.conf_dir import config_folder
from diversevis.config.messages import plain_errors
from diversevis.method.settings import Config, Experiment, Settled


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The config that `overrides` make of the defaults."""
    flags, settings = split_flags(overrides)
    check_words(flags, settings, known=())
    with plain_errors(overrides), initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("run", overrides=[quoted(word) for word in settings])


def compose_model(overrides: Sequence[str]) -> Any:
    """The model alone, for commands that need nothing else."""
    hints = get_type_hints(Experiment)
    return bind(hints["model"], plain(compose_config(overrides).model), "model")


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved config as plain Python; missing values stay `???`."""
    with plain_errors([]):
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def experiment_of(config: DictConfig) -> Experiment:
    """The checked experiment; raises `InputError` for unknown keys, wrong types, missing values."""
    return bind(Experiment, plain(config), "")


def settled(config: Mapping[str, Any]) -> Config:
    """The resolved config, with some settings in place of what was typed."""

    def settle(fixed: Mapping[str, str]) -> Settled:
        whole = OmegaConf.create(dict(config))
        for key, value in fixed.items():
            OmegaConf.update(whole, key, value)
        return Settled(plain(whole), OmegaConf.to_yaml(whole))

    return settle
