"""Modules in memory: their layers, and diverse images of their units. No file is written."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diversevis.config.bind import bind
from diversevis.config.compose import Opening, compose_opening, experiment_with
from diversevis.config.from_python import config_of, plain_value
from diversevis.config.hydra_call import own_hydra
from diversevis.errors import InputError
from diversevis.experiment import results
from diversevis.experiment.batches import visualize_in_batches
from diversevis.experiment.measure import measures_of, possible, take_measure
from diversevis.experiment.subject import subject_of
from diversevis.interface.state import own_state
from diversevis.interface.visualized import Visualized
from diversevis.measures.subject import Measured
from diversevis.method.device import pick_devices
from diversevis.method.result import Visualization
from diversevis.method.settings import checked_size
from diversevis.method.setup import Setup, prepare
from diversevis.models.architectures import MemoryModel
from diversevis.models.network import OpenNetwork
from diversevis.runs.folder import finite
from diversevis.runs.record import make_record

LOG = logging.getLogger("diversevis")

# Settings about run folders, which there are none of here.
OF_FOLDERS = "root", "again", "checkpoint", "images", "record", "seeds", "units_per_job"


class LayerFacts(NamedTuple):
    """A layer of a network.

    units     their number
    field     rows and columns of the pixels that a unit sees; None: the whole image, or it depends
              on the unit
    stride    pixels between the fields of neighbouring units, down and across; None as `field`
    response  what the response is, in words
    """

    name: str
    units: int
    field: tuple[int, int] | None
    stride: tuple[float, float] | None
    response: str


def layers(network: Any, *, size: Any, mean: Any) -> list[LayerFacts]:
    """The layers of a module, or of the network that words name: diversevis.layers."""
    with own_hydra():
        opening = _opening(network, size, mean)
    with own_state():
        opened = OpenNetwork(model=opening.model, size=opening.size)
        found = opened.listing.layers
        fields = opened.fields(found)
    facts = []
    for layer, field in zip(found, fields, strict=True):
        pixels, stride = (None, None) if field is None else (field.size, field.stride)
        facts.append(LayerFacts(layer.name, layer.channels, pixels, stride, layer.response))
    return facts


def _opening(network: Any, size: Any, mean: Any) -> Opening:
    words = shlex.split(network) if isinstance(network, str) else network
    if isinstance(words, Sequence) and words and all(isinstance(word, str) for word in words):
        for name, value in (("size", size), ("model.mean", mean)):
            if value is not None:
                raise InputError(f"{name} of a network that is named stands among the words.")
        return compose_opening(words)
    module = _modules(network, "layers")
    settings = {
        "kind": "memory", "name": _name(module), "module": module, "mean": plain_value(mean),
        "std": None, "inside": False, "scale": 1, "order": "rgb",
    }  # fmt: skip
    sides = bind(int | list[int] | None, plain_value(size), "size")
    model = bind(MemoryModel, settings, "model")
    return Opening(model=model, size=checked_size(sides), layer=None)


def visualize(module: Any, *, mean: Any, std: Any, settings: Mapping[str, Any]) -> Visualized:
    """Diverse images of units of a module: diversevis.visualize.

    settings  all settings but the model's mean and std, `layer` and `unit` among them
    """
    modules = _modules(module, "visualize")
    _check_settings(settings)
    model = {"kind": "memory", "name": _name(modules), "module": modules, "mean": mean, "std": std}
    with own_hydra():
        config = config_of(settings, model)
    if config["model"]["inside"] is False and (mean is None or std is None):
        raise InputError(
            "visualize needs the mean and std of the network's input, for every channel, in "
            "[0, 1]: mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], say; or "
            'model={"inside": True} if the network normalises inside.'
        )
    experiment = experiment_with(config, given=settings)
    if len(pick_devices(experiment.device)) > 1:
        raise InputError(
            f"device={experiment.device}: a module in memory is visualized on one device. Runs in "
            'folders take several: diversevis.run("model=custom", ...).'
        )
    names = possible(measures_of(experiment), experiment.natural)
    began = time.perf_counter()
    with own_state():
        setup = prepare(experiment)
        units = [result.visualization for result in visualize_in_batches(setup, show_progress=True)]
        units = results.in_order(setup, units)
        measured, impossible = _measured(setup, units, names)
    del config["model"]["module"]  # the rest is text and numbers
    call = _call(_name(modules), {**settings, "mean": mean, "std": std})
    record = make_record(setup, call, config) | {
        "status": "finished", "optimized": True, "not_measured": impossible,
        "seconds": round(time.perf_counter() - began, 3),
    }  # fmt: skip
    return _result(units, measured, record, setup.targets.references)


def _modules(module: Any, function: str) -> nn.Module | tuple[nn.Module, ...]:
    """The module, or a tuple of several; raises `InputError` for anything else."""
    if isinstance(module, nn.Module):
        return module
    members = tuple(module) if isinstance(module, (list, tuple)) else ()
    if members and all(isinstance(member, nn.Module) for member in members):
        return members
    given = repr(module) if isinstance(module, str) else f"a {type(module).__name__}"
    raise InputError(
        f"{function} takes an nn.Module, or a list of them, whose outputs are averaged; not "
        f'{given}. A network that is named: diversevis.run("model=vgg19", "layer=conv2_1").'
    )


def _name(module: nn.Module | tuple[nn.Module, ...]) -> str:
    if isinstance(module, nn.Module):
        return type(module).__name__
    return f"average-of-{len(module)}-{type(module[0]).__name__}"


def _call(name: str, settings: Mapping[str, Any]) -> str:
    """The call as it was typed: the module's name, and the settings that were given."""
    values = {key: plain_value(value) for key, value in settings.items() if value is not None}
    words = [f"{key}={value!r}" for key, value in values.items() if key.isidentifier()]
    dotted = {key: value for key, value in values.items() if not key.isidentifier()}
    words += [f"**{dotted}"] if dotted else []
    return f"diversevis.visualize({', '.join([name, *words])})"


def _check_settings(settings: Mapping[str, Any]) -> None:
    for name in OF_FOLDERS:
        if name in settings:
            raise InputError(
                f"{name}={settings[name]!r} is for runs, which have a folder: "
                f'diversevis.run("model=custom", "{name}=..."). visualize writes no files.'
            )
    if not isinstance(settings.get("model", {}), Mapping):
        raise InputError(
            f"model={settings['model']!r}: the module is the model. A dict sets how it takes "
            'images: model={"inside": True}, {"scale": 255} or {"order": "bgr"}.'
        )


def _measured(
    setup: Setup, units: Sequence[Visualization], names: Sequence[str]
) -> tuple[dict[str, Measured], dict[str, str]]:
    """The measures, and why others cannot be taken."""
    measured: dict[str, Measured] = {}
    impossible: dict[str, str] = {}
    subject = subject_of(setup, units)
    for name in names:
        try:
            measured[name] = take_measure(subject, name, lambda name, done, total: None)
        except InputError as error:
            LOG.warning("no measure %s: %s", name, error)
            impossible[name] = str(error)
    return measured, impossible


def _result(
    units: Sequence[Visualization],
    measured: Mapping[str, Measured],
    record: Mapping[str, Any],
    references: Tensor | None,
) -> Visualized:
    numbers = [unit.unit for unit in units]
    metrics = [
        unit.metrics | {name: taken.numbers[row] for name, taken in measured.items()}
        for row, unit in enumerate(units)
    ]
    return Visualized(
        units=tuple(numbers),
        images=torch.stack([unit.images for unit in units]),
        responses=torch.stack([unit.responses for unit in units]),
        metrics=finite(metrics),
        settings={name: finite(taken.settings) for name, taken in measured.items()},
        arrays={name: taken.arrays for name, taken in measured.items() if taken.arrays},
        record=finite(record),
        path=None,
        reference=None if references is None else references[numbers].cpu(),
    )
