"""Whether what a run has made is there and whole, told by sizes and headers: no number is read."""

from __future__ import annotations

import json
import os
from pathlib import Path


def flaw_of(folder: Path) -> str | None:
    """Why metrics.json or images.safetensors of a run with images cannot be used; None if they can.

    Cheap, for tens of thousands of folders: a file cut off or emptied is found, a changed number is
    not.
    """
    for name, flaw in (("metrics.json", _json_flaw), ("images.safetensors", _tensors_flaw)):
        try:
            found = flaw(folder / name)
        except FileNotFoundError:
            found = "is not there"
        except OSError as error:
            found = f"cannot be read ({error.strerror})"
        if found is not None:
            return f"{name} {found}"
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
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            return "is cut off"
        try:
            header = json.loads(file.read(length))
            ends = [own["data_offsets"][1] for key, own in header.items() if key[:2] != "__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "is damaged"
    return None if size == 8 + length + max(ends, default=0) else "is cut off"
