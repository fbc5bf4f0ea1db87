"""The record of a run, kept true whatever happens to it: `run.json` and `run.log`."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from diversevis.errors import FolderLost, Stopped
from diversevis.method.device import pick_devices
from diversevis.method.setup import Setup
from diversevis.runs import provenance
from diversevis.runs.files import Damaged, Missing, read_record
from diversevis.runs.folder import RunFolder
from diversevis.runs.identity import recipe, science
from diversevis.runs.lease import Claim
from diversevis.runs.process import job_id
from diversevis.runs.trust import signed

LOG = logging.getLogger("diversevis")

# Entries that a process that continues a run takes over from the record of the earlier one.
KEPT = "rerun", "origin", "optimized", "start", "not_measured", "measuring", "seconds", "drawn"


def make_record(setup: Setup, command: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `run.json` when a run begins."""
    experiment, scientific = setup.experiment, science(setup)
    return {
        "status": "running", "optimized": False, "command": command, "rerun": None,
        "config_hash": provenance.sha256_of(scientific),
        "recipe_hash": provenance.sha256_of(recipe(scientific)),
        "model": setup.network.name,
        "layer": setup.network.layer.name, "response": setup.network.layer.response,
        "direction": setup.targets.file, "references": list(setup.targets.names),
        "units": list(setup.targets.units),
        "n": experiment.n, "seed": experiment.seed, "norm": setup.norm,
        "distance": experiment.objective.distance, "metric": experiment.objective.metric,
        "diversity": None if experiment.objective.front else experiment.objective.diversity,
        "fraction": experiment.objective.fraction, "front": experiment.objective.front,
        "prior": setup.prior.identity if setup.prior else None,
        "receptive_field": asdict(setup.field), "unit_fields": setup.unit_fields,
        "way": setup.way,
        "computation": setup.computation,
        "weights": asdict(setup.network.weights),
        "versions": provenance.versions(),
        **provenance.device_facts(setup.device),
        "devices": [str(device) for device in pick_devices(experiment.device)],
        "precision": experiment.precision, "algorithms": experiment.algorithms,
        "batch": setup.batch,
        "start": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "sweep": None, "job": job_id(), "job_log": _stderr_file(),
        "not_measured": {}, "config": dict(config),
    }  # fmt: skip


@contextlib.contextmanager
def keep_record(
    folder: RunFolder, claim: Claim, record: Mapping[str, Any], device: torch.device
) -> Iterator[None]:
    """Keep `run.json` true around the work of a run: running, then finished, interrupted or failed.

    Meanwhile the claim gives signs of life; at the end it is given up. A folder that was deleted
    or taken over by another process is not written to again.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = _before(folder)
    began = time.perf_counter() - (before.get("seconds") or 0.0)  # earlier processes' time counts
    finished = False

    def end(**entries: Any) -> None:
        nonlocal finished
        claim.confirm()
        seconds = round(time.perf_counter() - began, 3)
        folder.update_record(seconds=seconds, **provenance.peak_memory(device), **entries)
        finished = entries["status"] == "finished"
        LOG.info("%s after %.1f s", entries["status"], seconds)  # only now: writing may fail

    claim.begin()
    folder.remove_leftovers()
    try:
        folder.write_record(signed(_continued(record, before), folder.path))
        with logged_to(folder.log_path):
            try:
                LOG.info("%s", record["command"])
                yield
                end(status="finished")
            except FolderLost:
                raise
            except BaseException as error:
                if not finished:
                    with _failing_marked(folder):
                        end(**_ended_by(error))
                raise
    finally:
        with contextlib.suppress(OSError):
            (claim.remove if finished else claim.release)()


def _before(folder: RunFolder) -> Mapping[str, Any]:
    """The record of the earlier process; of a damaged record nothing is believed."""
    try:
        return read_record(folder.path)[0]
    except Missing:
        raise
    except Damaged:
        return {"rerun": provenance.rerun_line(folder.path, "run")}


def _continued(record: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The record of this process, with what stays of an earlier one's."""
    earlier = {name: before[name] for name in KEPT if name in before}
    if record["sweep"] is None:  # a sweep's run stays the sweep's when its command is typed by hand
        earlier["sweep"] = before.get("sweep")
    attempts = before.get("attempts", 0) + 1
    return {**record, **earlier, "status": "running", "attempts": attempts}


def _ended_by(error: BaseException) -> dict[str, Any]:
    """Entries of `run.json` that tell how a run ended that is not finished."""
    if isinstance(error, Stopped):
        return {"status": "interrupted", "ended_by": str(error)}
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "ended_by": "Ctrl-C"}
    LOG.info("failed:\n%s", traceback.format_exc())
    return {"status": "failed", "error": traceback.format_exc()}


@contextlib.contextmanager
def _failing_marked(folder: RunFolder) -> Iterator[None]:
    """If the disk is too full for the record, change its status alone, in place, if possible."""
    with contextlib.suppress(FolderLost, OSError):
        try:
            yield
        except OSError:
            folder.mark_failed()


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append log messages of this program and of its libraries to the file as well.

    A link is not followed: in a folder from somebody else, it might lead to any file of this user.
    """
    usual = path.is_file() and not path.is_symlink()
    if os.path.lexists(path) and not usual:
        LOG.warning("%s is no file: no log is written there", path)
        path = Path(os.devnull)
    handler = logging.FileHandler(path, delay=True)
    # A full disk ends the run with the error of the run's own files, not of its log.
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logs = LOG, logging.getLogger()  # LOG does not propagate to the root logger
    for log in logs:
        log.addHandler(handler)
    try:
        yield
    finally:
        for log in logs:
            log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def _stderr_file() -> str | None:
    """The file that a cluster's job writes its output to, if it is one."""
    with contextlib.suppress(OSError):
        path = Path("/proc/self/fd/2").readlink()
        if path.is_file() and os.access(path, os.R_OK):
            return str(path)
    return None
