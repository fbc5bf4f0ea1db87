"""The networks a user can name or hand over: the analytic network, classifiers of torchvision and
timm, custom ones, and modules in memory.

A frozen description per kind, each with

skeleton()  the module to trace: torchvision's and timm's networks have no values there (meta
            tensors), so that opening a network of half a gigabyte takes milliseconds
built()     the network itself, in eval mode on the CPU; its parameters have no meaning where their
            values come from a file
input_size  rows and columns of the images for which its weights were published; None: not known
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from diversevis.errors import InputError, suggest
from diversevis.models.builders import (
    NoInitialization,
    call_target,
    copied,
    seeded,
    without_values,
)
from diversevis.models.convention import Convention
from diversevis.models.energy import EnergyNetwork
from diversevis.models.packages import import_timm, import_torchvision_models

Color = tuple[float, ...]  # a number per channel of the input


@dataclass(frozen=True, kw_only=True)
class EnergyModel:
    """The analytic network (docs/method.md, section 9); its weights are computed."""

    kind: Literal["energy"]
    name: str
    default_layer: str | None

    @property
    def input_size(self) -> None:
        return None

    def skeleton(self) -> nn.Module:
        return self.built()

    def built(self) -> nn.Module:
        return EnergyNetwork().eval()


@dataclass(frozen=True, kw_only=True)
class TorchvisionModel(Convention):
    """A classifier of torchvision, by its name.

    weights    `imagenet`, `random` (the architecture's own initialization), or a file
    container  where in the file the weights are; None: found by the tensors' names and shapes
    seed       of random weights

    Raises `InputError` for an input that is not RGB.
    """

    kind: Literal["torchvision"]
    name: str
    default_layer: str | None
    weights: str
    container: str | None
    seed: int

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != 3:
                raise InputError(
                    f"model.{name}={list(values)} has the wrong length: torchvision's networks "
                    f"take RGB images, so it needs 3 numbers, model.{name}=[0.5,0.5,0.5]."
                )
        super().__post_init__()

    @property
    def input_size(self) -> tuple[int, int]:
        (side,) = self._published().transforms().crop_size
        return side, side

    def skeleton(self) -> nn.Module:
        """The network without values; raises `InputError` for a name torchvision does not have."""
        return without_values(self._build)

    def built(self) -> nn.Module:
        """The network; its random weights are those of `seed`, others are yet to be loaded."""
        if self.weights == "random":
            return self.initialized()
        with NoInitialization():
            return self._build()

    def initialized(self) -> nn.Module:
        """The network with random weights from `seed`; the global random state stays as it was."""
        with seeded(self.seed):
            return self._build()

    def published_weights(self) -> Any:
        """torchvision's official weights for this network: its `IMAGENET1K_V1`, or where it has
        none (vit_h_14) its default."""
        return self._published()

    def published_mean_std(self) -> tuple[Color, Color]:
        """Input mean and standard deviation that belong to torchvision's weights."""
        if self.name in INCEPTION_NAMES:
            # Their `transform_input` turns ImageNet's normalization into this; it is switched off.
            return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        transforms = self._published().transforms()
        return tuple(transforms.mean), tuple(transforms.std)

    def field_names(self, root: nn.Module) -> dict[str, str]:
        """Module path -> name used in the field: VGG's layers are known as conv3_1, pool3."""
        if not self.name.startswith("vgg"):
            return {}
        names, block, index = {}, 1, 0
        for position, module in enumerate(root.get_submodule("features").children()):
            if isinstance(module, nn.Conv2d):
                index += 1
                names[f"features.{position}"] = f"conv{block}_{index}"
            elif isinstance(module, nn.MaxPool2d):
                names[f"features.{position}"] = f"pool{block}"
                block, index = block + 1, 0
        return names

    def _published(self) -> Any:
        models = import_torchvision_models()
        classifiers = models.list_models(module=models)
        if self.name not in classifiers:
            raise InputError(
                f"model.name={self.name} is not a classifier of torchvision. "
                f"{suggest(self.name, classifiers)}"
            )
        weights = models.get_model_weights(self.name)
        return weights.IMAGENET1K_V1 if hasattr(weights, "IMAGENET1K_V1") else weights.DEFAULT

    def _build(self) -> nn.Module:
        options: dict[str, Any] = {}
        if self.name in INCEPTION_NAMES:
            options = {"init_weights": True, "transform_input": False}
        self._published()  # refuses unknown names
        if self.name.startswith("vit_"):  # a code for every position in an image of one size
            options = {"image_size": self.input_size[0]}
        return import_torchvision_models().get_model(self.name, weights=None, **options).eval()


@dataclass(frozen=True, kw_only=True)
class TimmModel(Convention):
    """A network of timm (pytorch-image-models), by its name, with or without a tag of weights.

    weights    `pretrained` (timm's download), `random` (its own initialization), or a file
    container  where in the file the weights are; None: found by the tensors' names and shapes
    seed       of random weights
    """

    kind: Literal["timm"]
    name: str
    default_layer: str | None
    weights: str
    container: str | None
    seed: int

    @property
    def input_size(self) -> tuple[int, int]:
        _, rows, columns = self._published().input_size
        return rows, columns

    def skeleton(self) -> nn.Module:
        """The network without values; raises `InputError` for a name timm does not have."""
        return without_values(self._build)

    def built(self) -> nn.Module:
        """The network with its weights; those of a file are yet to be loaded.

        Raises `InputError` if timm has no weights for it, or they cannot be downloaded.
        """
        if self.weights == "random":
            with seeded(self.seed):
                return self._build()
        if self.weights == "pretrained":
            return self._download()
        with NoInitialization():
            return self._build()

    def published_mean_std(self) -> tuple[Color, Color]:
        """Input mean and standard deviation that belong to timm's weights."""
        published = self._published()
        return tuple(published.mean), tuple(published.std)

    def _published(self) -> Any:
        """What timm says of its weights for this name (its `pretrained_cfg`)."""
        timm = import_timm()
        try:
            return timm.get_pretrained_cfg(self.name, allow_unregistered=False)
        except RuntimeError as error:  # no such network, or no such tag
            architecture = self.name.partition(".")[0]
            tagged = timm.list_models(f"{architecture}.*", pretrained=True)
            hint = suggest(self.name, tagged or timm.list_models())
            raise InputError(f"model.name={self.name} is not a network of timm. {hint}") from error

    def _build(self) -> nn.Module:
        self._published()  # refuses unknown names
        return import_timm().create_model(self.name, pretrained=False).eval()

    def _download(self) -> nn.Module:
        """The network with timm's weights, from its cache (the hub's, HF_HOME) or the internet."""
        if not self._published().has_weights:
            raise InputError(
                f"timm publishes no weights for model {self.name}. Give a file with "
                "model.weights=FILE, or use model.weights=random."
            )
        try:
            return import_timm().create_model(self.name, pretrained=True).eval()
        except Exception as error:  # of the hub's client, of urllib or of timm
            raise InputError(
                f"timm's weights of model {self.name} could not be loaded ("
                f"{' '.join(str(error).split())}). Three remedies: run `diversevis weights "
                f"model=timm model.name={self.name}` on a machine with internet and copy its cache "
                "here (the folder in HF_HOME, or ~/.cache/huggingface); give a file with "
                "model.weights=FILE; or use model.weights=random."
            ) from error


@dataclass(frozen=True, kw_only=True)
class CustomModel(Convention):
    """A user's network: `target` is the import path of a function returning an `nn.Module`, or a
    list of them, whose outputs are averaged.

    arguments  keyword arguments of the function
    weights    `own` (the values that the function returns) or a file
    container  as for torchvision's networks
    seed       of the random generators while the function runs
    """

    kind: Literal["custom"]
    name: str | None
    default_layer: str | None
    target: str
    arguments: Mapping[str, Any] = field(hash=False)  # no dict has a hash
    weights: str
    container: str | None
    seed: int

    @property
    def input_size(self) -> None:
        return None

    def skeleton(self) -> nn.Module:
        return self.built()

    def built(self) -> nn.Module:
        """The network itself; raises `InputError` where `target` cannot be imported or called."""
        return call_target(self.target, self.arguments, self.seed)


@dataclass(frozen=True, kw_only=True)
class MemoryModel(Convention):
    """A module in memory, or several, whose outputs are averaged. They stay as they are.

    name  for titles and messages
    """

    kind: Literal["memory"]
    name: str
    module: nn.Module | tuple[nn.Module, ...]

    @property
    def input_size(self) -> None:
        return None

    @property
    def weights(self) -> str:
        return "own"

    @property
    def container(self) -> None:
        return None

    def skeleton(self) -> nn.Module:
        return self.built()

    def built(self) -> nn.Module:
        """A copy, in eval mode on the CPU; raises `InputError` where a module has none."""
        return copied(self.module)


Model = EnergyModel | TorchvisionModel | TimmModel | CustomModel | MemoryModel
OWN = CustomModel, MemoryModel  # a user's networks: only they know what these compute
PUBLISHED = TorchvisionModel, TimmModel  # networks of packages: their weights are loaded later
INCEPTION_NAMES = ("googlenet", "inception_v3")  # torchvision gives them another normalization
