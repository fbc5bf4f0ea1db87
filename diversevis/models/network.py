"""A network that is opened: its layers, and where their units look.

Where torch.fx can trace it, its graph is the quick way to the layers' names and receptive fields.
What the graph does not tell is asked of the network itself (watch.py, probe.py).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from diversevis.errors import InputError, suggest
from diversevis.models.architectures import CustomModel, Model, TorchvisionModel
from diversevis.models.builders import unwrapped_name
from diversevis.models.layer import Layer
from diversevis.models.probe import Probe
from diversevis.models.receptive_field import (
    NoWindow,
    ReceptiveField,
    UnitField,
    receptive_field,
    sees_whole_image,
)
from diversevis.models.trace import TracedModel, trace
from diversevis.models.watch import ForwardFailed, listen

LOG = logging.getLogger("diversevis")

# Sides of images that are tried on a network whose size of images is not known.
SIDES = 256, 224, 64, 32, 128, 384, 512, 299, 96, 28
LISTENED = 3  # images of the pass that lists layers; no axis of tokens or maps has this length
CONSTANT = 0.01  # value of weights that are yet to be loaded, where only the fields are asked for

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Table:
    """All layers of a network.

    fields    of each layer; None: its units see the whole image, or their field depends on where
              they are
    left_out  module path -> why it is no layer
    size      rows and columns of the images on which the network was asked
    """

    layers: Sequence[Layer]
    fields: Sequence[ReceptiveField | None]
    left_out: Mapping[str, str]
    size: Pair


@dataclass(kw_only=True)
class OpenNetwork:
    """A network without its weights.

    size  rows and columns of its images, where a person gave them
    """

    model: Model
    size: Pair | None = None

    @property
    def name(self) -> str:
        model = self.model
        if isinstance(model, CustomModel):
            return model.name or model.target.replace(":", ".")
        return model.name

    @property
    def colors(self) -> int:
        """Number of channels of its images."""
        mean = getattr(self.model, "mean", None)
        if mean is not None:
            return len(mean)
        if not isinstance(self.model, CustomModel):
            return 3
        counts = (getattr(m, "in_channels", None) for m in self.root.modules())
        first = next((count for count in counts if isinstance(count, int)), 3)
        return first if first in (1, 3) else 3

    @cached_property
    def root(self) -> nn.Module:
        """The network as it is, in float32; weights that come from a file have no values yet."""
        root = self.model.built().eval().requires_grad_(False)
        kinds = {t.dtype for t in root.state_dict().values() if t.is_floating_point()}
        if kinds - {torch.float32}:
            kind = ", ".join(sorted(str(k).removeprefix("torch.") for k in kinds))
            LOG.warning("the weights of %s are %s: computed in float32", self.name, kind)
            root = root.float()
        return root

    @cached_property
    def traced(self) -> TracedModel | None:
        """Its graph; None where torch.fx cannot trace it."""
        try:
            if isinstance(self.model, CustomModel):
                skeleton = copy.deepcopy(self.root)  # tracing changes modules
            else:
                skeleton = self.model.skeleton()
            return trace(skeleton, self.colors, self._field_names(skeleton))
        except InputError:  # there is no such network
            raise
        except Exception as error:  # networks and torch.fx can raise anything
            LOG.debug("%s is not traced: %s", self.name, error)
            return None

    @cached_property
    def table(self) -> Table:
        """All layers, with their fields.

        Raises `InputError` if the network fails on an image, or has no layer.
        """
        root = self._with_values()
        layers, left_out, size = self._listen(root)
        if not layers:
            raise InputError(
                f"model {self.name} has no layer: none of its modules returns a tensor with an "
                f"entry per image. {_reasons(left_out)}"
            )
        layers = self._merged(layers)
        fields: list[ReceptiveField | None] = [None] * len(layers)
        unknown = []
        for index, layer in enumerate(layers):
            try:
                fields[index] = self._walk(layer)
            except NoWindow:
                if not self._follows_global_pooling(layer):
                    unknown.append(index)
        asked = [layers[index] for index in unknown]
        probe = Probe(root=root, colors=self.colors)
        probed = probe.fields(asked, size, thorough=not self.has_published_size)
        for index, field in zip(unknown, probed, strict=True):
            fields[index] = field
        return Table(layers=layers, fields=fields, left_out=left_out, size=size)

    @property
    def has_published_size(self) -> bool:
        """Whether its weights were published for images of one size. Units whose fields are nearly
        as large as these, or larger, are units that see the whole image."""
        return self.size is None and self.model.input_size is not None

    def layer(self, name: str, key: str = "layer", also: Sequence[str] = ()) -> Layer:
        """The layer called `name`; raises `InputError` with similar names.

        key   the setting that names the layer, for the error message
        also  other legal values of that setting
        """
        names = name, unwrapped_name(name)
        for layer in self.traced.layers if self.traced else ():
            if set(names) & set(layer.paths) and self._has_walk(layer):
                return layer
        table = self.table
        for layer in table.layers:
            if set(names) & set(layer.paths):
                return layer
        if name in table.left_out:
            raise InputError(f"{key}={name} of {self.name} is no layer: {table.left_out[name]}.")
        calls = [p for layer in table.layers for p in layer.paths if p.startswith(f"{name}#")]
        if calls:
            raise InputError(
                f"{key}={name} of {self.name} is a module that is called {len(calls)} times. Name "
                f"the call: {key}={calls[0]} to {calls[-1]}."
            )
        known = [layer.name for layer in table.layers]
        raise InputError(
            f"{key}={name} is not a layer of {self.name}. {suggest(name, [*also, *known])} "
            "`diversevis layers` lists them all."
        )

    def field(self, layer: Layer) -> ReceptiveField | None:
        """The field of a layer's units; None: the whole image, or it depends on the unit."""
        if self._has_walk(layer):
            return self._walk(layer)
        names = [known.name for known in self.table.layers]
        return self.table.fields[names.index(layer.name)]

    def unit_fields(self, layer: Layer) -> list[UnitField | None] | None:
        """What each unit of a vector sees of the whole image (`Probe.unit_fields`)."""
        probe = Probe(root=self._with_values(), colors=self.colors)
        return probe.unit_fields(layer, self.table.size)

    def _has_walk(self, layer: Layer) -> bool:
        try:
            self._walk(layer)
        except NoWindow:
            return False
        return True

    def _walk(self, layer: Layer) -> ReceptiveField:
        if self.traced is None or layer.node is None:
            raise NoWindow(layer.name)
        return receptive_field(self.traced.root, self.traced.graph, layer.node)

    def _follows_global_pooling(self, layer: Layer) -> bool:
        """Whether its graph says so; False where that is not known."""
        if self.traced is None:
            return False
        node = layer.node or self.traced.outputs.get(layer.tap.path)
        return node is not None and sees_whole_image(self.traced.root, self.traced.ancestors(node))

    def _field_names(self, root: nn.Module) -> dict[str, str]:
        return self.model.field_names(root) if isinstance(self.model, TorchvisionModel) else {}

    def _with_values(self) -> nn.Module:
        """The network with weights that spread NaN as its own do, where these are not loaded."""
        if getattr(self.model, "weights", "own") in ("own", "random", "pretrained"):
            return self.root
        if isinstance(self.model, CustomModel):
            return self.root
        root = self.model.built().eval().requires_grad_(False)
        for parameter in root.parameters():
            # A single number, seen everywhere: it takes no memory.
            parameter.data = torch.full((1,) * parameter.ndim, CONSTANT).expand(parameter.shape)
        return root

    def _listen(self, root: nn.Module) -> tuple[list[Layer], dict[str, str], Pair]:
        given = self.size or self.model.input_size
        sizes = [given] if given else [(side, side) for side in SIDES]
        generator = torch.Generator().manual_seed(0)
        first: ForwardFailed | None = None
        for size in sizes:
            z = torch.randn(LISTENED, self.colors, *size, generator=generator)
            try:
                with torch.no_grad():
                    return *listen(root, z, self._field_names(root)), size
            except ForwardFailed as error:
                first = first or error
        assert first is not None  # noqa: S101  (there is at least one size)
        raise InputError(self._why_it_failed(first, sizes[0])) from first

    def _why_it_failed(self, error: ForwardFailed, size: Pair) -> str:
        reached = f"after its layer {error.reached}" if error.reached else "before its first layer"
        words = " ".join(str(error).split())
        short = words if len(words) < 300 else f"{words[:300]} ..."
        return (
            f"model {self.name} fails on images of {self.colors} channels and {size[0]} x "
            f"{size[1]} pixels, {reached}: {short}. For a network that takes images of one size "
            "give it, size=224 or size=[36,64]; for one that takes another number of channels give "
            "a mean and std for each, model.mean=[0.5] model.std=[0.25]."
        )

    def _merged(self, heard: Sequence[Layer]) -> list[Layer]:
        """The layers with their nodes in the graph, where it has them."""
        traced = {path: layer for layer in self._traced_layers() for path in layer.paths}
        merged: dict[str, Layer] = {}
        for layer in heard:
            same = next((traced[path] for path in layer.paths if path in traced), None)
            if same is not None and layer.kind == "maps":
                paths = tuple(dict.fromkeys((*same.paths, *layer.paths)))
                layer = replace(same, paths=paths)
            merged.setdefault(layer.name, layer)
        return list(merged.values())

    def _traced_layers(self) -> Sequence[Layer]:
        return self.traced.layers if self.traced else ()

    def tensors(self, layer: Layer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Tensors by name that a weights file must have for `layer`, and all that it depends on."""
        if self.traced is not None and layer.node is not None:
            return self.traced.stored_tensors(layer.node), self.traced.tensors(layer.node)
        state = {
            name: tensor
            for name, tensor in self.root.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        return state, state


def _reasons(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"{path or 'the network'}: {why}" for path, why in left_out.items())[:300]
