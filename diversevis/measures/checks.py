"""Checks of settings, and of responses before they are divided or reported."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from diversevis.errors import InputError

CONSTANT = 1e-4  # a response that varies by less than this share of its size is only rounding


def check_least(group: str, settings: object, **least: int) -> None:
    """Raises `InputError` for a setting of the group (such as `measure.phase`) that is infinite or
    below its least value; None is allowed."""
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and not smallest <= value < math.inf:
            raise InputError(f"{group}.{name}={value} must be {smallest} or more.")


def varies(lowest: Tensor, highest: Tensor) -> Bool[Tensor, " unit"]:
    """Whether responses between these bounds differ by more than rounding.

    A unit that answers the same to everything would otherwise look perfectly invariant.
    """
    return highest - lowest > CONSTANT * torch.maximum(highest.abs(), lowest.abs())


def ratio_or_none(value: float, denominator: float) -> float | None:
    """None unless the denominator is positive and the value finite."""
    return value / denominator if denominator > 0 and math.isfinite(value) else None


def finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
