"""A network that is opened: its layers, and where their units look.

Where torch.fx can trace it, its graph is the quick way to the layers' names and receptive fields.
What the graph does not tell is asked of the network itself (watch.py, probe.py).
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from diversevis.errors import InputError, suggest
from diversevis.models.architectures import (
    OWN,
    PUBLISHED,
    CustomModel,
    Model,
    TorchvisionModel,
)
from diversevis.models.builders import unwrapped_name
from diversevis.models.layer import Layer
from diversevis.models.listen import ForwardFailed, ShapesAlone, listen
from diversevis.models.probe import Probe, marker_for
from diversevis.models.receptive_field import (
    NoWindow,
    ReceptiveField,
    UnitField,
    receptive_field,
    sees_whole_image,
)
from diversevis.models.trace import TracedModel, trace
from diversevis.models.unit_fields import unit_fields

LOG = logging.getLogger("diversevis")

# Sides of images that are tried on a network whose size of images is not known.
SIDES = 256, 224, 64, 32, 128, 384, 512, 299, 96, 28
LISTENED = 3  # images of the pass that lists layers; no axis of tokens or maps has this length
LARGE, MANY = 256, 150_000_000  # pixels of a side, and weights, above which a pass takes seconds
FEW = 12  # layers of which it is asked at once whether they see the whole image
CONSTANT = 0.01  # value of weights that are yet to be loaded, where only the fields are asked for

Pair = tuple[int, int]


class Listing(NamedTuple):
    """All layers of a network.

    left_out  module path -> why it is no layer
    size      rows and columns of images that the network takes
    """

    layers: Sequence[Layer]
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
        if not isinstance(self.model, OWN):
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
            if isinstance(self.model, OWN):
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
    def listing(self) -> Listing:
        """All layers.

        Raises `InputError` if the network fails on an image, or has no layer.
        """
        layers, left_out, size = self._listen()
        if not layers:
            raise InputError(
                f"model {self.name} has no layer: none of its modules returns a tensor with an "
                f"entry per image. {_reasons(left_out)}"
            )
        return Listing(self._merged(layers), left_out, size)

    def fields(self, layers: Sequence[Layer]) -> list[ReceptiveField | None]:
        """The field of each layer's units; None: they see the whole image, or what they see depends
        on where they are."""
        fields: list[ReceptiveField | None] = [None] * len(layers)
        unknown = []
        for index, layer in enumerate(layers):
            if (walked := self._walk(layer)) is not None:
                fields[index] = walked
            elif layer.kind.startswith("maps") and not self._follows_global_pooling(layer):
                unknown.append(index)
        if unknown:
            root, size = self._with_values, self.listing.size
            probe = Probe(root=root, colors=self.colors, marker=marker_for(root))
            bounded = self._bounded(probe, layers, unknown, size)
            asked = [layers[index] for index in bounded]
            probed = probe.fields(asked, size, thorough=not self.has_published_size)
            for index, field in zip(bounded, probed, strict=True):
                fields[index] = field
        return fields

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
            if set(names) & set(layer.paths) and self._walk(layer) is not None:
                return layer
        listing = self.listing
        for layer in listing.layers:
            if set(names) & set(layer.paths):
                return layer
        if name in listing.left_out:
            raise InputError(f"{key}={name} of {self.name} is no layer: {listing.left_out[name]}.")
        calls = [p for layer in listing.layers for p in layer.paths if p.startswith(f"{name}#")]
        if calls:
            raise InputError(
                f"{key}={name} of {self.name} is a module that is called {len(calls)} times. Name "
                f"the call: {key}={calls[0]} to {calls[-1]}."
            )
        known = [layer.name for layer in listing.layers]
        raise InputError(
            f"{key}={name} is not a layer of {self.name}. {suggest(name, [*also, *known])} "
            "`diversevis layers` lists them all."
        )

    def field(self, layer: Layer) -> ReceptiveField | None:
        """The field of a layer's units; None as for `fields`."""
        if layer.name not in self._known_fields:
            (self._known_fields[layer.name],) = self.fields([layer])
        return self._known_fields[layer.name]

    def unit_fields(self, layer: Layer) -> list[UnitField | None] | None:
        """What each unit of a vector sees of the whole image (unit_fields.py)."""
        return unit_fields(self._with_values, self.colors, layer, self.listing.size)

    @cached_property
    def _known_fields(self) -> dict[str, ReceptiveField | None]:
        return {}

    @cached_property
    def _has_hooks(self) -> bool:
        """Whether hooks of a person may change what modules see or return; no graph shows it."""
        return isinstance(self.model, OWN) and any(
            module._forward_hooks or module._forward_pre_hooks for module in self.root.modules()
        )

    def _walk(self, layer: Layer) -> ReceptiveField | None:
        """The field by the graph; None where that does not tell."""
        if self.traced is None or layer.node is None or self._has_hooks:
            return None
        try:
            return receptive_field(self.traced.root, self.traced.graph, layer.node)
        except NoWindow:
            return None

    def _follows_global_pooling(self, layer: Layer) -> bool:
        """Whether its graph says so; False where that is not known."""
        return self.traced is not None and sees_whole_image(self.traced.root, self._before(layer))

    def _field_names(self, root: nn.Module) -> dict[str, str]:
        return self.model.field_names(root) if isinstance(self.model, TorchvisionModel) else {}

    @cached_property
    def _with_values(self) -> nn.Module:
        """The network, with weights that spread NaN as its own do where its own do not matter."""
        if not isinstance(self.model, PUBLISHED):
            return self.root
        root = replace(self.model, weights="").built().eval().requires_grad_(False)
        for parameter in root.parameters():
            # A single number, seen everywhere: it takes no memory.
            parameter.data = torch.full((1,) * parameter.ndim, CONSTANT).expand(parameter.shape)
        return root

    def _listen(self) -> tuple[list[Layer], dict[str, str], Pair]:
        """Layers, modules that are none, and the image size of the pass that shows them."""
        given = self.size or self.model.input_size
        sizes = [given] if given else [(side, side) for side in SIDES]
        generator = torch.Generator().manual_seed(0)
        first: ForwardFailed | None = None
        published = isinstance(self.model, PUBLISHED)
        for size in sizes:
            try:
                z = torch.randn(LISTENED, self.colors, *size, generator=generator)
            except RuntimeError as error:
                raise InputError(
                    f"Images of {size[0]} x {size[1]} pixels do not fit into memory: give a "
                    "smaller size."
                ) from error
            network = self._with_values
            if published and _is_slow(network, size):
                # Shapes alone, without computing; but it takes a second to load torch's compiler.
                network, z = self.model.skeleton(), z.to("meta")
            try:
                with torch.no_grad(), ShapesAlone() if published else contextlib.nullcontext():
                    return *listen(network, z, self._field_names(network)), size
            except ForwardFailed as error:
                first = first or error
        assert first is not None  # noqa: S101  (there is at least one size)
        raise InputError(self._why_it_failed(first, sizes[0])) from first

    def _bounded(
        self, probe: Probe, layers: Sequence[Layer], unknown: Sequence[int], size: Pair
    ) -> list[int]:
        """Those of the unknown layers whose units do not see the whole image.

        What is computed from units that see the whole image sees it, too: where the graph says what
        is computed from what, the network need not run to its end.
        """
        bounded: list[int] = []
        left = list(unknown)
        while left:
            part = left[:FEW] if self.traced else left
            everything = probe.see_everything([layers[i] for i in part], size)
            whole = {
                self._node(layers[i]) for i, sees in zip(part, everything, strict=True) if sees
            }
            bounded += [i for i, sees in zip(part, everything, strict=True) if not sees]
            left = [i for i in left[len(part) :] if not whole & self._before(layers[i])]
        return bounded

    def _node(self, layer: Layer) -> fx.Node | None:
        """Its node in the graph; None where that is not known."""
        if self.traced is None or layer.tap.call:
            return None
        return layer.node or self.traced.outputs.get(layer.tap.path)

    def _before(self, layer: Layer) -> set[fx.Node]:
        """All nodes that the layer depends on, as far as they are known."""
        node = self._node(layer)
        return self.traced.ancestors(node) if self.traced and node else set()

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


def _is_slow(root: nn.Module, size: Pair) -> bool:
    """Whether a pass takes seconds."""
    return max(size) > LARGE or sum(p.numel() for p in root.parameters()) > MANY


def _reasons(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"{path or 'the network'}: {why}" for path, why in left_out.items())[:300]
