"""What the loop in descend.py, the optimizers and their callers agree on.

A "set" is a set of images that are optimized together: those of a unit (at one diversity weight),
or a single image in the search for a unit's best response. All sets are optimized side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "set image color height width"]
Terms = dict[str, Float[Tensor, " set"]]
Tensors = dict[str, Tensor]
# A number of a step: a float where all steps have the same, else a tensor without axes.
Number = float | Tensor
Numbers = dict[str, Number]

# Images, index [set] into the start, emphasis=..., softness=... -> terms by name: `loss`, which
# is minimised, `descent`, whose gradient is followed (the loss, or a guide to it), and others.
Evaluate = Callable[..., Terms]

# Called after every step: its number, index of the sets still at work, their images and terms.
Listener = Callable[[int, Sequence[int], Tensor, Tensors], None]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is optimized, over images of fixed norm."""

    evaluate: Evaluate
    # Parameters -> images of the norm (only the parameters' direction matters).
    render: Callable[[Images], Images]
    # Gradient with respect to images -> the same with its frequencies weighted.
    precondition: Callable[[Images], Images]
    # The same for objectives whose curvature grows with frequency, as that of a prior does: they
    # need more weight on low ones. None: the objective is none of these.
    precondition_stiff: Callable[[Images], Images] | None = None
    # So many consecutive sets are rivals: only the best of them counts, and after every eighth of
    # the steps the worse half of them stops.
    rivals: int = 1
    # A step of at most so many images may be recorded as a CUDA graph.
    recorded: int = 0


class State(NamedTuple):
    """A computation between two steps: tensors by name, and values that JSON can hold."""

    tensors: Tensors
    facts: dict[str, Any]

    def part(self, name: str) -> State:
        """The state that was stored under `name`."""
        prefix = f"{name}."
        names = [stored for stored in self.tensors if stored.startswith(prefix)]
        tensors = {stored.removeprefix(prefix): self.tensors[stored] for stored in names}
        return State(tensors, self.facts.get(name, {}))


@runtime_checkable
class LoopCheckpoint(Protocol):
    """Stores a loop's state, so that another process can continue it."""

    def restore(self) -> State | None: ...  # to continue from; None: start at the beginning

    # Called between any two steps; `snapshot` returns the state, valid until the next step.
    def __call__(self, step: int, snapshot: Callable[[], State]) -> None: ...


@runtime_checkable
class PhaseCheckpoints(Protocol):
    """Stores a batch of units through its phases, `search` and `diverse`."""

    @property
    def seconds(self) -> float: ...  # spent on the batch so far, by all processes

    def of(self, phase: str) -> LoopCheckpoint: ...  # stores the state of a phase's loop

    def remember(self, tensors: Tensors) -> None: ...  # of a finished phase

    def recall(self) -> Tensors | None: ...  # what was remembered


@runtime_checkable
class StepProgress(Protocol):
    """Shows how far a batch of units has come; `step` is a `Listener`."""

    def begin(self, phase: str) -> None: ...

    def step(self, step: int, rows: Sequence[int], images: Tensor, terms: Tensors) -> None: ...


def guidance(
    done: float, guided: float, emphasis: float, softness: float, power: int = 1
) -> tuple[float, float]:
    """Emphasis on distances and softness of the smallest distance when a share `done` of the steps
    is done: the emphasis falls to 1 at the share `guided`, along a line or a parabola (`power` 2),
    the softness to 0 at the end."""
    left = max(0.0, 1 - done / guided)
    return 1 + (emphasis - 1) * left**power, softness * (1 - done)


def tangent(images: Images, gradient: Images) -> Images:
    """The part of `gradient` along which the images' norm does not change."""
    along = (images * gradient).sum((2, 3, 4), keepdim=True) / sizes(images).square()
    return torch.addcmul(gradient, images, along, value=-1)


def sizes(images: Images) -> Float[Tensor, "set image 1 1 1"]:
    """Euclidean norm of every image."""
    return torch.linalg.vector_norm(images, dim=(2, 3, 4), keepdim=True)
