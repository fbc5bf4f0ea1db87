"""The method, from a description of the work to a finished run folder.

Cadena et al. 2018; METHOD.md sections 1 to 5. `run` reads as the method's steps.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diversevis import images, models, natural, provenance, report
from diversevis.errors import InputError
from diversevis.models import Model
from diversevis.objective import (
    Objective,
    ResponseKind,
    Target,
    pairwise_distances,
)
from diversevis.optimize import Adam, Result, live_start
from diversevis.progress import Progress
from diversevis.receptive_field import ReceptiveField, receptive_field, unpad
from diversevis.run_folder import RunFolder
from diversevis.target import Targets, channel_targets, direction_targets

ROUNDS_OF_NOISE = 10  # draws before a unit without gradient is reported dead


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """METHOD.md section 4, as a person sets it.

    diversity    weight of the smallest pairwise distance
    distance     `pixels`, or an earlier layer in whose activations distances are measured
    response     `max`, `cos` or `mse`
    direction    file with directions in channel space; None: units are channels
    scale        what calibrates responses and distances: `best`, `natural` or `none`
    photographs  folder for `scale=natural`
    restarts     images of the search for the unit's best response
    search_steps most steps of that search
    """

    diversity: float
    distance: str
    response: ResponseKind
    direction: str | None
    scale: Literal["best", "natural", "none"]
    photographs: str | None
    restarts: int
    search_steps: int


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: which units of which layer of which network, and how.

    n         images per unit
    norm      `contrast` (RMS, grey levels) or `paper` (its table for VGG-19)
    record    also film the optimization: `none`, `gif` or `mp4`
    """

    model: Model
    layer: str
    unit: int | str | list[int | str]
    n: int
    seed: int
    device: str
    root: str
    norm: Literal["contrast", "paper"]
    contrast: float
    precondition: images.Precondition
    record: Literal["none", "gif", "mp4"]
    objective: ObjectiveSettings
    optimizer: Adam

    def __post_init__(self) -> None:
        positive = {
            "contrast": self.contrast,
            "optimizer.steps": self.optimizer.steps,
            "optimizer.patience": self.optimizer.patience,
            "optimizer.learning_rate": self.optimizer.learning_rate,
            "objective.restarts": self.objective.restarts,
            "objective.search_steps": self.objective.search_steps,
        }
        for key, value in positive.items():
            if not 0 < value < float("inf"):
                raise InputError(f"{key}={value} must be above 0.")
        if self.n < 1:
            raise InputError(f"n={self.n}: a unit needs at least one image.")
        if not 0 <= self.objective.diversity < float("inf"):
            raise InputError(f"objective.diversity={self.objective.diversity} must be 0 or more.")
        if self.n == 1 and self.objective.diversity > 0:
            raise InputError(
                f"n=1 leaves nothing to be diverse: objective.diversity="
                f"{self.objective.diversity} needs n=2 or more, or set objective.diversity=0."
            )
        if self.objective.response == "mse" and self.objective.direction is None:
            raise InputError(
                "objective.response=mse compares with a target vector: give objective.direction=FILE."
            )
        if (self.objective.scale == "natural") != (self.objective.photographs is not None):
            raise InputError(
                "objective.scale=natural and objective.photographs=FOLDER belong together: the "
                "scale is measured on those photographs."
            )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything fixed once network and target are known."""

    experiment: Experiment
    network: models.Network
    targets: Targets
    field: ReceptiveField
    norm: float
    view: Callable[[Tensor], tuple[Tensor, Tensor]]
    device: torch.device
    channel_gain: Tensor | None
    feature_gain: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Visualization:
    """What one unit ended with: images [n, 3, h, w], responses [n] and everything about them."""

    unit: int
    images: Tensor
    responses: Tensor
    metrics: dict[str, Any]
    trace: dict[str, Tensor]
    frames: list[tuple[int, Tensor]]


def run(
    experiment: Experiment,
    *,
    command: str,
    config: str,
    extras: Mapping[str, str],
    say: Callable[[str], None],
) -> Path:
    """Do the work and return its finished run folder.

    command  what was typed, for the record
    config   the resolved config, for the record
    extras   further files for the folder, name -> text
    say      told in a line what is worth knowing

    Raises `InputError` before anything is written, `KeyboardInterrupt` after keeping what there is.
    """
    setting = prepare(experiment)
    record = _record(setting, command)
    folder = RunFolder.create(
        Path(experiment.root), setting.network.name, setting.network.layer.name, setting.targets.text
    )
    with _accounted(folder, record, setting.device):
        folder.write_config(config)
        for name, text in extras.items():
            folder.write_extra(name, text)
        done, interrupted = _visualize_all(setting, say)
        _write(folder, setting, done)
        report.make(folder, units=[one.unit for one in done if one.metrics["stop"] != "dead"])
        _write_films(folder, setting, done)
        if interrupted:
            raise KeyboardInterrupt
    return folder.path


def prepare(experiment: Experiment) -> Setting:
    """Open the network, cut it to the target's receptive field, fix norm and scales."""
    device = pick_device(experiment.device)
    report.check_film(experiment.record)
    settings = experiment.objective
    traced = models.open_model(experiment.model)
    layer = traced.layer(experiment.layer)
    field = receptive_field(traced.root, traced.graph, layer.node)
    targets = (
        channel_targets(experiment.unit, layer.channels, layer.name)
        if settings.direction is None
        else direction_targets(
            experiment.unit, Path(settings.direction).expanduser(), layer.channels, layer.name
        )
    )
    norm = (
        images.paper_norm(traced.name, layer.name)
        if experiment.norm == "paper"
        else images.norm_of_contrast(experiment.contrast, field.size)
    )
    features = [] if settings.distance == "pixels" else [traced.layer(settings.distance)]
    network = models.load(experiment.model, traced, layer, features)
    module = unpad(network.module).to(device)

    def view(z: Tensor) -> tuple[Tensor, Tensor]:
        y, *maps = module(z)
        return y, maps[0] if maps else z

    channel_gain, feature_gain = None, None
    if settings.photographs is not None:
        layers = f"{network.name}/{layer.name}/{settings.distance}"
        means = natural.mean_activations(
            lambda z: [torch.relu(maps) for maps in module(z)],
            Path(settings.photographs).expanduser(),
            identity=f"{network.weights.sha256}/{layers}",
            mean=network.weights.mean,
            std=network.weights.std,
            size=max(field.size),
            stride=max(field.stride),
            device=device,
        )
        # A channel that no photograph drives has no scale of its own; it is left out.
        channel_gain, *rest = (torch.where(m > 0, 1 / m, 0).to(device) for m in means)
        silent = [u for u, v in zip(targets.units, targets.vectors, strict=True)
                  if not bool((v.to(device) * channel_gain).any())]  # fmt: skip
        if silent:
            raise InputError(
                f"objective.scale=natural: none of the photographs in {settings.photographs} "
                f"drives unit {silent[0]} of {layer.name}, so it has no natural scale. "
                "Use objective.scale=best, or other photographs."
            )
        feature_gain = rest[0] if rest else None
    return Setting(
        experiment=experiment,
        network=network,
        targets=targets,
        field=field,
        norm=norm,
        view=view,
        device=device,
        channel_gain=channel_gain,
        feature_gain=feature_gain,
    )


def visualize(
    setting: Setting, row: int, progress: Progress | None = None
) -> Visualization:
    """Diverse images of one unit: noise, calibration, optimization, measurement.

    row  the unit's place in `setting.targets`
    """
    experiment, settings = setting.experiment, setting.experiment.objective
    unit = setting.targets.units[row]
    began = time.perf_counter()
    vectors = setting.targets.vectors[row : row + 1].to(setting.device)
    plain = Target(vectors=vectors, kind=settings.response, gain=None)
    target = replace(plain, gain=setting.channel_gain)

    def look(raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images, plain responses, responses in the objective's scale, features."""
        x = images.render(raw, setting.norm, experiment.precondition)
        z = images.to_network_input(x.flatten(0, 1), setting.network.weights.std)
        y, maps = setting.view(z)
        if setting.feature_gain is not None:
            maps = maps * setting.feature_gain[:, None, None]
        n = raw.shape[1]
        features = x.flatten(2) if settings.distance == "pixels" else maps.reshape(1, n, -1)
        y = y.reshape(1, n, -1)
        return x, plain(y), target(y), features

    def start_of(purpose: str, count: int) -> tuple[Tensor | None, Tensor]:
        generator = torch.Generator().manual_seed(_seed(experiment.seed, unit, purpose))
        drawn: list[Tensor] = []

        def draw() -> Tensor:
            shape = (1, count, 3, *setting.field.size)
            drawn.append(images.noise(shape, generator).to(setting.device))
            return drawn[-1]

        def gradient(raw: Tensor) -> Tensor:
            raw = raw.clone().requires_grad_(True)
            look(raw)[2].sum().backward()
            assert raw.grad is not None  # noqa: S101
            return torch.linalg.vector_norm(raw.grad, dim=(2, 3, 4))[0]

        return live_start(draw, gradient, rounds=ROUNDS_OF_NOISE), drawn[0]

    search_start, _ = start_of("search", settings.restarts)
    start, first_noise = start_of("diverse", experiment.n)
    best = float("nan")
    if search_start is not None:
        search = replace(
            experiment.optimizer, steps=min(settings.search_steps, experiment.optimizer.steps)
        )
        if progress:
            progress.begin(unit, "search")

        def search_terms(raw: Tensor) -> dict[str, Tensor]:
            mean = look(raw)[2].mean(1)
            return {"response_mean": mean, "loss": -mean}

        searched = search(search_terms, search_start, progress.step if progress else None)
        if searched.interrupted:
            raise KeyboardInterrupt
        with torch.no_grad():
            _, found, found_scaled, _ = look(searched.raw)
        best, best_scaled = found.max().item(), found_scaled.max().item()

    reachable = best > 0 or (settings.response == "mse" and best == best)
    if start is None or not reachable:
        return _dead(setting, unit, first_noise, look, time.perf_counter() - began)

    with torch.no_grad():
        start_features = look(start)[3]
    noise_distance = pairwise_distances(start_features).mean(1).float()
    response_scale, distance_scale = 1.0, torch.ones(1, device=setting.device)
    if settings.scale == "best":
        response_scale = (
            vectors.square().mean().item() if settings.response == "mse" else best_scaled
        )
        distance_scale = torch.where(noise_distance > 0, noise_distance, 1.0)
    objective = Objective(
        diversity=settings.diversity,
        response_scale=torch.full((1,), response_scale, device=setting.device),
        distance_scale=distance_scale,
    )

    def evaluate(raw: Tensor) -> dict[str, Tensor]:
        _, responses, scaled, features = look(raw)
        terms = objective(scaled, features)
        return terms | {"response_mean": responses.mean(1)}

    frames: list[tuple[int, Tensor]] = []

    def on_step(step: int, raw: Tensor, terms: dict[str, Tensor]) -> None:
        if experiment.record != "none" and report.is_film_step(step):
            with torch.no_grad():
                frames.append((step, images.render(raw, setting.norm, "none")[0].cpu()))
        if progress:
            progress.step(step, raw, terms)

    if progress:
        progress.begin(unit, "diverse")
    result = experiment.optimizer(evaluate, start, on_step)
    return _measured(
        setting, unit, result, look, frames,
        best=best, response_scale=response_scale, seconds=time.perf_counter() - began,
    )  # fmt: skip


Look = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


def _measured(
    setting: Setting,
    unit: int,
    result: Result,
    look: Look,
    frames: list[tuple[int, Tensor]],
    *,
    best: float,
    response_scale: float,
    seconds: float,
) -> Visualization:
    with torch.no_grad():
        x, responses, scaled, features = look(result.raw)
    metrics: dict[str, Any] = {"unit": unit}
    for name, values in (("", responses), ("_scaled", scaled / response_scale)):
        metrics[f"response_mean{name}"] = values.mean().item()
        metrics[f"response_min{name}"] = values.min().item()
        metrics[f"response_max{name}"] = values.max().item()
    metrics["response_best"] = best
    for name, vectors in (("distance", features), ("distance_pixels", x.flatten(2))):
        pairs = pairwise_distances(vectors)[0]
        metrics[f"{name}_min"] = pairs.min().item() if len(pairs) else None
        metrics[f"{name}_mean"] = pairs.mean().item() if len(pairs) else None
    metrics |= {"steps": result.steps[0], "stop": result.stop[0], "seconds": round(seconds, 3)}
    return Visualization(
        unit=unit,
        images=x[0].cpu(),
        responses=responses[0].cpu(),
        metrics=metrics,
        trace={name: values[:, 0] for name, values in result.trace.items()},
        frames=frames,
    )


def _dead(setting: Setting, unit: int, noise: Tensor, look: Look, seconds: float) -> Visualization:
    """A unit that no image of this norm drives: its noise is kept, and no number is made up."""
    with torch.no_grad():
        x, responses, _, _ = look(noise)
    absent = (
        "response_mean response_min response_max response_mean_scaled response_min_scaled "
        "response_max_scaled response_best distance_min distance_mean distance_pixels_min "
        "distance_pixels_mean"
    )
    metrics = {"unit": unit} | dict.fromkeys(absent.split())
    metrics |= {"steps": 0, "stop": "dead", "seconds": round(seconds, 3)}
    return Visualization(
        unit=unit, images=x[0].cpu(), responses=responses[0].cpu(), metrics=metrics,
        trace={}, frames=[],
    )  # fmt: skip


def _visualize_all(
    setting: Setting, say: Callable[[str], None]
) -> tuple[list[Visualization], bool]:
    """Every unit in turn; and whether Ctrl-C cut it short (what was done by then is kept)."""
    progress = Progress(len(setting.targets.units), setting.experiment.optimizer.steps)
    done: list[Visualization] = []
    try:
        for row, unit in enumerate(setting.targets.units):
            one = visualize(setting, row, progress)
            done.append(one)
            progress.end()
            if one.metrics["stop"] == "dead":
                say(f"unit {unit} is dead: no image of this contrast drives it")
            if one.metrics["stop"] == "interrupted":
                return done, True
    except KeyboardInterrupt:
        return done, True
    finally:
        progress.close()
    return done, False


def _write(folder: RunFolder, setting: Setting, done: list[Visualization]) -> None:
    if not done:
        return
    folder.write_images(
        torch.stack([one.images for one in done]),
        torch.stack([one.responses for one in done]),
        torch.tensor([one.unit for one in done]),
    )
    folder.write_metrics([one.metrics for one in done])
    names = list(dict.fromkeys(name for one in done for name in one.trace))
    rows = [
        [step, one.unit, *(f"{values[name][step - 1]:.7g}" for name in names)]
        for one in done
        for values in [{name: series.tolist() for name, series in one.trace.items()}]
        for step in range(1, one.metrics["steps"] + 1)
    ]
    folder.write_trace(names, rows)


def _write_films(folder: RunFolder, setting: Setting, done: list[Visualization]) -> None:
    for one in done:
        if one.frames:
            report.write_film(
                folder,
                one.unit,
                setting.experiment.record,
                [(step, images.display(x, setting.network.weights.mean)) for step, x in one.frames],
            )


@contextlib.contextmanager
def _accounted(folder: RunFolder, record: dict[str, Any], device: torch.device) -> Iterator[None]:
    """Keeps `run.json` true: running, then finished, interrupted or failed."""
    began = time.perf_counter()
    folder.write_record(record)

    def close(status: str, **more: Any) -> None:
        seconds = round(time.perf_counter() - began, 3)
        folder.update_record(status=status, seconds=seconds, **provenance.peak_memory(device), **more)

    try:
        yield
    except KeyboardInterrupt:
        close("interrupted")
        raise
    except BaseException:
        with contextlib.suppress(OSError):  # on a full disk even this may not fit
            close("failed", error=traceback.format_exc())
        raise
    close("finished")


def _record(setting: Setting, command: str) -> dict[str, Any]:
    experiment = setting.experiment
    return {
        "status": "running",
        "command": command,
        "config_hash": provenance.config_hash(science(setting)),
        "model": setting.network.name,
        "layer": setting.network.layer.name,
        "response": setting.network.layer.response,
        "units": list(setting.targets.units),
        "n": experiment.n,
        "seed": experiment.seed,
        "norm": setting.norm,
        "distance": experiment.objective.distance,
        "diversity": experiment.objective.diversity,
        "receptive_field": asdict(setting.field),
        "weights": asdict(setting.network.weights),
        "versions": provenance.versions(),
        **provenance.device_facts(setting.device),
        "start": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def science(setting: Setting) -> dict[str, Any]:
    """What the result depends on, and nothing else: no device, no path, no record."""
    experiment = setting.experiment
    settings = asdict(experiment.objective)
    del settings["direction"], settings["photographs"]
    gains = [gain for gain in (setting.channel_gain, setting.feature_gain) if gain is not None]
    return {
        "model": setting.network.name,
        "weights": setting.network.weights.sha256,
        "mean": setting.network.weights.mean,
        "std": setting.network.weights.std,
        "layer": setting.network.layer.name,
        "units": setting.targets.units,
        "direction": setting.targets.sha256,
        "n": experiment.n,
        "seed": experiment.seed,
        "norm": setting.norm,
        "precondition": experiment.precondition,
        "objective": settings,
        "natural": [hashlib.sha256(g.cpu().numpy().tobytes()).hexdigest() for g in gains],
        "optimizer": asdict(experiment.optimizer),
    }


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`; raises `InputError` for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdigit()) or name.endswith(":"):
        raise InputError(f"device={name} is unknown. Choose from: auto, cpu, cuda, cuda:0, cuda:1 ...")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise InputError(
            f"device={name}: PyTorch finds no CUDA device here. Use device=cpu or device=auto."
        )
    if int(number or 0) >= count:
        raise InputError(f"device={name}: this machine has {count} CUDA device(s), 0 to {count - 1}.")
    return torch.device(name)


def _seed(seed: int, unit: int, purpose: str) -> int:
    """A seed of its own for every unit and purpose, whatever runs beside it."""
    digest = hashlib.sha256(f"{seed}/{unit}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
