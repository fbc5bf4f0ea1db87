"""The combinations of the values that a sweep's overrides list (seed=0,1 layer=a,b)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from diversevis.config.arguments import in_quotes, quoted
from diversevis.config.compose import plain
from diversevis.config.conf_dir import config_folder
from diversevis.config.messages import plain_errors
from diversevis.errors import InputError


def combinations(flags: Sequence[str], overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the config of every combination; units are no axis: every config has all of them.

    flags  Hydra's, of which --config-dir and --config-name count

    Raises InputError for overrides that do not fit.
    """
    with plain_errors(overrides):
        parsed = OverridesParser.create().parse_overrides([quoted(word) for word in overrides])
    axes: dict[str, list[str]] = {}
    for override in parsed:
        key = override.get_key_element()
        axes[key] = [f"{key}={value}" for value in _values(override)]
    folder, name = _config_flags(flags)
    search = [f"hydra.searchpath=[{in_quotes(str(folder))}]"] if folder else []
    with plain_errors(overrides), initialize_config_dir(config_folder(), version_base="1.3"):
        for words in itertools.product(*axes.values()):
            yield plain(compose(name, overrides=[*words, *search]))


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


def _config_flags(flags: Sequence[str]) -> tuple[Path | None, str]:
    """The folder and name of a config given in place of conf/run.yaml."""
    folder, name = None, "run"
    words = list(itertools.chain.from_iterable(flag.split("=", 1) for flag in flags))
    for flag, value in itertools.pairwise(words):
        if flag in ("--config-dir", "-cd"):
            folder = Path(value).resolve()
        if flag in ("--config-name", "-cn"):
            name = value
    return folder, name
