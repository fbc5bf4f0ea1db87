"""The networks a user can name: the analytic network, torchvision's classifiers, a custom network.

A frozen description per kind. Its `skeleton()` is the module to trace: torchvision's networks have
no values there (meta tensors), so that opening a network of half a gigabyte takes milliseconds.
"""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from diversevis.errors import InputError, suggest
from diversevis.models.energy import EnergyNetwork

Color = tuple[float, ...]  # a number per channel of the input


@dataclass(frozen=True, kw_only=True)
class EnergyModel:
    """The analytic network (docs/method.md, section 9); its weights are computed."""

    kind: Literal["energy"]
    name: str
    default_layer: str | None

    def skeleton(self) -> nn.Module:
        return EnergyNetwork().eval()


@dataclass(frozen=True, kw_only=True)
class TorchvisionModel:
    """A classifier of torchvision, by its name.

    weights    `imagenet`, `random` (the architecture's own initialization), or a file
    seed       of random weights
    mean, std  of the network's input, RGB in [0, 1]; None: the values that
               belong to the weights
    container  where in the file the weights are; None: found by the tensors' names and shapes.
               It has a default here since records of earlier runs lack it
    """

    kind: Literal["torchvision"]
    name: str
    default_layer: str | None
    weights: str
    seed: int
    mean: Color | None
    std: Color | None
    container: str | None = None

    def skeleton(self) -> nn.Module:
        """The network without values; raises `InputError` for a name torchvision does not have."""
        try:
            with torch.device("meta"), _NoInitialization():
                return self._build()
        except NotImplementedError:  # its constructor calculates with tensors (RegNet)
            with _NoInitialization():
                return self._build().to("meta")

    def initialized(self) -> nn.Module:
        """The network with random weights from `seed`; the global random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)  # not the CUDA generators
            return self._build()

    def published_weights(self) -> Any:
        """torchvision's official weights for this network (its `IMAGENET1K_V1`)."""
        models = import_torchvision_models()
        weights = models.get_model_weights(self.name)
        if not hasattr(weights, "IMAGENET1K_V1"):
            raise InputError(
                f"torchvision publishes no IMAGENET1K_V1 weights for model {self.name}. Give a "
                "file with model.weights=FILE, or use model.weights=random."
            )
        return weights.IMAGENET1K_V1

    def published_mean_std(self) -> tuple[Color, Color]:
        """Input mean and standard deviation that belong to torchvision's weights."""
        if self.name in INCEPTION_NAMES:
            # Their `transform_input` turns ImageNet's normalization into this; it is switched off.
            return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the ImageNet training images

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

    def _build(self) -> nn.Module:
        models = import_torchvision_models()
        classifiers = models.list_models(module=models)
        if self.name not in classifiers:
            raise InputError(
                f"model.name={self.name} is not a classifier of torchvision. "
                f"{suggest(self.name, classifiers)}"
            )
        options: dict[str, Any] = {}
        if self.name in INCEPTION_NAMES:
            options = {"init_weights": True, "transform_input": False}
        return models.get_model(self.name, weights=None, **options).eval()


@dataclass(frozen=True, kw_only=True)
class CustomModel:
    """A user's network: `target` is the import path of a function returning an `nn.Module`.

    weights    `own` (the values that the function returns) or a file
    mean, std  of the network's input, RGB in [0, 1]
    container  as for torchvision's networks
    """

    kind: Literal["custom"]
    name: str | None
    default_layer: str | None
    target: str
    weights: str
    mean: Color | None
    std: Color | None
    container: str | None = None

    def skeleton(self) -> nn.Module:
        """The network itself; raises `InputError` where `target` cannot be imported or called."""
        module_name, _, function_name = self.target.replace(":", ".").rpartition(".")
        try:
            if "" not in sys.path:  # the current folder, last: it must not hide installed packages
                sys.path.append("")
            build = getattr(importlib.import_module(module_name), function_name)
        except Exception as error:  # user code can raise anything
            raise InputError(
                f"model.target={self.target} cannot be imported ({type(error).__name__}: {error}). "
                "It is the import path of a function, such as mypackage.networks.build, that "
                "returns an nn.Module."
            ) from error
        try:
            network = build()
        except Exception as error:
            raise InputError(
                f"model.target={self.target} failed ({type(error).__name__}: {error}). It must be "
                "a function that needs no arguments and returns an nn.Module."
            ) from error
        if not isinstance(network, nn.Module):
            raise InputError(
                f"model.target={self.target} returned a {type(network).__name__}, not an nn.Module."
            )
        return network.eval()


Model = EnergyModel | TorchvisionModel | CustomModel
INCEPTION_NAMES = ("googlenet", "inception_v3")  # torchvision gives them another normalization


class _NoInitialization(TorchFunctionMode):
    """Skips the in-place initializers (`normal_`, ...): a skeleton has no values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def import_torchvision_models() -> types.ModuleType:
    """Import `torchvision.models` without torch's compiler, which is not used here.

    torchvision's RoI-align imports `torch._dynamo` for a single flag, which doubles the start-up
    time. While torchvision is imported, a stand-in takes its place, which asks the real function
    when it is called.
    """
    if "torchvision" in sys.modules or "torch._dynamo" in sys.modules:
        return importlib.import_module("torchvision.models")

    def is_compile_supported(device_type: str) -> bool:
        from torch._dynamo.utils import is_compile_supported as answer

        return answer(device_type)

    compiler, utils = types.ModuleType("torch._dynamo"), types.ModuleType("torch._dynamo.utils")
    utils.is_compile_supported = is_compile_supported  # type: ignore[attr-defined]
    compiler.utils = utils  # type: ignore[attr-defined]
    stand_ins = {"torch._dynamo": compiler, "torch._dynamo.utils": utils}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("torchvision.models")
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)
