"""From a description of the work to everything that is fixed before the first image is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx

from diversevis.errors import InputError
from diversevis.method import images
from diversevis.method.device import (
    Precision,
    batch_to_fill,
    bytes_per_image,
    check_precision,
    choose_batch,
    pick_devices,
    precision,
)
from diversevis.method.settings import Experiment
from diversevis.models.cpu import tune_for_cpu
from diversevis.models.network import Network, load, open_model
from diversevis.models.readout import read_out
from diversevis.models.receptive_field import ReceptiveField, receptive_field, unpad
from diversevis.models.targets import Targets, channel_targets, direction_targets
from diversevis.photographs.means import mean_activations


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A network cut down to its target's receptive field, what is driven, and every scale.

    readout       unpadded: z [image, 3, h, w] and rows of the targets [unit] -> responses
                  [unit, image] (every image meets its unit's filter alone) and, where distances
                  are taken in a layer, its activations
    reads_out     whether it is so; if not (cosine, mean squared difference), the first output has
                  all channels, [image, channel, 1, 1]
    layout        of images in memory
    batch         at most so many images go through the network at once
    norm          of every image
    channel_gain  factors on the target's channels, None for 1 (`objective.scale=natural`)
    feature_gain  likewise for the distance layer's
    """

    experiment: Experiment
    network: Network
    readout: fx.GraphModule
    reads_out: bool
    layout: torch.memory_format
    batch: int
    targets: Targets
    field: ReceptiveField
    norm: float
    device: torch.device
    channel_gain: Float[Tensor, " channel"] | None
    feature_gain: Float[Tensor, " feature"] | None

    @property
    def where(self) -> tuple[str, str, str]:
        """The names below the root of the folder of its versions: network, layer and units."""
        return self.network.name, self.network.layer.name, self.targets.text

    def batches(self, rows: Sequence[int], devices: int = 1) -> list[Sequence[int]]:
        """`rows` in batches of units of about one size, as many for each of the devices."""
        experiment = self.experiment
        most = max(1, self.batch // experiment.images_per_unit)
        rounds = -(-len(rows) // (most * devices))
        count = max(1, min(rounds * devices, len(rows)))
        edges = [len(rows) * part // count for part in range(count + 1)]
        return [rows[first:last] for first, last in itertools.pairwise(edges) if last > first]


def prepare(experiment: Experiment) -> Setup:
    """Open the network, cut it to the target's receptive field, fix norm and scales.

    Raises `InputError` for whatever in `experiment` cannot be had.
    """
    device = pick_devices(experiment.device)[0]
    check_precision(experiment.precision, device)
    settings = experiment.objective
    traced = open_model(experiment.model)
    layer = traced.layer(str(experiment.layer))
    try:
        field = receptive_field(traced.root, traced.graph, layer.node)
    except InputError as error:
        raise InputError(f"layer={layer.name} of {traced.name}: {error}") from error
    targets = (
        channel_targets(experiment.unit, layer.channels, layer.name)
        if settings.direction is None
        else direction_targets(
            experiment.unit, Path(settings.direction).expanduser(), layer.channels, layer.name
        )
    )
    targets = replace(targets, vectors=targets.vectors.to(device))
    norm = (
        images.paper_norm(traced.name, layer.name)
        if experiment.norm == "paper"
        else images.norm_of_contrast(experiment.contrast, field.size)
    )
    features = (
        []
        if settings.distance == "pixels"
        else [traced.layer(settings.distance, "objective.distance", ("pixels",))]
    )
    network = load(experiment.model, traced, layer, features)
    module = unpad(network.module).to(device)
    channel_gain, feature_gain = None, None
    if settings.photographs is not None:
        folder = Path(settings.photographs).expanduser()
        gains = _natural_gains(network, module, field, folder, settings.distance, device)
        channel_gain, feature_gain = gains[0], gains[1] if features else None
        _refuse_silent(targets, channel_gain, layer.name, folder)
    layout = _layout(experiment.precision, device)
    module.to(memory_format=layout)
    reads_out = settings.response == "max" and (channel_gain is None or targets.file is None)
    readout = read_out(module, targets.directions) if reads_out else _all_channels(module)
    if device.type == "cpu":
        readout = tune_for_cpu(readout)
    return Setup(
        experiment=experiment,
        network=network,
        readout=readout,
        reads_out=reads_out,
        layout=layout,
        batch=_batch(experiment, readout, field.size, device),
        targets=targets,
        field=field,
        norm=norm,
        device=device,
        channel_gain=channel_gain,
        feature_gain=feature_gain,
    )


class Preparer:
    """`prepare` for one experiment after the other: what they have in common stays.

    Settings of different seeds or weights share their network.
    """

    def __init__(self) -> None:
        self._last: Setup | None = None

    def __call__(self, experiment: Experiment) -> Setup:
        """Raises `InputError` for whatever in `experiment` cannot be had."""
        last = self._last
        if last is None or _network_part(last.experiment) != _network_part(experiment):
            last = prepare(experiment)
        else:
            batch = _batch(experiment, last.readout, last.field.size, last.device)
            last = replace(last, experiment=experiment, batch=batch)
        self._last = last
        return last


def _network_part(experiment: Experiment) -> dict[str, Any]:
    """What of an experiment decides about its network, its targets and its scales."""
    names = "model", "layer", "unit", "norm", "contrast", "device", "precision"
    own = {name: getattr(experiment, name) for name in names}
    objective = "distance", "direction", "scale", "photographs", "response"
    return own | {name: getattr(experiment.objective, name) for name in objective}


def _layout(name: Precision, device: torch.device) -> torch.memory_format:
    """Channels last is what the CPU's convolutions and a GPU's tensor cores are made for."""
    plain = device.type == "cuda" and name == "float32"
    return torch.contiguous_format if plain else torch.channels_last


def _batch(
    experiment: Experiment, readout: fx.GraphModule, size: tuple[int, int], device: torch.device
) -> int:
    if isinstance(experiment.batch, int):
        return experiment.batch
    each = bytes_per_image(readout, size, torch.zeros(1, dtype=torch.long, device=device))
    one_unit = experiment.images_per_unit
    return choose_batch(each, device, one_unit)


def _all_channels(module: fx.GraphModule) -> fx.GraphModule:
    """`module` with a second input, the rows, which it does not need."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        copied[node] = graph.node_copy(node, copied.__getitem__)
        if node.op == "placeholder":
            graph.placeholder("rows")
    return fx.GraphModule(module, graph)


def units_to_fill(setup: Setup, kind: str) -> int:
    """How many units fill a device of this kind (`cpu`, `cuda`), memory permitting."""
    row = torch.zeros(1, dtype=torch.long, device=setup.device)
    each = bytes_per_image(setup.readout, setup.field.size, row)
    one_unit = setup.experiment.images_per_unit
    return max(1, batch_to_fill(each, kind, one_unit) // one_unit)


def _natural_gains(
    network: Network,
    module: fx.GraphModule,
    field: ReceptiveField,
    folder: Path,
    distance: str,
    device: torch.device,
) -> list[Tensor]:
    """One over the mean activation of every channel, for the target and the distance layer."""

    def activations(z: Tensor) -> Sequence[Tensor]:
        return [torch.relu(maps) for maps in module(z)]

    with precision("float32"):
        means = mean_activations(
            activations,
            folder,
            identity=f"{network.weights.sha256}/{network.name}/{network.layer.name}/{distance}",
            mean=network.weights.mean,
            std=network.weights.std,
            size=field.size,
            stride=field.stride,
            device=device,
        )
    # A channel that no photograph drives has no natural scale; it is left out.
    return [torch.where(mean > 0, 1 / mean, 0).to(device) for mean in means]


def _refuse_silent(targets: Targets, gain: Tensor, layer: str, folder: Path) -> None:
    driven = (targets.vectors * gain).abs().sum(1) > 0
    for unit, is_driven in zip(targets.units, driven.tolist(), strict=True):
        if not is_driven:
            raise InputError(
                f"objective.scale=natural: none of the photographs in {folder} drives unit {unit} "
                f"of {layer}, so it has no natural scale. Use objective.scale=best, or other "
                "photographs."
            )
