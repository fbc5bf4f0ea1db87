"""The units that are measured, what a measure may ask about them, and the loop over batches.

Measures know no network: they reach it through the callables of a `Subject`, which
experiment/subject.py fills in, and a test can replace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError
from diversevis.photographs.crops import Respond

# Arguments: the measure's name, how many units are done, of how many. Raises where work must stop.
Progress = Callable[[str, int, int], None]
Numbers = dict[str, Any]
# Images of every unit [unit, image, c, h, w] -> its responses [unit, image]; differentiable.
RespondOwn = Callable[[Tensor], Tensor]

PER_UNIT = "rows", "units", "alive", "sampled", "images", "responses", "best", "weights"


class Measured(NamedTuple):
    """Numbers of every unit (None for a dead unit), arrays [unit, ...], and settings."""

    numbers: list[Numbers | None]
    arrays: dict[str, Tensor]
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Units of a layer, with or without a run's images. The first five fields reach the network.

    respond      (rows, batch) -> function that shows the units at `rows` their images
    respond_all  batch -> function that shows the same images to all prepared units
    images_alone (rows, batch) -> images of each unit optimized without a diversity term, and their
                 responses, on the CPU; None for a dead unit
    noise        (unit, purpose, count, (rows, columns)) -> standard normal images, which depend on
                 seed, unit and purpose alone
    generator    purpose -> generator on the CPU, which depends on seed and purpose alone
    rows         index of each unit among all that the network was prepared for
    units        their numbers in the layer or direction file
    alive        whether a unit's response has a gradient (True where that is unknown)
    sampled      whether the slow measures (shift, deformation, bipartite, align) take a unit
    images       of the run, in grey levels around the network's mean; None without a run
    best         response to the best image of the search for a single image; NaN: unknown
    weights      diversity weight with which a unit's images were made; None: unknown
    settings     of every measure, by the measure's name
    norm         Euclidean norm of every image
    size         rows and columns of the receptive field
    whole_image  whether that is the network's input: then no larger image exists to shift it in
    mean         of the network's input, in [0, 1], a number for every channel of an image
    batch        upper bound on the images that go through the network at once
    photographs  folder for natural exemplars
    control      of metamers alone: images of the run -> `metamers.Control`
    """

    respond: Callable[[Sequence[int], int], RespondOwn]
    respond_all: Callable[[int], Respond]
    images_alone: Callable[[Sequence[int], int], list[tuple[Tensor, Tensor] | None]]
    noise: Callable[[int, str, int, tuple[int, int]], Float[Tensor, "image color height width"]]
    generator: Callable[[str], torch.Generator]
    rows: tuple[int, ...]
    units: tuple[int, ...]
    alive: tuple[bool, ...]
    sampled: tuple[bool, ...]
    images: Float[Tensor, "unit image color height width"] | None
    responses: Float[Tensor, "unit image"] | None
    best: Float[Tensor, " unit"] | None
    weights: tuple[float | None, ...]
    settings: Mapping[str, Any]
    norm: float
    size: tuple[int, int]
    whole_image: bool
    mean: tuple[float, ...]
    device: torch.device
    batch: int
    seed: int
    photographs: Path | None
    control: Callable[[Tensor], Any] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of an image."""
        return len(self.mean), *self.size

    @property
    def living(self) -> list[int]:
        """Indices of the units that are alive."""
        return [index for index, alive in enumerate(self.alive) if alive]

    @property
    def living_sample(self) -> list[int]:
        """Indices of the living units that the slow measures take."""
        return [index for index in self.living if self.sampled[index]]

    def take(self, indices: Sequence[int]) -> Subject:
        """The units at `indices` alone."""

        def pick(values: Any) -> Any:
            if isinstance(values, Tensor):
                return values[list(indices)]
            return values and tuple(values[index] for index in indices)

        return replace(self, **{name: pick(getattr(self, name)) for name in PER_UNIT})

    def respond_own(self) -> RespondOwn:
        """The function that shows every unit its images."""
        return self.respond(self.rows, self.batch)

    def of_run(self) -> tuple[Float[Tensor, "unit image color h w"], Float[Tensor, "unit image"]]:
        """Images and responses; raises `InputError` without a run."""
        if self.images is None or self.responses is None:
            raise InputError("this measure needs a run's images")
        return self.images, self.responses

    def best_images(self) -> Float[Tensor, "unit color height width"]:
        """The image of the run that drives each unit most."""
        images, responses = self.of_run()
        return images[torch.arange(len(images)), responses.argmax(1)]

    def best_responses(self) -> Float[Tensor, " unit"]:
        """Best response to a single image: of the search, or of the run where that is higher."""
        of_batch = self.of_run()[1].amax(1)
        return of_batch if self.best is None else torch.fmax(self.best, of_batch)


def in_batches(
    name: str,
    subject: Subject,
    indices: Sequence[int],
    images_per_unit: int,
    shapes: Mapping[str, Sequence[int]],
    measure_batch: Callable[[Subject], tuple[list[Numbers | None], dict[str, Tensor]]],
    progress: Progress,
) -> Measured:
    """Measure the units at `indices` batch by batch; the result is of all units of `subject`.

    images_per_unit  shown to a unit at once: a batch has as many units as fit
    shapes           of one unit's entry in every array
    progress         called after every batch, and whenever its units have responded

    The other units (dead, or not in the sample) have None for numbers, and NaN in the arrays.
    """
    count = len(subject.rows)
    numbers: list[Numbers | None] = [None] * count
    arrays = {key: torch.full((count, *shape), torch.nan) for key, shape in shapes.items()}
    units_at_once = max(1, subject.batch // images_per_unit)
    for first in range(0, len(indices), units_at_once):
        batch = list(indices[first : first + units_at_once])
        report = partial(progress, name, first, len(indices))
        respond = _reporting(subject.respond, report)
        batch_numbers, batch_arrays = measure_batch(replace(subject.take(batch), respond=respond))
        for index, unit_numbers in zip(batch, batch_numbers, strict=True):
            numbers[index] = unit_numbers
        for key, values in batch_arrays.items():
            arrays[key][batch] = values
        progress(name, first + len(batch), len(indices))
    settings = subject.settings[name]
    made_with = settings if isinstance(settings, dict) else asdict(settings)
    return Measured(numbers, arrays, made_with)


def _reporting(
    respond: Callable[[Sequence[int], int], RespondOwn], report: Callable[[], None]
) -> Callable[[Sequence[int], int], RespondOwn]:
    """`respond`, with a report whenever units have responded to images."""

    def reporting(rows: Sequence[int], batch: int) -> RespondOwn:
        of_units = respond(rows, batch)

        def answered(x: Tensor) -> Tensor:
            responses = of_units(x)
            report()
            return responses

        return answered

    return reporting
