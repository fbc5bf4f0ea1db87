"""What tells a process from every other, on this machine and on a cluster."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any


def job_id() -> str | None:
    """Slurm's name of this job, `123` or, in an array, `123_4`; None outside a job."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often Slurm has started this job again."""
    count = os.environ.get("SLURM_RESTART_COUNT", "0")
    return int(count) if count.isdigit() else 0


def this_process() -> dict[str, Any]:
    """Facts that together tell this process from every other."""
    pid, namespace = os.getpid(), None
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": namespace,
        "pid": pid,
        "started": start_of(pid),
        "job": job_id(),
        "restarts": restarts(),
    }


def start_of(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since boot; None if it is not alive."""
    text = _read(f"/proc/{pid}/stat")
    if text is None:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state == "Z" else int(fields[18])  # Z: a zombie has ended


def is_hidden(pid: int) -> bool:
    """Whether there is such a process, of another user, that /proc does not show."""
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return False


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
