"""Frozen networks and the response of a named layer.

`open_model` traces a network without its weights; `load` fills in what a target layer needs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diversevis.errors import InputError
from diversevis.models.architectures import (
    Color,
    CustomModel,
    EnergyModel,
    Model,
    TorchvisionModel,
)
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

__all__ = [
    "CustomModel",
    "EnergyModel",
    "Layer",
    "Model",
    "Network",
    "TorchvisionModel",
    "TracedModel",
    "WeightsRecord",
    "load",
    "open_model",
]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A frozen network cut off at its target layer, with weights.

    module   padded as published; takes `z = (pixel/255 - mean)/std`, shape [image, 3, h, w], and
             returns a tuple: the target's response (before its ReLU), then the features asked for
    weights  where the weights came from, and the input's mean and std
    """

    name: str
    layer: Layer
    module: fx.GraphModule
    weights: WeightsRecord


def open_model(model: Model) -> TracedModel:
    """Trace the network that `model` describes; its weights are not looked at."""
    root = model.skeleton()
    name = model.name or (model.target.replace(":", ".") if isinstance(model, CustomModel) else "")
    return trace(name, root, model.field_names(root))


def load(
    model: Model, traced: TracedModel, layer: Layer, features: Sequence[Layer] = ()
) -> Network:
    """Build and load what `layer` needs, and nothing else.

    features  earlier layers whose activations (after their ReLU) are returned too

    Raises `InputError` where a feature layer does not lie before the target, or the weights
    cannot be had or trusted.
    """
    before = traced.ancestors(layer.node)
    for feature in features:
        if feature.features not in before or feature.node is layer.node:
            raise InputError(
                f"objective.distance={feature.name} does not lie before layer={layer.name}. "
                "Distances are measured in `pixels` or in an earlier layer."
            )
    wanted = traced.tensors(layer.node)
    tensors, record = _weights(model, traced, layer, wanted)
    module = _truncate(traced, [layer.node, *(feature.features for feature in features)])
    module.load_state_dict(tensors, strict=False, assign=True)
    for name, buffer in module.named_buffers():
        if buffer.is_meta:  # batch norm's step counter: no response depends on it
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, torch.zeros((), dtype=buffer.dtype))
    _fold_batch_norm(module)
    module.eval().requires_grad_(False)
    return Network(name=traced.name, layer=layer, module=module, weights=record)


def _weights(
    model: Model, traced: TracedModel, layer: Layer, wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], WeightsRecord]:
    source = "analytic" if isinstance(model, EnergyModel) else model.weights
    if isinstance(model, EnergyModel):
        tensors = dict(wanted)
        # Grey levels around mid-grey, divided by 255: responses are about 1.
        mean_std: tuple[Color, Color] | None = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
        said_by = "analytic"
    elif isinstance(model, CustomModel):
        mean_std, said_by = None, "config"
        if source == "own":
            tensors = check_tensors(wanted, wanted, source=f"model.target={model.target}")
    else:
        mean_std, said_by = model.published_mean_std(), "torchvision"
        if source == "random":
            state = model.initialized().state_dict()
            tensors = {name: state[name] for name in wanted}
    path, url, sha256 = None, None, None
    if source not in ("analytic", "own", "random"):
        path, url = find_weights_file(model) if isinstance(model, TorchvisionModel) else (
            Path(source).expanduser(), None
        )  # fmt: skip
        file = WeightsFile.open(path)
        tensors = check_and_load(
            file,
            wanted,
            layer=layer.name,
            served=[(known.name, traced.tensors(known.node)) for known in traced.layers],
            architecture=traced.name,
        )
        sha256 = sha256_of_file(path)
        in_file = file.color("mean"), file.color("std")
        if in_file[0] and in_file[1]:
            mean_std, said_by = (in_file[0], in_file[1]), "weights file"
    if not isinstance(model, EnergyModel) and (model.mean or model.std):
        if not (model.mean and model.std):
            raise InputError("model.mean and model.std belong together: give both or neither.")
        mean_std = checked_color(model.mean, "model.mean"), checked_color(model.std, "model.std")
        said_by = "config"
    if mean_std is None:
        raise InputError(
            "A custom model needs the mean and std of its input (RGB, in [0, 1]): "
            "model.mean=[0.485,0.456,0.406] model.std=[0.229,0.224,0.225], say."
        )
    where = f"random, seed {model.seed}" if isinstance(model, TorchvisionModel) else source
    record = WeightsRecord(
        source=str(path.resolve()) if path else where,
        url=url,
        sha256=sha256 or sha256_of_tensors(tensors),
        mean=mean_std[0],
        std=mean_std[1],
        mean_std_source=said_by,
    )
    return tensors, record


def _truncate(traced: TracedModel, outputs: Sequence[fx.Node]) -> fx.GraphModule:
    """A copy of the graph that ends in `outputs`; modules off the way to them are left out."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    needed = set[fx.Node]().union(*(traced.ancestors(node) for node in outputs))
    for node in traced.graph.nodes:
        if node in needed:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(tuple(copied[node] for node in outputs))
    module = fx.GraphModule(traced.root, graph)
    for node in module.graph.nodes:  # the traced model keeps its own modules
        if node.op == "call_module":
            owner, _, leaf = str(node.target).rpartition(".")
            called = module.get_submodule(str(node.target))
            setattr(module.get_submodule(owner), leaf, copy.deepcopy(called))
    return module


def _fold_batch_norm(module: fx.GraphModule) -> None:
    """Batch norm (eval mode) becomes part of the convolution that it alone follows."""
    for node in list(module.graph.nodes):
        norm = module_of(module, node)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        source = node.all_input_nodes[0]
        convolution = module_of(module, source)
        if isinstance(convolution, nn.Conv2d) and len(source.users) == 1:
            owner, _, leaf = str(source.target).rpartition(".")
            fused = fuse_conv_bn_eval(convolution.eval(), norm.eval())
            setattr(module.get_submodule(owner), leaf, fused)
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()
