"""Plain settings -> typed dataclasses, with errors that name the setting.

OmegaConf's structured configs cannot do this: they have no unions of dataclasses.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from diversevis.errors import InputError, suggest

NO_MATCH = object()  # None is a legal value
UNIONS = Union, types.UnionType  # Union[int, str], and int | str
WHERE_FROM = {
    "layer": " `diversevis layers` with the same model lists them.",
    "prior.file": " `diversevis train-prior` makes one (docs/priors.md).",
    "data": " It is a folder of photographs.",
}


def bind(annotation: Any, value: Any, key: str) -> Any:
    """Return `value` as the annotated type; a dict becomes the dataclass with these fields.

    Raises InputError that names `key` (the setting, dotted), the value and what is legal.
    """
    choices = choices_of(annotation)
    if value == "???" or (value is None and type(None) not in choices):
        raise InputError(
            f"{key} has no default here: give it a value, {key}=...{WHERE_FROM.get(key, '')}"
        )
    if all(is_dataclass(choice) for choice in choices):
        return _bind_dataclass(choices, value, key)
    if is_text(annotation) and type(value) in (int, float):  # as YAML reads a name such as 18
        value = str(value)
    result = _convert(annotation, value)
    if result is NO_MATCH:
        legal = " or ".join(_describe(choice) for choice in choices)
        raise InputError(f"{key}={value!r} is of the wrong kind: it must be {legal}.")
    return result


def with_settings(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `config` with some settings replaced, given by their dotted names."""
    result = dict(config)
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        result[first] = with_settings(result[first], {rest: value}) if rest else value
    return result


def is_text(annotation: Any) -> bool:
    """Whether values of this type are text, or None."""
    return {*choices_of(annotation)} - {type(None)} == {str}


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union; of any other type, itself."""
    return get_args(annotation) if get_origin(annotation) in UNIONS else (annotation,)


def _bind_dataclass(choices: Sequence[Any], value: Any, key: str) -> Any:
    dot = f"{key}." if key else ""
    if not isinstance(value, dict):
        raise InputError(f"{key}={value!r} must be a group of settings ({dot}...=...).")
    dataclass = choices[0] if len(choices) == 1 else _by_kind(choices, value, dot)
    hints = get_type_hints(dataclass)
    names = [field.name for field in fields(dataclass)]  # fewer than hints: some are ClassVar
    for name in value:
        if name not in names:
            legal = [f"{dot}{known}" for known in names]
            raise InputError(f"There is no setting {dot}{name}. {suggest(dot + name, legal)}")
    for field in fields(dataclass):
        if field.name not in value and field.default is MISSING:
            raise InputError(f"The setting {dot}{field.name} is missing from the config.")
    return dataclass(**{name: bind(hints[name], value[name], f"{dot}{name}") for name in value})


def _by_kind(choices: Sequence[Any], value: Mapping[str, Any], dot: str) -> Any:
    """The dataclass whose field `kind` is annotated with the value's kind."""
    kinds = {get_args(get_type_hints(choice)["kind"])[0]: choice for choice in choices}
    kind = value.get("kind")
    if kind not in kinds:
        raise InputError(f"{dot}kind={kind} is unknown. {suggest(str(kind), kinds)}")
    return kinds[kind]


def _convert(annotation: Any, value: Any) -> Any:
    """Return `value` as the annotated type, NO_MATCH if it is of another."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in UNIONS:
        results = (_convert(choice, value) for choice in arguments)
        return next((result for result in results if result is not NO_MATCH), NO_MATCH)
    if origin is Literal:
        return value if value in arguments else NO_MATCH
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            return NO_MATCH
        elements = [_convert(arguments[0], element) for element in value]
        return NO_MATCH if any(e is NO_MATCH for e in elements) else origin(elements)
    if origin is Mapping:  # keyword arguments, of any kind
        named = isinstance(value, dict) and all(isinstance(name, str) for name in value)
        return value if named else NO_MATCH
    if annotation is type(None):
        return None if value is None else NO_MATCH
    if isinstance(value, bool) and annotation is not bool:  # to Python a bool is an int
        return NO_MATCH
    if annotation is float and isinstance(value, int):
        return float(value)
    return value if isinstance(value, annotation) else NO_MATCH


def _describe(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "a list of numbers, [0.5,0.5,0.5]"
    if get_origin(annotation) is list:
        return "a list, [1,5,9]"
    if get_origin(annotation) is Mapping:
        return "named values, {depth:18}"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false",
            type(None): "null"}.get(annotation, str(annotation))  # fmt: skip
