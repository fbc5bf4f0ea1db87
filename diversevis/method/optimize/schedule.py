"""The numbers of all steps, on the device: a recorded step looks its own up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from diversevis.method.optimize.loop import Numbers


class Schedule:
    """Numbers by name for every step from 1 to `steps`, from a function of the step.

    A number that is the same at all steps stays a float. The others are rounded to float32, as
    torch rounds a number of Python's that it multiplies a float32 tensor with.
    """

    def __init__(
        self, of_step: Callable[[int], dict[str, float]], steps: int, device: torch.device
    ) -> None:
        rows = [of_step(step) for step in range(1, steps + 1)]
        first = rows[0]
        self._changing = [name for name in first if len({row[name] for row in rows}) > 1]
        self._fixed = {name: first[name] for name in first if name not in self._changing}
        table = [[row[name] for name in self._changing] for row in rows]
        self._table = torch.tensor(table, dtype=torch.float32, device=device)

    def at(self, step: Int[Tensor, " 1"]) -> Numbers:
        """The numbers of a step, and `step` itself, a whole number."""
        row = self._table.index_select(0, step - 1)[0]
        return (
            self._fixed | dict(zip(self._changing, row.unbind(), strict=True)) | {"step": step[0]}
        )
