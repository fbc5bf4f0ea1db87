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

from diversevis.models.layer import NONLINEARITIES, Kind, Tap

# Names of functions, for torch.relu as for Tensor.relu_; modules call the functions.
NAMES = {
    key if isinstance(key, str) else key.__name__: text  # type: ignore[attr-defined]
    for key, text in NONLINEARITIES.items()
    if not isinstance(key, type)
}
JOINS = torch.cat, torch.concat, torch.concatenate


class Nonlinear(NamedTuple):
    """What a nonlinearity was given: `source` is the tensor, in its version `given`; `value`
    returns its values, which differ where the nonlinearity has overwritten them. `made` is the
    version of the output: a later one is no longer what the nonlinearity returned."""

    source: Tensor
    given: int
    value: Callable[[], Tensor]
    name: str
    made: int


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
