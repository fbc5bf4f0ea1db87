"""Tensors and facts in one safetensors file, read back with the same strides.

Sums are rounded according to how the numbers lie in memory: a run that continues from a checkpoint
gives the same results to the last bit only if its tensors have their strides again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diversevis.method.device import to_host
from diversevis.runs.files import parse_json

LOG = logging.getLogger("diversevis")
Content = tuple[dict[str, Tensor], dict[str, Any]]  # tensors and facts


def serialize(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """The bytes of a safetensors file with the tensors, their strides, and `facts` as JSON."""
    strides = {name: list(value.stride()) for name, value in tensors.items()}
    return save(to_host(tensors), {"facts": json.dumps(facts), "strides": json.dumps(strides)})


def read(path: Path, device: torch.device | None) -> Content | None:
    """The tensors, on `device` (None: no tensors are read), and the facts.

    None where there is no file, or (with a warning) where it is damaged or of another kind.
    """
    tensors = {}
    try:
        if not path.is_file() and os.path.lexists(path):  # a pipe would be waited for
            raise ValueError("it is no file")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            facts, strides = (
                parse_json(metadata[name].encode(), name) for name in ("facts", "strides")
            )
            if device is not None:
                for name in file.keys():  # noqa: SIM118  (it is no dictionary)
                    tensors[name] = _laid_out(file.get_tensor(name), strides[name], device)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        LOG.warning("%s cannot be read (%s): this part starts again", path, error)
        return None
    return tensors, facts


def _laid_out(value: Tensor, strides: Sequence[int], device: torch.device) -> Tensor:
    """A copy on `device` with these strides, unless some elements share memory (stride 0)."""
    if any(step == 0 and size > 1 for size, step in zip(value.shape, strides, strict=True)):
        return value.to(device, copy=True)
    empty = torch.empty_strided(value.shape, strides, dtype=value.dtype, device=device)
    return empty.copy_(value)
