"""Packages of networks, imported when they are asked for."""

from __future__ import annotations

import importlib
import sys
import types

from diversevis.errors import InputError


def import_timm() -> types.ModuleType:
    """Import timm; raises `InputError` where it is not installed."""
    import_torchvision_models()  # before timm does, with the compiler
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise InputError(
            f"model=timm needs the package timm, which cannot be imported ({error}): "
            "pip install 'diversevis[timm]'."
        ) from error


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
