"""Noise images from which the response has a gradient to follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Share of noise added to a copy of a live image: small enough that the copy is live, large enough
# that the copies do not start as identical images, whose distance has no gradient.
COPY_NOISE = 0.1


def live_start(
    draws: Sequence[Callable[[], Float[Tensor, "image 3 height width"]]],
    gradient: Callable[[Tensor, Int[Tensor, " unit"]], Float[Tensor, "unit image"]],
    *,
    rounds: int,
) -> tuple[Float[Tensor, "unit image 3 height width"], Bool[Tensor, " unit"]]:
    """Return (noise images from all of which the response has a gradient, which units are alive).

    draws     for every unit a function that draws n fresh noise images
    gradient  images of some units, and their index into `draws` -> norm of every image's gradient
    rounds    how often noise is drawn before a unit is given up as dead

    Images without a gradient are replaced by those of later draws, and the last that are still
    missing by copies of live images with a little noise. A dead unit has the noise of its first
    draw.
    """
    start = torch.stack([draw() for draw in draws])
    n = start.shape[1]
    incomplete = list(range(len(draws)))
    live: dict[int, list[Tensor]] = {unit: [] for unit in incomplete}
    drawn = start.clone()
    for _ in range(rounds):
        moving = (gradient(drawn, torch.tensor(incomplete, device=start.device)) > 0).cpu()
        for unit, images, has_gradient in zip(incomplete, drawn, moving, strict=True):
            live[unit].extend(images[has_gradient])
            if len(live[unit]) >= n:
                start[unit] = torch.stack(live[unit][:n])
        incomplete = [unit for unit in incomplete if len(live[unit]) < n]
        if not incomplete:
            break
        drawn = torch.stack([draws[unit]() for unit in incomplete])
    # After a `break`, `drawn` still holds images, but no unit is incomplete: hence not strict.
    for unit, noise in zip(incomplete, drawn, strict=False):
        images = live[unit]
        if images:
            copies = [
                images[i % len(images)] + COPY_NOISE * noise[i] for i in range(n - len(images))
            ]
            start[unit] = torch.stack(images + copies)
    alive = torch.tensor([bool(live[unit]) for unit in range(len(draws))])
    return start, alive
