"""The record of a run, kept true whatever happens: `run.json` and `run.log`."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from diversevis.errors import FolderLost, Stopped
from diversevis.method.device import pick_devices
from diversevis.method.setup import Setup
from diversevis.runs import provenance
from diversevis.runs.folder import RunFolder
from diversevis.runs.identity import recipe, science
from diversevis.runs.lease import Claim
from diversevis.runs.process import job_id

LOG = logging.getLogger("diversevis")


def make_record(setup: Setup, command: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.json` begins with."""
    experiment, scientific = setup.experiment, science(setup)
    return {
        "status": "running",
        "optimized": False,
        "command": command,
        "rerun": None,
        "config_hash": provenance.sha256_of(scientific),
        "recipe_hash": provenance.sha256_of(recipe(scientific)),
        "model": setup.network.name,
        "layer": setup.network.layer.name,
        "response": setup.network.layer.response,
        "direction": setup.targets.file,
        "units": list(setup.targets.units),
        "n": experiment.n,
        "seed": experiment.seed,
        "norm": setup.norm,
        "distance": experiment.objective.distance,
        "diversity": None if experiment.objective.front else experiment.objective.diversity,
        "fraction": experiment.objective.fraction,
        "front": experiment.objective.front,
        "receptive_field": asdict(setup.field),
        "weights": asdict(setup.network.weights),
        "versions": provenance.versions(),
        **provenance.device_facts(setup.device),
        "devices": [str(device) for device in pick_devices(experiment.device)],
        "precision": experiment.precision,
        "batch": setup.batch,
        "start": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "sweep": None,
        "job": job_id(),
        "job_log": _stderr_file(),
        "not_measured": {},
        "config": dict(config),
    }


@contextlib.contextmanager
def accounted(
    folder: RunFolder, claim: Claim, record: Mapping[str, Any], device: torch.device
) -> Iterator[None]:
    """Keeps `run.json` true: running, then finished, interrupted or failed; the claim gives signs
    of life meanwhile, and is given up at the end.

    A folder that is gone, or in other hands, is not written to again.
    """
    began = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = folder.read_record()
    took = before.get("seconds") or 0.0  # of earlier processes that could tell

    state = "running"

    def close(status: str, **more: Any) -> None:
        nonlocal state
        claim.confirm()
        seconds = round(took + time.perf_counter() - began, 3)
        memory = provenance.peak_memory(device)
        folder.update_record(status=status, seconds=seconds, **memory, **more)
        state = status
        LOG.info("%s after %.1f s", status, seconds)  # now that it is true

    claim.begin()
    folder.remove_leftovers()
    try:
        kept = {name: before[name] for name in KEPT if name in before}
        if record["sweep"] is None:  # typed by hand, it is the sweep's all the same
            kept["sweep"] = before.get("sweep")
        attempts = before.get("attempts", 0) + 1
        folder.write_record({**record, **kept, "status": "running", "attempts": attempts})
        with logged_to(folder.log_path):
            try:
                LOG.info("%s", record["command"])
                yield
                close("finished")
            except FolderLost:
                raise
            except BaseException as error:
                if state != "finished":
                    _close_badly(folder, error, close)
                raise
    finally:
        with contextlib.suppress(OSError):
            (claim.remove if state == "finished" else claim.release)()


# Of an earlier process's record, what stays.
KEPT = "rerun", "origin", "optimized", "start", "not_measured", "measuring", "seconds", "drawn"


def _close_badly(folder: RunFolder, error: BaseException, close: Callable[..., None]) -> None:
    """On a full disk even this may not fit."""
    try:
        if isinstance(error, Stopped):
            close("interrupted", ended_by=str(error))
        elif isinstance(error, KeyboardInterrupt):
            close("interrupted", ended_by="Ctrl-C")
        else:
            LOG.info("failed:\n%s", traceback.format_exc())
            close("failed", error=traceback.format_exc())
    except FolderLost:
        pass
    except OSError:
        with contextlib.suppress(OSError):
            folder.mark_failed()


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """What this program and its libraries have to say goes to this file, too."""
    handler = _RunLog(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logs = LOG, logging.getLogger()  # ours, and what libraries have to say
    for log in logs:
        log.addHandler(handler)
    try:
        yield
    finally:
        for log in logs:
            log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


class _RunLog(logging.FileHandler):
    """The run folder's log; a full disk ends the run with its own error, not the log's."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def _stderr_file() -> str | None:
    """Where a cluster's job writes what it says, if that is a file."""
    with contextlib.suppress(OSError):
        path = Path("/proc/self/fd/2").readlink()
        if path.is_file() and os.access(path, os.R_OK):
            return str(path)
    return None
