"""Settings as Python values -> the config that the same settings give when they are typed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch

from diversevis.config.bind import with_settings
from diversevis.config.compose import compose_config, plain
from diversevis.config.conf_files import group_names
from diversevis.errors import InputError, suggest
from diversevis.models.convention import Convention


def config_of(settings: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return conf/run.yaml with these settings, for a model that no file describes.

    settings  values by their names, which may be dotted, or dicts of them; the name of a file for a
              group of settings: `{"n": 4, "objective": {"diversity": 0.2}, "optimizer": "paper"}`
    model     the settings of the model that have no default

    Raises InputError for unknown settings; values are checked when the config is bound.
    """
    values = {name: plain_value(value) for name, value in _dotted(settings)}
    groups = [name for name in group_names() if isinstance(values.get(name), str)]
    chosen = [f"{name}={values.pop(name)}" for name in groups]
    config = plain(compose_config([*chosen, "model=custom"]))
    convention = {field.name: config["model"][field.name] for field in fields(Convention)}
    given = {name: value for name, value in model.items() if value is not None}
    config["model"] = convention | {name: plain_value(value) for name, value in given.items()}
    legal = [*config, *(name for name, _ in _dotted(config))]
    for name in values:
        if name not in legal:
            raise InputError(f"There is no setting {name}. {_suggest(name, legal)}")
    return with_settings(config, values)


def plain_value(value: Any) -> Any:
    """Return numbers, text and lists of them, as YAML has them, for what Python has of that kind.

    >>> plain_value(torch.device("cuda:1")), plain_value(range(3)), plain_value(torch.ones(2))
    ('cuda:1', [0, 1, 2], [1.0, 1.0])
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, torch.device):
        return str(value)
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and torch
        return value.tolist()
    if isinstance(value, (list, tuple, range)):
        return [plain_value(element) for element in value]
    return value


def _suggest(name: str, legal: Sequence[str]) -> str:
    """Names like it: in other groups (`diversity`), in its group, or of groups."""
    group, _, last = name.rpartition(".")
    elsewhere = [known for known in legal if known.rpartition(".")[2] == last]
    beside = [known for known in legal if known.rpartition(".")[0] == group]
    return suggest(name, elsewhere or beside or legal, limit=40)


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted name."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
