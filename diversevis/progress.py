"""How far a run has come: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time

from torch import Tensor
from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_LOOKS = 0.1  # values are fetched from the device only when they will be shown


class Progress:
    """Told of every step; shows unit, step, response, smallest distance and time left."""

    def __init__(self, units: int, steps: int) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._total, self._steps = units * steps, steps
        self._bar = tqdm(
            total=units * steps, disable=not self._on_terminal, unit="step", leave=False,
            bar_format="{desc} |{bar}| {percentage:3.0f}% [{elapsed}, at most {remaining} left]",
        )  # fmt: skip
        self._done, self._unit, self._phase = 0, 0, ""
        self._start = self._looked = time.monotonic()

    def begin(self, unit: int, phase: str) -> None:
        """Unit `unit` enters `phase` (`search` or `diverse`)."""
        self._unit, self._phase = unit, phase

    def end(self) -> None:
        """The unit at hand is done, however many steps it took."""
        self._done += self._steps
        self._bar.update(self._done - self._bar.n)

    def step(self, step: int, images: Tensor, terms: dict[str, Tensor]) -> None:
        """Called after every step of the loop."""
        now = time.monotonic()
        pause = SECONDS_BETWEEN_LOOKS if self._on_terminal else SECONDS_BETWEEN_LINES
        if now - self._looked < pause:
            return
        self._looked = now
        words = f"unit {self._unit}  {self._phase}  step {step}"
        words += f"  response {terms['response_mean'].mean().item():.4g}"
        if "distance_min" in terms:
            words += f"  smallest distance {terms['distance_min'].mean().item():.4g}"
        at = self._done + (step if self._phase == "diverse" else 0)
        if self._on_terminal:
            self._bar.set_description_str(words, refresh=False)
            self._bar.update(at - self._bar.n)
        else:
            elapsed = now - self._start
            left = elapsed * (self._total - at) / at if at else float("nan")
            left_words = f"  at most {left:.0f} s left" if at else ""
            print(f"{words}{left_words}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._bar.close()
