"""The loop that every optimizer shares: evaluate, remember the best, let stopped units go, move."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LOOK = 10  # steps between looks at who has stopped: each makes the host wait for the device

BATCHED = "rows", "active", "diverged", "steps", "loss", "images"  # tensors of a `_Batch`

Images = Float[Tensor, "unit image 3 height width"]
Terms = dict[str, Float[Tensor, " unit"]]


@runtime_checkable
class Evaluate(Protocol):
    """Images of some units -> named terms, each [unit]: among them `loss`, which is minimised, and
    `descent`, whose gradient leads there (the loss itself, or like it)."""

    def __call__(
        self, images: Images, rows: Int[Tensor, " unit"], *, emphasis: float, softness: float
    ) -> Terms: ...


# Told of every step: its number, which units are in the batch, their images and terms.
Listener = Callable[[int, Sequence[int], Tensor, dict[str, Tensor]], None]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is optimized, over images of fixed norm.

    evaluate      images -> terms; `rows` says which units they belong to
    render        parameters -> images of the norm (their direction is all that matters)
    precondition  gradient with respect to images -> the same, its frequencies weighted
    """

    evaluate: Evaluate
    render: Callable[[Images], Images]
    precondition: Callable[[Images], Images]


class State(NamedTuple):
    """A loop between two steps: tensors by name, and facts that JSON can hold."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@runtime_checkable
class Keep(Protocol):
    """Keeps a loop's state, so that another process can go on from it.

    restore  the state to go on from, None to begin at the beginning
    (call)   told between any two steps; `snapshot` gives the state, valid until the next step
    """

    def restore(self) -> State | None: ...

    def __call__(self, step: int, snapshot: Callable[[], State]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an optimization ended with, per unit.

    images  the best iterate (smallest loss), [unit, image, 3, h, w]
    steps   number of steps taken
    stop    `converged`, `annealed` (its schedule came to its end), `max_steps`, `diverged` or
            `interrupted`
    trace   name of a term -> [step, unit]; NaN after a unit stopped
    interrupted  whether Ctrl-C ended it, be it for units that had just stopped
    """

    images: Images
    steps: tuple[int, ...]
    stop: tuple[str, ...]
    trace: dict[str, Float[Tensor, "step unit"]]
    interrupted: bool


@runtime_checkable
class Moves(Protocol):
    """How an optimizer moves the parameters of the units in the batch.

    state     tensors with one entry per unit, carried from step to step
    guidance  step -> emphasis on distances, softness of the smallest one
    move      parameters, images, gradient with respect to the images -> the next parameters
    finished  after `move`'s last: which units have converged
    """

    state: dict[str, Tensor]
    at_the_end: str

    def guidance(self, step: int) -> tuple[float, float]: ...

    def move(self, step: int, raw: Images, images: Images, gradient: Images) -> Images: ...

    def finished(self, step: int, terms: Terms) -> Bool[Tensor, " unit"]: ...


def descend(
    problem: Problem,
    start: Images,
    moves: Moves,
    steps: int,
    listener: Listener | None,
    keep: Keep | None = None,
) -> Result:
    """Minimise `loss` of every unit from `start`; Ctrl-C ends with what there is.

    keep  keeps the state between steps, and may have one to go on from; what comes of it is the
          same to the bit, where the same machine computes the same twice
    """
    record = _Record.empty(problem.render(start))
    batch = _Batch.of(record.images)
    raw, first, interrupted = start, 1, False
    if keep is not None and (kept := keep.restore()) is not None:
        record, batch, raw, first = _restored(kept, moves)
    try:
        for step in range(first, steps + 1):
            emphasis, softness = moves.guidance(step)
            images = problem.render(raw).requires_grad_(True)
            terms = problem.evaluate(images, batch.rows, emphasis=emphasis, softness=softness)
            (gradient,) = torch.autograd.grad(terms["descent"].sum(), images)
            images = images.detach()
            terms = {name: value.detach() for name, value in terms.items() if name != "descent"}
            batch.update(step, images, terms, gradient, moves.finished(step, terms))
            if listener is not None:
                listener(step, batch.listed, images, terms)
            if step == steps:
                break
            raw = moves.move(step, raw, images, gradient)
            if step % LOOK == 0 and not bool(batch.active.all()):
                staying = batch.active.nonzero()[:, 0]
                record.take(batch)
                batch = batch.only(staying)
                moves.state = {name: value[staying] for name, value in moves.state.items()}
                raw = raw[staying]
                if not len(staying):
                    break
            if keep is not None:
                keep(step, functools.partial(_snapshot, step, record, batch, raw, moves))
    except KeyboardInterrupt:
        interrupted = True
    record.take(batch)
    running = "interrupted" if interrupted else moves.at_the_end
    return record.result(running, interrupted)


@dataclass(kw_only=True)
class _Batch:
    """Per-unit memory of the units still in the batch."""

    rows: Int[Tensor, " unit"]
    listed: list[int]  # the same on the host
    active: Bool[Tensor, " unit"]
    diverged: Bool[Tensor, " unit"]
    steps: Int[Tensor, " unit"]
    loss: Float[Tensor, " unit"]  # the smallest so far, and where
    images: Images
    trace: list[Terms] = field(default_factory=list)

    @classmethod
    def of(cls, images: Images) -> _Batch:
        units, device = len(images), images.device
        rows = torch.arange(units, device=device)
        active = torch.ones(units, dtype=torch.bool, device=device)
        return cls(
            rows=rows,
            listed=list(range(units)),
            active=active,
            diverged=~active,
            steps=torch.zeros_like(rows),
            loss=torch.full((units,), torch.inf, device=device),
            images=images.clone(),
        )

    def update(
        self, step: int, images: Images, terms: Terms, gradient: Images, finished: Tensor
    ) -> None:
        """Take note of one evaluation, made at `images`."""
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

    def state(self) -> State:
        """All of it, for a checkpoint; the trace as one tensor [step, unit] a term."""
        tensors = {name: getattr(self, name) for name in BATCHED}
        names = list(self.trace[0]) if self.trace else []
        for name in names:
            tensors[f"trace.{name}"] = torch.stack([one[name] for one in self.trace])
        return State(tensors, {"listed": self.listed, "terms": names})

    @classmethod
    def of_state(cls, kept: State) -> _Batch:
        names = kept.facts["terms"]
        steps = zip(*(kept.tensors[f"trace.{name}"].unbind() for name in names), strict=True)
        return cls(
            **{name: kept.tensors[name] for name in BATCHED},
            listed=kept.facts["listed"],
            trace=[dict(zip(names, values, strict=True)) for values in steps],
        )

    def only(self, staying: Int[Tensor, " unit"]) -> _Batch:
        kept = set(staying.tolist())
        return _Batch(
            rows=self.rows[staying],
            listed=[row for place, row in enumerate(self.listed) if place in kept],
            active=self.active[staying],
            diverged=self.diverged[staying],
            steps=self.steps[staying],
            loss=self.loss[staying],
            images=self.images[staying],
        )


@dataclass(kw_only=True)
class _Record:
    """What every unit has come to, whether or not it is still in the batch."""

    images: Images
    steps: list[int]
    ended: list[str]  # "" for a unit that had not stopped by itself
    traces: list[tuple[list[int], Terms]]  # units in the batch, their terms [step, unit]

    @classmethod
    def empty(cls, images: Images) -> _Record:
        units = len(images)
        return cls(images=images.clone(), steps=[0] * units, ended=[""] * units, traces=[])

    def state(self) -> State:
        tensors = {"images": self.images}
        for place, (_, terms) in enumerate(self.traces):
            tensors |= {f"trace.{place}.{name}": value for name, value in terms.items()}
        traces = [[rows, list(terms)] for rows, terms in self.traces]
        return State(tensors, {"steps": self.steps, "ended": self.ended, "traces": traces})

    @classmethod
    def of_state(cls, kept: State) -> _Record:
        traces = [
            (rows, {name: kept.tensors[f"trace.{place}.{name}"].cpu() for name in names})
            for place, (rows, names) in enumerate(kept.facts["traces"])
        ]
        facts = kept.facts
        return cls(
            images=kept.tensors["images"],
            steps=facts["steps"],
            ended=facts["ended"],
            traces=traces,
        )

    def take(self, batch: _Batch) -> None:
        self.images[batch.rows] = batch.images
        facts = batch.steps.tolist(), batch.diverged.tolist(), batch.active.tolist()
        for row, steps, diverged, active in zip(batch.listed, *facts, strict=True):
            self.steps[row] = steps
            self.ended[row] = "diverged" if diverged else "" if active else "converged"
        if batch.trace:
            names = batch.trace[0]
            stacked = {name: torch.stack([one[name] for one in batch.trace]) for name in names}
            self.traces.append((batch.listed, {k: v.cpu() for k, v in stacked.items()}))

    def result(self, running: str, interrupted: bool) -> Result:
        trace: dict[str, Tensor] = {}
        if self.traces:
            steps = sum(len(terms["loss"]) for _, terms in self.traces)
            for name in self.traces[0][1]:
                whole, begin = torch.full((steps, len(self.steps)), torch.nan), 0
                for rows, terms in self.traces:
                    whole[begin : begin + len(terms[name]), rows] = terms[name]
                    begin += len(terms[name])
                trace[name] = whole
        return Result(
            images=self.images,
            steps=tuple(self.steps),
            stop=tuple(ended or running for ended in self.ended),
            trace=trace,
            interrupted=interrupted,
        )


def _snapshot(step: int, record: _Record, batch: _Batch, raw: Images, moves: Moves) -> State:
    """Everything the next step depends on, and everything that has been found."""
    of_record, of_batch = record.state(), batch.state()
    tensors = {"raw": raw}
    tensors |= {f"moves.{name}": value for name, value in moves.state.items()}
    tensors |= {f"record.{name}": value for name, value in of_record.tensors.items()}
    tensors |= {f"batch.{name}": value for name, value in of_batch.tensors.items()}
    return State(tensors, {"step": step, "record": of_record.facts, "batch": of_batch.facts})


def _restored(kept: State, moves: Moves) -> tuple[_Record, _Batch, Images, int]:
    """What `_snapshot` was made of; and the step that comes next."""

    def under(part: str) -> dict[str, Tensor]:
        names = [name for name in kept.tensors if name.startswith(f"{part}.")]
        return {name.removeprefix(f"{part}."): kept.tensors[name] for name in names}

    moves.state = under("moves")
    record = _Record.of_state(State(under("record"), kept.facts["record"]))
    batch = _Batch.of_state(State(under("batch"), kept.facts["batch"]))
    return record, batch, kept.tensors["raw"], kept.facts["step"] + 1


def tangent(images: Images, gradient: Images) -> Images:
    """The part of `gradient` along which the images' norm does not change."""
    shared = (images * gradient).sum((2, 3, 4), keepdim=True)
    return gradient - images * (shared / images.square().sum((2, 3, 4), keepdim=True))


def sizes(images: Images) -> Float[Tensor, "unit image 1 1 1"]:
    """Euclidean norm of every image."""
    return torch.linalg.vector_norm(images, dim=(2, 3, 4), keepdim=True)
