"""Whether a network gives the responses to a run's images that were recorded with them.

Weights, code or a library may have changed since. Recomputed in float32 in other batches, with
another number of threads, in another layout of memory or by the plain way, responses were the same
to 2e-6 of a unit's largest (docs/networks.md); the two ways may differ by 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diversevis.method import images as pixels
from diversevis.method.device import precision
from diversevis.method.references import reference_targets
from diversevis.method.response import respond
from diversevis.method.settings import Experiment
from diversevis.method.setup import Setup, norm_of, targets_of
from diversevis.models.checks import difference
from diversevis.models.load import Network, load
from diversevis.models.network import OpenNetwork
from diversevis.models.targets import Targets, responses_to_own_images
from diversevis.models.view import View, view

TOLERANCE = 1e-3  # largest difference, relative to a unit's largest response
MOST_IMAGES = 512  # that are asked about
MOST_PIXELS = 2**24  # of these images together: 512 of 181 x 181 pixels, 92 of 427 x 427
ROUGHLY = 0.05  # the same where the network computes in 16 bits: two ways differed by 0.02
SIXTEEN_BITS = torch.float16, torch.bfloat16
BATCH = 64  # images at once on the CPU

Respond = Callable[[Tensor, Tensor], Tensor]


class Misfit(Exception):
    """A run's images or units do not fit the network of today; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A network of today, ready to be asked.

    respond  images [unit, image, color, h, w] and rows of the targets -> responses [unit, image]
    zero     of every target, what is counted as no response
    shape    of an image
    batch    upper bound on the images at once
    """

    respond: Respond
    units: Sequence[int]
    zero: Float[Tensor, " row"]
    shape: tuple[int, ...]
    device: torch.device
    batch: int


def answers_of(setup: Setup) -> Answers:
    """The network of a setup."""
    return Answers(
        respond=lambda x, rows: respond(setup, x, rows).responses,
        units=setup.targets.units,
        zero=_zero(setup.targets, setup.experiment),
        shape=setup.image_shape,
        device=setup.device,
        batch=setup.batch,
    )


def opened(experiment: Experiment) -> tuple[Network, View]:
    """The network and its view alone: no scales, no readout, on the CPU.

    Raises `InputError` where it cannot be opened.
    """
    network = OpenNetwork(model=experiment.model, size=experiment.reading.size)
    loaded = load(network, network.layer(experiment.layer))
    return loaded, view(network, loaded, experiment.reading)


def answers_by(network: Network, seen: View, experiment: Experiment) -> Answers:
    """The network that `opened` returned, for the units of an experiment on the same layer."""
    device = torch.device("cpu")
    kind = experiment.objective.response
    if experiment.objective.reference is None:
        targets = targets_of(experiment, network.layer, device)
    else:
        norm = norm_of(experiment, network, seen)
        targets = reference_targets(experiment, network, seen, norm, device)
    module = seen.fast or seen.plain

    def answer(x: Tensor, rows: Tensor) -> Tensor:
        z = pixels.to_network_input(x.flatten(0, 1), network.weights.std)
        channels = module(z)[0].reshape(*x.shape[:2], -1)
        return responses_to_own_images(targets.counted(channels), targets.vectors[rows], kind)

    return Answers(
        respond=answer,
        units=targets.units,
        zero=_zero(targets, experiment),
        shape=(network.colors, *seen.field.size),
        device=device,
        batch=BATCH,
    )


def largest_change(
    answers: Answers,
    images: Float[Tensor, "unit image color h w"],
    responses: Float[Tensor, "unit image"],
    units: Sequence[int],
    most: int = MOST_IMAGES,
) -> float | None:
    """The largest difference between recorded and recomputed responses, relative to the unit's
    largest; of a unit that hardly responds, to a part of the layer's largest.

    At most `most` images, spread evenly over units and images. 0 where the difference is that of
    rounding, None where no recorded response is finite. Raises `Misfit`.
    """
    if tuple(images.shape[2:]) != answers.shape:
        raise Misfit(f"they are {_sides(images.shape[2:])}, and it takes {_sides(answers.shape)}")
    row_of = {unit: row for row, unit in enumerate(answers.units)}
    if lacking := [unit for unit in units if unit not in row_of]:
        raise Misfit(f"it has no unit {lacking[0]}")
    most = max(1, min(most, MOST_PIXELS // math.prod(answers.shape[1:])))
    chosen = _spread(len(units), most)
    columns = _spread(responses.shape[1], max(1, most // len(chosen)))
    x, recorded = images[chosen][:, columns], responses[chosen][:, columns].float()
    alive = recorded.isfinite().all(1) & x.flatten(1).isfinite().all(1)
    if not bool(alive.any()):
        return None
    x, recorded = x[alive], recorded[alive]
    rows = torch.tensor([row_of[units[index]] for index in chosen[alive].tolist()])
    zero = answers.zero.cpu()[rows][:, None]
    now = _ask(answers, x, rows) - zero
    change = difference([(recorded - zero).T], [now.T])
    if TOLERANCE < change <= ROUGHLY:
        with _Kinds() as kinds:
            _ask(answers, x[:1], rows[:1])
        return change if kinds.seen.isdisjoint(SIXTEEN_BITS) else 0.0
    return change if change > TOLERANCE else 0.0


def in_words(change: float | None) -> str:
    """The difference, as the end of a sentence about the run's images."""
    if change is None:
        return "no response to the run's own images was recorded that could be compared"
    what = "its responses to the run's own images"
    if change == 0:
        return f"{what} are the same to {TOLERANCE:.1%} of a unit's response"
    if math.isinf(change):
        return f"{what} are no numbers now"
    percent = 100 * change
    shown = f"{percent:.2g}" if percent < 10 else f"{percent:.0f}"
    return f"{what} differ by up to {shown} % of a unit's response"


def _ask(answers: Answers, x: Tensor, rows: Int[Tensor, " unit"]) -> Float[Tensor, "unit image"]:
    """The responses of today, on the CPU, in float32."""
    size = max(1, answers.batch // x.shape[1])
    parts = []
    with torch.no_grad(), precision("float32"):
        for part, rows_of_part in zip(torch.split(x, size), torch.split(rows, size), strict=True):
            there = part.to(answers.device), rows_of_part.to(answers.device)
            parts.append(answers.respond(*there).float().cpu())
    return torch.cat(parts)


class _Kinds(TorchFunctionMode):
    """Collects the kinds of numbers that operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if isinstance(value, Tensor):
            self.seen.add(value.dtype)
        return value


def _zero(targets: Targets, experiment: Experiment) -> Float[Tensor, " row"]:
    """The response of a silent layer: the optimum of `mse` and `match` is 0, which is no scale for
    errors."""
    if experiment.objective.response == "match":
        return -torch.ones(len(targets.units))
    if experiment.objective.response == "mse":
        return -targets.vectors.square().mean(1)
    return torch.zeros(len(targets.units))


def _spread(total: int, count: int) -> Int[Tensor, " index"]:
    """At most `count` of the indices below `total`, evenly spaced."""
    if count >= total:
        return torch.arange(total)
    return torch.linspace(0, total - 1, count).round().long()


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
