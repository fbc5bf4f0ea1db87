"""A unit's result with its film, and a batch of them as tensors and facts for a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from diversevis.method.optimize.loop import State
from diversevis.method.visualize import Visualization

Frame = UInt8[np.ndarray, "image height width 3"]


class Finished(NamedTuple):
    """A unit's result, and the frames of its film if one is made."""

    visualization: Visualization
    frames: list[Frame]


def pack(batch: Sequence[Finished]) -> State:
    """As tensors by name, and what JSON can hold."""
    tensors, facts = {}, []
    for place, (one, frames) in enumerate(batch):
        tensors[f"{place}.images"], tensors[f"{place}.responses"] = one.images, one.responses
        if one.front is not None:
            tensors[f"{place}.front"] = one.front
        tensors |= {f"{place}.trace.{name}": values for name, values in one.trace.items()}
        tensors |= {f"{place}.film.{k}": torch.from_numpy(frame) for k, frame in enumerate(frames)}
        facts.append({"metrics": one.metrics, "trace": list(one.trace), "frames": len(frames)})
    return State(tensors, {"units": facts})


def unpack(kept: State) -> list[Finished]:
    """What `pack` was given."""
    found = []
    for place, facts in enumerate(kept.facts["units"]):
        one = Visualization(
            unit=facts["metrics"]["unit"],
            images=kept.tensors[f"{place}.images"],
            responses=kept.tensors[f"{place}.responses"],
            metrics=facts["metrics"],
            trace={name: kept.tensors[f"{place}.trace.{name}"] for name in facts["trace"]},
            interrupted=False,
            front=kept.tensors.get(f"{place}.front"),
        )
        frames = [kept.tensors[f"{place}.film.{k}"].numpy() for k in range(facts["frames"])]
        found.append(Finished(one, frames))
    return found
