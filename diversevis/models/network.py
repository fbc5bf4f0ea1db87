"""A network cut off at its target layer, with only the weights that this layer needs."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diversevis.errors import InputError
from diversevis.models import weights
from diversevis.models.architectures import Color, CustomModel, EnergyModel, Model, TorchvisionModel
from diversevis.models.trace import Layer, TracedModel, module_of, trace
from diversevis.models.weights import WeightsFile, checked_colors


@dataclass(frozen=True, kw_only=True)
class WeightsRecord:
    """The origin of a network's weights, as run.json records it.

    source           path, `random` with its seed, `analytic` or `own`
    url              where a downloaded file came from
    sha256           of the file, or of the tensors used where there is no file
    mean, std        of the network's input, RGB in [0, 1]
    mean_std_source  their source: `weights file`, `config` or `torchvision`
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


def open_model(model: Model) -> TracedModel:
    """Trace the network without its weights; raises `InputError` if that is not possible."""
    root = model.skeleton()
    if isinstance(model, CustomModel):
        return trace(model.name or model.target.replace(":", "."), root, {})
    field_names = model.field_names(root) if isinstance(model, TorchvisionModel) else {}
    return trace(model.name, root, field_names)


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
    file = _open_file(model, traced.stored_tensors(layer.node))
    tensors, record = _tensors(model, traced, layer, file)
    # Features are taken after the ReLU, unless that ReLU is not on the path to the target.
    outputs = [f.features if f.features in before else f.node for f in features]
    module = _truncate(traced, [layer.node, *outputs])
    # Not strict: batch norm's step counters are left out, and torch sets them to 0.
    module.load_state_dict(tensors, strict=False, assign=True)
    _fold_batch_norm(module)
    module.float().eval().requires_grad_(False)  # what a file does not hold may be float64
    return Network(name=traced.name, layer=layer, module=module, weights=record)


def check_weights(
    model: Model, traced: TracedModel, layer: Layer | None = None
) -> tuple[WeightsRecord, int, Layer]:
    """Find (or download) the weights and check every tensor that `layer` needs (default: the
    deepest layer for which the file has weights). Returns their origin, number, and that layer.

    Raises `InputError` if they are missing, damaged or made for another network.
    """
    wanted = traced.stored_tensors(layer.node) if layer else traced.root.state_dict()
    file = _open_file(model, wanted)
    if layer is None and file is not None:
        layer = _deepest_layer(traced, file) or traced.layers[0]
    layer = layer or traced.layers[-1]
    tensors, record = _tensors(model, traced, layer, file)
    return record, len(tensors), layer


def _open_file(model: Model, wanted: Mapping[str, Tensor]) -> WeightsFile | None:
    """The weights file that `model` names, fitted to the tensors that are wanted from it; None if
    its weights do not come from a file."""
    if isinstance(model, EnergyModel) or model.weights in ("own", "random"):
        if isinstance(model, CustomModel) and model.weights == "random":
            raise InputError(
                "model.weights=random is for torchvision's networks. Let the function that "
                "model.target names return a freshly initialized network instead."
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


def _deepest_layer(traced: TracedModel, file: WeightsFile) -> Layer | None:
    """The deepest layer for which `file` has all weights."""
    needs = ((layer, traced.stored_tensors(layer.node).keys()) for layer in traced.layers[::-1])
    return next((layer for layer, names in needs if file.names >= names), None)


def _tensors(
    model: Model, traced: TracedModel, layer: Layer, file: WeightsFile | None
) -> tuple[dict[str, Tensor], WeightsRecord]:
    """The checked tensors that `layer` needs, and the record of their origin."""
    wanted = traced.stored_tensors(layer.node)
    if file is not None:
        _check_names(file, wanted, traced, layer)
        tensors = weights.read_tensors(file.read, wanted, str(file.path))
        source, sha256 = str(file.path.resolve()), weights.sha256_of_file(file.path)
    else:
        state: Mapping[str, Tensor] = wanted
        source = "own" if isinstance(model, CustomModel) else "analytic"
        if isinstance(model, CustomModel):  # its hash counts what is not stored, too
            wanted = state = traced.tensors(layer.node)
        if isinstance(model, TorchvisionModel):
            source, state = f"random, seed {model.seed}", model.initialized().state_dict()
        what = f"model {traced.name} ({source})"
        tensors = weights.read_tensors(state.__getitem__, wanted, what)
        sha256 = weights.sha256_of_tensors(tensors)
    mean, std, mean_std_source = _mean_std(model, file)
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
    file: WeightsFile, wanted: Mapping[str, Tensor], traced: TracedModel, layer: Layer
) -> None:
    """Raises `InputError` for a file of another network, or without weights that `layer` needs."""
    in_file = file.metadata.get("architecture", "")
    if in_file and in_file.rpartition(".")[2] != traced.name:
        raise InputError(
            f"{file.path} holds weights of {in_file}, not of {traced.name}. "
            f"Give the right file with model.weights=FILE, or choose the model of this file."
        )
    missing = next((name for name in wanted if name not in file.names), None)
    if missing is None:
        return
    deepest = _deepest_layer(traced, file)
    if deepest is None:
        raise InputError(
            f"{file.path} is not a weights file of {traced.name}: {file.shortfall(wanted)}. It has "
            "weights for none of the network's layers (its first tensors: "
            f"{', '.join(sorted(file.names)[:3]) or 'none'})."
        )
    raise InputError(
        f"layer={layer.name} needs {missing}, which {file.path} does not hold. The deepest layer "
        f"that it has weights for is {deepest.name}; for deeper layers give another file with "
        "model.weights=FILE."
    )


def _mean_std(model: Model, file: WeightsFile | None) -> tuple[Color, Color, str]:
    """Mean and std of the input, and their source: the config, else the file, else torchvision."""
    if isinstance(model, EnergyModel):  # grey levels around mid-grey give responses near 1
        return (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), "analytic"
    source, where = "config", "model."
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
        return *checked_colors(mean, std, where, channels=3), source
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
    return copy.deepcopy(fx.GraphModule(traced.root, graph))  # the traced model must not change


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
            fused = fuse_conv_bn_eval(convolution.eval(), norm.eval())
            module.set_submodule(str(source.target), fused)
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()
