"""A step of the loop, repeated: on a GPU from a recording of its operations (a CUDA graph).

A GPU is done with small images sooner than the host can start the operations on them. A recorded
step is started as a whole. It repeats the same operations on the same memory, so a step keeps to
two rules: whatever changes from step to step is a tensor of its state, and it never waits for the
device.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diversevis.method.optimize.loop import Tensors

LOG = logging.getLogger("diversevis")
# Ours, in steps: a recording takes about as long as so many recorded steps (estimated).
COST = 8
WAITS = "synchronizing CUDA operation"  # in torch's warning about it

Seen = tuple[Tensor, Tensors]  # images and terms of a step
# State before a step -> state after it, and what the step has seen. The tensors of the state before
# stay as they are, but for those that the state after shares with it.
Step = Callable[[Tensors], tuple[Tensors, Seen]]


class Recording(NamedTuple):
    """A step on fixed memory: `replay` takes it, in `state` and `seen`."""

    replay: Callable[[], None]
    state: Tensors
    seen: Seen


Recorder = Callable[[Step, Tensors], Recording | None]  # None: the step cannot be recorded


class Repeated:
    """A step and the state where it has come to; `state`, and what a call returns, hold until the
    next call. The first step is always a plain call: libraries set themselves up in it."""

    def __init__(self, step: Step, state: Tensors, recorder: Recorder | None) -> None:
        self._step, self.state, self._recorder = step, state, recorder
        self._recording: Recording | None = None
        self._is_first = True

    def __call__(self) -> Seen:
        if self._recorder is not None and not self._is_first:
            self._recording = self._recorder(self._step, self.state)
            self._recorder = None
            if self._recording is not None:
                self.state = self._recording.state
        self._is_first = False
        if self._recording is None:
            self.state, seen = self._step(self.state)
            return seen
        self._recording.replay()
        return self._recording.seen


def recorder_of(device: torch.device) -> Recorder | None:
    return cuda_graph if device.type == "cuda" and not _failed() else None


@contextlib.contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """On a GPU a stream of its own, which a recording needs (torch's notes on CUDA graphs)."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(before)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        before.wait_stream(stream)


def cuda_graph(step: Step, state: Tensors) -> Recording | None:
    """Record `step` on a copy of `state`; None, with a warning, where that is not possible."""
    static = fixed(state)
    with _watched() as waits:
        step(static)
    if waits:
        _warn(f"it waits for the device: {waits[0]}")
        return None
    graph = torch.cuda.CUDAGraph()
    # Another thread may allocate memory meanwhile, as one that draws pictures does.
    mode, stream = "thread_local", torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode=mode):
            seen = step_in_place(step, static)
    except RuntimeError as error:
        _failed().append(" ".join(str(error.__context__ or error).split())[:300])
        _warn(_failed()[0])
        return None
    return Recording(graph.replay, static, seen)


def fixed(state: Tensors) -> Tensors:
    """A copy for a recording; but the trace, which steps write in place, is no copy."""
    contiguous = torch.contiguous_format  # whichever state it begins with: sums round by strides
    return {
        name: value if name == "trace" else value.clone(memory_format=contiguous)
        for name, value in state.items()
    }


def step_in_place(step: Step, static: Tensors) -> Seen:
    """Take a step from `static` to the same memory."""
    after, seen = step(static)
    for name, value in after.items():
        if value is not static[name]:
            static[name].copy_(value)
    return seen


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    """Where the host waits for the device within the block: file and line, known at its end.

    A recording that fails leaves torch's allocator as if it still went on (up to torch 2.11,
    pytorch issue 180395), so that it is better not begun.
    """
    waits: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
    waits += [f"{one.filename}:{one.lineno}" for one in caught if WAITS in str(one.message)]


@functools.cache
def _failed() -> list[str]:
    """Why a recording failed in this process, after which none is begun any more."""
    return []


@functools.cache
def _warn(why: str) -> None:
    """Said once in a process."""
    LOG.warning(
        "a step could not be recorded as a CUDA graph (%s): its operations are started one by one, "
        "which takes up to three times as long where images are small",
        why,
    )
