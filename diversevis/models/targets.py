"""What is driven: channels of the target layer, or directions in its channel space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diversevis.errors import InputError
from diversevis.units import parse_units, units_text


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The units of a run.

    units    numbers, ascending: channels, or rows of the direction file
    vectors  one direction in channel space for each, [unit, channel]
    text     file-safe name of them all
    file     name of the direction file; None for channels
    sha256   of that file
    """

    units: tuple[int, ...]
    vectors: Float[Tensor, "unit channel"]
    text: str
    file: str | None
    sha256: str | None

    @property
    def directions(self) -> Float[Tensor, "unit channel"]:
        """The vectors at unit norm."""
        return self.vectors / torch.linalg.vector_norm(self.vectors, dim=1, keepdim=True)

    def only(self, units: Sequence[int]) -> Targets:
        """Some of them."""
        rows = [self.units.index(unit) for unit in units]
        if len(rows) == len(self.units):
            return self
        text = units_text(units)
        if self.file is not None:
            text = f"direction-{Path(self.file).stem}-{text}"
        return replace(self, units=tuple(units), vectors=self.vectors[rows], text=text)


def channel_targets(unit: int | str | Sequence[int | str], channels: int, layer: str) -> Targets:
    """Channels of `layer`, each its own target; raises `InputError` for a unit it does not have."""
    units = parse_units(unit, channels, f"layer {layer}")
    vectors = torch.eye(channels)[list(units)]
    return Targets(units=units, vectors=vectors, text=units_text(units), file=None, sha256=None)


def direction_targets(
    unit: int | str | Sequence[int | str], file: Path, channels: int, layer: str
) -> Targets:
    """Directions from a `.npy` or `.safetensors` file of shape [channel] or [direction, channel].

    `unit` chooses rows. Raises `InputError` for a file that is no such thing, has another number
    of channels than `layer`, or holds NaN, infinite or all-zero vectors.
    """
    values = _read(file)
    rows = values[None] if values.ndim == 1 else values
    if rows.ndim != 2 or rows.shape[1] != channels or len(rows) == 0:
        raise InputError(
            f"objective.direction={file} has shape {list(values.shape)}; layer {layer} has "
            f"{channels} channels, so it must be [{channels}] or [directions, {channels}]."
        )
    if not bool(torch.isfinite(rows).all()):
        raise InputError(f"objective.direction={file} holds NaN or infinite values.")
    units = parse_units(unit, len(rows), f"the direction file {file.name}")
    vectors = rows[list(units)]
    if bool((torch.linalg.vector_norm(vectors, dim=1) == 0).any()):
        raise InputError(
            f"objective.direction={file} holds a vector of zeros, which points nowhere."
        )
    name = f"direction-{file.stem}" + ("" if values.ndim == 1 else f"-{units_text(units)}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Targets(units=units, vectors=vectors, text=name, file=file.name, sha256=digest)


def _read(file: Path) -> Tensor:
    if not file.is_file():
        raise InputError(f"objective.direction={file} is not a file.")
    try:
        if file.suffix == ".npy":
            array: Any = np.load(file, allow_pickle=False)
            if array.dtype.kind not in "fiu":
                raise ValueError(f"it holds {array.dtype}, not numbers")
            with np.errstate(over="ignore"):  # what does not fit is infinite, and refused as such
                return torch.from_numpy(array.astype(np.float32))
        if file.suffix == ".safetensors":
            tensors = load_file(file)
            if len(tensors) != 1:
                raise ValueError(f"it holds {len(tensors)} tensors; one is expected")
            return next(iter(tensors.values())).float()
    except (ValueError, OSError, EOFError, SafetensorError) as error:
        reason = "it is no plain array of numbers" if "pickle" in str(error) else error
        raise InputError(f"objective.direction={file} cannot be read: {reason}.") from error
    raise InputError(f"objective.direction={file} must end in .npy or .safetensors.")
