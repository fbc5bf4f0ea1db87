"""The picture of a prior's guard: the images between noise and photographs, under two priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from diversevis.pictures import graph, page
from diversevis.pictures.page import Block

ROWS = {  # in metrics.json -> in the picture
    "photographs": "crops of photographs",
    "images": "the images",
    "best": "best image, without the prior",
    "shuffled": "the images, pixels shuffled",
    "noise": "noise",
}
NAMES = {"prior_cost": "the prior that was optimized", "prior_check_cost": "not optimized"}


def picture(record: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Block | None:
    """Costs of every unit's images and of what they are compared with; None without a prior."""
    scored = [entry for entry in metrics if entry.get("prior_cost_images") is not None]
    if not scored:
        return None
    kinds = {"prior_cost": record["prior"]["kind"], "prior_check_cost": record["prior"]["check"]}
    blocks = []
    for name, what in NAMES.items():
        if scored[0].get(f"{name}_images") is None:
            continue
        draw = partial(_dots, scored, name)
        drawn = graph.block(draw, 900, 60 + 34 * len(ROWS), left=270, right=30, top=10)
        blocks.append(page.titled(f"{kinds[name]}: {what}", drawn))
    title = page.title_of(dict(record), [entry["unit"] for entry in metrics])
    return page.compose(title, lines(scored), blocks)


def lines(scored: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the picture says in words."""
    first = "Cost under a prior, all at the same norm; lower is more like photographs."
    if scored[0].get("prior_cost_photographs") is None:
        return [first, "No photographs to compare with: prior.photographs=FOLDER."]
    return [first, "Grey: from 5 to 95 % of the crops. A dot is a unit (mean of its images)."]


def _dots(scored: Sequence[Mapping[str, Any]], name: str, axis: Any) -> None:
    low, high = (scored[0].get(f"{name}_photographs{end}") for end in ("_low", "_high"))
    if low is not None and high is not None:
        axis.axvspan(low, high, color="#e4e4e4", lw=0)
    spread = np.random.default_rng(0).uniform(-0.25, 0.25, len(scored))
    for place, what in enumerate(reversed(ROWS)):
        values = [entry.get(f"{name}_{what}") for entry in scored]
        if what == "photographs":  # the same for all units
            values = values[:1]
        known = [(x, y) for x, y in zip(values, spread, strict=False) if x is not None]
        if not known:
            continue
        x, offsets = np.array(known).T
        color = graph.ORANGE if what == "images" else graph.BLUE if what == "best" else graph.FAINT
        offsets = offsets if len(known) > 1 else np.zeros(1)
        alpha = 0.9 if len(known) < 20 else 0.4
        axis.scatter(x, place + offsets, s=26, color=color, alpha=alpha, lw=0, zorder=3)
    axis.set_yticks(range(len(ROWS)), labels=[*reversed(ROWS.values())])
    axis.set(xlabel="cost", ylim=(-0.6, len(ROWS) - 0.4))
    axis.tick_params(axis="y", length=0)
