"""Pictures drawn by other processes, while this one computes.

They are forked, so that nothing is imported again and they begin at once. A thread would not do:
drawing holds Python's interpreter lock, and the computing would wait for as long as it draws.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diversevis.experiment import fork
from diversevis.measures.subject import Progress
from diversevis.method.result import Visualization
from diversevis.pictures import draw, graph
from diversevis.pictures.images import Drawn, draw_graphs, draw_unit
from diversevis.runs import signals
from diversevis.runs.files import synced_together
from diversevis.runs.folder import RunFolder, finite

MOST = 4  # processes, one for two cores: 256 sheets are drawn in half a second
NICE = 5  # they take a quarter of a core that the computing wants, and all that it leaves
SECONDS_BETWEEN_LOOKS = 0.2
ROWS = 2  # units of a measure in a task, at most: more would be waited for longer at the end
NOT_ON_SHEETS = "units", "unit_fields", "config"  # entries of run.json that may be large

Task = Callable[[], Drawn]


class Drawing:
    """The pictures of a run that other processes draw.

    Where there can be none, nothing is begun, and `drawn` returns that nothing is drawn.
    """

    def __init__(self, folder: RunFolder, *, wanted: bool) -> None:
        self._folder = folder
        self._processes = _processes(_count() if wanted else 0)
        self._begun: dict[str, list[tuple[Task, Future[Drawn]]]] = {}
        if self._processes:
            record = folder.read_record()
            self._record = {key: record[key] for key in record if key not in NOT_ON_SHEETS}
            self._free: SimpleQueue[_Process] = SimpleQueue()
            self._threads = ThreadPoolExecutor(len(self._processes))  # they wait for the processes
            for process in self._processes:
                self._free.put(process)
                self._begin("matplotlib", _load_matplotlib)

    def unit(self, unit: Visualization, reference: Tensor | None) -> None:
        """Begin to draw a unit's images and its sheet.

        reference  of metamers, the photograph
        """
        self._begin_unit(finite(unit.metrics), unit.images, unit.responses, reference)

    def graphs(self) -> None:
        """Begin to draw the graphs of the optimization, whose files are written."""
        self._begin(draw.IMAGES, partial(_draw_graphs, self._folder))

    def measure(self, name: str, most: draw.Most) -> None:
        """Begin to draw a measure, whose files are written."""
        if not self._processes:
            return
        rows = draw.rows_of(name, self._folder.read_metrics(), most)
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            self._begin(name, partial(draw.draw_rows, self._folder, name, part, _nobody))
        if rows:
            self._begin(name, partial(_draw_layer, self._folder, name))

    def missing(self, name: str, most: draw.Most) -> None:
        """Begin to draw what the run's files hold of `draw.IMAGES` or of a measure, if nothing of
        it is begun."""
        if not self._processes or name in self._begun:
            return
        if name != draw.IMAGES:
            self.measure(name, most)
            return
        self.graphs()  # first: this process draws from the end, and need not load Matplotlib
        arrays = self._folder.read_images()
        references = arrays.get("reference")
        for row, entry in enumerate(self._folder.read_metrics()):
            reference = None if references is None else references[row]
            self._begin_unit(entry, arrays["images"][row], arrays["responses"][row], reference)

    def is_ready(self, name: str) -> bool:
        """Whether all that was begun under this name has ended."""
        return all(future.done() for _, future in self._begun.get(name, []))

    def drawn(self, name: str, pulse: Progress) -> Drawn:
        """What is drawn of `draw.IMAGES` or of a measure; draws here what no process has begun.

        pulse  called with what is drawn, and the numbers of tasks done and of all; may raise

        Raises the errors of writing. What a killed process should have drawn is left out.
        """
        tasks, drawn = self._begun.pop(name, []), dict[int | None, list[str]]()
        ended = 0
        with synced_together(), _one_thread():
            for task, future in reversed(tasks):  # the processes draw from the front
                pulse(f"pictures ({name})", ended, len(tasks))
                if future.cancel():
                    drawn.update(task())
                    ended += 1
        for future in (future for _, future in tasks if not future.cancelled()):
            while not wait([future], SECONDS_BETWEEN_LOOKS).done:
                pulse(f"pictures ({name})", ended, len(tasks))
            with contextlib.suppress(_Killed):
                drawn.update(future.result())
            ended += 1
        return drawn

    def close(self) -> None:
        """Let the processes end what they are drawing, and no more."""
        if self._processes:
            self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.end()

    def _begin_unit(
        self, entry: dict[str, Any], images: Tensor, responses: Tensor, reference: Tensor | None
    ) -> None:
        if self._processes:
            tensors = [images, responses, *([] if reference is None else [reference])]
            # As arrays: tensors would be sent through shared memory, of which there may be little.
            arrays = [tensor.detach().cpu().float().contiguous().numpy() for tensor in tensors]
            self._begin(draw.IMAGES, partial(_draw_unit, self._folder, self._record, entry, arrays))

    def _begin(self, name: str, task: Task) -> None:
        if self._processes:
            future = self._threads.submit(self._given_away, task)
            self._begun.setdefault(name, []).append((task, future))

    def _given_away(self, task: Task) -> Drawn:
        process = self._free.get()
        try:
            return process(task)
        finally:  # a killed process as well, so that nobody waits for it
            self._free.put(process)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Pictures are small: torch's other threads would only wait, on cores that draw."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Killed(Exception):
    """A process that draws is gone, such as for want of memory."""


class _Process:
    """A process that does tasks, one after the other, until it is told to end or this one dies."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._connection), daemon=True)
        with fork.forking():
            self._process.start()
        other.close()

    def __call__(self, task: Task) -> Drawn:
        """What the task returns; raises what it raises, and `_Killed`."""
        try:
            self._connection.send(task)
            result = self._connection.recv()
        except (EOFError, OSError) as error:
            raise _Killed from error
        if isinstance(result, Exception):
            raise result
        return result

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)  # later processes have copies of the connection: no end
        self._connection.close()
        self._process.join()


def _processes(count: int) -> list[_Process]:
    """As many as the system allows: what none draws is drawn by this process."""
    processes: list[_Process] = []
    with contextlib.suppress(OSError):
        while len(processes) < count:
            processes.append(_Process())
    return processes


def _count() -> int:
    """How many processes draw: 0 where a fork is not possible, or no core is free."""
    return min(MOST, len(os.sched_getaffinity(0)) // 2) if fork.is_possible() else 0


# From here on: what runs in a process that draws (and tasks that nobody has begun, in this one).


def _serve(connection: Connection, of_parent: Connection) -> None:
    of_parent.close()  # so that the connection ends with the parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    for number in signals.SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    fork.begin()
    os.nice(NICE)
    torch.set_num_threads(1)  # those of the parent are not there
    with contextlib.suppress(EOFError, OSError):
        while (task := connection.recv()) is not None:
            result: Drawn | Exception
            try:
                with synced_together():
                    result = task()
            except Exception as error:  # such as a full disk: the parent raises it
                result = error
            connection.send(result)


def _load_matplotlib() -> Drawn:
    graph.blank(1, 1, graph.DPI)
    return {}


def _draw_unit(
    folder: RunFolder, record: dict[str, Any], entry: dict[str, Any], arrays: list[np.ndarray]
) -> Drawn:
    images, responses, *rest = map(torch.from_numpy, arrays)
    reference = rest[0] if rest else None
    return {entry["unit"]: draw_unit(folder, record, entry, images, responses, reference)}


def _draw_graphs(folder: RunFolder) -> Drawn:
    return {None: draw_graphs(folder)}


def _draw_layer(folder: RunFolder, name: str) -> Drawn:
    return {None: draw.draw_layer(folder, name)}


def _nobody(done: int, total: int) -> None:
    """Tells nobody how far the drawing is."""
