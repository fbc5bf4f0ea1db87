"""Targets: the units of a run as directions in the channel space of their layer.

A channel is the direction along its own axis. docs/method.md, section 4.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diversevis.errors import InputError
from diversevis.units import parse_units, units_text

# `max`: projection on the unit-norm direction; `cos`: cosine with the direction;
# `mse`: negative mean squared difference to the vector as it is; `match`: negative norm of that
# difference over the vector's norm.
ResponseKind = Literal["max", "cos", "mse", "match"]
COSINE_FLOOR = 0.01  # added under the root of the cosine's denominator (docs/method.md, section 4)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The units of a run; a row is an index into `units` and `vectors`.

    units    numbers, ascending: channels of the layer, rows of the direction file, or photographs
    vectors  a direction in channel space for every unit, of any length; one-hot for a channel; the
             layer's responses to a photograph
    text     name of all units together, safe in a file name
    file     name of the direction file or photograph; None if the units are channels
    sha256   of the direction file, or of the photographs' pixels

    Of metamers alone:
    references  crops of the photographs, grey levels around the mean of the network's input
    names       of the photographs' files
    matched     1 for channels that count, 0 for others; None: all count
    """

    units: tuple[int, ...]
    vectors: Float[Tensor, "row channel"]
    text: str
    file: str | None
    sha256: str | None
    references: Float[Tensor, "row color height width"] | None = None
    names: tuple[str, ...] = ()
    matched: Float[Tensor, " channel"] | None = None

    def counted(self, y: Float[Tensor, "*image channel"]) -> Float[Tensor, "*image channel"]:
        """The values of the layer's channels, 0 for those that do not count."""
        return y if self.matched is None else y * self.matched

    @property
    def are_channels(self) -> bool:
        return self.file is None

    @property
    def directions(self) -> Float[Tensor, "row channel"]:
        """The vectors at unit norm."""
        return at_unit_norm(self.vectors)

    def only(self, units: Sequence[int]) -> Targets:
        """The targets with these units alone."""
        rows = [self.units.index(unit) for unit in units]
        if len(rows) == len(self.units):
            return self
        if self.references is not None:
            raise ValueError("photographs of metamers are made together")
        text = units_text(units)
        if self.file is not None:
            text = f"direction-{Path(self.file).stem}-{text}"
        return replace(self, units=tuple(units), vectors=self.vectors[rows], text=text)


def at_unit_norm(vectors: Float[Tensor, "row channel"]) -> Float[Tensor, "row channel"]:
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)


def responses_to_own_images(
    y: Float[Tensor, "unit image channel"],
    vectors: Float[Tensor, "unit channel"],
    kind: ResponseKind,
) -> Float[Tensor, "unit image"]:
    """Responses of every unit to its own images, from the values `y` of its layer's channels."""
    if kind == "mse":
        return -(y - vectors[:, None]).square().mean(-1)
    if kind == "match":
        away = torch.linalg.vector_norm(y - vectors[:, None], dim=-1)
        return -away / torch.linalg.vector_norm(vectors, dim=1)[:, None]
    projection = torch.einsum("uic,uc->ui", y, at_unit_norm(vectors))
    return projection if kind == "max" else projection / _cosine_norm(y)


def responses_to_all_images(
    y: Float[Tensor, "image channel"], vectors: Float[Tensor, "unit channel"], kind: ResponseKind
) -> Float[Tensor, "image unit"]:
    """Responses of all units to every image, from the values `y` of their layer's channels."""
    if kind == "mse":  # vector by vector: all at once would need [image, unit, channel]
        return -torch.stack([(y - vector).square().mean(1) for vector in vectors], dim=1)
    if kind == "match":
        away = [torch.linalg.vector_norm(y - vector, dim=1) for vector in vectors]
        return -torch.stack(away, dim=1) / torch.linalg.vector_norm(vectors, dim=1)
    projection = y @ at_unit_norm(vectors).T
    return projection if kind == "max" else projection / _cosine_norm(y)[:, None]


def without_own(
    y: Float[Tensor, "unit image channel"], vectors: Float[Tensor, "unit channel"]
) -> Float[Tensor, "unit image channel"]:
    """Values of all channels but the unit's: without their component along its vector.

    Scaled so that a mean square over the channels is that over the `channels - 1` that remain.
    """
    own = at_unit_norm(vectors)[:, None]
    rest = y - (y * own).sum(2, keepdim=True) * own
    return rest * math.sqrt(y.shape[2] / (y.shape[2] - 1))


def _cosine_norm(y: Float[Tensor, "*batch channel"]) -> Float[Tensor, "*batch"]:
    return (y.square().sum(-1) + COSINE_FLOOR).sqrt()


def channel_targets(unit: int | str | Sequence[int | str], channels: int, layer: str) -> Targets:
    """The channels `unit` of `layer`; raises `InputError` for a unit that the layer lacks."""
    units = parse_units(unit, channels, f"layer {layer}")
    vectors = torch.eye(channels)[list(units)]
    return Targets(units=units, vectors=vectors, text=units_text(units), file=None, sha256=None)


def direction_targets(
    unit: int | str | Sequence[int | str], file: Path, channels: int, layer: str
) -> Targets:
    """Directions from a `.npy` or `.safetensors` file of shape [channel] or [direction, channel].

    `unit` chooses directions of the file. Raises `InputError` for a file that cannot be read, has
    another number of channels than `layer`, or holds NaN, infinite or all-zero vectors.
    """
    values = _read(file)
    directions = values[None] if values.ndim == 1 else values
    if directions.ndim != 2 or directions.shape[1] != channels or len(directions) == 0:
        raise InputError(
            f"objective.direction={file} has shape {list(values.shape)}; layer {layer} has "
            f"{channels} channels, so it must be [{channels}] or [directions, {channels}]."
        )
    if not bool(torch.isfinite(directions).all()):
        raise InputError(f"objective.direction={file} holds NaN or infinite values.")
    units = parse_units(unit, len(directions), f"the direction file {file.name}")
    vectors = directions[list(units)]
    if bool((torch.linalg.vector_norm(vectors, dim=1) == 0).any()):
        raise InputError(
            f"objective.direction={file} holds a vector of zeros, which points nowhere."
        )
    text = f"direction-{file.stem}" + ("" if values.ndim == 1 else f"-{units_text(units)}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Targets(units=units, vectors=vectors, text=text, file=file.name, sha256=digest)


def _read(file: Path) -> Tensor:
    if not file.is_file():
        raise InputError(f"objective.direction={file} is not a file.")
    try:
        if file.suffix == ".npy":
            array: Any = np.load(file, allow_pickle=False)
            if array.dtype.kind not in "fiu":
                raise ValueError(f"it holds {array.dtype}, not numbers")
            with np.errstate(over="ignore"):  # too large for float32: infinite, refused later
                return torch.from_numpy(array.astype(np.float32))
        if file.suffix == ".safetensors":
            tensors = load_file(file)
            if len(tensors) != 1:
                raise ValueError(f"it holds {len(tensors)} tensors; 1 is expected")
            return next(iter(tensors.values())).float()
    except (ValueError, OSError, EOFError, SafetensorError) as error:
        reason = "it is no plain array of numbers" if "pickle" in str(error) else error
        raise InputError(f"objective.direction={file} cannot be read: {reason}.") from error
    raise InputError(f"objective.direction={file} must end in .npy or .safetensors.")
