"""How networks are built: a user's function called, random values by seed, wrappers taken off."""

from __future__ import annotations

import contextlib
import copy
import importlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from diversevis.errors import InputError

WRAPPERS = ("module", "_orig_mod")  # attributes that hold the network: DataParallel, torch.compile


class Average(nn.Module):
    """The mean of the outputs of several networks, which are its submodules `0`, `1`, ...

    Takes what its members take; they return tensors of one shape.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.names = [str(index) for index in range(len(members))]
        for name, member in zip(self.names, members, strict=True):
            self.add_module(name, member)

    def forward(self, x: Any) -> Any:  # a tensor, or what torch.fx puts in its place
        outputs = [self.get_submodule(name)(x) for name in self.names]
        return sum(outputs[1:], outputs[0]) / len(outputs)


class NoInitialization(TorchFunctionMode):
    """Skips the in-place initializers of parameters (`normal_`, ...), whose values come later.

    Buffers that a constructor calculates keep their values.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            tensor = args[0] if args else (kwargs or {})["tensor"]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of torch (on the CPU), numpy and Python; afterwards they are as before.

    seed  from 0 to 2^63 - 1; numpy's generator takes its last 32 bits
    """
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not the CUDA generators
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


def without_values(build: Callable[[], nn.Module]) -> nn.Module:
    """Return what `build` returns, with meta tensors in place of all values."""
    try:
        with torch.device("meta"), NoInitialization():
            return build()
    except (NotImplementedError, RuntimeError):  # its constructor calculates with tensors (RegNet)
        with NoInitialization():
            return build().to("meta")


def call_target(target: str, arguments: Mapping[str, Any], seed: int) -> nn.Module:
    """Return the network, in eval mode and without wrappers, that the function `target` returns.

    target     import path, `package.module.function` or `package.module:function`; a class of
               modules is such a function
    arguments  its keyword arguments
    seed       of the random generators during the call

    A list of networks becomes their `Average`. Raises `InputError` where `target` cannot be
    imported or called, and for what is no network.
    """
    build = _import(target)
    try:
        with seeded(seed):
            returned = build(**arguments)
    except (Exception, SystemExit) as error:  # user code can raise anything
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise InputError(
            f"model.target={target} failed when it was called as {target}({given}) "
            f"({type(error).__name__}: {error}). It must be a function that returns an nn.Module; "
            "its keyword arguments are given with 'model.arguments={depth:18}'."
        ) from error
    if isinstance(returned, (list, tuple)):
        return Average([_network(member, target) for member in _not_empty(returned, target)]).eval()
    return _network(returned, target)


def copied(module: nn.Module | Sequence[nn.Module]) -> nn.Module:
    """Return a copy of the network, in eval mode on the CPU and without wrappers.

    Several networks become their `Average`. Raises `InputError` where one cannot be copied, or has
    no values.
    """
    if not isinstance(module, nn.Module):
        return Average([copied(member) for member in module]).eval()
    network, _ = unwrap(module)
    try:
        network = copy.deepcopy(network)
    except Exception as error:  # modules can hold anything
        raise InputError(
            f"{_name(module)} cannot be copied ({type(error).__name__}: {error}), and it must stay "
            "as it is. An activation that it keeps (detach it), an open file or a lock cannot be; "
            "or let a function build it: model=custom model.target=..."
        ) from error
    if any(tensor.is_meta for tensor in _tensors(network)):
        raise InputError(f"{_name(module)} has no values: some of its tensors are on meta.")
    return _on_cpu(network.eval())


def unwrap(network: nn.Module) -> tuple[nn.Module, str]:
    """Return the network inside DataParallel, DistributedDataParallel or torch.compile's module,
    and the prefix that these put before the names of its modules, such as `module.`.

    >>> unwrap(nn.DataParallel(nn.ReLU()))
    (ReLU(), 'module.')
    """
    prefix = ""
    while (name := _wrapper(network)) is not None:
        network, prefix = getattr(network, name), f"{prefix}{name}."
    return network, prefix


def unwrapped_name(name: str) -> str:
    """Return a module's path without the parts that wrappers add to it, also inside an `Average`.

    >>> unwrapped_name("0.module.features.3")
    '0.features.3'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _wrapper(network: nn.Module) -> str | None:
    """The attribute in which a wrapper holds its network; None for any other module."""
    if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "module"
    # By its name: the class is in torch's compiler, whose import takes seconds.
    return "_orig_mod" if type(network).__name__ == "OptimizedModule" else None


def _import(target: str) -> Callable[..., Any]:
    module_name, _, function_name = target.replace(":", ".").rpartition(".")
    try:
        if "" not in sys.path:  # the current folder, last: it must not hide installed packages
            sys.path.append("")
        return getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:  # user code can raise anything
        raise InputError(
            f"model.target={target} cannot be imported ({type(error).__name__}: {error}). "
            "It is the import path of a function, such as mypackage.networks.build, that "
            "returns an nn.Module."
        ) from error


def _not_empty(members: Sequence[Any], target: str) -> Sequence[Any]:
    if not members:
        raise InputError(
            f"model.target={target} returned an empty {type(members).__name__}: it must return an "
            "nn.Module, or a list of several whose outputs are averaged."
        )
    return members


def _network(returned: Any, target: str) -> nn.Module:
    """The module in eval mode, on the CPU (or without values, on the meta device)."""
    if not isinstance(returned, nn.Module):
        raise InputError(
            f"model.target={target} returned a {type(returned).__name__}, not an nn.Module (or a "
            "list of them, whose outputs are averaged)."
        )
    network, _ = unwrap(returned.eval())
    return _on_cpu(network)


def _on_cpu(network: nn.Module) -> nn.Module:
    if any(is_lazy(tensor) for tensor in _tensors(network)):
        raise InputError(
            f"{_name(network)} has modules whose weights have no values before its first pass "
            "(nn.LazyConv2d): run it once on an image before you give it away."
        )
    elsewhere = any(tensor.device.type not in ("cpu", "meta") for tensor in _tensors(network))
    return network.cpu() if elsewhere else network


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]


def _name(module: nn.Module) -> str:
    return type(module).__name__
