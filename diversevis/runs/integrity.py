"""Whether a finished run's files are complete, judged from sizes and headers alone."""

from __future__ import annotations

import json
import os
from pathlib import Path


def flaw_of(folder: Path) -> str | None:
    """Why metrics.json or images.safetensors of a run with images cannot be used; None if they can.

    Cheap, for tens of thousands of folders: it detects a file that is cut off or empty, not a
    changed number.
    """
    for name, flaw in (("metrics.json", _json_flaw), ("images.safetensors", _tensors_flaw)):
        try:
            reason = flaw(folder / name)
        except FileNotFoundError:
            reason = "is not there"
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        if reason is not None:
            return f"{name} {reason}"
    return None


def _json_flaw(path: Path) -> str | None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return "is empty"
        first = file.read(1)
        file.seek(max(0, size - 2))
        return None if first == b"{" and file.read().rstrip() == b"}" else "is cut off"


def _tensors_flaw(path: Path) -> str | None:
    """The file is 8 bytes with the header's length, the header (JSON), and the tensors' bytes."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            return "is cut off"
        try:
            header = json.loads(file.read(length))
            # the entry __metadata__ has no tensor
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            return "is damaged"
    return None if size == 8 + length + max(ends, default=0) else "is cut off"
