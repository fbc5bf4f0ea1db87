"""Network, targets, norm and scales: everything that is fixed before the first image is drawn."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from diversevis.errors import InputError
from diversevis.method import images
from diversevis.method.device import (
    LAYOUT,
    batch_to_fill,
    bytes_per_image,
    check_precision,
    choose_batch,
    images_that_fit,
    pick_devices,
    precision,
)
from diversevis.method.gains import natural_gains
from diversevis.method.references import reference_targets
from diversevis.method.settings import Experiment
from diversevis.models.architectures import OWN, TimmModel
from diversevis.models.checks import difference, random_images
from diversevis.models.cpu import tune_for_cpu
from diversevis.models.fingerprint import fingerprint
from diversevis.models.layer import Layer
from diversevis.models.load import Network, load
from diversevis.models.network import OpenNetwork
from diversevis.models.plain import AllChannels, OwnChannel, PlainNetwork
from diversevis.models.readout import read_out
from diversevis.models.receptive_field import ReceptiveField, UnitField
from diversevis.models.targets import Targets, channel_targets, direction_targets
from diversevis.models.unit_fields import unit_fields
from diversevis.models.view import View, differs, view
from diversevis.priors import open as priors
from diversevis.priors.open import Prior

LOG = logging.getLogger("diversevis")
# In torch's messages about gradients that it cannot compute.
NO_GRADIENT = "require grad", "grad_fn", "inplace operation", "have been used in the graph"
ROUGHLY = 0.01  # of responses in another layout of memory: tf32 rounds to three digits
TOGETHER = 8  # batches of a single process: most of what several processes compute at once
FEW = 4  # units whose responses are compared between the two ways


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A network cut down to its target's receptive field, the targets, and all scales."""

    experiment: Experiment
    network: Network
    # z [image, color, h, w] -> the target [image, channel, 1, 1] and the activations in which
    # distances are measured.
    channels: nn.Module
    # z and rows of the targets [unit] -> responses [unit, image] (by the fast way, every image
    # meets its unit's filter alone) and the activations in which distances are measured.
    readout: nn.Module
    # False where a response or a distance needs all channels (cosine, mean squared difference,
    # scaled directions, population): the first output of `readout` is then [image, channel, 1, 1].
    reads_out: bool
    layout: torch.memory_format  # of images
    batch: int  # upper bound on the images that go through the network at once
    targets: Targets
    field: ReceptiveField
    # What each unit sees of the whole image, where this differs between model neurons; None for
    # other layers and for directions.
    unit_fields: Sequence[UnitField | None] | None
    way: str  # `fast`: the traced graph without padding; `plain`: the network as it is published
    # Hash of what the network computes, for those whose code can change; None: the weights' hash
    # and the package's version tell.
    computation: str | None
    norm: float  # Euclidean norm of every image
    prior: Prior | None  # of natural images, None for `prior=none`
    device: torch.device
    # Factors on the channels of the target layer and of the distance layer, None for 1.
    channel_gain: Float[Tensor, " channel"] | None
    feature_gain: Float[Tensor, " feature"] | None
    # Whether distances are measured in the responses of the target layer, without the unit itself.
    population: bool

    @property
    def where(self) -> tuple[str, str, str]:
        """Folder names below the root, for all versions of a run: network, layer and units."""
        return self.network.name, self.network.layer.name, self.targets.text

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of an image."""
        return self.network.colors, *self.field.size

    def batches(self, rows: Sequence[int], devices: int = 1) -> list[Sequence[int]]:
        """`rows` in batches of about the same size, the same number for every device."""
        largest = max(1, self.batch // self.experiment.images_per_unit)
        rounds = -(-len(rows) // (largest * devices))  # rounded up
        count = max(1, min(rounds * devices, len(rows)))
        edges = [len(rows) * part // count for part in range(count + 1)]
        return [rows[first:last] for first, last in itertools.pairwise(edges) if last > first]


def prepare(experiment: Experiment) -> Setup:
    """Open the network, cut it to the target's receptive field, fix norm and scales.

    Raises `InputError` if a setting of `experiment` cannot be satisfied.
    """
    device = pick_devices(experiment.device)[0]
    check_precision(experiment.precision, experiment.algorithms, device)
    with precision("float32"):  # in which the two ways to compute are compared
        return _prepare(experiment, device)


def _prepare(experiment: Experiment, device: torch.device) -> Setup:
    reading = experiment.reading
    opened = OpenNetwork(model=experiment.model, size=reading.size)
    layer = opened.layer(experiment.layer)
    distance = experiment.objective.distance
    names = [] if distance == "pixels" else [distance]
    distance_layers = [opened.layer(name, "objective.distance", ("pixels",)) for name in names]
    population = [known.name for known in distance_layers] == [layer.name]
    if population:
        _check_population(layer, experiment.objective.reference is not None)
        distance_layers = []  # its responses are there already
    matched = experiment.objective.reference is not None
    targets = None if matched else targets_of(experiment, layer, device)
    network = load(opened, layer, distance_layers)
    seen = view(opened, network, reading)
    if targets is None:
        targets = reference_targets(
            experiment, network, seen, norm_of(experiment, network, seen), device
        )
        of_units = None
    else:
        of_units = _unit_fields(network, targets, seen)  # before the network moves to a device
    colors, norm = network.colors, norm_of(experiment, network, seen)
    custom = isinstance(experiment.model, (*OWN, TimmModel))
    computation = fingerprint(network, seen) if custom else None
    module = (seen.fast or seen.plain).to(device)
    channel_gain, feature_gain = natural_gains(
        experiment, network, module, seen.field, targets, device, computation
    )
    layout = LAYOUT
    if isinstance(module, PlainNetwork) and not _takes_channels_last(module, seen, colors, device):
        layout = torch.contiguous_format
    module.to(memory_format=layout)
    # A scaled direction has another projection than the direction itself: both need all channels.
    one_channel = channel_gain is None or targets.are_channels
    reads_out = experiment.objective.response == "max" and one_channel and not population
    prior = open_prior(experiment, network, seen.field.size, norm, device)
    readout, why_slow = _readout(seen, targets, reads_out, device, network.colors)
    if why_slow is not None:
        LOG.warning("%s of %s runs as published: %s", layer.name, network.name, why_slow)
    if custom:
        _check_gradient(readout, random_images(colors, seen.field.size, 1).to(device), layer.name)
    return Setup(
        experiment=experiment,
        network=network,
        channels=module,
        readout=readout,
        reads_out=reads_out,
        layout=layout,
        batch=_batch(experiment, readout, prior, (colors, *seen.field.size), device),
        targets=targets,
        field=seen.field,
        unit_fields=of_units,
        way="fast" if isinstance(readout, fx.GraphModule) else "plain",
        computation=computation,
        norm=norm,
        prior=prior,
        device=device,
        channel_gain=channel_gain,
        feature_gain=feature_gain if distance_layers or population else None,
        population=population,
    )


class Preparer:
    """`prepare` for several experiments; the network stays if only seeds or weights differ."""

    def __init__(self) -> None:
        self._last: Setup | None = None

    def __call__(self, experiment: Experiment) -> Setup:
        """Raises `InputError` if a setting of `experiment` cannot be satisfied."""
        last = self._last
        if last is None or _network_settings(last.experiment) != _network_settings(experiment):
            self._last = prepare(experiment)
        else:
            prior, before = last.prior, last.experiment.prior
            if experiment.prior != before:
                size, network = last.field.size, last.network
                prior = open_prior(experiment, network, size, last.norm, last.device)
            batch = _batch(experiment, last.readout, prior, last.image_shape, last.device)
            self._last = replace(last, experiment=experiment, prior=prior, batch=batch)
        return self._last


def _network_settings(experiment: Experiment) -> dict[str, Any]:
    """The settings that decide about the network, its targets and its scales."""
    names = ("model", "layer", "unit", "size", "position", "token", "norm", "contrast", "device",
             "precision")  # fmt: skip
    in_objective = ("distance", "direction", "scale", "photographs", "response", "reference",
                    "crop", "side")  # fmt: skip
    settings = {name: getattr(experiment, name) for name in names}
    return settings | {name: getattr(experiment.objective, name) for name in in_objective}


def units_to_fill(setup: Setup, kind: str) -> int:
    """Number of units that fill a device of this kind (`cpu`, `cuda`), memory permitting."""
    per_unit = setup.experiment.images_per_unit
    return max(1, batch_to_fill(_bytes_per_image(setup), kind, per_unit) // per_unit)


def batch_of_each(setup: Setup, processes: int) -> int:
    """Largest batch of each of several processes on one device: as large as that of a single one,
    but of all together `TOGETHER` times as large, if so much memory is free. A number that the user
    gave is that of all together."""
    if isinstance(setup.experiment.batch, int):
        return setup.batch // processes
    most = min(TOGETHER * setup.batch, images_that_fit(_bytes_per_image(setup), setup.device))
    return min(setup.batch, most // processes)


def norm_of(experiment: Experiment, network: Network, seen: View) -> float:
    """Euclidean norm of every image."""
    if experiment.norm == "paper":
        return images.paper_norm(network.name, network.layer.name)
    size, colors = seen.field.size, network.colors
    return images.norm_of_contrast(experiment.contrast, size, channels=colors)


def _check_population(layer: Layer, matched: bool) -> None:
    """Raises `InputError` for a layer of a single channel, and one whose responses are matched."""
    if matched:
        raise InputError(
            f"objective.distance={layer.name} is the layer in which metamers answer alike: they "
            "cannot differ there. Use objective.distance=pixels or an earlier layer."
        )
    if layer.channels == 1:
        raise InputError(
            f"objective.distance={layer.name} is the target layer itself: distances are measured "
            "in its other units, and it has a single one. Use objective.distance=pixels or an "
            "earlier layer."
        )


def _unit_fields(
    network: Network, targets: Targets, seen: View
) -> Sequence[UnitField | None] | None:
    if not seen.field.is_whole_image or not targets.are_channels:
        return None
    fields = unit_fields(
        network.root, network.colors, network.layer, seen.field.size, network.adapt
    )
    return None if fields is None else [fields[unit] for unit in targets.units]


def targets_of(experiment: Experiment, layer: Layer, device: torch.device) -> Targets:
    """The targets of an experiment; raises `InputError` for units or directions without a match."""
    direction = experiment.objective.direction
    if direction is None:
        targets = channel_targets(experiment.unit, layer.channels, layer.name)
    else:
        file = Path(direction).expanduser()
        targets = direction_targets(experiment.unit, file, layer.channels, layer.name)
    return replace(targets, vectors=targets.vectors.to(device))


def _takes_channels_last(module: nn.Module, seen: View, colors: int, device: torch.device) -> bool:
    """Whether the network gives the same numbers so: `y.view(len(y), -1)` fails, and there are
    weights of three-dimensional convolutions."""
    z = random_images(colors, seen.field.size).to(device)
    try:
        with torch.no_grad():
            before = module(z)
        module.to(memory_format=torch.channels_last)
        with torch.no_grad():
            after = module(z.contiguous(memory_format=torch.channels_last))
    except Exception:  # networks can raise anything
        return False
    return difference(before, after) <= ROUGHLY


def open_prior(
    experiment: Experiment, network: Network, size: tuple[int, int], norm: float,
    device: torch.device,
) -> Prior | None:  # fmt: skip
    """Raises `InputError` for a prior that the network's images cannot have."""
    shape = network.colors, *size
    shown = priors.View(shape=shape, mean=network.weights.mean, norm=norm, device=device)
    return priors.open_prior(experiment.prior, shown)


def _bytes_per_image(setup: Setup) -> int:
    cost = setup.prior.cost if setup.prior else None
    return bytes_per_image(setup.readout, cost, setup.image_shape, setup.device)


def _batch(
    experiment: Experiment, readout: nn.Module, prior: Prior | None, shape: tuple[int, int, int],
    device: torch.device,
) -> int:  # fmt: skip
    if isinstance(experiment.batch, int):
        return experiment.batch
    per_image = bytes_per_image(readout, prior.cost if prior else None, shape, device)
    return choose_batch(per_image, device, experiment.images_per_unit)


def _readout(
    seen: View, targets: Targets, reads_out: bool, device: torch.device, colors: int
) -> tuple[nn.Module, str | None]:
    """The network with a second input, the rows of the targets, and the responses that are wanted;
    and why it goes the plain way, where one could expect the fast one.

    The fast way is taken if it gives the same numbers as the plain one for some of the units.
    """
    network, directions = seen.plain.to(device), targets.directions
    plain = OwnChannel(network, directions) if reads_out else AllChannels(network)
    if seen.fast is None:
        return plain, seen.why_slow
    rows = torch.arange(len(targets.units), device=device)[:: max(1, len(targets.units) // FEW)]
    rows = rows.repeat(2)  # one unit with several images, and several times, is not a special case
    try:
        fast = read_out(seen.fast, directions) if reads_out else _all_channels(seen.fast)
        if device.type == "cpu":
            fast = tune_for_cpu(fast)
    except Exception as error:  # a graph that was read wrongly can raise anything
        return plain, f"its units cannot be read out of its graph ({error})"
    z = random_images(colors, seen.field.size, 2 * len(rows)).to(device)
    why_slow = differs(fast, plain, z, rows)
    return (plain, why_slow) if why_slow else (fast, None)


def _check_gradient(readout: nn.Module, z: Float[Tensor, "1 color h w"], layer: str) -> None:
    """Raises `InputError` for a network that keeps gradients from its images."""
    rows = torch.zeros(1, dtype=torch.long, device=z.device)
    try:
        with torch.enable_grad():
            torch.autograd.grad(readout(z.requires_grad_(True), rows)[0].sum(), z)
    except RuntimeError as error:
        words = " ".join(str(error).split())[:300]
        if not any(text in words for text in NO_GRADIENT):
            raise InputError(f"layer={layer} fails in a pass with gradients: {words}.") from error
        raise InputError(
            f"layer={layer} cannot be optimized: it has no gradient with respect to the image "
            f"({words}). Take torch.no_grad, .detach() and operations in place that overwrite what "
            "a gradient needs out of the network."
        ) from error


def _all_channels(module: fx.GraphModule) -> fx.GraphModule:
    """`module` with the inputs of a readout: z, and the rows, which it does not need."""
    graph = fx.Graph()
    outputs = graph.graph_copy(module.graph, {})
    graph.placeholder("rows")
    graph.output(outputs)
    return fx.GraphModule(module, graph)
