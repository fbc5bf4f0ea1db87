"""Tensors and facts in one file that comes back as it was, to the last bit of what is computed.

Sums are rounded by how their numbers lie in memory, so strides are kept, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def content(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """Of the file.

    facts  what JSON can hold
    """
    copies = {
        name: torch.empty(value.shape, dtype=value.dtype).copy_(value)
        for name, value in tensors.items()
    }
    strides = {name: list(value.stride()) for name, value in tensors.items()}
    return save(copies, {"facts": json.dumps(facts), "strides": json.dumps(strides)})


def read(path: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on `device`, and facts.

    Raises `FileNotFoundError`, and `ValueError` for a file that is damaged or another.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts, strides = _metadata(file)
            tensors = {
                name: _laid_out(file.get_tensor(name), strides[name], device)
                for name in file.keys()  # noqa: SIM118  (it is no dictionary)
            }
    except FileNotFoundError:
        raise
    except (OSError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(str(error)) from error
    return tensors, facts


def read_facts(path: Path) -> dict[str, Any]:
    """Without the tensors; raises as `read` does."""
    try:
        with safe_open(path, framework="pt") as file:
            return _metadata(file)[0]
    except FileNotFoundError:
        raise
    except (OSError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(str(error)) from error


def _metadata(file: Any) -> tuple[dict[str, Any], dict[str, list[int]]]:
    found = file.metadata()
    return json.loads(found["facts"]), json.loads(found["strides"])


def _laid_out(value: Tensor, strides: Sequence[int], device: torch.device) -> Tensor:
    """A copy in aligned memory of its own with these strides, unless they share elements."""
    if any(step == 0 and size > 1 for size, step in zip(value.shape, strides, strict=True)):
        return value.to(device, copy=True)
    empty = torch.empty_strided(value.shape, strides, dtype=value.dtype, device=device)
    return empty.copy_(value)
