"""Device, precision, memory, batch size: what the machine offers, and how many images fit."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from diversevis.errors import InputError
from diversevis.models.checks import random_images
from diversevis.units import counted

Precision = Literal["float32", "tf32"]
Algorithms = Literal["same", "fastest"]
Result = TypeVar("Result")


# How images and filters lie in memory: what convolutions of CPUs and tensor cores are made for. In
# float32 too an H200 is 6 to 23 % faster so than with channels first (docs/benchmarks.md).
LAYOUT = torch.channels_last

# Parameters of mallopt (glibc's malloc.h) and their values.
KEEP_PAGES = {
    -4: 0,  # M_MMAP_MAX: no separate mapping for a large block, which would be returned when freed
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: free memory at the top of the heap is not returned
    -2: 2**26,  # M_TOP_PAD: grow by 64 MiB
    -8: 1,  # M_ARENA_MAX: a single heap for all threads
}
BACKWARD = 2.5  # memory of a step over that of the activations: with their gradients and workspace
SHARE = 0.5  # of the free memory, for a batch
# Bytes for the step of a batch (ours): enough to keep the device busy, and not more.
FOOTPRINT = {"cpu": 256 * 2**20, "cuda": 8 * 2**30}
MOST_IMAGES = {"cpu": 1024, "cuda": 8192}

# In messages of torch's host allocator and of CUDA's libraries.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "ALLOC_FAILED", "out of memory")
# Limit and use of a container's or a cluster job's memory, in both versions of control groups.
CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def keep_pages() -> bool:
    """Let this process keep the memory that it frees; returns whether it took effect (glibc only).

    Otherwise memory returns to the system and comes back as zeroed pages at every step, which costs
    large batches up to half their time.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(name, value) == 1 for name, value in KEEP_PAGES.items()])


def pick_device(name: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:1`; raises `InputError` if it is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not number.isdigit()):
        raise InputError(
            f"device={name} is unknown. Choose from: auto, cpu, cuda, cuda:0, cuda:1, ..."
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise InputError(
            f"device={name}: PyTorch finds no CUDA device here. Use device=cpu or device=auto."
        )
    if int(number or 0) >= count:
        last = f", 0 to {count - 1}" if count > 1 else ", number 0"
        devices = counted(count, "CUDA device")
        raise InputError(f"device={name}: this machine has {devices}{last}.")
    return torch.device(name)


def pick_devices(names: str | Sequence[str | int]) -> tuple[torch.device, ...]:
    """The devices that share the units: a name, or several (`cuda:0,1`, [cuda:0,1]).

    Raises `InputError` for a device that is missing, or a GPU named twice.
    """
    written = names if isinstance(names, str) else ",".join(str(name) for name in names)
    if not written:
        raise InputError(f"device={names} names no device. Use device=auto.")
    first, *more = (part.strip() for part in written.split(","))
    kind = first.partition(":")[0]
    full_names = [first, *(f"{kind}:{name}" if name.isdigit() else name for name in more)]
    devices = tuple(pick_device(name) for name in full_names)
    gpus = [device for device in devices if device.type == "cuda"]
    if len(set(gpus)) < len(gpus):
        raise InputError(f"device={written} names one device twice.")
    return devices


@contextlib.contextmanager
def precision(name: Precision, algorithms: Algorithms = "same") -> Iterator[None]:
    """Rounding of convolutions on CUDA devices, and how cuDNN chooses their algorithms.

    float32  plain (by default, cuDNN would round to TF32)
    tf32     factors are rounded to 10 bits; matrix products, from which distances between images
             are computed, stay plain
    same     the same algorithms in every run, which add up in the same order
    fastest  those that are fastest when tried: another run may take others, and round otherwise
    """
    same = algorithms == "same"
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=not same, deterministic=same, allow_tf32=name == "tf32"
    ):
        yield


def check_precision(name: Precision, algorithms: Algorithms, device: torch.device) -> None:
    """Raises `InputError` for a precision, or a choice of algorithms, that the device lacks."""
    if device.type == "cuda":
        return
    if name == "tf32":
        raise InputError("precision=tf32 is a setting of CUDA devices. Use precision=float32.")
    if algorithms == "fastest":
        raise InputError("algorithms=fastest is a setting of CUDA devices. Use algorithms=same.")


def free_memory(device: torch.device) -> int:
    """Bytes that are free for a new computation on `device`."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = [_available()]
    for limit, used in CONTROL_GROUPS:
        with contextlib.suppress(OSError, ValueError):  # no such group, or `max`: no limit
            free.append(max(0, int(Path(limit).read_text()) - int(Path(used).read_text())))
    return min(free)


def bytes_per_image(
    readout: nn.Module, prior: Callable[[Tensor], Tensor] | None, shape: tuple[int, int, int],
    device: torch.device,
) -> int:  # fmt: skip
    """Memory of a step (forward and backward) per image, from the sizes of the readout's maps and
    of what a prior computes from sets of images.

    shape  of an image: channels, rows, columns
    """
    rows = torch.zeros(1, dtype=torch.long, device=device)
    z = random_images(shape[0], shape[1:], 1).to(device)  # networks may treat empty images apart
    of_prior = 0
    with torch.no_grad():
        if prior is not None:
            with _Sizes() as operations:
                prior(z.expand(2, -1, -1, -1)[None])
            of_prior = operations.bytes // 2
        if isinstance(readout, fx.GraphModule):
            graph = _Counter(readout)
            graph.run(z, rows)
            return int(BACKWARD * (graph.bytes + of_prior))
        with _Sizes() as operations:
            readout(z, rows)
    return int(BACKWARD * (operations.bytes + of_prior))


def choose_batch(per_image: int, device: torch.device, per_unit: int) -> int:
    """Number of images to send through the network at once: of `per_image` bytes, `per_unit` each.

    It depends on the network alone, so that all machines compute the same batches, except where
    memory is short.
    """
    wanted = batch_to_fill(per_image, device.type, per_unit)
    return max(1, min(wanted, images_that_fit(per_image, device)))


def images_that_fit(per_image: int, device: torch.device) -> int:
    """Into the share of the free memory that a batch may take."""
    return int(SHARE * free_memory(device)) // per_image


def batch_to_fill(per_image: int, kind: str, per_unit: int) -> int:
    """Number of images that fill a device (`cpu`, `cuda`) with free memory; at least a unit's."""
    return min(MOST_IMAGES[kind], max(per_unit, FOOTPRINT[kind] // per_image))


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies in the host's memory, for which it waits for each GPU once.

    From a GPU into pinned memory: the copies follow one another without the host's help.
    """
    copies = {}
    for name, value in tensors.items():
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        copies[name] = host.copy_(value, non_blocking=True)
    for device in {value.device for value in tensors.values() if value.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return copies


def none_if_out_of_memory(
    attempt: Callable[[], Result], batch: int, device: torch.device
) -> Result | None:
    """What `attempt` returns; None where memory ran out and a smaller batch may fit.

    Raises the error of an attempt with a batch of 1.
    """
    try:
        return attempt()
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if batch == 1 or not (known or any(text in str(error) for text in OUT_OF_MEMORY)):
            raise
    # Outside of the except clause: the error holds on to the failed attempt's tensors.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


class _Sizes(TorchFunctionMode):
    """Adds up the sizes of the tensors that operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if isinstance(value, Tensor) and value.is_floating_point():
            self.bytes += value.numel() * value.element_size()
        return value


class _Counter(fx.Interpreter):
    """Runs a network and adds up the sizes of the maps that it computes."""

    bytes = 0

    def run_node(self, node: fx.Node) -> object:
        value = super().run_node(node)
        if isinstance(value, Tensor) and node.op.startswith("call"):
            self.bytes += value.numel() * value.element_size()
        return value


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
