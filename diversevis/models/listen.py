"""The layers of any network: the tensors that its modules return in a forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from diversevis.models.layer import NONLINEARITIES, Kind, Layer, Tap, described
from diversevis.models.watch import Nonlinearities, hooked, version_of

Key = tuple[int, int]  # a tensor's id, and its version


class ForwardFailed(Exception):
    """A network's forward raised an error; `reached` is the last module that returned."""

    def __init__(self, error: Exception, reached: str | None) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.reached = reached


class ShapesAlone(TorchFunctionMode):
    """Convolutions and products with matrices return zeros: for a pass of which only the shapes
    count, and which they would make take seconds. Errors of shapes are raised all the same."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shortened = {torch.conv2d: _convolved, nn.functional.linear: _projected}.get(func)
        output = None if shortened is None else shortened(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if output is None else output


def _convolved(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor | None:  # fmt: skip
    """Zeros in the shape of `torch.conv2d`, which is asked for a single map; None where the input
    does not fit the weights."""
    if input.ndim != 4 or input.shape[1] != groups * weight.shape[1]:
        return None
    group = input[:1, : weight.shape[1]]
    maps = torch.conv2d(group, weight[:1], None, stride, padding, dilation)
    return input.new_zeros(len(input), len(weight), *maps.shape[2:])


def _projected(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Zeros in the shape of `nn.functional.linear`; None where input and weights do not fit."""
    if weight.ndim != 2 or input.shape[-1] != weight.shape[1]:
        return None
    return input.new_zeros(*input.shape[:-1], len(weight))


class _Call(NamedTuple):
    """A call of a module: its response, before nonlinearities, and the tensor it is known by.

    Steps may overwrite that tensor (`out += x`): each of its versions is another response.
    """

    path: str
    call: int
    module: nn.Module
    source: Tensor
    version: int
    shape: torch.Size
    before: str | None
    first: Tensor | None  # the first input; it must live on, or another tensor may get its id
    given: Key | None  # of this input

    @property
    def key(self) -> Key:
        return id(self.source), self.version


def listen(
    root: nn.Module, z: Float[Tensor, "image color height width"], field_names: Mapping[str, str]
) -> tuple[list[Layer], dict[str, str]]:
    """The layers of `root`, in the order of computation, and why other modules are none.

    z            at least two images, so that axes of other things than images show
    field_names  module path -> name used in the field, where the two differ

    A layer is a tensor that modules return, or that they return after a nonlinearity. It is named
    after the first module that computes it. A convolution with batch norm after it has the
    response after the norm. Raises `ForwardFailed`.
    """
    calls: list[_Call] = []
    reasons: dict[str, str] = {}
    # A response -> by version, name of the nonlinearity that reads it.
    followed: Any = WeakIdKeyDictionary()

    def after(source: Tensor, given: int, name: str, output: Tensor) -> None:
        followed.setdefault(source, {}).setdefault(given, name)

    nonlinearities = Nonlinearities(after)

    def hook(path: str, call: int, module: nn.Module, inputs: Any, output: Any) -> None:
        if reason := _why_no_layer(output, len(z)):
            reasons.setdefault(path, reason)
            return
        value, last = nonlinearities.of(output)
        source, version = (last.source, last.given) if last else (output, version_of(output))
        before = last.name if last else None
        first = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        given = None if first is None else (id(first), version_of(first))
        shape = value.shape
        calls.append(_Call(path, call, module, source, version, shape, before, first, given))

    modules = dict(root.named_modules())
    try:
        with nonlinearities, hooked(modules, hook):
            root(z)
    except Exception as error:  # networks can raise anything
        raise ForwardFailed(error, calls[-1].path if calls else None) from error
    called = {call.path for call in calls} | reasons.keys()
    for path in (path for path in modules if path not in called):
        if isinstance(modules[path], torch.jit.ScriptModule):
            reasons[path] = "torch.jit has compiled it"
        # Lists of modules have no forward, and are no modules that somebody would look for.
        elif type(modules[path]).forward is not nn.Module.forward:
            reasons[path] = "it is not called"
    return _group(calls, z, followed, field_names), reasons


def _why_no_layer(output: Any, images: int) -> str | None:
    if not isinstance(output, Tensor):
        return f"it returns a {type(output).__name__}, not a tensor"
    if not output.is_floating_point():
        return f"it returns {output.dtype}, not floating-point numbers"
    if output.ndim not in (2, 3, 4) or len(output) != images:
        shape = list(output.shape)
        return f"it returns {shape} for {images} images: no maps, tokens or vector for each"
    return None


def _group(
    calls: Sequence[_Call], z: Tensor, followed: Any, field_names: Mapping[str, str]
) -> list[Layer]:
    """Calls with the same response are one layer."""
    normalized: dict[Key, Key] = {}  # a convolution's output -> that of its batch norm
    convolutions = {call.key for call in calls if isinstance(call.module, nn.Conv2d)}
    for call in calls:
        if is_batch_norm(call.module) and call.given is not None and call.given in convolutions:
            normalized[call.given] = call.key
    groups: dict[Key, list[_Call]] = {}
    for call in calls:
        if call.source is not z or call.version:
            groups.setdefault(normalized.get(call.key, call.key), []).append(call)
    count = Counter(call.path for call in calls)
    return [_layer(group, count, z, followed, field_names) for group in groups.values()]


def _layer(
    group: Sequence[_Call],
    count: Mapping[str, int],
    z: Tensor,
    followed: Any,
    field_names: Mapping[str, str],
) -> Layer:
    named = sorted(group, key=lambda call: type(call.module) in NONLINEARITIES)
    norm = next((call for call in group if is_batch_norm(call.module)), None)
    read = norm or named[0]
    what = described(named[0].module)
    if norm is not None and norm is not named[0]:
        what += " + batch norm"
    nonlinear = read.before or followed.get(read.source, {}).get(read.version)
    paths = tuple(_name(call, count) for call in named)
    name = field_names.get(paths[0], paths[0])
    kind = _kind(read.shape, z.shape)
    return Layer(
        name=name,
        paths=tuple(dict.fromkeys((name, *paths))),
        tap=Tap(read.path, read.call, read.before is not None),
        kind=kind,
        channels=read.shape[1 if kind in ("maps", "vector") else -1],
        response=f"{what}, before its {nonlinear}" if nonlinear else what,
        nonlinearity=nonlinear,
    )


def _name(call: _Call, count: Mapping[str, int]) -> str:
    path = call.path or "output"
    return path if count[call.path] == 1 else f"{path}#{call.call + 1}"


def is_batch_norm(module: nn.Module) -> bool:
    """Also torchvision's frozen one and its relatives."""
    return isinstance(module, nn.BatchNorm2d) or "BatchNorm" in type(module).__name__


def _kind(shape: torch.Size, images: torch.Size) -> Kind:
    """The order of the axes: of maps, rows and columns have the sides' ratio of the image."""
    if len(shape) < 4:
        return "vector" if len(shape) == 2 else "tokens"
    ratio = images[2] / images[3]
    first, last = shape[2] / shape[3], shape[1] / shape[2]

    def distance(value: float) -> float:
        return max(value / ratio, ratio / value)

    return "maps" if distance(first) <= distance(last) else "maps, channels last"
