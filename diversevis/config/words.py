"""A setting as a person types it -> the override that means the same to Hydra."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from diversevis.config.arguments import in_quotes, quoted
from diversevis.config.bind import choices_of, is_text
from diversevis.method.settings import Experiment

SETTING = re.compile(r"(\+{0,2})([\w.]+)=(.*)", re.DOTALL)
QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
# What Hydra may read as a number or a truth value, and the call of a module, `act#2`, which its
# grammar refuses; between the commas and brackets of a sweep.
NUMBER = r"[+-]?(?:\.?\d[\w.+-]*|inf|nan|true|false)"
TO_QUOTE = re.compile(rf"{QUOTED}|(?<![^,(\s])({NUMBER}|[\w.-]+#\d+)(?![^,)\s])", re.IGNORECASE)
ARGUMENTS = "model.arguments"  # its keys are not known to the config


def for_hydra(word: str) -> str:
    """Return the override: text is what was typed, where Hydra would make a number of it.

    `layer=0.10` becomes `layer="0.10"`, and a path that Hydra's grammar refuses is quoted, too.
    """
    match = SETTING.fullmatch(word)
    if match is None:
        return word
    plus, key, value = match.groups()
    if key == ARGUMENTS or key.startswith(f"{ARGUMENTS}."):
        return f"++{key}={value}"
    if key in text_settings() and not value.startswith("range("):  # of numbers, in any case
        value = TO_QUOTE.sub(lambda found: in_quotes(found[1]) if found[1] else found[0], value)
    return quoted(f"{plus}{key}={value}")


@cache
def text_settings() -> frozenset[str]:
    """Return the dotted names of the settings whose values are text."""
    return frozenset(_text_settings(Experiment, ""))


def _text_settings(dataclass: Any, prefix: str) -> Iterator[str]:
    hints = get_type_hints(dataclass)
    for field in fields(dataclass):
        name = f"{prefix}{field.name}"
        if is_text(hints[field.name]):
            yield name
        for choice in choices_of(hints[field.name]):
            if is_dataclass(choice):
                yield from _text_settings(choice, f"{name}.")
