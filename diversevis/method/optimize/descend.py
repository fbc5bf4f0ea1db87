"""The loop of all optimizers: evaluate, remember the best, remove what has stopped, move."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diversevis.method.optimize.loop import (
    Images,
    Listener,
    LoopCheckpoint,
    Problem,
    State,
    Tensors,
    Terms,
)

LOOK = 10  # steps between checks of which sets have stopped: the host waits for the device there
IN_BATCH = "rows", "active", "diverged", "steps", "loss", "images"  # tensors of a `_Batch`


@runtime_checkable
class Optimizer(Protocol):
    """How the parameters of the sets at work move. A state has tensors with an entry per set."""

    at_the_end: ClassVar[str]  # why a set stopped that took all steps

    @property
    def steps(self) -> int: ...

    def begin(self, start: Images) -> Tensors: ...  # the state before the first step

    # Emphasis on distances, softness of the smallest distance.
    def guidance(self, step: int) -> tuple[float, float]: ...

    # Which sets have converged, judged before the step's `move`.
    def finished(self, state: Tensors, step: int, terms: Terms) -> Bool[Tensor, " set"]: ...

    # Parameters, images, gradient with respect to the images -> the next parameters.
    def move(
        self, problem: Problem, state: Tensors, step: int, raw: Images, images: Images,
        gradient: Images,
    ) -> Images: ...  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result:
    """The end of an optimization."""

    images: Images  # the best iterate (smallest loss)
    steps: tuple[int, ...]  # taken by every set
    # `converged`, `annealed` (at the end of its schedule), `max_steps`, `diverged`, `interrupted`.
    stop: tuple[str, ...]
    trace: dict[str, Float[Tensor, "step set"]]  # term by term; NaN after a set stopped
    interrupted: bool  # by Ctrl-C, even if all sets had just stopped


def descend(
    optimizer: Optimizer,
    problem: Problem,
    start: Images,
    listener: Listener | None = None,
    checkpoint: LoopCheckpoint | None = None,
) -> Result:
    """Follow the gradient of `descent` from `start`; returns the images with the smallest `loss` of
    every set. Ctrl-C ends with the best images so far.

    checkpoint  stores the state between steps, and may hold a state to continue from; the result
                is then the same to the bit, if the machine repeats its computations exactly
    """
    images, sets = problem.render(start), len(start)
    record = _Record(images=images.clone(), steps=[0] * sets, ended=[""] * sets, traces=[])
    batch = _Batch.of(images)
    raw, moves, first, interrupted = start, optimizer.begin(start), 1, False
    if checkpoint is not None and (state := checkpoint.restore()) is not None:
        record, batch, raw, moves, first = _restored(state)
    try:
        for step in range(first, optimizer.steps + 1):
            images, terms, gradient = _evaluated(problem, raw, batch.rows, optimizer.guidance(step))
            batch.update(step, images, terms, gradient, optimizer.finished(moves, step, terms))
            if listener is not None:
                listener(step, batch.listed, images, terms)
            if step == optimizer.steps:
                break
            raw = optimizer.move(problem, moves, step, raw, images, gradient)
            if step % LOOK == 0 and not bool(batch.active.all()):
                staying = batch.active.nonzero()[:, 0]
                record.take(batch)
                batch = batch.only(staying)
                moves = {name: value[staying] for name, value in moves.items()}
                raw = raw[staying]
                if not len(staying):
                    break
            if checkpoint is not None:
                checkpoint(step, functools.partial(_snapshot, step, record, batch, raw, moves))
    except KeyboardInterrupt:
        interrupted = True
    record.take(batch)
    return record.result("interrupted" if interrupted else optimizer.at_the_end, interrupted)


def _evaluated(
    problem: Problem, raw: Images, rows: Int[Tensor, " set"], guidance: tuple[float, float]
) -> tuple[Images, Terms, Images]:
    """Images, their terms without `descent`, and the gradient of `descent` at the images."""
    emphasis, softness = guidance
    images = problem.render(raw).requires_grad_(True)
    terms = problem.evaluate(images, rows, emphasis=emphasis, softness=softness)
    (gradient,) = torch.autograd.grad(terms["descent"].sum(), images)
    terms = {name: value.detach() for name, value in terms.items() if name != "descent"}
    return images.detach(), terms, gradient


@dataclass(kw_only=True)
class _Batch:
    """The sets still at work."""

    rows: Int[Tensor, " set"]  # index into the start
    listed: list[int]  # `rows` on the host
    active: Bool[Tensor, " set"]
    diverged: Bool[Tensor, " set"]
    steps: Int[Tensor, " set"]
    loss: Float[Tensor, " set"]  # the smallest so far
    images: Images  # where the loss was smallest
    trace: list[Terms] = field(default_factory=list)  # a step's terms each, since the batch began

    @classmethod
    def of(cls, images: Images) -> _Batch:
        sets, device = len(images), images.device
        rows = torch.arange(sets, device=device)
        active = torch.ones(sets, dtype=torch.bool, device=device)
        return cls(
            rows=rows, listed=list(range(sets)), active=active, diverged=~active,
            steps=torch.zeros_like(rows), loss=torch.full((sets,), torch.inf, device=device),
            images=images.clone(),
        )  # fmt: skip

    def update(
        self, step: int, images: Images, terms: Terms, gradient: Images, finished: Tensor
    ) -> None:
        """Take note of an evaluation at `images`. On the device alone: the host does not wait."""
        loss = terms["loss"]
        self.trace.append(
            {name: torch.where(self.active, value, torch.nan) for name, value in terms.items()}
        )
        finite = loss.isfinite() & gradient.flatten(1).isfinite().all(1)
        self.steps = torch.where(self.active, step, self.steps)
        self.diverged |= self.active & ~finite
        self.active &= finite
        better = self.active & (loss < self.loss)
        self.loss = torch.where(better, loss, self.loss)
        self.images = torch.where(better[:, None, None, None, None], images, self.images)
        self.active &= ~finished

    def only(self, staying: Int[Tensor, " set"]) -> _Batch:
        tensors: dict[str, Any] = {name: getattr(self, name)[staying] for name in IN_BATCH}
        listed = [self.listed[index] for index in staying.tolist()]
        return replace(self, listed=listed, trace=[], **tensors)

    def stacked_trace(self) -> dict[str, Float[Tensor, "step set"]]:
        names = list(self.trace[0]) if self.trace else []
        return {name: torch.stack([terms[name] for terms in self.trace]) for name in names}


@dataclass(kw_only=True)
class _Record:
    """What all sets have reached, whether or not they are still at work."""

    images: Images
    steps: list[int]
    ended: list[str]  # "" for a set that had not stopped by itself
    traces: list[tuple[list[int], Terms]]  # of consecutive batches: `listed`, terms [step, set]

    def take(self, batch: _Batch) -> None:
        self.images[batch.rows] = batch.images
        facts = batch.steps.tolist(), batch.diverged.tolist(), batch.active.tolist()
        for row, steps, diverged, active in zip(batch.listed, *facts, strict=True):
            self.steps[row] = steps
            self.ended[row] = "diverged" if diverged else "" if active else "converged"
        if batch.trace:
            trace = {name: values.cpu() for name, values in batch.stacked_trace().items()}
            self.traces.append((batch.listed, trace))

    def result(self, running: str, interrupted: bool) -> Result:
        """running  why the sets stopped that had not stopped by themselves"""
        steps = sum(len(terms["loss"]) for _, terms in self.traces)
        names = self.traces[0][1] if self.traces else ()
        trace = {name: torch.full((steps, len(self.steps)), torch.nan) for name in names}
        begin = 0
        for rows, terms in self.traces:
            end = begin + len(terms["loss"])
            for name, values in terms.items():
                trace[name][begin:end, rows] = values
            begin = end
        return Result(
            images=self.images,
            steps=tuple(self.steps),
            stop=tuple(ended or running for ended in self.ended),
            trace=trace,
            interrupted=interrupted,
        )


def _snapshot(step: int, record: _Record, batch: _Batch, raw: Images, moves: Tensors) -> State:
    """Everything on which the next step and the result depend."""
    trace = batch.stacked_trace()
    tensors = {"raw": raw, "record.images": record.images}
    tensors |= {f"moves.{name}": value for name, value in moves.items()}
    tensors |= {f"batch.{name}": getattr(batch, name) for name in IN_BATCH}
    tensors |= {f"batch.trace.{name}": values for name, values in trace.items()}
    for index, (_, terms) in enumerate(record.traces):
        tensors |= {f"record.trace.{index}.{name}": values for name, values in terms.items()}
    traces = [[rows, list(terms)] for rows, terms in record.traces]
    facts = {
        "step": step,
        "record": {"steps": record.steps, "ended": record.ended, "traces": traces},
        "batch": {"listed": batch.listed, "terms": list(trace)},
    }
    return State(tensors, facts)


def _restored(state: State) -> tuple[_Record, _Batch, Images, Tensors, int]:
    """The arguments of `_snapshot`, with the number of the next step last."""
    tensors, of_record, of_batch = state.tensors, state.facts["record"], state.facts["batch"]
    traces = [
        (rows, {name: tensors[f"record.trace.{index}.{name}"].cpu() for name in names})
        for index, (rows, names) in enumerate(of_record["traces"])
    ]
    record = _Record(images=tensors["record.images"], **(of_record | {"traces": traces}))
    names = of_batch["terms"]
    steps = zip(*(tensors[f"batch.trace.{name}"].unbind() for name in names), strict=True)
    batch = _Batch(
        **{name: tensors[f"batch.{name}"] for name in IN_BATCH},
        listed=of_batch["listed"],
        trace=[dict(zip(names, values, strict=True)) for values in steps],
    )
    return record, batch, tensors["raw"], state.part("moves").tensors, state.facts["step"] + 1
