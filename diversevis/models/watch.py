"""Forward passes of any network, watched from outside: what its modules answer.

Forward hooks see what a module returns, and a function mode sees the nonlinearities in between, so
that a response can be taken before its nonlinearity. The network's code is not read.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from diversevis.models.layer import DESCRIPTIONS, NONLINEARITIES, Kind, Layer, Tap

# Names of functions, for torch.relu as for Tensor.relu_; modules call the functions.
NAMES = {
    key if isinstance(key, str) else key.__name__: text  # type: ignore[attr-defined]
    for key, text in NONLINEARITIES.items()
    if not isinstance(key, type)
}
JOINS = torch.cat, torch.concat, torch.concatenate

Key = tuple[int, int]  # a tensor's id, and its version


class Nonlinear(NamedTuple):
    """What a nonlinearity was given: `source` is the tensor, in its version `given`; `value`
    returns its values, which differ where the nonlinearity has overwritten them. `made` is the
    version of the output: a later one is no longer what the nonlinearity returned."""

    source: Tensor
    given: int
    value: Callable[[], Tensor]
    name: str
    made: int


class ForwardFailed(Exception):
    """A network's forward raised an error; `reached` is the last module that returned."""

    def __init__(self, error: Exception, reached: str | None) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.reached = reached


class Reached(BaseException):
    """Ends a forward pass of which nothing more is wanted. Not an `Exception`: networks may catch
    those."""


class Nonlinearities(TorchFunctionMode):
    """Remembers what the nonlinearities of a forward pass were given.

    after  called with input, its version, name and output of every nonlinearity
    """

    def __init__(self, after: Callable[[Tensor, int, str, Tensor], None]) -> None:
        super().__init__()
        self.after = after
        self.before: Any = WeakIdKeyDictionary()  # a nonlinearity's output -> Nonlinear

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        written = getattr(func, "__name__", "")
        name = NAMES.get(written.rstrip("_"))
        if name is None:
            output = func(*args, **kwargs)
            if func in JOINS:
                self._join(output, *args, **kwargs)
            return output
        source = args[0] if args else kwargs["input"]
        in_place = written.endswith("_") or kwargs.get("inplace", False)
        value, given = source.clone() if in_place else source, version_of(source)
        output = func(*args, **kwargs)
        self.before[output] = Nonlinear(source, given, lambda: value, name, version_of(output))
        self.after(source, given, name, output)
        return output

    def of(self, output: Tensor) -> tuple[Tensor, Nonlinear | None]:
        """The value before the nonlinearities that `output` ends with, and the last of these."""
        value, last, version = output, None, version_of(output)
        while (entry := self.before.get(output)) is not None and entry.made == version:
            value, last = entry.value(), entry
            if entry.source is output:
                break
            output, version = entry.source, entry.given
        return value, last

    def _join(self, output: Tensor, tensors: Sequence[Tensor], *args: Any, **kwargs: Any) -> None:
        """Branches that all end in nonlinearities are, joined, before these."""
        entries = [self.before.get(tensor) for tensor in tensors]
        if all(e and e.made == version_of(t) for e, t in zip(entries, tensors, strict=True)):

            def value() -> Tensor:
                return torch.cat([entry.value() for entry in entries], *args, **kwargs)

            version = version_of(output)
            self.before[output] = Nonlinear(output, version, value, entries[0].name, version)


def version_of(tensor: Tensor) -> int:
    """How often its values have been overwritten (torch does not count in inference mode)."""
    return 0 if tensor.is_inference() else tensor._version


@contextlib.contextmanager
def hooked(
    modules: Mapping[str, nn.Module], hook: Callable[[str, int, nn.Module, Any, Any], None]
) -> Iterator[None]:
    """Call `hook(path, call, module, inputs, output)` after every call of these modules."""
    calls = Counter[str]()

    def count(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        calls[path] += 1
        hook(path, calls[path] - 1, module, inputs, output)

    handles = [
        module.register_forward_hook(partial(count, path))
        for path, module in modules.items()
        if not isinstance(module, torch.jit.ScriptModule)  # it takes no hooks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def responses_at(
    root: nn.Module,
    z: Float[Tensor, "image color height width"],
    taps: Sequence[Tap],
    each: Callable[[int, Tensor], None],
    *,
    stop: bool = True,
    rectified: Collection[int] = (),
) -> None:
    """Run `root` on `z` and call `each(index, response)` for every tap when it is reached.

    stop       end the pass at the last tap; what the network would do afterwards is left out
    rectified  taps of which what later modules read is wanted: the value after the nonlinearity
               where one follows. `each` may be called twice for them; the last call counts
    """
    wanted: dict[tuple[str, int], list[int]] = {}
    for index, tap in enumerate(taps):
        wanted.setdefault((tap.path, tap.call), []).append(index)
    modules = {tap.path: root.get_submodule(tap.path) for tap in taps}
    followed: Any = WeakIdKeyDictionary()  # a response of `rectified` -> its version and index

    def after(source: Tensor, given: int, name: str, output: Tensor) -> None:
        version, index = followed.get(source, (None, None))
        if version == given:
            each(index, output.clone())  # other steps may overwrite it

    watched = rectified or any(tap.before for tap in taps)
    nonlinearities = Nonlinearities(after) if watched else None

    def hook(path: str, call: int, module: nn.Module, inputs: Any, output: Any) -> None:
        for index in wanted.pop((path, call), ()):
            response = output
            if index in rectified:
                followed[output] = version_of(output), index
            elif nonlinearities is not None and taps[index].before:
                response = nonlinearities.of(output)[0]
            each(index, response if stop and not wanted else response.clone())
        if stop and not wanted:
            raise Reached

    watching = nonlinearities or contextlib.nullcontext()
    with contextlib.suppress(Reached), watching, hooked(modules, hook):
        root(z)


def as_maps(value: Tensor, kind: Kind) -> Float[Tensor, "image channel rows columns"]:
    """Responses of any kind as maps; tokens stand below one another."""
    if kind == "maps, channels last":
        return value.permute(0, 3, 1, 2)
    if kind == "tokens":
        return value.transpose(1, 2)[..., None]
    return value[..., None, None] if kind == "vector" else value


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
    given: Key | None  # the module's first input

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
        calls.append(_Call(path, call, module, source, version, shape, before, given))

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
    )


def described(module: nn.Module) -> str:
    """A kind of module in words."""
    named = (text for kind, text in DESCRIPTIONS.items() if isinstance(module, kind))
    return next(named, type(module).__name__)


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
