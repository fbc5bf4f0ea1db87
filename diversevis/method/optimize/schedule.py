"""The numbers of all steps, on the device: a recorded step looks its own up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from diversevis.method.optimize.loop import Numbers

BLOCK = 1000  # steps: what is kept for every step is on the device for one block at a time


def block_of(step: int) -> int:
    """Number of the block, from 0."""
    return (step - 1) // BLOCK


class Schedule:
    """Numbers by name for every step from 1 to `steps`, from a function of the step.

    A number that is the same at all steps stays a float. The others are rounded to float32, as
    torch rounds a number of Python's that it multiplies a float32 tensor with.
    """

    def __init__(
        self, of_step: Callable[[int], dict[str, float]], steps: int, device: torch.device
    ) -> None:
        self._of_step, self._steps, self._first = of_step, steps, 0
        samples = [of_step(step) for step in (1, min(2, steps), (steps + 1) // 2, steps)]
        first = samples[0]  # a number rises, falls or stays: these steps tell which
        self._changing = [name for name in first if len({row[name] for row in samples}) > 1]
        self._fixed = {name: first[name] for name in first if name not in self._changing}
        self._table = torch.zeros(min(BLOCK, steps), len(self._changing), device=device)
        self.load(1)

    def load(self, step: int) -> None:
        """Have the numbers of the block of steps that this step is in, in the memory of before."""
        first = block_of(step) * BLOCK + 1
        if first != self._first:
            self._first, last = first, min(first + BLOCK - 1, self._steps)
            rows = [self._of_step(number) for number in range(first, last + 1)]
            table = [[row[name] for name in self._changing] for row in rows]
            self._table[: len(rows)] = torch.tensor(table, dtype=torch.float32).reshape(
                len(rows), -1
            )

    def at(self, step: Int[Tensor, " 1"]) -> Numbers:
        """The numbers of a step, and `step` itself, a whole number."""
        row = self._table.index_select(0, (step - 1) % BLOCK)[0]
        return (
            self._fixed | dict(zip(self._changing, row.unbind(), strict=True)) | {"step": step[0]}
        )
