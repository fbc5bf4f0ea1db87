"""The units that are measured, and what their measures have in common."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError
from diversevis.method.response import Looking, generator_of
from diversevis.method.setup import Setup

# measure, units done, of how many
Progress = Callable[[str, int, int], None]
Numbers = dict[str, Any]


class Measured(NamedTuple):
    """One measure: numbers per unit (None for a dead one), arrays [unit, ...], and with what it was
    made."""

    numbers: list[Numbers | None]
    arrays: dict[str, Tensor]
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The units that are measured.

    rows        places of the units in the setup's targets
    alive       whether a unit has a gradient (all, where nothing is known)
    images      [unit, image, 3, h, w] and responses [unit, image]; None without a run
    best        best single-image response [unit]
    knees       of every unit, the weight at which its front has its knee, where one was traced
    sample_seed the seed that draws the sample of units, if it is not the setup's
    """

    setup: Setup
    rows: tuple[int, ...]
    alive: tuple[bool, ...]
    images: Float[Tensor, "unit image 3 height width"] | None
    responses: Float[Tensor, "unit image"] | None
    best: Float[Tensor, " unit"] | None
    knees: tuple[float | None, ...] | None = None
    sample_seed: int | None = None

    @property
    def units(self) -> list[int]:
        """Their numbers in the layer or direction file."""
        return [self.setup.targets.units[row] for row in self.rows]

    @property
    def living(self) -> list[int]:
        """Places of the units that are alive."""
        return [place for place, alive in enumerate(self.alive) if alive]

    def parts(self, each: int) -> Iterator[list[int]]:
        """The living in batches, `each` images at once for one unit."""
        count = max(1, self.setup.batch // each)
        for first in range(0, len(self.living), count):
            yield self.living[first : first + count]

    def sample(self) -> Subject:
        """Itself with those units alone alive that the slow measures take."""
        count, every = self.setup.experiment.measure.sample, len(self.setup.targets.units)
        if count is None or count >= every:
            return self
        drawing = self.setup
        if self.sample_seed is not None:
            first = dataclasses.replace(drawing.experiment, seed=self.sample_seed)
            drawing = dataclasses.replace(drawing, experiment=first)
        drawn = torch.randperm(every, generator=generator_of(drawing, "sample"))[:count]
        kept = set(drawn.tolist())
        alive = [one and row in kept for row, one in zip(self.rows, self.alive, strict=True)]
        return dataclasses.replace(self, alive=tuple(alive))

    def respond(self, places: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Images [unit, image, 3, h, w] of the units at `places` -> their responses."""
        device = self.setup.device
        rows = torch.tensor([self.rows[place] for place in places], device=device)
        look, own = Looking(setup=self.setup, rows=rows), torch.arange(len(rows), device=device)
        return lambda x: look(x.to(device), own).responses

    def best_images(self, places: Sequence[int]) -> Float[Tensor, "unit 3 height width"]:
        """The image of each batch that drives its unit most."""
        images, responses = self.of_run()
        kept = list(places)
        return images[kept, responses[kept].argmax(1)]

    def of_run(self) -> tuple[Tensor, Tensor]:
        """Images and responses; raises `InputError` where there are none."""
        if self.images is None or self.responses is None:
            raise InputError("this measure needs a run's images")
        return self.images, self.responses


def no_numbers(subject: Subject) -> list[Numbers | None]:
    """For every unit that none is known; living ones get theirs."""
    return [None] * len(subject.rows)


def nan_arrays(subject: Subject, shapes: dict[str, Any]) -> dict[str, Tensor]:
    """Of every unit; a dead one keeps NaN."""
    count = len(subject.rows)
    return {
        name: torch.full((count, *((shape,) if isinstance(shape, int) else shape)), torch.nan)
        for name, shape in shapes.items()
    }


def quietly(respond: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`respond` without gradients."""

    def answer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return respond(x)

    return answer


def best_of(subject: Subject, places: Sequence[int]) -> Float[Tensor, " unit"]:
    """Best single-image response: of the search, or of the batch if that found a better one."""
    _, responses = subject.of_run()
    of_batch = responses[list(places)].amax(1)
    return of_batch if subject.best is None else torch.fmax(subject.best[list(places)], of_batch)


def best_first(
    subject: Subject, places: Sequence[int]
) -> Float[Tensor, "unit image 3 height width"]:
    """The images of each batch, the one that drives its unit most first."""
    images, responses = subject.of_run()
    kept = list(places)
    order = responses[kept].argsort(dim=1, descending=True)
    return torch.stack([images[place, own] for place, own in zip(kept, order, strict=True)])


def share(value: float, of: float) -> float | None:
    """A share of something that is not above 0 says nothing."""
    return value / of if of > 0 and math.isfinite(value) else None


def finite(value: float) -> float | None:
    """None in place of what is no number."""
    return value if math.isfinite(value) else None
