"""The state of a process that others work in: what they have set neither matters nor changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from diversevis.models.builders import seeded


@contextlib.contextmanager
def own_state() -> Iterator[None]:
    """torch as in a new process (gradients, float32, CPU, no autocast) within the `with` block.

    At the end all that, and the random states of torch (on the CPU), numpy and Python, are as
    before.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(seeded(0))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # a mode that costs time at every operation
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield
