"""A step of the loop, repeated: on a GPU from a recording of its operations (a CUDA graph).

A GPU finishes the operations on small images sooner than the host can start them. A recorded step
is started as a whole. A recording repeats the same operations on the same memory, so a step keeps
to two rules: whatever changes from step to step is a tensor of its state, and it never waits for
the device.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from diversevis.method.optimize.loop import Tensors

# State before a step -> state after it, and what the step has seen (images, terms). The step leaves
# the tensors of the state before as they are, but for those that it hands on.
Step = Callable[[Tensors], tuple[Tensors, tuple[Tensor, Tensors]]]


class Repeated:
    """A step, from the state where it has come to; `state` and what a call returns are valid until
    the next call."""

    def __init__(self, step: Step, state: Tensors) -> None:
        self._step, self.state = step, state

    def __call__(self) -> tuple[Tensor, Tensors]:
        self.state, seen = self._step(self.state)
        return seen
