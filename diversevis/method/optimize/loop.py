"""What the optimization and its surroundings agree on; descend.py has the loop itself.

A "set" is a set of images that are optimized together: those of a unit (at one diversity weight),
or a single image in the search for a unit's best response. All sets are optimized side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Images = Float[Tensor, "set image 3 height width"]
Terms = dict[str, Float[Tensor, " set"]]
Tensors = dict[str, Tensor]

# Images, their index [set] into the start, emphasis=..., softness=... -> terms by name, all [set]:
# among them `loss`, which is minimised, and `descent`, whose gradient is followed (the loss itself,
# or a guide to it).
Evaluate = Callable[..., Terms]

# Called after every step: its number, index of the sets still at work, their images and terms.
Listener = Callable[[int, Sequence[int], Tensor, dict[str, Tensor]], None]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is optimized, over images of fixed norm."""

    evaluate: Evaluate
    # Parameters -> images of the norm (only the parameters' direction matters).
    render: Callable[[Images], Images]
    # Gradient with respect to images -> the same with its frequencies weighted.
    precondition: Callable[[Images], Images]


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
class Keep(Protocol):
    """Stores a loop's state, so that another process can continue it.

    restore  the state to continue from, None to start at the beginning
    (call)   called between any two steps; `snapshot` returns the state, valid until the next step
    """

    def restore(self) -> State | None: ...

    def __call__(self, step: int, snapshot: Callable[[], State]) -> None: ...


@runtime_checkable
class PhaseCheckpoints(Protocol):
    """Stores a batch of units through its phases, `search` and `diverse`.

    of        what stores the state of a phase's loop
    remember  tensors of a finished phase
    recall    these tensors, or None
    seconds   spent on the batch so far, by all processes
    """

    @property
    def seconds(self) -> float: ...

    def of(self, phase: str) -> Keep: ...

    def remember(self, tensors: Tensors) -> None: ...

    def recall(self) -> Tensors | None: ...


@runtime_checkable
class StepProgress(Protocol):
    """Shows how far a batch of units has come; `step` is a `Listener`."""

    def begin(self, phase: str) -> None: ...

    def step(self, step: int, rows: Sequence[int], images: Tensor, terms: Tensors) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Result:
    """The end of an optimization."""

    images: Images  # the best iterate (smallest loss)
    steps: tuple[int, ...]  # taken by every set
    # `converged`, `annealed` (at the end of its schedule), `max_steps`, `diverged`, `interrupted`.
    stop: tuple[str, ...]
    trace: dict[str, Float[Tensor, "step set"]]  # term by term; NaN after a set stopped
    interrupted: bool  # by Ctrl-C, even if all sets had just stopped


@runtime_checkable
class Optimizer(Protocol):
    """How the parameters of the sets at work move. A state has tensors with an entry per set.

    at_the_end  why a set stopped that took all steps
    begin       start -> the state before the first step
    guidance    step -> emphasis on distances, softness of the smallest distance
    finished    which sets have converged, judged before the step's `move`
    move        parameters, images, gradient with respect to the images -> the next parameters
    """

    at_the_end: ClassVar[str]

    @property
    def steps(self) -> int: ...

    def begin(self, start: Images) -> Tensors: ...

    def guidance(self, step: int) -> tuple[float, float]: ...

    def finished(self, state: Tensors, step: int, terms: Terms) -> Bool[Tensor, " set"]: ...

    def move(
        self, problem: Problem, state: Tensors, step: int, raw: Images, images: Images,
        gradient: Images,
    ) -> Images: ...  # fmt: skip


def tangent(images: Images, gradient: Images) -> Images:
    """The part of `gradient` along which the images' norm does not change."""
    shared = (images * gradient).sum((2, 3, 4), keepdim=True)
    return gradient - images * (shared / images.square().sum((2, 3, 4), keepdim=True))


def sizes(images: Images) -> Float[Tensor, "set image 1 1 1"]:
    """Euclidean norm of every image."""
    return torch.linalg.vector_norm(images, dim=(2, 3, 4), keepdim=True)
