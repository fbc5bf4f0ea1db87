"""Factors that calibrate channels by photographs, as the published network is scaled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from diversevis.errors import InputError
from diversevis.method.device import precision
from diversevis.method.settings import Experiment
from diversevis.models.load import Network
from diversevis.models.plain import PlainNetwork
from diversevis.models.receptive_field import ReceptiveField
from diversevis.models.targets import Targets
from diversevis.photographs.means import mean_activations

CROP = 224  # pixels of a photograph that calibrates responses
WINDOWS = 8  # about so many per side, where responses are computed for one position alone


def natural_gains(
    experiment: Experiment,
    network: Network,
    module: nn.Module,
    field: ReceptiveField,
    targets: Targets,
    device: torch.device,
    computation: str | None,
) -> tuple[Tensor | None, Tensor | None]:
    """1 / mean activation over photographs (after the ReLU, float32) for every channel of the
    target layer, and of the distance layer if there is one.

    The published network is scaled in this way (docs/method.md, section 4). Raises `InputError` for
    a target that no photograph drives.
    """
    objective = experiment.objective
    if objective.photographs is None:
        return None, None
    folder, layer = Path(objective.photographs).expanduser(), network.layer.name

    crop = _crop(field)

    def activations(z: Tensor) -> Sequence[Tensor]:
        if isinstance(module, PlainNetwork):  # one position alone: many images of the field's size
            windows = z[0].unfold(1, field.size[0], _step(crop[0], field.size[0]))
            windows = windows.unfold(2, field.size[1], _step(crop[1], field.size[1]))
            z = windows.flatten(1, 2).transpose(0, 1)
        return [torch.relu(maps) for maps in module(z)]

    code = f"/{computation}" if computation else ""
    with precision("float32"):
        means = mean_activations(
            activations,
            folder,
            identity=f"{network.weights.identity}/{network.name}/{layer}/{objective.distance}{code}",
            mean=network.weights.mean,
            std=network.weights.std,
            crop=crop,
            device=device,
        )
    # A channel that no photograph drives has no natural scale; it is left out.
    gains = [torch.where(mean > 0, 1 / mean, 0).to(device) for mean in means]
    driven = (targets.vectors * gains[0]).abs().sum(1) > 0
    for unit, is_driven in zip(targets.units, driven.tolist(), strict=True):
        if not is_driven:
            raise InputError(
                f"objective.scale=natural: none of the photographs in {folder} drives unit {unit} "
                f"of {layer}, so it has no natural scale. Use objective.scale=best, or other "
                "photographs."
            )
    return gains[0], gains[-1]


def _crop(field: ReceptiveField) -> tuple[int, int]:
    """Rows and columns of a photograph that calibrate the responses: the whole image, or, for a
    smaller field, a crop of at least 224 pixels that fits the stride."""
    if field.is_whole_image:
        return field.size
    strides = (max(1, round(stride)) for stride in field.stride)
    rows, columns = (
        size + stride * max(4, -(-(CROP - size) // stride))
        for size, stride in zip(field.size, strides, strict=True)
    )
    return rows, columns


def _step(crop: int, size: int) -> int:
    """Pixels between windows of `size` pixels, of which a few fit into `crop`."""
    return max(1, (crop - size) // WINDOWS)
