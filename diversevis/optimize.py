"""The loop: Adam on raw images, the stopping rule, and a result that says why it stopped.

METHOD.md section 5. It takes callables, not a model. Units share a batch but nothing else: each
has its own loss, moving average, best iterate and reason to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEAR = 0.1  # of noise, added to a live image to make another one near it

# Raw images [unit, image, 3, h, w] -> named terms, each [unit], among them `loss`.
Evaluate = Callable[[Tensor], dict[str, Tensor]]
OnStep = Callable[[int, Tensor, dict[str, Tensor]], None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an optimization ended with, per unit.

    raw    the best iterate (smallest loss), [unit, image, 3, h, w]
    steps  number of steps taken
    stop   `converged`, `max_steps`, `diverged` or `interrupted`
    trace  name of a term -> [step, unit]; NaN after a unit stopped
    interrupted  whether Ctrl-C ended it, be it for units that had just stopped
    """

    raw: Float[Tensor, "unit image 3 height width"]
    steps: tuple[int, ...]
    stop: tuple[str, ...]
    trace: dict[str, Float[Tensor, "step unit"]]
    interrupted: bool


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam as published (Kingma & Ba 2015), on the raw images.

    learning_rate  step size in units of the raw parameters' standard deviation
    beta1, beta2, epsilon  decay rates of the moments, floor of the denominator
    steps          at most so many
    patience       stop when the smoothed loss has not improved for so many steps
    smoothing      decay rate of the exponential moving average of the loss
    """

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    steps: int
    patience: int
    smoothing: float

    def __call__(self, evaluate: Evaluate, start: Tensor, on_step: OnStep | None = None) -> Result:
        """Minimise `loss` of every unit from `start`; Ctrl-C ends with what there is."""
        raw = start.clone().requires_grad_(True)
        adam = torch.optim.Adam(
            [raw], lr=self.learning_rate, betas=(self.beta1, self.beta2), eps=self.epsilon
        )
        state = _Progress(raw.detach(), self.smoothing, self.patience)
        traces: list[dict[str, Tensor]] = []
        interrupted = False
        try:
            for step in range(1, self.steps + 1):
                adam.zero_grad(set_to_none=True)
                terms = evaluate(raw)
                torch.autograd.backward(terms["loss"].sum())
                detached = {name: term.detach() for name, term in terms.items()}
                traces.append(
                    {k: torch.where(state.active, v, torch.nan) for k, v in detached.items()}
                )
                state.update(step, raw.detach(), detached["loss"], raw.grad)
                if on_step is not None:
                    on_step(step, raw.detach(), detached)
                if not bool(state.active.any()):
                    break
                adam.step()
        except KeyboardInterrupt:
            interrupted = True
        return Result(
            raw=state.best_raw,
            steps=tuple(state.steps.tolist()),
            stop=state.reasons(interrupted),
            trace={name: torch.stack([t[name] for t in traces]).cpu() for name in traces[0]}
            if traces
            else {},
            interrupted=interrupted,
        )


class _Progress:
    """Per-unit memory of the loop: moving average, best iterate, who is still running."""

    active: Bool[Tensor, " unit"]
    steps: Int[Tensor, " unit"]

    def __init__(self, raw: Tensor, smoothing: float, patience: int) -> None:
        units, device = len(raw), raw.device
        self.smoothing, self.patience = smoothing, patience
        self.active = torch.ones(units, dtype=torch.bool, device=device)
        self.diverged = torch.zeros_like(self.active)
        self.steps = torch.zeros(units, dtype=torch.long, device=device)
        self.improved_at = torch.zeros_like(self.steps)
        self.average = torch.full((units,), torch.nan, device=device)
        self.best_average = torch.full((units,), torch.inf, device=device)
        self.best_loss = torch.full((units,), torch.inf, device=device)
        self.best_raw = raw.clone()

    def update(self, step: int, raw: Tensor, loss: Tensor, gradient: Tensor | None) -> None:
        """Take note of one evaluation; `raw` is where it was made."""
        finite = loss.isfinite()
        if gradient is not None:
            finite &= gradient.flatten(1).isfinite().all(1)
        self.steps = torch.where(self.active, step, self.steps)
        self.diverged |= self.active & ~finite
        self.active &= finite

        better = self.active & (loss < self.best_loss)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.best_raw = torch.where(better[:, None, None, None, None], raw, self.best_raw)

        first = self.average.isnan()
        blend = self.smoothing * self.average + (1 - self.smoothing) * loss
        self.average = torch.where(self.active, torch.where(first, loss, blend), self.average)
        progress = self.active & (self.average < self.best_average)
        self.best_average = torch.where(progress, self.average, self.best_average)
        self.improved_at = torch.where(progress, step, self.improved_at)
        self.active &= step - self.improved_at < self.patience

    def reasons(self, interrupted: bool) -> tuple[str, ...]:
        running = "interrupted" if interrupted else "max_steps"
        return tuple(
            "diverged" if diverged else running if active else "converged"
            for active, diverged in zip(self.active.tolist(), self.diverged.tolist(), strict=True)
        )


def live_start(
    draw: Callable[[], Tensor],
    gradient: Callable[[Tensor], Float[Tensor, " image"]],
    *,
    rounds: int,
) -> Tensor | None:
    """Noise images from all of which the response has a gradient; None for a dead unit.

    draw      gives fresh raw images [1, image, 3, h, w]
    gradient  norm of each image's gradient
    rounds    how often noise is drawn before the unit is given up; images without a gradient are
              replaced by later draws, and the last few by near copies of live ones
    """
    start = draw()
    n, live = start.shape[1], list[Tensor]()
    for _ in range(rounds):
        moving = gradient(start) > 0
        live.extend(start[0, moving])
        if len(live) >= n:
            return torch.stack(live[:n])[None]
        start = draw()
    if not live:
        return None
    copies = [live[i % len(live)] + NEAR * start[0, i] for i in range(n - len(live))]
    return torch.stack(live + copies)[None]
