"""Training of a prior, from a folder of photographs to a file; a killed training continues.

root/KIND/v001/  prior.safetensors  the prior, with the record of how it was made
                 training.json      the same record; its status
                 training.csv       mean loss over every hundredth of the steps
                 state.safetensors  only while it is unfinished: to continue from
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from diversevis.errors import InputError
from diversevis.method.device import pick_device
from diversevis.priors.model_file import model_of, serialize
from diversevis.priors.training import (
    JUDGED,
    Photographs,
    TrainingSettings,
    gaussian_cost,
    generator_of,
    learning_rate,
    open_photographs,
)
from diversevis.runs import provenance, signals, tensor_file
from diversevis.runs.files import replacing
from diversevis.runs.lease import Claim, Watch
from diversevis.runs.versions import create_version, versions_in

LOG = logging.getLogger("diversevis")
PRIOR, RECORD, TABLE, STATE = (
    "prior.safetensors", "training.json", "training.csv", "state.safetensors",
)  # fmt: skip
BITS = torch.log(torch.tensor(2.0)).item()  # nats
LOOKS = 100  # rows of the table
PART = 64  # crops that are judged at once
# Settings that change nothing about the prior.
ELSEWHERE = "data", "device", "root", "checkpoint", "again"


@dataclass
class Progress:
    """Where a training is, between two steps."""

    model: Any
    adam: torch.optim.Adam
    step: int = 0  # steps done
    seconds: float = 0.0
    rows: list[list[float]] = field(default_factory=list)  # of the table
    losses: list[Tensor] = field(default_factory=list)  # since the last row


def train_prior(settings: TrainingSettings, command: str) -> tuple[Path, Mapping[str, Any]]:
    """Train a prior, or what is left of it; returns its file and its record.

    Raises `InputError` before anything is written; `KeyboardInterrupt` and `Stopped` after a
    checkpoint.
    """
    device = pick_device(settings.device)
    trained, judged, digest = open_photographs(settings)
    own = {k: v for k, v in asdict(settings).items() if k not in ELSEWHERE}
    identity = provenance.sha256_of({"settings": own, "photographs": digest})
    record = {
        "status": "running", "hash": identity, "command": command,
        "settings": asdict(settings), "photographs": {
            "digest": digest, "trained": len(trained.pixels), "judged": len(judged.pixels)},
        "versions": provenance.versions(), **provenance.device_facts(device),
        "start": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
    folder, claim = _open(Path(settings.root).expanduser() / settings.prior.kind, record, settings)
    if claim is None:
        return folder / PRIOR, _read(folder)
    claim.begin()
    try:
        progress = _steps(settings, device, trained, folder, claim)
        results = _judge(settings, progress, device, trained, judged)
        record |= {"results": results, "seconds": round(progress.seconds, 1), "status": "finished"}
        claim.confirm()
        for name, content in {
            TABLE: _table(progress),
            PRIOR: serialize(settings.prior.kind, progress.model, trained.mean, record),
            RECORD: json.dumps(record, indent=2).encode(),
        }.items():
            _write(folder / name, content)
        (folder / STATE).unlink(missing_ok=True)
    except BaseException as error:
        if isinstance(error, InputError):  # diverged: the same steps would lead there again
            failed = record | {"status": "failed", "error": str(error)}
            _write(folder / RECORD, json.dumps(failed, indent=2).encode())
            (folder / STATE).unlink(missing_ok=True)
        claim.release()
        raise
    claim.remove()
    return folder / PRIOR, record


def _open(
    work: Path, record: Mapping[str, Any], settings: TrainingSettings
) -> tuple[Path, Claim | None]:
    """The folder of this training, claimed if there is something to do; where another process is at
    work on it, waits until it has ended."""
    claims: list[Claim] = []

    def fill(folder: Path, path: Path) -> None:
        (folder / RECORD).write_text(json.dumps(record, indent=2))
        claim = Claim.make(folder)
        assert claim is not None  # noqa: S101  (no other process knows this folder yet)
        claims.append(claim)

    waiting: Watch | None = None
    while True:
        signals.check()
        numbered = versions_in(work)
        same = [] if settings.again else [
            folder for _, folder in numbered if _read(folder).get("hash") == record["hash"]
        ]  # fmt: skip
        if not same:
            number = numbered[0][0] + 1 if numbered else 1
            path = create_version(work, number, fill, root=settings.root)
            if path is not None:
                claims[-1].folder = path
                return path, claims[-1]
            continue  # another process made this version: it may be the same training
        if done := [folder for folder in same if _is_done(folder)]:
            return done[0], None
        if waiting is None or waiting.folder != same[0]:
            waiting = Watch(same[0])
        try:
            claim = Claim.take(waiting)
        except FileNotFoundError:  # the folder has just been deleted
            continue
        if claim is not None:
            if not _is_done(same[0]):
                return same[0], claim
            claim.remove()  # another process has finished it since the look above
            continue
        if not waiting.said:
            LOG.warning("%s is being trained by another process: waiting for it", same[0])
            waiting.said = True
        time.sleep(1)


def _is_done(folder: Path) -> bool:
    return _read(folder)["status"] == "finished" and (folder / PRIOR).is_file()


def _steps(
    settings: TrainingSettings, device: torch.device, trained: Photographs, folder: Path,
    claim: Claim,
) -> Progress:  # fmt: skip
    """All steps that are left, with a checkpoint every few seconds."""
    prior = settings.prior
    torch.manual_seed(settings.seed)
    model = model_of(prior.kind, {"colors": settings.colors, **prior.sizes}, trained.mean)
    model.to(device)
    progress = Progress(model, torch.optim.Adam(model.parameters(), lr=0.0))
    if (stored := tensor_file.read(folder / STATE, device)) is not None:
        _restore(progress, *stored)
    elif hasattr(model, "begin"):
        first = trained.crops(max(prior.batch, 1024), prior.crop, generator_of(settings, "begin"))
        model.begin(first.to(device))
    saved = time.monotonic()
    bar = tqdm(total=prior.steps, initial=progress.step, disable=None, unit="step", leave=False)
    with bar, signals.defer_sigint():
        while progress.step < prior.steps:
            began = time.perf_counter()
            _step(settings, progress, device, trained)
            progress.seconds += time.perf_counter() - began
            bar.update()
            if bar.disable and progress.step % max(1, prior.steps // 10) == 0:  # no terminal
                line = f"step {progress.step} of {prior.steps}, {progress.seconds:.0f} s"
                print(line, file=sys.stderr, flush=True)
            due = time.monotonic() - saved > settings.checkpoint
            if due or signals.is_waiting():
                claim.check()
                _write(folder / STATE, _state(progress))
                saved = time.monotonic()
            signals.check()
            signals.raise_if_interrupted()
        _write(folder / STATE, _state(progress))  # the judging may be interrupted too
    return progress


def _step(
    settings: TrainingSettings, progress: Progress, device: torch.device, trained: Photographs
) -> None:
    """One step of Adam, on crops that depend on its number alone."""
    prior, step = settings.prior, progress.step + 1
    generator = generator_of(settings, step)
    crops = trained.crops(prior.batch, prior.crop, generator).to(device)
    loss: Any = torch.full((), torch.nan)
    with contextlib.suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        loss = progress.model.loss(crops, generator)
    if not bool(torch.isfinite(loss)):
        raise InputError(
            f"prior.learning_rate={prior.learning_rate}: the training diverged at step {step}. Use "
            "a smaller one."
        )
    progress.adam.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(progress.model.parameters(), 1.0)
    for group in progress.adam.param_groups:
        group["lr"] = learning_rate(settings, step)
    progress.adam.step()
    progress.step = step
    progress.losses.append(loss.detach())
    if step * LOOKS // prior.steps > (step - 1) * LOOKS // prior.steps:
        mean = torch.stack(progress.losses).mean().item()
        progress.rows.append([step, mean])
        progress.losses.clear()


def _judge(
    settings: TrainingSettings, progress: Progress, device: torch.device, trained: Photographs,
    judged: Photographs,
) -> dict[str, float]:  # fmt: skip
    """Bits per dimension of crops of the photographs held back, and those of the Gaussian."""
    model, side = progress.model.eval(), settings.prior.crop
    crops = judged.crops(JUDGED, side, generator_of(settings, "judged"))
    cost: Callable[[Tensor], Tensor] = getattr(model, "exact", model)
    with torch.no_grad():
        own = torch.cat([cost(part.to(device)).cpu() for part in torch.split(crops, PART)]) / BITS
    gaussian = gaussian_cost(trained, side, generator_of(settings, "gaussian"))(crops) / BITS
    gain = gaussian - own
    return {
        "bits_per_dimension": own.mean().item(),
        "gaussian_bits_per_dimension": gaussian.mean().item(),
        "gain": gain.mean().item(),
        "gain_standard_error": (gain.std() / len(gain) ** 0.5).item(),
    }


def _state(progress: Progress) -> bytes:
    tensors = {f"model.{k}": v.detach() for k, v in progress.model.named_parameters()}
    for index, moments in progress.adam.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in moments.items()}
    losses = [loss.item() for loss in progress.losses]
    facts = {"step": progress.step, "seconds": progress.seconds, "rows": progress.rows,
             "losses": losses}  # fmt: skip
    return tensor_file.serialize(tensors, facts)


def _restore(progress: Progress, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    with torch.no_grad():
        for name, value in progress.model.named_parameters():
            value.copy_(tensors[f"model.{name}"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = value
    adam = progress.adam.state_dict()
    progress.adam.load_state_dict({**adam, "state": moments})
    progress.step, progress.seconds = facts["step"], facts["seconds"]
    progress.rows = facts["rows"]
    device = next(progress.model.parameters()).device
    progress.losses = [torch.tensor(loss, device=device) for loss in facts["losses"]]


def _table(progress: Progress) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["step", "loss"])
    rows.writerows([int(step), f"{loss:.6g}"] for step, loss in progress.rows)
    return text.getvalue().encode()


def _read(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((folder / RECORD).read_text())
        if isinstance(record, dict) and "status" in record:
            return record
    return {"status": "unknown"}


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as beside:
        beside.write_bytes(content)
