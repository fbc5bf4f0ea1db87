"""How far a run has come: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from torch import Tensor
from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_LOOKS = 0.1  # values are fetched from the device only when they will be shown


class Progress:
    """Told of every batch of units and every step; shows step, mean response and smallest distance
    of the batch, and the time left.

    units         of the whole run
    search_steps  most steps of a batch's search
    steps         most steps of its diverse optimization
    """

    def __init__(self, units: int, search_steps: int, steps: int) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._units, self._each = units, search_steps + steps
        self._offset = {"search": 0, "diverse": search_steps}
        self._bar = tqdm(
            total=units * self._each, disable=not self._on_terminal, unit="step", leave=False,
            bar_format="{desc} |{bar}| {percentage:3.0f}% [{elapsed}, at most {remaining} left]",
        )  # fmt: skip
        self._done, self._skipped, self._batch = 0, 0, 0
        self._words, self._phase = "", "search"
        self._start = self._looked = time.monotonic()

    def units(self, words: str, count: int) -> None:
        """The next batch: `count` units, called `words`."""
        self._words, self._batch = words, count

    def skip(self, count: int) -> None:
        """So many units of the run were done before."""
        self._done = self._skipped = count * self._each
        self._bar.update(self._done - self._bar.n)

    def begin(self, phase: str) -> None:
        """The batch enters `phase` (`search` or `diverse`)."""
        self._phase = phase

    def end(self) -> None:
        """The batch at hand is done, however many steps it took."""
        self._done += self._batch * self._each
        self._bar.update(self._done - self._bar.n)

    def step(
        self, step: int, rows: Sequence[int], images: Tensor, terms: dict[str, Tensor]
    ) -> None:
        """Called after every step of the loop."""
        now = time.monotonic()
        pause = SECONDS_BETWEEN_LOOKS if self._on_terminal else SECONDS_BETWEEN_LINES
        if now - self._looked < pause:
            return
        self._looked = now
        words = f"{self._words}  {self._phase}  step {step}"
        words += f"  response {terms['response_mean'].mean().item():.4g}"
        if "distance_min" in terms:
            words += f"  smallest distance {terms['distance_min'].mean().item():.4g}"
        at = self._done + self._batch * (self._offset[self._phase] + step)
        if self._on_terminal:
            self._bar.set_description_str(words, refresh=False)
            self._bar.update(at - self._bar.n)
        else:
            each = (now - self._start) / (at - self._skipped)
            left = each * (self._units * self._each - at)
            print(f"{words}  at most {left:.0f} s left", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._bar.close()


class MeasureProgress:
    """Told how many units a measure has done: a bar on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._bar: tqdm | None = None
        self._start = self._said = time.monotonic()

    def __call__(self, measure: str, done: int, total: int) -> None:
        what = "photographs" if measure == "natural" else "units"
        if self._on_terminal:
            if self._bar is None:
                self._bar = tqdm(total=total, unit=what, leave=False, desc=measure)
            self._bar.total = total
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._said < SECONDS_BETWEEN_LINES or not done:
            return
        self._said = now
        left = (now - self._start) * (total - done) / done
        print(f"{measure}  {done} of {total} {what}  about {left:.0f} s left",
              file=sys.stderr, flush=True)  # fmt: skip

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
