"""Shows how far a run is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from torch import Tensor

NOUNS = {
    "natural": "photographs",
    "varied": "readings of photographs",
    "drawing": "pictures",
    "aligned": "pairs of units",
}  # what is counted, if it is not units


class ProgressDisplay:
    """Progress of a run's optimization (`units`, `begin`, `step`, `end`) or of a measure (a call).

    The optimization's total is the most steps that all units can take, units * (search_steps +
    steps), of which an earlier process has done those of `finished` units.
    """

    def __init__(
        self, units: int = 0, finished: int = 0, search_steps: int = 0, steps: int = 0,
        *, show: bool = True,
    ) -> None:  # fmt: skip
        self._visible = show
        self._on_terminal = sys.stderr.isatty()
        # Seconds between two displays. Each makes the host wait for the device's values.
        self._pause = 0.1 if self._on_terminal else 5.0
        self._per_unit = search_steps + steps
        self._total = units * self._per_unit
        self._offset = {"search": 0, "diverse": search_steps}
        self._finished = self._skipped = finished * self._per_unit
        self._label, self._batch, self._phase = "", 0, "search"
        self._bar: tqdm | None = None
        self._start = time.monotonic()
        self._shown = -math.inf if self._on_terminal else self._start

    def units(self, label: str, count: int) -> None:
        """The next batch starts, with `count` units."""
        self._label, self._batch = label, count

    def begin(self, phase: str) -> None:
        """The batch enters `phase`: `search` or `diverse`."""
        self._phase = phase

    def step(
        self, step: int, rows: Sequence[int], images: Tensor, terms: dict[str, Tensor]
    ) -> None:
        """Listener of the optimization loop: shows the batch's mean terms after a step."""
        if not self._is_due():
            return
        text = f"{self._label}  {self._phase}  step {step}"
        text += f"  response {terms['response_mean'].mean().item():.4g}"
        if "distance_min" in terms:
            text += f"  smallest distance {terms['distance_min'].mean().item():.4g}"
        at = self._finished + self._batch * (self._offset[self._phase] + step)
        self._show(text, at, self._total, "at most")  # units may converge before their last step

    def together(self, text: str, at: int) -> None:
        """Several processes have taken `at` steps of a unit in all."""
        if self._is_due():
            self._show(text, self._finished + at, self._total, "at most")

    def end(self) -> None:
        """The batch is finished, however many steps it took."""
        self._finished += self._batch * self._per_unit

    def __call__(self, measure: str, done: int, total: int) -> None:
        """A measure is taken of `done` of `total` units; or another work is done (`NOUNS`)."""
        noun = NOUNS.get(measure, "units")
        if self._is_due():
            self._show(f"{measure}  {done} of {total} {noun}", done, total, "about")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _is_due(self) -> bool:
        return self._visible and time.monotonic() - self._shown >= self._pause

    def _show(self, text: str, at: int, total: int, how_exact: str) -> None:
        self._shown = time.monotonic()
        if self._on_terminal:
            if self._bar is None:
                bar = "{desc} |{bar}| {percentage:3.0f}% "
                bar += f"[{{elapsed}}, {how_exact} {{remaining}} left]"
                self._bar = tqdm(total=total, initial=self._skipped, leave=False, bar_format=bar)
            self._bar.total, self._bar.n = total, at
            self._bar.set_description_str(text)
        elif at > self._skipped:
            left = (self._shown - self._start) * (total - at) / (at - self._skipped)
            print(f"{text}  {how_exact} {left:.0f} s left", file=sys.stderr, flush=True)
