"""The loop of all optimizers: evaluate, remember the best, move; remove what has stopped."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diversevis.method.optimize.capture import COST, Recorder, Repeated, recorder_of, side_stream
from diversevis.method.optimize.loop import (
    Images,
    Listener,
    LoopCheckpoint,
    Numbers,
    Problem,
    State,
    Tensors,
    Terms,
)
from diversevis.method.optimize.schedule import BLOCK, Schedule

ROUNDS = 8  # after as many equal shares of the steps, the worse half of rivals stops
LOOK = 10  # steps between checks of which sets have stopped: the host waits for the device there
# Of every set, whether or not it is still at work: steps taken, the images with the smallest loss.
REACHED = "active", "diverged", "steps", "images"
COMMON = "step", "trace"  # in the state of the loop, without an entry per set at work
MOVES = "moves."  # before the names of the optimizer's tensors


@runtime_checkable
class Optimizer(Protocol):
    """How the parameters of the sets at work move. A state has tensors with an entry per set.

    Of a step, `finished` and `move` know what `now` says, as tensors: on a GPU their operations are
    recorded once and repeated. So they read no value of a tensor on the host.
    """

    at_the_end: ClassVar[str]  # why a set stopped that took all steps

    @property
    def steps(self) -> int: ...

    def begin(self, start: Images) -> Tensors: ...  # the state before the first step

    # The numbers of a step: `emphasis` on distances, `softness` of the smallest distance, and what
    # `finished` and `move` need.
    def schedule(self, step: int) -> dict[str, float]: ...

    # Which sets have converged, judged before the step's `move`.
    def finished(self, state: Tensors, now: Numbers, terms: Terms) -> Bool[Tensor, " set"]: ...

    # Parameters, images, gradient with respect to the images -> the next parameters.
    def move(
        self, problem: Problem, state: Tensors, now: Numbers, raw: Images, images: Images,
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
    with side_stream(start.device):
        stored = checkpoint.restore() if checkpoint is not None else None
        work = _Work(optimizer=optimizer, problem=problem, start=start)
        reached, state, first = work.restored(stored) if stored else work.begun()
        return _loop(work, reached, state, first, listener, checkpoint)


def _loop(
    work: _Work, reached: Tensors, state: Tensors, first: int,
    listener: Listener | None, checkpoint: LoopCheckpoint | None,
) -> Result:  # fmt: skip
    """The steps from number `first` on, in which the sets at work leave `state`."""
    steps = work.optimizer.steps
    recorder = work.recorder if steps - first >= COST else None
    cost = COST if recorder else 0
    repeated, listed = Repeated(work.step, state, recorder), state["rows"].tolist()
    interrupted = False
    try:
        for step in range(first, steps + 1):
            work.begin_block(step, repeated.state if step > first else {})
            images, terms = repeated()
            if listener is not None:
                listener(step, listed, images, terms)
            if step == steps:
                break
            staying, round_ends = None, work.ends_round(step)
            if round_ends:
                stop_worse_half(repeated.state, work.problem.rivals)
            if round_ends or step % LOOK == 0:
                staying = _staying(repeated.state["active"], steps - step, cost)
            if staying is not None:
                _take(reached, repeated.state)
                if not len(staying):
                    break
                repeated = Repeated(work.step, _only(repeated.state, staying), recorder)
                listed = repeated.state["rows"].tolist()
            if checkpoint is not None:
                snapshot = functools.partial(work.snapshot, step, reached, repeated.state)
                checkpoint(step, snapshot)
    except KeyboardInterrupt:
        interrupted = True
    _take(reached, repeated.state)
    return work.result(reached, repeated.state, interrupted)


@dataclass(kw_only=True)
class _Work:
    """What does not change from step to step.

    terms  names of the terms, from the first step on
    trace  of finished blocks of steps, [step, set, term]; that of the block at work is in the state
    """

    optimizer: Optimizer
    problem: Problem
    start: Images
    terms: list[str] = field(default_factory=list)
    trace: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        device, steps = self.start.device, self.optimizer.steps
        self.schedule = Schedule(self.optimizer.schedule, steps, device)

    def ends_round(self, step: int) -> bool:
        """Whether the worse half of the rivals stops after this step."""
        return self.problem.rivals > 1 and ends_round(step, self.optimizer.steps)

    @property
    def recorder(self) -> Recorder | None:
        """What records a step; None for plain calls."""
        images = self.start.shape[0] * self.start.shape[1]
        return recorder_of(self.start.device) if images <= self.problem.recorded else None

    def begun(self) -> tuple[Tensors, Tensors, int]:
        """What the sets have reached, the state of the loop, and the number of the next step."""
        start, sets, device = self.start, len(self.start), self.start.device
        rows = torch.arange(sets, device=device)
        active = torch.ones(sets, dtype=torch.bool, device=device)
        reached = {
            "active": active, "diverged": ~active, "steps": torch.zeros_like(rows),
            "images": self.problem.render(start),
        }  # fmt: skip
        state = {name: value.clone() for name, value in reached.items()} | {
            "step": torch.ones(1, dtype=torch.long, device=device), "rows": rows, "raw": start,
            "loss": torch.full((sets,), torch.inf, device=device),
        }  # fmt: skip
        moves = self.optimizer.begin(start)
        return reached, state | {MOVES + name: value for name, value in moves.items()}, 1

    def begin_block(self, step: int, state: Tensors) -> None:
        """Before a step that begins a block: its numbers, and room in the trace."""
        self.schedule.load(step)
        if (step - 1) % BLOCK == 0 and "trace" in state:
            self.trace.append(state["trace"].cpu().clone())
            state["trace"].fill_(torch.nan)

    def whole_trace(self, state: Tensors, steps: int) -> Float[Tensor, "step set term"]:
        """Of all steps until now."""
        return torch.cat([*self.trace, state["trace"].cpu()])[:steps]

    def step(self, state: Tensors) -> tuple[Tensors, tuple[Images, Terms]]:
        """Evaluate, take note, move: on the device alone, and without a number of the host's that
        would change from step to step."""
        now = self.schedule.at(state["step"])
        images, terms, gradient = self._evaluated(state["raw"], state["rows"], now)
        moves = {name.removeprefix(MOVES): state[name] for name in state if name.startswith(MOVES)}
        finished = self.optimizer.finished(moves, now, terms)
        trace = self._write_trace(state, terms)
        noted = _noted(state, images, terms["loss"], gradient, finished)
        raw = self.optimizer.move(self.problem, moves, now, state["raw"], images, gradient)
        after = state | noted | {MOVES + name: value for name, value in moves.items()}
        after |= {"raw": raw, "trace": trace, "step": state["step"] + 1}
        return after, (images, terms)

    def _evaluated(
        self, raw: Images, rows: Int[Tensor, " set"], now: Numbers
    ) -> tuple[Images, Terms, Images]:
        """Images, their terms without `descent`, and the gradient of `descent` at the images."""
        images = self.problem.render(raw).requires_grad_(True)
        emphasis, softness = now["emphasis"], now["softness"]
        terms = self.problem.evaluate(images, rows, emphasis=emphasis, softness=softness)
        (gradient,) = torch.autograd.grad(terms["descent"].sum(), images)
        terms = {name: value.detach() for name, value in terms.items() if name != "descent"}
        # A sum's rounding depends on the layout, which differs between one image and several.
        return images.detach(), terms, gradient.contiguous()

    def _write_trace(self, state: Tensors, terms: Terms) -> Float[Tensor, "step start term"]:
        """The trace of all sets, in its memory of before."""
        if "trace" not in state:
            self.terms = list(terms)
            trace = self._empty_trace(terms["loss"])
        else:
            trace = state["trace"]
        values = torch.stack([terms[name] for name in self.terms], dim=1)
        values = values.masked_fill(~state["active"][:, None], torch.nan)
        return trace.index_put_(((state["step"] - 1) % BLOCK, state["rows"]), values)

    def _empty_trace(self, like: Tensor) -> Float[Tensor, "step set term"]:
        steps = min(BLOCK, self.optimizer.steps)
        return like.new_full((steps, len(self.start), len(self.terms)), torch.nan)

    def snapshot(self, step: int, reached: Tensors, state: Tensors) -> State:
        """Everything on which the next step and the result depend."""
        loop = state | {"trace": self.whole_trace(state, step)}
        tensors = {f"reached.{name}": value for name, value in reached.items()}
        tensors |= {f"state.{name}": value for name, value in loop.items()}
        return State(tensors, {"step": step, "terms": self.terms})

    def restored(self, stored: State) -> tuple[Tensors, Tensors, int]:
        """What `begun` returns, as it was at a snapshot."""
        reached, state = stored.part("reached").tensors, stored.part("state").tensors
        self.terms = stored.facts["terms"]
        *self.trace, rest = (
            state["trace"].cpu().tensor_split(list(range(BLOCK, len(state["trace"]) + 1, BLOCK)))
        )
        state["trace"] = self._empty_trace(state["raw"])
        state["trace"][: len(rest)] = rest
        return reached, state, stored.facts["step"] + 1

    def result(self, reached: Tensors, state: Tensors, interrupted: bool) -> Result:
        running = "interrupted" if interrupted else self.optimizer.at_the_end
        facts = (reached[name].tolist() for name in ("diverged", "active"))
        steps = int(state["step"]) - 1  # begun by all sets together
        trace = self.whole_trace(state, steps).unbind(2) if steps else ()
        return Result(
            images=reached["images"],
            steps=tuple(reached["steps"].tolist()),
            stop=tuple(
                "diverged" if diverged else running if active else "converged"
                for diverged, active in zip(*facts, strict=True)
            ),
            trace=dict(zip(self.terms, trace, strict=True)) if steps else {},
            interrupted=interrupted,
        )


def _noted(
    state: Tensors, images: Images, loss: Float[Tensor, " set"], gradient: Images, finished: Tensor
) -> Tensors:
    """What changes in the state by an evaluation at `images`."""
    active = state["active"]
    steps = torch.where(active, state["step"], state["steps"])
    finite = loss.isfinite() & gradient.flatten(1).sum(1).isfinite()  # a sum keeps inf and NaN
    diverged = state["diverged"] | (active & ~finite)
    active = active & finite
    better = active & (loss < state["loss"])
    return {
        "steps": steps,
        "diverged": diverged,
        "loss": torch.where(better, loss, state["loss"]),
        "images": torch.where(better[:, None, None, None, None], images, state["images"]),
        "active": active & ~finished,
    }


def ends_round(step: int, steps: int) -> bool:
    """Whether a round of the `ROUNDS` ends with this step of `steps`."""
    return step * ROUNDS // steps > (step - 1) * ROUNDS // steps


def steps_of_rivals(rivals: int, steps: int) -> int:
    """Steps that rivals take together, unless some come to rest: of 8 in 48 steps, 114."""
    total = 0
    for step in range(1, steps + 1):
        total += rivals
        if ends_round(step, steps):
            rivals = (rivals + 1) // 2
    return total


def stop_worse_half(state: Tensors, rivals: int) -> None:
    """Of every `rivals` consecutive sets of the start, the worse half of those at work stops, by
    the smallest loss so far (successive halving, Jamieson & Talwalkar 2016)."""
    groups, place, active = state["rows"] // rivals, state["rows"] % rivals, state["active"]
    losses = state["loss"].new_full((int(groups.max()) + 1, rivals), torch.inf)
    losses[groups, place] = state["loss"].masked_fill(~active, torch.inf)
    ranks = losses.argsort(dim=1, stable=True).argsort(dim=1)
    at_work = losses.isfinite().sum(1, keepdim=True)
    active &= (ranks < (at_work + 1) // 2)[groups, place]


def _staying(active: Bool[Tensor, " set"], left: int, cost: int) -> Int[Tensor, " staying"] | None:
    """Index of the sets that stay in the batch. None for all: where none has stopped, and where a
    smaller batch would save less in the steps that are left than its recording costs, in steps of
    this batch."""
    staying = active.nonzero()[:, 0]
    stopped = len(active) - len(staying)
    saves = stopped * left > cost * len(active) or not len(staying)
    return staying if saves else None


def _only(state: Tensors, staying: Int[Tensor, " staying"]) -> Tensors:
    """The state of some of the sets at work."""
    return {name: value if name in COMMON else value[staying] for name, value in state.items()}


def _take(reached: Tensors, state: Tensors) -> None:
    """Take note of what the sets at work have reached."""
    for name in REACHED:
        reached[name][state["rows"]] = state[name]
