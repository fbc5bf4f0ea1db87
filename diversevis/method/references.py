"""Photographs that metamers are made of: crops, and what the layer answers to them.

docs/method.md, section 11. A row of the targets is a photograph, not a unit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError, printable
from diversevis.method import images
from diversevis.method.device import precision
from diversevis.method.settings import Experiment
from diversevis.models.load import Network
from diversevis.models.targets import Targets
from diversevis.models.view import View
from diversevis.photographs.crops import Scissors, Sheet
from diversevis.photographs.files import Unreadable, check_channels
from diversevis.photographs.survey import Pixels, pixels_in, survey
from diversevis.units import counted, parse_units, units_text


def reference_targets(
    experiment: Experiment, network: Network, seen: View, norm: float, device: torch.device
) -> Targets:
    """The crops of the photographs that `objective.reference` names, and the layer's responses.

    Raises `InputError` for photographs that cannot be read or are smaller than a crop, a crop
    outside of its photograph or without contrast, and a layer that does not answer to it.
    """
    layer, settings = network.layer, experiment.objective
    matched = parse_units(experiment.unit, layer.channels, f"layer {layer.name}")
    every = len(matched) == layer.channels
    given = f"objective.reference={printable(str(settings.reference))}"
    check_channels(network.colors, given, "take another objective")
    files, names = _files(settings.reference if settings.reference is not None else [])
    pixels = [_read(file, seen.field.size) for file in files]
    crops = torch.stack([_crop(file, experiment, network, seen.field.size, norm) for file in files])
    mask = torch.zeros(layer.channels)
    mask[list(matched)] = 1
    responses = _responses(seen, network, crops, device) * mask
    _check_responses(responses, files, layer.name)
    stem = files[0].stem if len(files) == 1 else f"{len(files)}-photographs"
    name = files[0].name if len(files) == 1 else counted(len(files), "photograph")
    return Targets(
        units=tuple(range(len(files))),
        vectors=responses.to(device),
        text=f"metamers-{stem}" + ("" if every else f"-{units_text(matched)}"),
        file=name,
        sha256=hashlib.sha256("/".join(known.digest for known in pixels).encode()).hexdigest(),
        matched=None if every else mask.to(device),
        references=crops.to(device),
        names=tuple(names),
    )


def _files(reference: str | Sequence[str]) -> tuple[list[Path], list[str]]:
    """The photographs: a file, several, or all in a folder; and their names, within the folder
    where these differ."""
    files, names = list[Path](), list[str]()
    for name in [reference] if isinstance(reference, str) else reference:
        path = Path(name).expanduser()
        if path.is_dir():
            held = survey(path, "objective.reference").photographs
            names += sorted(photograph.file for photograph in held)
            files += [path / name for name in names[len(files) :]]
        else:
            names.append(path.name)
            files.append(path)
    if not files:
        raise InputError("objective.reference=[] names no photograph.")
    if len({*names}) < len(names):  # of several folders
        names = [str(file) for file in files]
    return files, names


def _read(file: Path, size: tuple[int, int]) -> Pixels:
    """Digest and size of the photograph; raises `InputError` where it is none, or smaller than a
    crop."""
    given = f"objective.reference={printable(str(file))}"
    if not file.is_file():
        raise InputError(f"{given} is not a file.")
    try:
        pixels = pixels_in(file)
    except Unreadable as error:
        raise InputError(f"{given} cannot be read: {error}.") from error
    if pixels.rows < size[0] or pixels.columns < size[1]:
        raise InputError(
            f"{given} has {pixels.rows} x {pixels.columns} pixels, fewer than the image of a unit "
            f"({size[0]} x {size[1]}). Give a larger photograph, or a layer with smaller fields."
        )
    return pixels


def _crop(
    file: Path, experiment: Experiment, network: Network, size: tuple[int, int], norm: float
) -> Float[Tensor, "color height width"]:
    """The crop at `objective.crop`, or in the centre, at norm `norm`."""
    least = experiment.measure.natural.least_contrast
    settings, given = experiment.objective, f"objective.reference={printable(str(file))}"
    scissors = Scissors(
        folder=file.parent, side=settings.side, mean=network.weights.mean, size=size, norm=norm,
        least_contrast=least,
    )  # fmt: skip
    pixels = scissors.photograph(file.name)
    rows, columns = scissors.positions(pixels)
    row, column = settings.crop or (rows // 2, columns // 2)
    if not (0 <= row < rows and 0 <= column < columns):
        raise InputError(
            f"objective.crop=[{row},{column}] is outside of {printable(file.name)}, whose shorter "
            f"side is {min(pixels.shape[:2])} pixels here (objective.side): a crop of {size[0]} x "
            f"{size[1]} begins at rows 0 to {rows - 1} and columns 0 to {columns - 1}."
        )
    x = scissors(Sheet(pixels, np.array([[row, column]]))).x
    if not len(x):
        raise InputError(
            f"{given}: its crop at row {row}, column {column} is flat, with less than {least:g} "
            "RMS grey levels of contrast (measure.natural.least_contrast). Choose another crop "
            "with objective.crop=[row,column]."
        )
    return x[0]


def _responses(
    seen: View, network: Network, crops: Float[Tensor, "row color height width"],
    device: torch.device,
) -> Float[Tensor, "row channel"]:  # fmt: skip
    module = (seen.fast or seen.plain).to(device)
    z = images.to_network_input(crops, network.weights.std).to(device)
    with torch.no_grad(), precision("float32"):
        return torch.cat([module(x[None])[0].flatten(1) for x in z]).cpu()


def _check_responses(
    responses: Float[Tensor, "row channel"], files: Sequence[Path], layer: str
) -> None:
    """Raises `InputError` where a relative error of the match is not defined."""
    for row, file in zip(responses, files, strict=True):
        if not bool(row.isfinite().all()) or not bool(row.any()):
            raise InputError(
                f"objective.reference={printable(str(file))}: the units of {layer} that are to be "
                "matched do not respond to its crop. Choose another crop with "
                "objective.crop=[row,column], or other units."
            )
