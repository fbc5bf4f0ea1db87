"""Noise from which the response has somewhere to go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEAR = 0.1  # of noise, added to a live image to make another one near it


def live_start(
    draws: Sequence[Callable[[], Float[Tensor, "image 3 height width"]]],
    gradient: Callable[[Tensor, Int[Tensor, " unit"]], Float[Tensor, "unit image"]],
    *,
    rounds: int,
) -> tuple[Float[Tensor, "unit image 3 height width"], Bool[Tensor, " unit"]]:
    """Noise images from all of which the response has a gradient, and which units have such.

    draws     for every unit, what gives it fresh images, all as many
    gradient  images of some units, and which units -> norm of each image's gradient
    rounds    how often noise is drawn before a unit is given up as dead; images without a gradient
              are replaced by later draws, and the last few by near copies of live ones

    A dead unit has the noise of its first draw.
    """
    start = torch.stack([draw() for draw in draws])
    n = start.shape[1]
    wanting = list(range(len(draws)))
    live: dict[int, list[Tensor]] = {row: [] for row in wanting}
    drawn = start.clone()
    for _ in range(rounds):
        moving = (gradient(drawn, torch.tensor(wanting, device=start.device)) > 0).cpu()
        for place, row in enumerate(wanting):
            live[row].extend(drawn[place, moving[place]])
        for row in wanting:
            if len(live[row]) >= n:
                start[row] = torch.stack(live[row][:n])
        wanting = [row for row in wanting if len(live[row]) < n]
        if not wanting:
            break
        drawn = torch.stack([draws[row]() for row in wanting])
    for place, row in enumerate(wanting):
        if found := live[row]:
            copies = [found[i % len(found)] + NEAR * drawn[place, i] for i in range(n - len(found))]
            start[row] = torch.stack(found + copies)
    alive = torch.tensor([bool(live[row]) for row in range(len(draws))])
    return start, alive
