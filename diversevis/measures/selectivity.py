"""Selectivity: responses of all units of a run to the images of every unit.

`C[A, B]`: mean response of unit B to the images of unit A, over the best response of B to a single
image. Means over units take a share below 0 as 0: a unit can be suppressed to many times its best
response, and one such unit would outweigh all that are driven. docs/method.md, section 8.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures.checks import finite_or_none
from diversevis.measures.subject import Measured, Numbers, Progress, Subject
from diversevis.units import counted

FEW = 5  # other units that are listed
HALF = 0.5  # of its best response: a unit above it counts as driven
MATRIX_UP_TO = 4096  # units of which the whole matrix is written: 64 MB


def measure_selectivity(subject: Subject, progress: Progress) -> Measured:
    """Which units the images of every unit drive, and which units' images drive it.

    The units compared are those of the run that are alive, with a best response above 0: another
    unit has no known best response. Memory beside the run's images: for every unit a few numbers;
    the matrix (4 bytes for every pair) up to `MATRIX_UP_TO` units.
    Raises `InputError` where fewer than two units can be compared.
    """
    images, _ = subject.of_run()
    units = _compared(subject)
    matrix = _Matrix(len(units), keep=len(images) <= MATRIX_UP_TO)
    respond, best = subject.respond_all(subject.batch), subject.best_responses()[units]
    columns = torch.tensor(subject.rows)[units]
    n = images.shape[1]
    at_once = max(1, subject.batch // n)
    for first in range(0, len(units), at_once):
        rows = units[first : first + at_once]
        answers = respond(images[rows].flatten(0, 1)).cpu().float()[:, columns]
        matrix.add(answers.reshape(len(rows), n, -1).mean(1) / best)
        progress("selectivity", first + len(rows), len(units))
    numbers = matrix.numbers([subject.units[unit] for unit in units])
    of_unit: list[Numbers | None] = [None] * len(images)
    for unit, unit_numbers in zip(units, numbers, strict=True):
        of_unit[unit] = unit_numbers
    arrays = {"best_images": subject.best_images()} | matrix.arrays(units, len(images))
    return Measured(of_unit, arrays, {"driven": HALF})


def _compared(subject: Subject) -> list[int]:
    best = subject.best_responses()
    usable = (best > 0) & best.isfinite()
    units = [unit for unit in subject.living if usable[unit]]
    if len(units) < 2:
        raise InputError(
            "analysis=selectivity compares the units of a run with one another, and this run has "
            f"{counted(len(units), 'unit')} with a best response above 0 (of "
            f"{len(subject.rows)}). Run several units of the layer together: unit=0-63, or "
            "unit=all."
        )
    return units


class _Matrix:
    """What is needed of the matrix of `count` units, which comes row by row.

    keep  whether to keep the matrix itself
    """

    def __init__(self, count: int, *, keep: bool) -> None:
        self.count, self.few, self.rows = count, min(FEW, count - 1), 0
        self.kept: list[Float[Tensor, "row unit"]] | None = [] if keep else None
        self.rank = torch.zeros(count, dtype=torch.long)
        self.above = torch.zeros(count, dtype=torch.long)
        self.own, self.mean_others = torch.zeros(2, count)
        self.sum, self.known = torch.zeros(2, count, dtype=torch.double)  # of columns
        shape = 2, count, self.few
        self.confused, self.drivers = torch.full(shape, -1)
        self.confused_values, self.driver_values = torch.full(shape, -torch.inf)

    def add(self, part: Float[Tensor, "row unit"]) -> None:
        """The next rows; a share that is not finite counts nowhere."""
        at = torch.arange(self.rows, self.rows + len(part))
        part = torch.where(part.isfinite(), part, torch.nan)
        if self.kept is not None:
            self.kept.append(part)
        own, others = part[at - self.rows, at], part.clone()
        others[at - self.rows, at] = torch.nan
        self.own[at] = own
        self.rank[at] = 1 + (others > own[:, None]).sum(1)
        self.above[at] = (others > HALF).sum(1)
        self.mean_others[at] = others.clamp(min=0).nanmean(1)
        self.sum += others.clamp(min=0).nansum(0)
        self.known += (~others.isnan()).sum(0)
        others.nan_to_num_(-torch.inf)
        every = torch.arange(self.count).expand_as(others)
        self.confused_values[at], self.confused[at] = self._largest(others, every)
        values = torch.cat([self.driver_values, others.T], dim=1)
        drivers = torch.cat([self.drivers, at.expand(self.count, -1)], dim=1)
        self.driver_values, self.drivers = self._largest(values, drivers)
        self.rows += len(part)

    def _largest(
        self, values: Float[Tensor, "row unit"], units: Int[Tensor, "row unit"]
    ) -> tuple[Float[Tensor, "row few"], Int[Tensor, "row few"]]:
        """The few largest values of every row, and their units; of equal values the earlier."""
        order = values.sort(dim=1, descending=True, stable=True).indices[:, : self.few]
        return values.gather(1, order), units.gather(1, order)

    def numbers(self, units: list[int]) -> list[Numbers]:
        """Of every unit; `units` are their numbers in the layer."""
        by_others, others = self.sum / self.known, self.count - 1
        return [
            {
                "rank": int(self.rank[row]),
                "own": finite_or_none(self.own[row].item()),
                "mean_others": finite_or_none(self.mean_others[row].item()),
                "mean_by_others": finite_or_none(by_others[row].item()),
                "above_half": int(self.above[row]),
                "share_above_half": self.above[row].item() / others,
                "units": self.count,
                "confused": _listed(units, self.confused[row], self.confused_values[row]),
                "driven_by": _listed(units, self.drivers[row], self.driver_values[row]),
            }
            for row in range(self.count)
        ]

    def arrays(self, units: list[int], total: int) -> dict[str, Tensor]:
        """Of all `total` units of the run, of which `units` were compared."""
        index = torch.tensor([*units, -1])  # the last stands for no unit
        listed = {"confused": self.confused, "drivers": self.drivers}
        arrays = {}
        for name, of_units in listed.items():
            arrays[name] = torch.full((total, of_units.shape[1]), -1)
            arrays[name][units] = index[of_units]
        if self.kept is not None:
            arrays["matrix"] = torch.full((total, total), torch.nan)
            arrays["matrix"][index[:-1, None], index[None, :-1]] = torch.cat(self.kept)
        return arrays


def _listed(
    units: list[int], order: Int[Tensor, " few"], values: Float[Tensor, " few"]
) -> list[Numbers]:
    """Units with their values, without those that have none."""
    pairs = zip(order.tolist(), values.tolist(), strict=True)
    return [{"unit": units[row], "value": value} for row, value in pairs if value > -torch.inf]
