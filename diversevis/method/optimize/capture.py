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
COST = 10
ROUGHLY = 1e-3  # of the largest value: operations may add up in another order
# Why a recording failed in this process, after which none is begun any more.
FAILED: list[str] = []
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
    return cuda_graph if device.type == "cuda" and not FAILED else None


@contextlib.contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """On a GPU a stream beside the current one, which a recording needs (torch's notes on CUDA
    graphs): work within the block comes after all work before it, and before all after it."""
    if device.type != "cuda":
        yield
        return
    before, stream = torch.cuda.current_stream(device), _stream(device)
    stream.wait_stream(before)
    try:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            yield
    finally:
        before.wait_stream(stream)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The same at every call: free memory stays with the stream that it was used on."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def cuda_graph(step: Step, state: Tensors) -> Recording | None:
    """Record `step` on a copy of `state`; None, with a warning, where that is not possible, and
    where two repeated steps give other numbers than two plain ones."""
    static, graph = fixed(state), torch.cuda.CUDAGraph()
    with _watched() as waits:
        once, _ = step(static)
    if waits:
        _warn(f"it waits for the device: {waits[0]}")
        return None
    expected = step(once)
    # Another thread may allocate memory meanwhile, as one that draws pictures does.
    mode, stream = "thread_local", torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode=mode):
            seen = step_in_place(step, static)
    except RuntimeError as error:
        _fail(" ".join(str(error.__context__ or error).split())[:300])
        return None
    for _ in range(2):
        graph.replay()
    if not _alike(expected, (static, seen)):
        _fail("repeated, it gave other numbers")
        return None
    for name, value in static.items():
        value.copy_(state[name])
    return Recording(graph.replay, static, seen)


def _fail(why: str) -> None:
    FAILED.append(why)
    _warn(why)


def _alike(one: tuple[Tensors, Seen], other: tuple[Tensors, Seen]) -> bool:
    """Whether two steps saw the same and moved alike, but for rounding."""
    (state, (images, terms)), (other_state, (other_images, other_terms)) = one, other
    pairs = [(images, other_images), (state["raw"], other_state["raw"])]
    pairs += [(value, other_terms[name]) for name, value in terms.items()]
    return all(
        torch.allclose(a, b, ROUGHLY, ROUGHLY * float(a.abs().nan_to_num().max()), equal_nan=True)
        for a, b in pairs
    )


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

    A recording that fails leaves torch's allocator as if it still went on (pytorch pull request
    180395), so that it is better not begun.
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
def _warn(why: str) -> None:
    """Said once in a process."""
    LOG.warning(
        "a step could not be recorded as a CUDA graph (%s): its operations are started one by one, "
        "which takes up to three times as long where images are small",
        why,
    )
