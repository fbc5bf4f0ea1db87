"""The affine map of one unit's images that drives another unit most, for every pair of units.

A first pass shows every image set under all maps of a grid to all units at once, which costs a
unit's worth and not a pair's. Pairs that are not hopeless there go on from their two best starts by
gradient, side by side. docs/method.md, section 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures.affine import MOST_SCALE, MOST_SHIFT, Maps, grid_of_maps, limited, resample
from diversevis.measures.checks import check_least
from diversevis.measures.subject import Subject

STARTS = 2  # of a pair's search by gradient; they differ in rotation or reflection
COST_OF_STEP = 2.4  # of a step by gradient, in passes forward
RATE = (
    0.06  # Adam's learning rate at first: of shifts in sides, of angles in radians, of logarithms
)

Tell = Callable[[float], None]  # the share of the work that is done; may raise


@dataclass(frozen=True, kw_only=True)
class Align:
    """The search for the best map.

    rotations  of the first pass, over a full turn, with and without reflection
    scales     of the first pass; 1 is among them
    shifts     of the first pass, in four directions, beside none; sides of the image
    hopeful    share of the best response in the first pass from which a pair goes on by gradient
    steps      of the gradient
    checked    pairs below `hopeful`, drawn at random, that go on all the same, to see what was lost
    """

    rotations: int
    scales: list[float]
    shifts: list[float]
    hopeful: float
    steps: int
    checked: int

    def __post_init__(self) -> None:
        check_least("measure.align", self, rotations=1, steps=0, checked=0)
        possible = all(1 / MOST_SCALE <= scale <= MOST_SCALE for scale in self.scales)
        if 1 not in self.scales or not possible:
            raise InputError(
                f"measure.align.scales={self.scales} must be from 0.5 to 2, with 1 among them: "
                "[0.7,1,1.4]."
            )
        if not all(0 < shift <= MOST_SHIFT for shift in self.shifts):
            raise InputError(
                f"measure.align.shifts={self.shifts} must be above 0 and at most 0.5: [0.06,0.15]."
            )
        if not 0 <= self.hopeful <= 1:
            raise InputError(f"measure.align.hopeful={self.hopeful} must be from 0 to 1.")


class LeftOut(NamedTuple):
    """What the first pass left out, and what a sample of it shows.

    lost    pairs of the sample that reach `hopeful` after all
    tried   size of the sample
    pairs   that are left out
    gained  mean rise of the sample's shares, counted from 0; NaN without a sample
    """

    lost: int
    tried: int
    pairs: int
    gained: float

    @classmethod
    def joined(cls, parts: Sequence[LeftOut]) -> LeftOut:
        """Of several blocks of pairs."""
        lost, tried, pairs = (sum(counts) for counts in list(zip(*parts, strict=True))[:3])
        gained = sum(part.gained * part.tried for part in parts if part.tried)
        return cls(lost, tried, pairs, gained / tried if tried else math.nan)


class Matches(NamedTuple):
    """For every pair (source, target) the best map of the source's images.

    shares    S: mean response of the target / its best response to a single image
    first     the same after the first pass
    refined   whether the pair went on by gradient
    maps      of every pair
    left_out  the pairs that did not
    """

    shares: Float[Tensor, "source target"]
    first: Float[Tensor, "source target"]
    refined: Bool[Tensor, "source target"]
    maps: Maps
    left_out: LeftOut


def match(
    images: Float[Tensor, "source image color height width"],
    targets: Subject,
    settings: Align,
    tell: Tell,
) -> Matches:
    """Every source against every unit of `targets`, whose best responses must be above 0.

    The images are resampled on the targets' grid, pixel for pixel, and brought to their norm.
    """
    grid = grid_of_maps(settings.rotations, settings.scales, settings.shifts)
    steps_of_all = len(targets.units) * STARTS * settings.steps * COST_OF_STEP
    part = 2 * grid.sign.numel() / (2 * grid.sign.numel() + steps_of_all)  # of the first pass
    first, starts = _first_pass(images, targets, grid, lambda done: tell(part * done))
    signed = Maps(*(torch.cat([x.flatten(0, 3)] * 2) for x in grid))
    signed.sign[len(signed.sign) // 2 :] = -1
    refined = first >= settings.hopeful
    hopeless = (~refined).nonzero()
    drawn = torch.randperm(len(hopeless), generator=targets.generator("align/checked"))
    hopeful, sample = refined.nonzero(), hopeless[drawn[: settings.checked]]
    pairs = torch.cat([hopeful, sample])
    at_starts = signed.at(starts[pairs[:, 0], pairs[:, 1]])  # [pair, start]
    reached, end = _by_gradient(
        images, targets, pairs, at_starts, settings.steps,
        lambda done: tell(part + (1 - part) * done),
    )  # fmt: skip
    if not bool(first.isfinite().all()):
        raise InputError(
            "align cannot compare units whose response to a moved image is not a finite number. "
            "Leave such units out of the run."
        )
    shares, maps = first.clone(), signed.at(starts[..., 0])
    count = len(hopeful)
    better = reached[:count] > first[refined]
    source, target = hopeful[better].T
    shares[source, target] = reached[:count][better]
    for values, reached_values in zip(maps, end, strict=True):
        values[source, target] = reached_values[:count][better]
    of_sample, before = reached[count:], first[sample[:, 0], sample[:, 1]]
    gained = (of_sample - before.clamp(min=0)).clamp(min=0).mean().item()
    lost = int((of_sample >= settings.hopeful).sum())
    left_out = LeftOut(lost, len(sample), len(hopeless), gained)
    return Matches(shares, first, refined, maps, left_out)


def _first_pass(
    images: Tensor, targets: Subject, grid: Maps, tell: Tell
) -> tuple[Float[Tensor, "source target"], Int[Tensor, "source target start"]]:
    """Of every pair the largest share on the grid, and the best starts, as indices of the flat grid
    of both signs, the positive sign first."""
    respond, rows = targets.respond_all(targets.batch), list(targets.rows)
    best = targets.best_responses()
    flat = Maps(*(x.flatten(0, 3).to(targets.device) for x in grid))
    maps_at_once = max(1, targets.batch // (2 * images.shape[1]))
    parts = torch.split(torch.arange(len(flat.sign)), maps_at_once)
    first, starts = [], []
    for number, of_unit in enumerate(images):
        shares = []
        for part in parts:
            of_maps = of_unit.to(targets.device).expand(len(part), *of_unit.shape)
            x = _moved(of_maps, flat.at(part), targets)
            answers = respond(torch.stack([x, -x]).flatten(0, 2))[:, rows].cpu()
            answers = torch.unflatten(answers, 0, (2, len(part), -1))
            shares.append(answers.mean(2) / best)
            tell(number / len(images))
        values, indices = _best_starts(torch.cat(shares, dim=1), grid.sign.shape)
        first.append(values)
        starts.append(indices)
    return torch.stack(first), torch.stack(starts)


def _best_starts(
    shares: Float[Tensor, "sign map target"], shape: tuple[int, ...]
) -> tuple[Float[Tensor, " target"], Int[Tensor, "target start"]]:
    """The largest share, and the best maps that differ in reflection or, by more than a step, in
    rotation.

    shape  of the grid: scale, reflected, rotation, shift
    """
    rotations, total = shape[2], math.prod(shape)
    numbers = torch.arange(2 * total).reshape(
        2, *shape
    )  # [sign, scale, reflected, rotation, shift]
    by_turn = (
        torch.unflatten(shares, 1, shape).permute(2, 3, 0, 1, 4, 5).flatten(0, 1).flatten(1, 3)
    )
    numbers = numbers.permute(2, 3, 0, 1, 4).flatten(0, 1).flatten(1)  # [turn, the rest]
    of_turn, at = by_turn.max(1)  # [turn, target]
    largest, starts = of_turn.amax(0), []
    turns = torch.arange(len(of_turn))[:, None]
    for _ in range(STARTS):
        turn = of_turn.argmax(0)
        chosen = at.gather(0, turn[None])[0]
        starts.append(numbers[turn, chosen])
        apart = (turns - turn) % rotations  # in steps, within the same reflection
        near = (apart <= 1) | (apart == rotations - 1)
        same = turns // rotations == turn // rotations
        of_turn = of_turn.masked_fill(near & same, -math.inf)
    return largest, torch.stack(starts, dim=1)


def _by_gradient(
    images: Tensor, targets: Subject, pairs: Int[Tensor, "pair 2"], starts: Maps, steps: int,
    tell: Tell,
) -> tuple[Float[Tensor, " pair"], Maps]:  # fmt: skip
    """The largest share of every pair on the way from its starts, and the map that reaches it."""
    count, per_pair = starts.sign.shape
    jobs = pairs.repeat_interleave(per_pair, dim=0)
    flat = Maps(*(x.flatten(0, 1) for x in starts))
    shares, parameters = torch.full((len(jobs),), -math.inf), flat.parameters.clone()
    jobs_at_once = max(1, targets.batch // images.shape[1])
    for part in torch.split(torch.arange(len(jobs)), jobs_at_once) if len(jobs) else ():
        source, target = jobs[part].T
        moved = images[source].to(targets.device)
        subject = targets.take(target.tolist())
        done = part[0].item() / len(jobs)
        shares[part], parameters[part] = _climb(
            moved, subject, flat.at(part), steps, lambda done=done: tell(done)
        )
    best = shares.reshape(count, per_pair).argmax(1)
    chosen = best + per_pair * torch.arange(count)
    return shares[chosen], flat._replace(parameters=parameters).at(chosen)


def _climb(
    images: Float[Tensor, "job image color height width"],
    subject: Subject,
    maps: Maps,
    steps: int,
    tell: Callable[[], None],
) -> tuple[Float[Tensor, " job"], Float[Tensor, "job 6"]]:
    """The best of all steps of Adam (Kingma & Ba 2015), whose rate falls to 0 along a cosine."""
    respond, device = subject.respond_own(), subject.device
    best = subject.best_responses().to(device)
    maps = Maps(*(x.to(device) for x in maps))
    parameters = maps.parameters.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([parameters], maximize=True)
    top, top_parameters = torch.full_like(best, -math.inf), maps.parameters
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            x = _moved(images, maps._replace(parameters=parameters), subject)
            shares = respond(x * maps.sign[:, None, None, None, None]).mean(1) / best
        better = shares.detach() > top
        top = torch.where(better, shares.detach(), top)
        top_parameters = torch.where(better[:, None], parameters.detach(), top_parameters)
        if step < steps:
            (parameters.grad,) = torch.autograd.grad(shares.sum(), parameters)
            optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.step()
            parameters.data = limited(parameters.data)
        tell()
    return top.cpu(), top_parameters.cpu()


def _moved(images: Tensor, maps: Maps, targets: Subject) -> Tensor:
    """The images under their maps, as the targets see them: on their grid, at their norm."""
    x = resample(images, maps, targets.size)
    lengths = torch.linalg.vector_norm(x, dim=(2, 3, 4), keepdim=True)
    return x * (targets.norm / lengths.clamp(min=1e-12))
