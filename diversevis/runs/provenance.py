"""The program and the machine that made a run, for its record."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import resource
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import diversevis


def versions() -> dict[str, Any]:
    """Versions of python, torch, torchvision and diversevis, and the git commit if there is one."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": metadata.version("torchvision"),
        "diversevis": diversevis.__version__,
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of this program, `-dirty` if its files differ from it; None outside a checkout."""
    package = Path(diversevis.__file__).resolve().parent
    if not (package.parent / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def device_facts(device: torch.device) -> dict[str, Any]:
    """The device's name and the number of CPU threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": str(device), "device_name": name, "threads": torch.get_num_threads()}


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """The largest memory so far, bytes: of this process or of one it started; and of the GPU."""
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts kibibytes
    processes = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    host = max(resource.getrusage(which).ru_maxrss for which in processes) * unit
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak_memory": host, "peak_memory_gpu": gpu}


def sha256_of(content: Any) -> str:
    """SHA-256 of nested dictionaries, lists, numbers and strings; the same on every machine."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def rerun_line(folder: Path, command: str = "run") -> str:
    """The command that repeats the run in `folder`."""
    where = shlex.quote(str(folder.resolve()))
    if command == "analyze":
        return f"diversevis analyze {where}"
    return f"diversevis {command} --config-dir {where} --config-name config again=true"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
