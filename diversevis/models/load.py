"""A network loaded: its weights checked, ready to answer for its target layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor, fx, nn

from diversevis.errors import InputError
from diversevis.models import weights
from diversevis.models.architectures import (
    OWN,
    PUBLISHED,
    Color,
    CustomModel,
    EnergyModel,
    Model,
    TorchvisionModel,
)
from diversevis.models.convention import network_input
from diversevis.models.cut import cut_off
from diversevis.models.layer import Layer
from diversevis.models.network import OpenNetwork
from diversevis.models.weights import WeightsFile, checked_colors

LOG = logging.getLogger("diversevis")


@dataclass(frozen=True, kw_only=True)
class WeightsRecord:
    """The origin of a network's weights, as run.json records it.

    source           path, `random` with its seed, `analytic`, `own` or `pretrained`
    url              where a downloaded file came from
    sha256           of the file, or of the tensors used where there is no file
    mean, std        of the network's input, per channel, for pixels in [0, 1]
    mean_std_source  their source: `weights file`, `config`, `torchvision` or `timm`
    chosen           container and prefix of the tensors in the file; None: as they stand there
    container        `model.container`, where it was given
    """

    source: str
    is_file: bool
    url: str | None
    sha256: str
    mean: Color
    std: Color
    mean_std_source: str
    chosen: str | None
    container: str | None

    @property
    def identity(self) -> str:
        """The hash, and the container that was asked for: one file can hold several networks."""
        return f"{self.sha256}/{self.container}" if self.container else self.sha256


@dataclass(frozen=True, kw_only=True)
class Network:
    """A frozen network with weights. Images are z = (pixel/255 - mean)/std, [image, color, h, w].

    root      the network itself, in eval mode
    fast      its traced graph, cut off at the target layer, with its published padding: returns a
              tuple of maps [image, channel, rows, columns], the target's response (before its
              ReLU), then the requested features; None where it is not traced
    features  the layers of the features
    adapt     turns z into what the network takes; None: z itself
    weights   where the weights came from, and the input's mean and std
    """

    name: str
    layer: Layer
    features: tuple[Layer, ...]
    root: nn.Module
    fast: fx.GraphModule | None
    adapt: partial[Tensor] | None
    weights: WeightsRecord

    @property
    def convention(self) -> str | None:
        """In words, what the network takes, where that is not z."""
        return None if self.adapt is None else repr(self.adapt.keywords)

    @property
    def colors(self) -> int:
        """Number of channels of its images."""
        return len(self.weights.mean)


def load(opened: OpenNetwork, layer: Layer, features: Sequence[Layer] = ()) -> Network:
    """Load the weights that `layer` needs.

    features  earlier layers whose activations (after their ReLU) are returned as well

    Raises `InputError` if a feature layer does not lie before the target, or if the weights are
    missing, damaged or made for another network.
    """
    for feature in features:
        if not _lies_before(opened, feature, layer):
            raise InputError(
                f"objective.distance={feature.name} does not lie before layer={layer.name}. "
                "Distances are measured in `pixels`, in an earlier layer, or in the target layer "
                "itself."
            )
    needed = opened.tensors(layer)
    features = [_on_the_way(opened, feature, layer) for feature in features]
    tensors, record = _tensors(opened, layer, _open_file(opened.model, needed[0]))
    root = opened.root
    if tensors is not needed[1]:
        _assign(root, tensors)
    adapt = _adapter(opened.model, record.mean)
    return Network(
        name=opened.name,
        layer=layer,
        features=tuple(features),
        root=root.eval().requires_grad_(False),
        fast=_fast(opened, layer, features, tensors, adapt),
        adapt=adapt,
        weights=record,
    )


def _assign(root: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers these values. Not by `load_state_dict`: modules may override it
    to want what a checkpoint's metadata say (torchvision's MNASNet)."""
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        module = root.get_submodule(path)
        known = getattr(module, leaf, None)
        if known is None or known is tensor:  # a constant of the graph; the network's own
            continue
        if _fits(known, tensor):
            known.data.copy_(tensor)  # modules may hold it by other names, or parts of it
        elif leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        else:
            module._buffers[leaf] = tensor


def _fits(known: Tensor, tensor: Tensor) -> bool:
    """Whether `known` has room for the values of `tensor` (not one number, seen everywhere)."""
    same = known.shape == tensor.shape and known.dtype == tensor.dtype
    return same and known.is_contiguous() and not known.is_meta


def _on_the_way(opened: OpenNetwork, feature: Layer, layer: Layer) -> Layer:
    """Features are taken after the ReLU, unless that ReLU is not on the path to the target."""
    if opened.traced is None or layer.node is None or feature.node is None:
        return feature
    is_on_path = feature.features in opened.traced.ancestors(layer.node)
    return feature if is_on_path else replace(feature, features=feature.node)


def _lies_before(opened: OpenNetwork, feature: Layer, layer: Layer) -> bool:
    """Whether `layer` is computed from `feature`, or, where the graph does not tell, after it."""
    if opened.traced is not None and layer.node is not None and feature.node is not None:
        return feature.name != layer.name and feature.node in opened.traced.ancestors(layer.node)
    order = [known.name for known in opened.listing.layers]
    return order.index(feature.name) < order.index(layer.name)


def _fast(
    opened: OpenNetwork,
    layer: Layer,
    features: Sequence[Layer],
    tensors: Mapping[str, Tensor],
    adapt: partial[Tensor] | None,
) -> fx.GraphModule | None:
    traced = opened.traced
    if traced is None or any(known.node is None for known in (layer, *features)):
        return None
    assert layer.node is not None  # noqa: S101  (seen in the line above)
    outputs = [feature.features for feature in features]
    try:
        return cut_off(traced, [layer.node, *(node for node in outputs if node)], tensors, adapt)
    except Exception as error:  # modules that cannot be copied, weights that are computed
        LOG.debug("%s is not cut off at %s: %s", opened.name, layer.name, error)
        return None


def _adapter(model: Model, mean: Color) -> partial[Tensor] | None:
    if isinstance(model, EnergyModel) or model.is_standard:
        return None
    level = mean if model.inside else None
    return partial(network_input, level=level, scale=model.scale, order=model.order)


def check_weights(
    opened: OpenNetwork, layer: Layer | None = None
) -> tuple[WeightsRecord, int, Layer]:
    """Find (or download) the weights and check every tensor that `layer` needs (default: the
    deepest layer for which the file has weights). Returns their origin, number, and that layer.

    Raises `InputError` if they are missing, damaged or made for another network.
    """
    wanted = opened.tensors(layer)[0] if layer else opened.root.state_dict()
    file = _open_file(opened.model, wanted)
    if layer is None:
        layers = opened.listing.layers
        layer = layers[-1] if file is None else _deepest_layer(opened, file) or layers[0]
    tensors, record = _tensors(opened, layer, file)
    return record, len(tensors), layer


def _open_file(model: Model, wanted: Mapping[str, Tensor]) -> WeightsFile | None:
    """The weights file that `model` names, fitted to the tensors that are wanted from it; None if
    its weights do not come from a file."""
    if isinstance(model, EnergyModel) or model.weights in ("own", "random", "pretrained"):
        if isinstance(model, CustomModel) and model.weights != "own":
            raise InputError(
                f"model.weights={model.weights} is for networks of torchvision and timm. Let the "
                "function that model.target names return such a network instead."
            )
        if not isinstance(model, EnergyModel) and model.container is not None:
            raise InputError(
                f"model.container={model.container} is for a weights file, and model.weights="
                f"{model.weights} is none. Give model.weights=FILE, or leave model.container out."
            )
        return None
    if isinstance(model, TorchvisionModel) and model.weights == "imagenet":
        file = WeightsFile.open(*weights.find_weights_file(model))
    else:
        file = WeightsFile.open(Path(model.weights).expanduser())
    return file.fitted_to(wanted, model.container)


def _deepest_layer(opened: OpenNetwork, file: WeightsFile) -> Layer | None:
    """The deepest layer for which `file` has all weights."""
    layers = reversed(opened.listing.layers)
    needs = ((layer, opened.tensors(layer)[0].keys()) for layer in layers)
    return next((layer for layer, names in needs if file.names >= names), None)


def _tensors(
    opened: OpenNetwork, layer: Layer, file: WeightsFile | None
) -> tuple[Mapping[str, Tensor], WeightsRecord]:
    """The checked tensors that `layer` needs, and the record of their origin."""
    model = opened.model
    stored, used = opened.tensors(layer)
    if file is not None:
        _check_names(file, stored, opened, layer)
        tensors: Mapping[str, Tensor] = weights.read_tensors(file.read, stored, str(file.path))
        source, sha256 = str(file.path.resolve()), weights.sha256_of_file(file.path)
    else:
        source, state = "analytic", used  # what is not stored counts, too
        if isinstance(model, OWN):
            source = "own"
        elif isinstance(model, PUBLISHED):
            source = f"random, seed {model.seed}" if model.weights == "random" else model.weights
            used, state = stored, opened.root.state_dict()
        what = f"model {opened.name} ({source})"
        tensors = weights.read_tensors(state.__getitem__, used, what)
        sha256 = weights.sha256_of_tensors(tensors)
    mean, std, mean_std_source = _mean_std(model, file, opened.colors)
    record = WeightsRecord(
        source=source,
        is_file=file is not None,
        url=file.url if file else None,
        sha256=sha256,
        mean=mean,
        std=std,
        mean_std_source=mean_std_source,
        chosen=file.chosen if file else None,
        container=None if isinstance(model, EnergyModel) else model.container,
    )
    return tensors, record


def _check_names(
    file: WeightsFile, wanted: Mapping[str, Tensor], opened: OpenNetwork, layer: Layer
) -> None:
    """Raises `InputError` for a file of another network, or without weights that `layer` needs."""
    in_file = file.metadata.get("architecture", "")
    if in_file and in_file.rpartition(".")[2] != opened.name:
        raise InputError(
            f"{file.path} holds weights of {in_file}, not of {opened.name}. "
            f"Give the right file with model.weights=FILE, or choose the model of this file."
        )
    missing = next((name for name in wanted if name not in file.names), None)
    if missing is None:
        return
    deepest = _deepest_layer(opened, file)
    if deepest is None:
        raise InputError(
            f"{file.path} is not a weights file of {opened.name}: {file.shortfall(wanted)}. It has "
            "weights for none of the network's layers (its first tensors: "
            f"{', '.join(sorted(file.names)[:3]) or 'none'})."
        )
    raise InputError(
        f"layer={layer.name} needs {missing}, which {file.path} does not hold. The deepest layer "
        f"that it has weights for is {deepest.name}; for deeper layers give another file with "
        "model.weights=FILE."
    )


def _mean_std(model: Model, file: WeightsFile | None, colors: int) -> tuple[Color, Color, str]:
    """Mean and std of the input, and their source: the config, else the file, else the package
    that the network is from."""
    if isinstance(model, EnergyModel):  # grey levels around mid-grey give responses near 1
        return (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), "analytic"
    source, where = "config", "model."
    if model.inside:  # the network subtracts and divides itself
        level = model.mean or (0.5, 0.5, 0.5)
        return level, (1.0,) * len(level), "config"
    mean: tuple[float, ...] | None = model.mean
    std: tuple[float, ...] | None = model.std
    if mean is None and std is None and file is not None:
        source, where = "weights file", f"{file.path}: its metadata "
        mean, std = file.color("mean"), file.color("std")
    if (mean is None) != (std is None):
        raise InputError(
            f"{where}mean and std belong together: give both with model.mean=[...] model.std=[...]."
        )
    if mean is not None and std is not None:
        return *checked_colors(mean, std, where, colors), source
    if isinstance(model, OWN):
        raise InputError(
            "A custom model needs the mean and std of its input, for every channel, in [0, 1]: "
            "model.mean=[0.485,0.456,0.406] model.std=[0.229,0.224,0.225], say; or "
            "model.inside=true if it normalises inside."
        )
    return *model.published_mean_std(), model.kind
