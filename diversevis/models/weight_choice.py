"""Which tensors of a weights file are a network's: a container and a prefix of its names.

Training wraps a network and its state_dict: `{"epoch": 90, "state_dict": {"module.conv1.weight":
...}}`. No list of such names is needed: a choice of container and prefix is right where it has
every tensor that the network needs, by name and shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diversevis.errors import InputError, suggest
from diversevis.models.weight_formats import Container


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A container of a file, and the prefix that its names have before the network's own.

    prefix  ends in a dot (`module.`), or is empty
    named   how many of the needed tensors are there by name
    fits    how many of these have the right shape too
    """

    container: Container
    prefix: str
    named: int
    fits: int

    @property
    def path(self) -> str:
        """What `model.container` calls this choice: the container's keys, then the prefix."""
        return ".".join(filter(None, (self.container.path, self.prefix.rstrip("."))))

    @property
    def words(self) -> str | None:
        """The choice for a person; None for the names at the top level as they are."""
        parts = {"container": self.container.path, "prefix": self.prefix}
        return ", ".join(f"{what} {name}" for what, name in parts.items() if name) or None

    def names(self) -> frozenset[str]:
        """The names of the container's tensors with this prefix, without it."""
        return frozenset(
            name.removeprefix(self.prefix)
            for name in self.container.names
            if name.startswith(self.prefix)
        )

    def read(self, name: str) -> Tensor:
        return self.container.read(self.prefix + name)


def choose(
    path: Path,
    containers: Sequence[Container],
    wanted: Mapping[str, Tensor],
    where: str | None = None,
) -> Choice:
    """The choice that has most of the tensors in `wanted`.

    wanted  tensors of the right shapes, by the network's own names
    where   `model.container`: choices elsewhere are left out

    The network's own names come first: a prefix is taken off only where that brings more tensors.
    Where nothing has any of the names, it is the first container as it is, with `named` 0.

    Raises `InputError` if several choices have equally many, and other values in them; or if the
    file has nothing at `where`.
    """
    choices = list(_choices(containers, wanted))
    if where is not None:
        choices = _at(path, containers, choices, where)
    if not choices:
        nearest = next(one for one in containers if where in (None, one.path))
        return Choice(container=nearest, prefix="", named=0, fits=0)
    most = max((choice.fits, choice.named) for choice in choices)
    leaders = [choice for choice in choices if (choice.fits, choice.named) == most]
    plain = [choice.container.path for choice in leaders if not choice.prefix]
    if "" in plain:
        return next(choice for choice in leaders if choice.words is None)
    leaders = [one for one in leaders if not one.prefix or one.container.path not in plain]
    first, *others = leaders
    if first.fits and not all(_have_same_values(first, other, wanted) for other in others):
        raise InputError(
            f"model.weights={path} holds several sets of weights that fit equally well (each has "
            f"{first.fits} of the {len(wanted)} tensors looked for), with different values: "
            f"{', '.join(choice.path for choice in leaders)}. Say which, for instance "
            f"model.container={first.path}."
        )
    return first


def _choices(containers: Sequence[Container], wanted: Mapping[str, Tensor]) -> Iterator[Choice]:
    """All choices that have at least one wanted name."""
    for container in containers:
        named: Counter[str] = Counter()
        for name in container.names:
            own, dot = name, "."
            while dot:
                if own in wanted:
                    named[name.removesuffix(own)] += 1
                _, dot, own = own.partition(".")
        for prefix, count in sorted(named.items()):
            there = [name for name in wanted if prefix + name in container.names]
            shapes = [container.read(prefix + name).shape for name in there]
            fits = sum(wanted[n].shape == shape for n, shape in zip(there, shapes, strict=True))
            yield Choice(container=container, prefix=prefix, named=count, fits=fits)


def _at(
    path: Path, containers: Sequence[Container], choices: Sequence[Choice], where: str
) -> list[Choice]:
    """The choices that `model.container` names: a container, or one with a prefix."""
    found = [choice for choice in choices if where in (choice.path, choice.container.path)]
    known = {container.path for container in containers} | {choice.path for choice in choices}
    if not found and where not in known:
        known.discard("")
        legal = suggest(where, sorted(known)) if known else "Leave model.container out."
        raise InputError(f"model.container={where} is not in {path}. {legal}")
    return found


def _have_same_values(first: Choice, second: Choice, wanted: Mapping[str, Tensor]) -> bool:
    """Whether the wanted tensors are the same in both, to the bit."""
    names = [name for name in wanted if first.prefix + name in first.container.names]
    if any(second.prefix + name not in second.container.names for name in names):
        return False
    pairs = ((first.read(name), second.read(name)) for name in names)
    return all(a.dtype == b.dtype and torch.equal(_bytes(a), _bytes(b)) for a, b in pairs)


def _bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor: as numbers, NaN would differ from itself."""
    return tensor.detach().flatten().contiguous().view(torch.uint8)
