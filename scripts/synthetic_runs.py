"""Writes finished run folders with random numbers, to test `collect` and `atlas`.

    python scripts/synthetic_runs.py /tmp/many --runs 10000 --units 6 --damaged 100
    diversevis collect /tmp/many
    python scripts/synthetic_runs.py /tmp/layer --layer vgg19/conv3_1 --units 10000
    diversevis atlas /tmp/layer

The folders have the entries and the size of runs with `analysis=all`. With K units per
run and R runs, D of them damaged, the table has K (R - D) rows. With `--layer` the runs of a whole
layer are written, 64 units in a run, with an image of another grating for every unit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file, save, save_file

LAYERS = ("vgg19/conv1_2", "vgg19/conv1_10", "vgg19/conv3_1", "resnet50/layer1.0")
DIVERSITIES = (0, 0.1, 0.25, 0.5)
DELTAS = ("0.25", "0.5", "1", "2", "4")
SLOT = "<number>"  # marks a number to be drawn in a template
N, SIZE, NORM = 6, 14, 775.9  # images per unit, side in pixels, Euclidean norm
PER_RUN = 64  # units of a run of a whole layer


def write_runs(root: Path, *, runs: int, units: int, damaged: int = 0) -> list[Path]:
    """Make `runs` run folders below `root`, spread evenly over `LAYERS`; return the damaged ones.

    Run k has seed k; its unit u has response_mean k + u / 1000 and stop "annealed"; the other
    numbers are drawn with `random.Random(k)`. The damages are `DAMAGES`, in turn.
    """
    template = _split(_unit())
    every = runs // damaged if damaged else runs + 1
    broken: list[Path] = []
    for k in range(runs):
        model, layer = LAYERS[k % len(LAYERS)].split("/")
        path = root / model / layer / f"0-{units - 1}" / f"v{k // len(LAYERS) + 1:03d}"
        responses = [k + u / 1000 for u in range(units)]
        grey = np.ones((units, N, 3, SIZE, SIZE))
        _write_run(path, record_of(model, layer, k, range(units)), template, responses, grey, k)
        if (k + 1) % every == 0 and len(broken) < damaged:
            damages = list(DAMAGES.values())
            damages[len(broken) % len(damages)](path)
            broken.append(path)
    return broken


def write_layer(
    root: Path, name: str, units: int, *, per_run: int = PER_RUN, size: int = SIZE
) -> None:
    """Make the runs of all units of a layer, such as `vgg19/conv3_1`, with images of gratings.

    size  side of an image, pixels
    """
    template = _split(_unit())
    model, layer = name.split("/")
    for first in range(0, units, per_run):
        numbers = range(first, min(first + per_run, units))
        path = root / model / layer / f"{numbers[0]}-{numbers[-1]}" / "v001"
        responses = [1 + unit / 1000 for unit in numbers]
        record = record_of(model, layer, 0, numbers, size)
        _write_run(path, record, template, responses, _gratings(numbers, size), first)


def _write_run(
    path: Path, record: dict[str, Any], template: Sequence[str], responses: Sequence[float],
    images: Float[np.ndarray, "unit image 3 height width"], seed: int,
) -> None:  # fmt: skip
    path.mkdir(parents=True)
    generator = random.Random(seed)  # noqa: S311
    rows = [
        _fill(template, [unit, *[response] * 3], generator)
        for unit, response in zip(record["units"], responses, strict=True)
    ]
    metrics = f'{{"measures": {MEASURES}, "units": [{", ".join(rows)}]}}\n'
    (path / "metrics.json").write_text(metrics)
    (path / "run.json").write_text(json.dumps(record, indent=2))
    (path / "images.safetensors").write_bytes(_images(responses, images, record))


def _gratings(units: Sequence[int], size: int) -> Float[np.ndarray, "unit image 3 height width"]:
    """Phases of a coloured grating for every unit; frequency, direction and colour are random."""
    generator = np.random.default_rng(list(units))
    y, x = np.mgrid[:size, :size] / size
    angles, cycles = generator.uniform(0, np.pi, len(units)), generator.uniform(1, 4, len(units))
    colors = generator.normal(size=(len(units), 3))
    along = np.cos(angles)[:, None, None] * x + np.sin(angles)[:, None, None] * y
    phases = 2 * np.pi * np.arange(N) / N
    waves = np.cos(2 * np.pi * (cycles[:, None, None] * along)[:, None] + phases[:, None, None])
    return waves[:, :, None] * colors[:, None, :, None, None]


def _images(
    responses: Sequence[float], images: Float[np.ndarray, "unit image 3 height width"],
    record: dict[str, Any],
) -> bytes:  # fmt: skip
    """A file of these images at the right norm, with the same response to all images of a unit."""
    norms = np.sqrt(np.square(images).sum((2, 3, 4), keepdims=True))
    pixels = (images * (record["norm"] / norms)).astype(np.float32)
    values = np.repeat(np.array(responses, np.float32)[:, None], N, axis=1)
    return save({"images": pixels, "responses": values, "units": np.array(record["units"])})


def record_of(
    model: str, layer: str, seed: int, units: Sequence[int], size: int = SIZE
) -> dict[str, Any]:
    """The entries of run.json that `collect` reads."""
    config = config_of(model, layer, seed, units)
    return {
        "status": "finished",
        "command": f"diversevis run model={model} layer={layer} seed={seed} analysis=all",
        "config_hash": hashlib.sha256(json.dumps(config).encode()).hexdigest(),
        "model": model,
        "layer": layer,
        "response": "relu",
        "direction": None,
        "units": list(units),
        "n": N,
        "seed": seed,
        "norm": NORM * size / SIZE,
        "distance": "pixels",
        "diversity": config["objective"]["diversity"],
        "fraction": None,
        "front": None,
        "receptive_field": {"size": [size, size], "stride": [2, 2], "offset": [-6, -6]},
        "weights": {
            "source": f"/weights/{model}.safetensors",
            "sha256": "0" * 64,
            "mean": [0.485, 0.456, 0.406],
        },
        "versions": {"python": "3.11.7", "torch": "2.9.0", "diversevis": "0.1.0"},
        "device": "cuda",
        "device_name": "NVIDIA H100",
        "precision": "float32",
        "batch": 1024,
        "start": "2026-11-23T12:00:00+00:00",
        "seconds": 12.345,
        "config": config,
    }


def config_of(model: str, layer: str, seed: int, units: Sequence[int]) -> dict[str, Any]:
    """A resolved config. `batch` is a number in every second run and "auto" in the others."""
    return {
        "model": {"kind": "torchvision", "name": model, "default_layer": None,
                  "weights": "imagenet", "mean": [0.485, 0.456, 0.406], "std": None},
        "objective": {"diversity": DIVERSITIES[seed // len(LAYERS) % len(DIVERSITIES)],
                      "distance": "pixels", "response": "max", "direction": None, "scale": "best",
                      "photographs": None, "restarts": 16, "fraction": None, "front": None},
        "optimizer": {"kind": "sphere", "learning_rate": 2.0, "momentum": 0.8, "steps": 80,
                      "search_steps": 20, "tolerance": 1e-4, "emphasis": 8.0, "softness": 0.1},
        "measure": {"phase": {"orientations": 16, "per_octave": 3, "phases": 32},
                    "deformation": {"deltas": [0.25, 0.5, 1, 2, 4], "delta": 1, "draws": 16},
                    "pictures": "all", "sample": None},
        "layer": layer, "unit": f"0-{len(units) - 1}", "n": 6, "seed": seed, "device": "auto",
        "batch": 64 if seed % 2 else "auto", "precision": "float32", "root": "outputs",
        "norm": "contrast", "contrast": 32.0, "precondition": "sqrt", "record": "none",
        "analysis": "all", "natural": None, "seeds": 1,
    }  # fmt: skip


def _unit() -> dict[str, Any]:
    """A unit's entry in metrics.json, with `SLOT` for every number."""

    def slots(*names: str) -> dict[str, Any]:
        return dict.fromkeys(names, SLOT)

    def grating(color: Any) -> dict[str, Any]:
        numbers = slots("f1f0", "f0", "response", "orientation", "frequency")
        return numbers | {"color": color, "weak": False}

    shift = "mean", "min", "mean_masked", "min_masked"
    stability = "stability", "stability_strict"
    return {
        **slots("unit", "response_mean", "response_min", "response_max"),
        **slots(*(f"response_{name}_scaled" for name in ("mean", "min", "max")), "response_best"),
        **slots("distance_min", "distance_mean", "distance_pixels_min", "distance_pixels_mean"),
        **{"steps": 80, "stop": "annealed", "seconds": 0.029},
        "gain": slots("distance_min", "distance_min_alone", "distance_mean", "distance_mean_alone",
                      "response", "response_mean_alone"),
        "phase": grating("luminance") | {"fitted": grating([0.57, 0.58, 0.58])},
        "shift": slots(*shift) | {"learned": slots(*shift, "p", "q", "sigma")},
        "deformation": {
            **slots(*stability, *(f"{name}_error" for name in stability)),
            "delta": 1.0,
            "kept": slots(*DELTAS[:4]) | {DELTAS[4]: None},
            **{f"{name}_at": slots(*DELTAS[:4]) | {DELTAS[4]: None} for name in stability},
        },
        "diversity": slots("index", "distance_mean", "distance_simple", "distance_complex"),
        "dimension": slots("participation", "path_min", "path_mean") | {"groups": 1},
    }  # fmt: skip


MEASURES = json.dumps(
    {name: {"settings": {}} for name, entry in _unit().items() if isinstance(entry, dict)}
)


def _split(template: Any) -> list[str]:
    """Parts of the JSON text between the slots, indented as in a run folder for its real size."""
    return json.dumps(template, indent=2).replace("\n", "\n    ").split(f'"{SLOT}"')


def _fill(parts: Sequence[str], first: Sequence[float], generator: random.Random) -> str:
    """The JSON text with `first` in its first slots and random numbers in the others."""
    drawn = [generator.random() for _ in range(len(parts) - 1 - len(first))]
    numbers = [*map(repr, (*first, *drawn)), ""]
    return "".join(part + number for part, number in zip(parts, numbers, strict=True))


def _cut(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: len(content) // 2])

    return damage


def _written(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / name).write_bytes(content)

    return damage


def _changed(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = json.loads((path / name).read_text())
        change(content)
        (path / name).write_text(json.dumps(content))

    return damage


def _is_a_folder(path: Path) -> None:
    (path / "run.json").unlink()
    (path / "run.json").mkdir()


def _doubled(path: Path) -> None:
    arrays = load_file(path / "images.safetensors")
    save_file(arrays | {"images": 2 * arrays["images"]}, path / "images.safetensors")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "run.json is cut": _cut("run.json"),
    "run.json is empty": _written("run.json", b""),
    "run.json is a list": _written("run.json", b"[1, 2]"),
    "run.json lacks a key": _changed("run.json", lambda record: record.pop("layer")),
    "run.json is a folder": _is_a_folder,
    "metrics.json is cut": _cut("metrics.json"),
    "metrics.json is missing": lambda path: (path / "metrics.json").unlink(),
    "metrics.json is no text": _written("metrics.json", b'{"measures": {}, "units": ["\xff\xfe"]}'),
    "metrics.json lacks a unit": _changed("metrics.json", lambda metrics: metrics["units"].pop()),
    "metrics.json has a word for a number": _changed(
        "metrics.json", lambda metrics: metrics["units"][-1]["gain"].update(response="oops")
    ),
    "images.safetensors is cut": _cut("images.safetensors"),
    "images.safetensors is missing": lambda path: (path / "images.safetensors").unlink(),
    "images.safetensors has doubled pixels": _doubled,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--units", type=int, default=6)
    parser.add_argument("--damaged", type=int, default=100)
    parser.add_argument("--layer", help="write all units of this layer, as vgg19/conv3_1")
    parser.add_argument("--anew", action="store_true", help="delete the folder first")
    options = parser.parse_args()
    if options.anew:
        shutil.rmtree(options.folder, ignore_errors=True)
    if options.layer:
        write_layer(options.folder, options.layer, options.units)
        print(f"{options.units} units of {options.layer}")
        return
    broken = write_runs(
        options.folder, runs=options.runs, units=options.units, damaged=options.damaged
    )
    print(f"{options.runs} runs, {len(broken)} of them damaged: "
          f"{options.units * (options.runs - len(broken))} rows")  # fmt: skip


if __name__ == "__main__":
    main()
