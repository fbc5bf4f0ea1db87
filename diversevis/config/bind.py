"""Plain settings -> typed dataclasses, naming whatever does not fit."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from diversevis.errors import InputError, suggest


def bind(kind: Any, value: Any, key: str) -> Any:
    """`value` as a `kind`: dataclasses by field name, everything else by its annotation.

    Raises `InputError` that names the key, the value and what is legal.
    """
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value == "???" or (value is None and type(None) not in choices):
        more = " `diversevis layers` with the same model lists them." if key == "layer" else ""
        raise InputError(f"{key} has no default here: say which, {key}=...{more}")
    if all(is_dataclass(choice) for choice in choices):
        return _bind_dataclass(choices, value, key)
    for choice in choices:
        fitting, result = _fit(choice, value)
        if fitting:
            return result
    legal = " or ".join(_words(choice) for choice in choices)
    raise InputError(f"{key}={value!r} is of the wrong kind: it must be {legal}.")


def _bind_dataclass(choices: Sequence[Any], value: Any, key: str) -> Any:
    dot = f"{key}." if key else ""
    if not isinstance(value, dict):
        raise InputError(f"{key}={value!r} must be a group of settings ({dot}...=...).")
    kind = choices[0]
    if len(choices) > 1:  # told apart by their `kind`
        kinds = {get_args(get_type_hints(c)["kind"])[0]: c for c in choices}
        said = value.get("kind")
        if said not in kinds:
            raise InputError(f"{dot}kind={said} is unknown. {suggest(str(said), kinds)}")
        kind = kinds[said]
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for name in value:
        if name not in names:
            legal = [f"{dot}{known}" for known in names]
            raise InputError(f"There is no setting {dot}{name}. {suggest(dot + name, legal)}")
    for field in fields(kind):
        if field.name not in value and field.default is MISSING:
            raise InputError(f"The setting {dot}{field.name} is missing from the config.")
    return kind(**{name: bind(hints[name], value[name], f"{dot}{name}") for name in value})


def _fit(kind: Any, value: Any) -> tuple[bool, Any]:
    """Whether `value` is a `kind`, and the value as one."""
    if get_origin(kind) is Literal:
        return value in get_args(kind), value
    if kind is type(None):
        return value is None, None
    if get_origin(kind) in (tuple, list):
        inner = get_args(kind)
        if not isinstance(value, (list, tuple)):
            return False, None
        if get_origin(kind) is tuple and len(value) != len(inner):
            return False, None
        kinds = inner if get_origin(kind) is tuple else inner * len(value)
        fits = [
            _fit_any(get_args(k) if get_origin(k) in (Union, types.UnionType) else (k,), v)
            for k, v in zip(kinds, value, strict=True)
        ]
        return all(f for f, _ in fits), get_origin(kind)(v for _, v in fits)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), value


def _fit_any(kinds: Sequence[Any], value: Any) -> tuple[bool, Any]:
    return next((fit for kind in kinds if (fit := _fit(kind, value))[0]), (False, None))


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"{len(get_args(kind))} numbers, [0.5,0.5,0.5]"
    if get_origin(kind) is list:
        return "a list, [1,5,9]"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false",
            type(None): "null"}.get(kind, str(kind))  # fmt: skip
