"""Ranges of numbers that a person sets; the messages name the setting and its value."""

from __future__ import annotations

from collections.abc import Mapping

from diversevis.errors import InputError


def check_positive(values: Mapping[str, int | float]) -> None:
    """Raises `InputError` unless all values are above 0 and finite."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{name}={value} must be above 0.")


def check_at_least(least: int, values: Mapping[str, int | float]) -> None:
    """Raises `InputError` unless all values are finite and at least `least`."""
    for name, value in values.items():
        if not least <= value < float("inf"):
            raise InputError(f"{name}={value} must be {least} or more.")


def check_share(values: Mapping[str, int | float]) -> None:
    """Raises `InputError` unless all values are in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise InputError(f"{name}={value} must be at least 0 and below 1.")
