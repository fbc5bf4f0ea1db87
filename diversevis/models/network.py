"""A network cut off at its target layer, with only the weights that this layer needs."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diversevis.errors import InputError
from diversevis.models.architectures import Color, CustomModel, EnergyModel, Model, TorchvisionModel
from diversevis.models.trace import Layer, TracedModel, module_of, trace
from diversevis.models.weights import (
    WeightsFile,
    WeightsRecord,
    check_and_load,
    check_tensors,
    checked_color,
    find_weights_file,
    sha256_of_file,
    sha256_of_tensors,
)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A frozen network cut off at its target layer, with weights.

    module   with its published padding; takes `z = (pixel/255 - mean)/std`, [image, 3, h, w], and
             returns a tuple of maps [image, channel, rows, columns]: the target's response (before
             its ReLU), then the requested features
    weights  where the weights came from, and the input's mean and std
    """

    name: str
    layer: Layer
    module: fx.GraphModule
    weights: WeightsRecord


@dataclass(frozen=True, kw_only=True)
class CheckedWeights:
    """Checked weights: origin, number of tensors, the deepest layer that they suffice for."""

    record: WeightsRecord
    tensors: int
    deepest: str


def open_model(model: Model) -> TracedModel:
    """Trace the network that `model` describes, without its weights.

    Raises `InputError` if it cannot be built or traced.
    """
    root = model.skeleton()
    if isinstance(model, CustomModel):
        name = model.name or model.target.replace(":", ".")
    else:
        name = model.name
    return trace(name, root, model.field_names(root))


def load(
    model: Model, traced: TracedModel, layer: Layer, features: Sequence[Layer] = ()
) -> Network:
    """Build the part of the network that `layer` needs and load its weights.

    features  earlier layers whose activations (after their ReLU) are returned as well

    Raises `InputError` if a feature layer does not lie before the target, or if the weights are
    missing, damaged or made for another network.
    """
    before = traced.ancestors(layer.node)
    for feature in features:
        if feature.node not in before or feature.node is layer.node:
            raise InputError(
                f"objective.distance={feature.name} does not lie before layer={layer.name}. "
                "Distances are measured in `pixels` or in an earlier layer."
            )
    tensors, record = _tensors(model, traced, layer, _file(model))
    # Features are taken after the ReLU, unless that ReLU is not on the path to the target.
    outputs = [
        feature.features if feature.features in before else feature.node for feature in features
    ]
    module = _truncate(traced, [layer.node, *outputs])
    module.load_state_dict(tensors, strict=False, assign=True)
    for name, buffer in module.named_buffers():
        if buffer.is_meta:  # batch norm's step counter: no response depends on it
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, torch.zeros((), dtype=buffer.dtype))
    _fold_batch_norm(module)
    module.eval().requires_grad_(False)
    return Network(name=traced.name, layer=layer, module=module, weights=record)


def check_weights(model: Model, traced: TracedModel, layer: Layer | None = None) -> CheckedWeights:
    """Find (or download) the weights and check every tensor that `layer` needs (default: the
    deepest layer for which the file has weights).

    Raises `InputError` if they are missing, damaged or made for another network.
    """
    file = _file(model)
    deepest = layer or traced.layers[-1]
    if file is not None and layer is None:
        served = [
            layer for layer in traced.layers if file.names.issuperset(traced.tensors(layer.node))
        ]
        deepest = served[-1] if served else traced.layers[0]
    tensors, record = _tensors(model, traced, deepest, file)
    return CheckedWeights(record=record, tensors=len(tensors), deepest=deepest.name)


@dataclass(frozen=True, kw_only=True)
class _File:
    """A weights file and where it came from."""

    opened: WeightsFile
    url: str | None

    @property
    def names(self) -> frozenset[str]:
        return self.opened.names


def _file(model: Model) -> _File | None:
    """The weights file that `model` names; None if its weights do not come from a file."""
    if isinstance(model, EnergyModel) or model.weights in ("own", "random"):
        if isinstance(model, CustomModel) and model.weights == "random":
            raise InputError(
                "model.weights=random is for torchvision's networks. Let the function that "
                "model.target names return a freshly initialized network instead."
            )
        return None
    if isinstance(model, TorchvisionModel):
        path, url = find_weights_file(model)
    else:
        path, url = Path(model.weights).expanduser(), None
    return _File(opened=WeightsFile.open(path), url=url)


def _tensors(
    model: Model, traced: TracedModel, layer: Layer, file: _File | None
) -> tuple[dict[str, Tensor], WeightsRecord]:
    """The checked tensors that `layer` needs, and the record of their origin."""
    wanted = traced.tensors(layer.node)
    if file is not None:
        tensors = check_and_load(
            file.opened,
            wanted,
            layer=layer.name,
            served=((known.name, traced.tensors(known.node)) for known in traced.layers),
            architecture=traced.name,
        )
        source, sha256 = str(file.opened.path.resolve()), sha256_of_file(file.opened.path)
    else:
        if isinstance(model, TorchvisionModel):
            source, state = f"random, seed {model.seed}", model.initialized().state_dict()
            values: Mapping[str, Tensor] = {name: state[name] for name in wanted}
        else:
            source, values = ("own" if isinstance(model, CustomModel) else "analytic"), wanted
        tensors = check_tensors(values, wanted, source=f"model {traced.name} ({source})")
        sha256 = sha256_of_tensors(tensors)
    mean, std, mean_std_source = _mean_std(model, file)
    record = WeightsRecord(
        source=source,
        is_file=file is not None,
        url=file.url if file else None,
        sha256=sha256,
        mean=mean,
        std=std,
        mean_std_source=mean_std_source,
    )
    return tensors, record


def _mean_std(model: Model, file: _File | None) -> tuple[Color, Color, str]:
    """Mean and std of the input, and their source: the config, else the file, else torchvision."""
    if isinstance(model, EnergyModel):  # grey levels around mid-grey give responses near 1
        return (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), "analytic"
    if (model.mean is None) != (model.std is None):
        raise InputError("model.mean and model.std belong together: give both or neither.")
    if model.mean is not None and model.std is not None:
        mean, std = checked_color(model.mean, "model.mean"), checked_color(model.std, "model.std")
        return mean, std, "config"
    if file is not None:
        in_file = file.opened.color("mean"), file.opened.color("std")
        if in_file[0] is not None and in_file[1] is not None:
            return in_file[0], in_file[1], "weights file"
        if in_file != (None, None):
            raise InputError(
                f"{file.opened.path}: its metadata has only mean or only std. Give both with "
                "model.mean=[...] model.std=[...]."
            )
    if isinstance(model, CustomModel):
        raise InputError(
            "A custom model needs the mean and std of its input (RGB, in [0, 1]): "
            "model.mean=[0.485,0.456,0.406] model.std=[0.229,0.224,0.225], say."
        )
    return *model.published_mean_std(), "torchvision"


def _truncate(traced: TracedModel, outputs: Sequence[fx.Node]) -> fx.GraphModule:
    """A copy of the graph that ends in `outputs`; modules not on the path to them are left out."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    needed = set[fx.Node]().union(*(traced.ancestors(node) for node in outputs))
    for node in traced.graph.nodes:
        if node in needed:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(tuple(copied[node] for node in outputs))
    module = fx.GraphModule(traced.root, graph)
    for node in module.graph.nodes:  # copies: the traced model must not change
        if node.op == "call_module":
            owner, _, leaf = str(node.target).rpartition(".")
            called = module.get_submodule(str(node.target))
            setattr(module.get_submodule(owner), leaf, copy.deepcopy(called))
    return module


def _fold_batch_norm(module: fx.GraphModule) -> None:
    """Merge batch norm (eval mode) into the convolution before it, if no other step reads that."""
    calls = Counter(node.target for node in module.graph.nodes if node.op == "call_module")
    for node in list(module.graph.nodes):
        norm = module_of(module, node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
            continue
        source = node.all_input_nodes[0]
        convolution = module_of(module, source)
        alone = len(source.users) == 1 and calls[source.target] == calls[node.target] == 1
        if isinstance(convolution, nn.Conv2d) and alone:
            owner, _, leaf = str(source.target).rpartition(".")
            fused = fuse_conv_bn_eval(convolution.eval(), norm.eval())
            setattr(module.get_submodule(owner), leaf, fused)
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()
