"""The published protocol, plainly written: one unit at a time, every channel of the layer, every
pair of images in Python, Adam with the published stopping rule (docs/method.md, section 1 to 5)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Published(NamedTuple):
    """What the protocol came to for one unit."""

    response: float  # mean over images
    distance: float  # smallest, RMS grey levels
    steps: int
    seconds: float


def published(
    network: Callable[[Tensor], tuple[Tensor, ...]],
    raw: Tensor,
    unit: int,
    *,
    norm: float,
    std: tuple[float, float, float],
    response_scale: float,
    distance_scale: float,
    diversity: float,
    steps: int = 1000,
    patience: int = 100,
) -> Published:
    """From noise `raw` [image, 3, h, w] to diverse images of `unit`."""
    began = time.perf_counter()
    height, width = raw.shape[-2:]
    rows, across = (torch.fft.fftfreq(side, 1 / side, device=raw.device) for side in raw.shape[2:])
    columns = torch.fft.rfftfreq(width, 1 / width, device=raw.device)
    full = torch.hypot(rows[:, None], across[None, :])
    weights = 1 / torch.hypot(rows[:, None], columns[None, :]).sqrt().clamp(min=1)
    weights = weights / (1 / full.sqrt().clamp(min=1)).mean()
    scale = 255 * torch.tensor(std, device=raw.device)[:, None, None]

    raw = raw.clone().requires_grad_(True)
    adam = torch.optim.Adam([raw], lr=1.0)
    average, best_average, improved = 0.0, float("inf"), 0
    best, reached = float("inf"), (0.0, 0.0)
    step = 0
    for step in range(1, steps + 1):
        adam.zero_grad()
        x = norm * raw / raw.flatten(1).norm(dim=1)[:, None, None, None]
        x.register_hook(
            lambda gradient: torch.fft.irfft2(
                torch.fft.rfft2(gradient) * weights, s=(height, width)
            )
        )
        response = network(x / scale)[0][:, unit].mean()
        distance = min(
            (x[i] - x[j]).square().mean().sqrt()
            for i, j in itertools.combinations(range(len(x)), 2)
        )
        loss = -(response / response_scale + diversity * distance / distance_scale)
        loss.backward()
        value = loss.item()
        if value < best:
            best, reached = value, (response.item(), distance.item())
        average = value if step == 1 else 0.9 * average + 0.1 * value
        if average < best_average:
            best_average, improved = average, step
        if step - improved >= patience:
            break
        adam.step()
    return Published(*reached, steps=step, seconds=time.perf_counter() - began)
