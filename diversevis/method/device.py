"""The machine: how much memory there is, how many images fit, and an allocator that keeps pages."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, fx

from diversevis.errors import InputError

Precision = Literal["float32", "tf32"]

# mallopt's names for its settings (glibc's malloc.h), and the values they get.
KEEP_PAGES = {
    -4: 0,  # M_MMAP_MAX: no block gets a mapping of its own, which would be given back when freed
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: what is free at the top is kept
    -2: 2**26,  # M_TOP_PAD: grow by 64 MiB
    -8: 1,  # M_ARENA_MAX: one heap for all threads
}
BACKWARD = 2.5  # memory of a step, in activations: these, their gradients, and workspace
SHARE = 0.5  # of the free memory, for one batch
# What one batch's step should take: enough to fill the device, little enough to stay near it.
FOOTPRINT = {"cpu": 256 * 2**20, "cuda": 8 * 2**30}
MOST_IMAGES = {"cpu": 1024, "cuda": 8192}

# What torch's host allocator, and what CUDA's libraries say when they have no room to work in.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "ALLOC_FAILED", "out of memory")
CONTROL_GROUPS = (  # limit and use of the host's memory, in Linux's two versions of them
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def keep_pages() -> bool:
    """Have freed memory stay with this process instead of going back to the system and coming as
    new, zeroed pages at every step; without this, large batches lose up to half their time.

    Returns whether it took effect: the C library must be glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(setup, value) == 1 for setup, value in KEEP_PAGES.items()])


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`; raises `InputError` for one that is not there."""
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
        raise InputError(f"device={name}: this machine has {count} CUDA device(s){last}.")
    return torch.device(name)


def pick_devices(names: str | Sequence[str | int]) -> tuple[torch.device, ...]:
    """The devices that share the units: one name, or several (`cuda:0,1`, [cuda:0,1]).

    Raises `InputError` for one that is not there, or is a GPU named twice.
    """
    written = names if isinstance(names, str) else ",".join(str(name) for name in names)
    if not written:
        raise InputError(f"device={names} names no device. Use device=auto.")
    first, *others = (part.strip() for part in written.split(","))
    kind = first.partition(":")[0]
    every = [first, *(f"{kind}:{other}" if other.isdigit() else other for other in others)]
    devices = tuple(pick_device(name) for name in every)
    gpus = [device for device in devices if device.type == "cuda"]
    if len(set(gpus)) < len(gpus):
        raise InputError(f"device={written} names one device twice.")
    return devices


@contextlib.contextmanager
def precision(name: Precision) -> Iterator[None]:
    """`float32`: plain, chosen the same way every time (cuDNN would round convolutions to TF32);
    `tf32`: convolutions round their factors to 10 bits. Products of matrices, which tell images
    from one another, stay plain."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=name == "tf32"
    ):
        yield


def check_precision(name: Precision, device: torch.device) -> None:
    """Raises `InputError` for a precision that the device does not have."""
    if name == "tf32" and device.type != "cuda":
        raise InputError("precision=tf32 is a setting of CUDA devices. Use precision=float32.")


def free_memory(device: torch.device) -> int:
    """Bytes that a new computation may take on `device`."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    limits = [_available(), *_control_group()]
    return min(limit for limit in limits if limit is not None)


def bytes_per_image(network: fx.GraphModule, size: tuple[int, int], rows: Tensor) -> int:
    """Memory of one image's step, forward and backward, measured on the network's own maps."""
    device = rows.device
    counter = _Counter(network)
    with torch.no_grad():
        counter.run(torch.zeros(1, 3, *size, device=device), rows)
    return int(BACKWARD * counter.bytes)


def choose_batch(each: int, device: torch.device, one_unit: int) -> int:
    """How many images to send through the network at once, `each` of them taking so many bytes.

    It depends on the network alone (`one_unit` of images, if they are large), and on the machine
    only where memory is short.
    """
    wanted = batch_to_fill(each, device.type, one_unit)
    return max(1, min(wanted, int(SHARE * free_memory(device)) // each))


def batch_to_fill(each: int, kind: str, one_unit: int) -> int:
    """How many images fill a device of this kind, `cpu` or `cuda`, whatever its free memory."""
    return min(MOST_IMAGES[kind], max(one_unit, FOOTPRINT[kind] // each))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    )


class _Counter(fx.Interpreter):
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


def _control_group() -> list[int | None]:
    """What is left of the limit that a container or a cluster's job has, if it has one."""
    found: list[int | None] = []
    for limit, used in CONTROL_GROUPS:
        try:
            left = int(Path(limit).read_text()) - int(Path(used).read_text())
        except (OSError, ValueError):  # no such group, or `max`
            continue
        found.append(max(left, 0))
    return found
