"""The published protocol, plainly written, as a baseline (docs/method.md, sections 1 to 5).

One unit at a time, all channels of the layer, a Python loop over pairs of images, and Adam with the
published stopping rule.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Published(NamedTuple):
    """Result of the protocol for a unit, at the step with the lowest loss."""

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
    std: tuple[float, ...],
    response_scale: float,
    distance_scale: float,
    diversity: float,
    steps: int = 1000,
    patience: int = 100,
) -> Published:
    """Optimize diverse images of `unit`, from noise.

    network  images [image, 3, h, w] -> responses [image, channel], the first of its outputs
    raw      noise [image, 3, h, w]
    norm     Euclidean norm of an image, grey levels
    """
    began = time.perf_counter()
    height, width = raw.shape[-2:]
    rows, across = (torch.fft.fftfreq(side, 1 / side, device=raw.device) for side in raw.shape[2:])
    columns = torch.fft.rfftfreq(width, 1 / width, device=raw.device)
    # Preconditioning, 1 / sqrt(frequency), relative to its mean over all frequencies (section 3).
    full = torch.hypot(rows[:, None], across[None, :])
    weights = 1 / torch.hypot(rows[:, None], columns[None, :]).sqrt().clamp(min=1)
    weights = weights / (1 / full.sqrt().clamp(min=1)).mean()
    scale = 255 * torch.tensor(std, device=raw.device)[:, None, None]

    raw = raw.clone().requires_grad_(True)
    adam = torch.optim.Adam([raw], lr=1.0)
    average, best_average, improved = 0.0, float("inf"), 0
    best, best_values = float("inf"), (0.0, 0.0)
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
            best, best_values = value, (response.item(), distance.item())
        # Stop when the running mean of the loss has not fallen for `patience` steps (section 5).
        average = value if step == 1 else 0.9 * average + 0.1 * value
        if average < best_average:
            best_average, improved = average, step
        if step - improved >= patience:
            break
        adam.step()
    return Published(*best_values, steps=step, seconds=time.perf_counter() - began)
