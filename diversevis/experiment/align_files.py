"""The files of `diversevis align`: numbers, arrays, a table, a picture of every group of runs."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from diversevis.experiment.align import Group, in_all
from diversevis.measures.affine import Maps, matrices
from diversevis.measures.align import MOST_MAPS, numbers_of
from diversevis.measures.families import is_divided
from diversevis.measures.matching import Align
from diversevis.method.images import display
from diversevis.pictures import page
from diversevis.pictures.measures.align import (
    MOST_SHOWN,
    draw_matrix,
    families_line,
    left_out_line,
    matrix_block,
)
from diversevis.runs.folder import finite
from diversevis.units import counted

LISTED = 8  # families in the table on the screen
Agreement = Sequence[Sequence[float | None]] | None


def files(groups: Sequence[Group], settings: Align, agreement: Agreement) -> dict[str, bytes]:
    """Name and content of every file."""
    numbers = [numbers_of(group.shares, group.maps, group.families, group.facts)
               for group in groups]  # fmt: skip
    content = {
        "settings": asdict(settings),
        "stability": agreement,
        "groups": [_facts(*of_group) for of_group in zip(groups, numbers, strict=True)],
    }
    text = json.dumps(finite(content), indent=2, allow_nan=False) + "\n"
    pictures = {
        "alignment.png" if len(groups) == 1 else f"alignment_{number}.png": _picture(*of_group)
        for number, of_group in enumerate(zip(groups, numbers, strict=True), start=1)
    }
    return {
        "alignment.json": text.encode(),
        "alignment.safetensors": save(_arrays(groups)),
        "families.csv": _csv(groups, numbers).encode(),
        **pictures,
    }


def table(groups: Sequence[Group], agreement: Agreement) -> str:
    """What the command prints: the largest families of every group, and their stability."""
    lines: list[str] = []
    for number, group in enumerate(groups, start=1):
        seeds = ", ".join(dict.fromkeys(str(run.record.get("seed")) for run in group.runs))
        head = f"group {number}, seed {seeds}: " if len(groups) > 1 else ""
        lines.append(f"{head}{_line(group)}")
        lines.append(_left_out(group))
        for label, members in enumerate(group.families.members()[:LISTED], start=1):
            listed = ", ".join(_short(group.facts[row]) for row in members[:LISTED])
            more = f" and {len(members) - LISTED} more" if members[LISTED:] else ""
            units = counted(len(members), "unit")
            lines.append(f"  family {label}: {units}: {listed}{more}")
        if more_families := group.families.members()[LISTED:]:
            lines.append(f"  and {len(more_families)} smaller families")
        lines.append("")
    if agreement is not None:
        pairs = itertools.combinations(range(len(groups)), 2)
        shown = "; ".join(
            f"groups {a + 1} and {b + 1}: {_number(agreement[a][b])}" for a, b in pairs
        )
        common = counted(len(in_all([group.runs for group in groups])), "unit")
        lines += [
            f"adjusted Rand index of the families of the {common} in all groups (1: the same, 0: "
            f"by chance): {shown}",
            "",
        ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(group: Group) -> str:
    return families_line(group.families.divisions, [str(label) for label in group.families.labels])


def _left_out(group: Group) -> str:
    return left_out_line(*map(float, group.left_out), pairs=group.shares.size)


def _short(facts: Mapping[str, Any]) -> str:
    return f"{facts['model']} {facts['layer']} {facts['unit']}"


def _facts(group: Group, numbers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What alignment.json says of a group."""
    keys = "model", "layer", "direction", "seed", "norm", "weights"
    runs = [
        {"folder": str(run.folder.path), **{key: run.record.get(key) for key in keys},
         "receptive_field": list(run.subject.size), "units": list(run.subject.units)}
        for run in group.runs
    ]  # fmt: skip
    families, left_out = group.families, group.left_out
    rows = zip(group.facts, numbers, strict=True)
    return {
        "runs": runs,
        "families": len(families.members()),
        "divisions": [
            {"silhouette": mean, "distance": height, "divided": is_divided(mean, height)}
            for mean, height in families.divisions.tolist()
        ],
        "pairs": {
            "all": group.shares.size,
            "left_out": left_out.pairs,
            "tried": left_out.tried,
            "lost": left_out.lost,
            "gained": left_out.gained if left_out.tried else None,
        },
        "units": [{**facts, **of_unit} for facts, of_unit in rows],
    }


def _arrays(groups: Sequence[Group]) -> dict[str, Tensor]:
    """Arrays of all groups, in the order of their units in alignment.json, with the number of the
    group in their names."""
    arrays: dict[str, Tensor] = {}
    for number, group in enumerate(groups, start=1):
        of_group = {
            "shares": torch.from_numpy(group.shares).float(),
            "order": torch.from_numpy(group.families.order),
            "linkage": torch.from_numpy(group.families.linkage),
            "divisions": torch.from_numpy(group.families.divisions),
        }
        if len(group.shares) <= MOST_MAPS:
            of_group |= {"maps": _maps(group), "sign": group.maps.sign}
        arrays |= {f"{name}_{number}": x.contiguous() for name, x in of_group.items()}
    return arrays


def _maps(group: Group) -> Tensor:
    """Matrices [source, target, 2, 3], in pixels: the shift is in sides of the target's field."""
    counts = [len(run.subject.units) for run in group.runs]
    parts = zip(*(torch.split(values, counts, dim=1) for values in group.maps), strict=True)
    return torch.cat([matrices(Maps(*part), run.subject.size)
                      for part, run in zip(parts, group.runs, strict=True)], dim=1)  # fmt: skip


def _csv(groups: Sequence[Group], numbers: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """A row for every unit of every group."""
    text = io.StringIO()
    rows = [
        {"group": number, "seed": seed, **facts, **of_unit,
         "nearest": _short(of_unit["nearest"][0])}
        for number, (group, of_group) in enumerate(zip(groups, numbers, strict=True), start=1)
        for seed, facts, of_unit in zip(_seeds(group), group.facts, of_group, strict=True)
    ]  # fmt: skip
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _seeds(group: Group) -> list[Any]:
    """Of every unit's run."""
    return [run.record.get("seed") for run in group.runs for _ in run.subject.units]


def _picture(group: Group, numbers: Sequence[Mapping[str, Any]]) -> bytes:
    """The matrix in the order of the families, and their typical units."""
    order, families = group.families.order, group.families
    labels = [str(label) for label in families.labels[order]]
    names = [group.facts[row]["unit"] for row in order]
    draw = partial(draw_matrix, group.shares[np.ix_(order, order)], labels, names, families.linkage)
    rows = [row for row, of_unit in enumerate(numbers) if of_unit["typical"]]
    rows = sorted(rows, key=lambda row: int(numbers[row]["family"]))[:MOST_SHOWN]
    images = [image for run in group.runs for image in _shown(run.subject)]
    captions = [
        f"family {numbers[row]['family']}\n{counted(numbers[row]['family_size'], 'unit')}\n"
        f"{group.facts[row]['model']}\n{group.facts[row]['layer']}\nunit {group.facts[row]['unit']}"
        for row in rows
    ]
    heading = "typical units of the families, the largest family first"
    tiles = page.gallery([images[row] for row in rows], captions, heading)
    title = " and ".join(dict.fromkeys(f"{f['model']}  {f['layer']}" for f in group.facts))
    lines = [f"Alignment. {_line(group)}", _left_out(group)]
    return page.png(page.compose(title, lines, [matrix_block(draw), tiles]))


def _shown(subject: Any) -> list[page.Block]:
    """The best image of every unit, enlarged or reduced to a tile."""
    pixels = display(subject.best_images(), subject.mean)
    return list(page.fitted(pixels, page.TILE)[0])
