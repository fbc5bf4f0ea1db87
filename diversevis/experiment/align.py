"""`diversevis align`: units of several runs aligned with one another (docs/method.md, section 9).

Runs of different units make one matrix. Runs of the same units with other seeds make a matrix for
every seed, and how well their families agree says how stable families are.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError
from diversevis.experiment.check import check_network
from diversevis.experiment.measure import in_memory
from diversevis.experiment.progress import ProgressDisplay
from diversevis.experiment.subject import sampled, subject_of_folder
from diversevis.measures.affine import Maps
from diversevis.measures.align import comparable
from diversevis.measures.families import Families, adjusted_rand, families_of
from diversevis.measures.matching import Align, LeftOut, Matches, Tell, match
from diversevis.measures.subject import Subject
from diversevis.method.device import keep_pages, precision
from diversevis.method.settings import Experiment
from diversevis.method.setup import prepare
from diversevis.runs import signals
from diversevis.runs.folder import RunFolder

Name = tuple[Any, ...]  # what tells a unit from all others
SAME = "model", "layer", "direction", "computation"  # entries of run.json, beside the weights


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """A run with the units that can be compared."""

    folder: RunFolder
    record: Mapping[str, Any]
    subject: Subject

    @property
    def names(self) -> list[Name]:
        layer = *(self.record.get(key) for key in SAME), self.record["weights"].get("sha256")
        return [(*layer, unit) for unit in self.subject.units]

    @property
    def facts(self) -> list[dict[str, Any]]:
        """Of every unit, what a person calls it."""
        of_layer = {key: self.record[key] for key in ("model", "layer", "direction")}
        return [{**of_layer, "unit": unit} for unit in self.subject.units]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs whose units, all different, make one matrix, in the order of the runs.

    shares    S [source, target]; maps likewise
    left_out  of all pairs
    """

    runs: Sequence[Aligned]
    shares: Float[np.ndarray, "unit unit"]
    maps: Maps
    left_out: LeftOut
    families: Families

    @property
    def names(self) -> list[Name]:
        return [name for run in self.runs for name in run.names]

    @property
    def facts(self) -> list[dict[str, Any]]:
        return [facts for run in self.runs for facts in run.facts]


def align_runs(
    runs: Sequence[tuple[RunFolder, Experiment]], settings: Align
) -> tuple[list[Group], list[list[float | None]] | None]:
    """The groups of the runs, and the adjusted Rand index of the families of every two groups; None
    for a single group.

    Raises `InputError` where a network is not that of its run, or runs do not go together.
    """
    keep_pages()
    seed = runs[0][1].seed  # of the sample: units of one seed are compared with those of another
    opened = [_opened(folder, experiment, seed) for folder, experiment in runs]
    _check_channels(opened)
    grouped = _grouped(opened)
    of_group = [sum(len(run.subject.units) for run in group) ** 2 for group in grouped]
    groups = []
    with contextlib.closing(ProgressDisplay()) as display, precision("float32"):
        for number, group in enumerate(grouped):

            def tell(pairs: float, before: int = sum(of_group[:number])) -> None:
                signals.check()
                display("aligned", int(before + pairs), sum(of_group))

            groups.append(_aligned(group, settings, tell))
    if len(groups) == 1:
        return groups, None
    common = in_all(grouped)
    return groups, [[_agreement(a, b, common) for b in groups] for a in groups]


def _opened(folder: RunFolder, experiment: Experiment, seed: int) -> Aligned:
    record = folder.read_record()
    if record["n"] is None:
        raise InputError(
            f"{folder.path} has no images, which align moves: it holds measures alone. Give the "
            "folder of a run, `diversevis run ...`."
        )
    if record.get("references"):
        raise InputError(
            f"{folder.path} holds metamers of photographs, and align compares units. Leave it out."
        )
    setup = prepare(experiment)
    check_network(setup, folder)
    subject = subject_of_folder(setup, folder)
    sample = sampled(replace(setup, experiment=replace(experiment, seed=seed)))
    subject = replace(subject, sampled=tuple(sample[row] for row in subject.rows))
    taken = comparable(subject)
    if not taken:
        raise InputError(
            f"{folder.path} has no unit that can be aligned: all are dead, or respond to no image "
            "above 0. Leave it out."
        )
    return Aligned(folder=folder, record=record, subject=subject.take(taken))


def _check_channels(runs: Sequence[Aligned]) -> None:
    first, *others = runs
    for other in others:
        channels = [len(run.subject.mean) for run in (first, other)]
        if channels[0] != channels[1]:
            raise InputError(
                f"{first.folder.path} has images of {channels[0]} channels and "
                f"{other.folder.path} of {channels[1]}: a unit cannot be shown the other's. Align "
                "runs of images with the same number of channels."
            )


def _grouped(runs: Sequence[Aligned]) -> list[list[Aligned]]:
    """The runs in groups, in the order of their seeds: a run goes to the first group that has none
    of its units.

    Raises `InputError` for groups with fewer than two units in common, whose families cannot be
    compared, for units that stand twice with the same seed, and for a group of a single unit.
    """
    groups: list[list[Aligned]] = []
    for run in sorted(runs, key=lambda run: run.record.get("seed") or 0):
        for group in groups:
            twice = [other for other in group if {*other.names} & {*run.names}]
            if not twice:
                group.append(run)
                break
            if any(other.record.get("seed") == run.record.get("seed") for other in twice):
                raise InputError(
                    f"{twice[0].folder.path} and {run.folder.path} hold the same unit "
                    f"{_shared(twice[0], run)} with the same seed: families would agree with "
                    "themselves. Give runs of different units, or of the same units with other "
                    "seeds (seed=1)."
                )
        else:
            groups.append([run])
    for group in groups:
        if sum(len(run.names) for run in group) < 2:
            raise InputError(
                f"{group[0].folder.path} has a single unit that can be aligned, and align compares "
                "units with one another. Add a run of other units."
            )
    if len(in_all(groups)) < 2:
        raise InputError(
            "The runs of different seeds have fewer than two units in common that can be aligned: "
            "the families of two seeds are compared unit by unit. Give runs of the same units for "
            "every seed."
        )
    return groups


def in_all(groups: Sequence[Sequence[Aligned]]) -> list[Name]:
    """The units that are in every group, in the order of the first."""
    first, *others = ([name for run in group for name in run.names] for group in groups)
    return [name for name in first if all(name in names for names in others)]


def _shared(a: Aligned, b: Aligned) -> int:
    return int(min(name[-1] for name in {*a.names} & {*b.names}))


def _aligned(runs: Sequence[Aligned], settings: Align, tell: Tell) -> Group:
    """Every run's images shown to every run's units.

    tell  called with the number of pairs of units that are done
    """
    blocks, finished = list[Matches](), 0
    for source, target in itertools.product(runs, runs):
        images, _ = source.subject.of_run()
        pairs = len(source.subject.units) * len(target.subject.units)

        def attempt(
            subject: Subject, images: Tensor = images, before: int = finished, pairs: int = pairs
        ) -> Matches:
            return match(images, subject, settings, lambda done: tell(before + done * pairs))

        blocks.append(in_memory(target.subject, "align", attempt))
        finished += pairs
    shares = _joined([block.shares for block in blocks], len(runs)).double().numpy()
    parts = zip(*(block.maps for block in blocks), strict=True)
    maps = Maps(*(_joined(part, len(runs)) for part in parts))
    left_out = LeftOut.joined([block.left_out for block in blocks])
    families = families_of(shares)
    return Group(runs=runs, shares=shares, maps=maps, left_out=left_out, families=families)


def _joined(blocks: Sequence[Tensor], columns: int) -> Tensor:
    """A matrix from its blocks, row by row."""
    starts = range(0, len(blocks), columns)
    rows = [torch.cat([*blocks[start : start + columns]], dim=1) for start in starts]
    return torch.cat(rows)


def _agreement(a: Group, b: Group, names: Sequence[Name]) -> float | None:
    """The adjusted Rand index of the families of these units, whatever their order."""
    labels = []
    for group in (a, b):
        at = {name: row for row, name in enumerate(group.names)}
        labels.append(group.families.labels[[at[name] for name in names]])
    return adjusted_rand(*labels)
