"""Compares images of this version with those of an earlier one, unit by unit.

    git worktree add ../earlier c0ca5ba
    DIVERSEVIS_WEIGHTS=weights python scripts/against_version.py ../earlier [--steps 30,40]

Both versions make the images of the same units of five layers of VGG-19 and ResNet-50, with their
default settings and with `--steps` of the optimization. Prints a table: image-steps for a unit
(search and optimization together), and best response, mean response and smallest distance over
those of the earlier version's defaults: median over units, mean, and the median of every layer.
Writes all numbers to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diversevis.method.optimize.descend import steps_of_rivals

LAYERS = (("vgg19", "conv1_2", 64), ("vgg19", "conv2_2", 128), ("vgg19", "conv3_1", 256),
          ("resnet50", "layer1.0", 256), ("resnet50", "layer1.2", 256))  # fmt: skip
NUMBERS = "response_best", "response_mean", "distance_min"
HERE = Path(__file__).resolve().parents[1]


def make(tree: Path, model: str, layer: str, units: Sequence[int], words: Sequence[str]) -> Any:
    """Numbers of the units [number, unit], and image-steps for a unit, by the version in `tree`."""
    with tempfile.TemporaryDirectory() as root:
        command = [
            sys.executable, "-m", "diversevis", "run", f"model={model}", f"layer={layer}",
            f"unit={json.dumps(list(units)).replace(' ', '')}", "images=tensor", f"root={root}",
            *words,
        ]  # fmt: skip
        # Not from the current folder: Python would take the package that lies there.
        subprocess.run(command, check=True, env=environment(tree), cwd=root, capture_output=True)
        (file,) = Path(root).rglob("metrics.json")
        metrics = json.loads(file.read_text())
        config = json.loads((file.parent / "run.json").read_text())["config"]
    numbers = np.array([[unit[name] for unit in metrics["units"]] for name in NUMBERS])
    together = config["n"] * np.mean([unit["steps"] for unit in metrics["units"]])
    return numbers, searched(tree, config) + together


def environment(tree: Path) -> dict[str, str]:
    """That of this process, with the package in `tree`; paths hold in another folder."""
    changed = {"PYTHONPATH": str(tree)}
    if weights := os.environ.get("DIVERSEVIS_WEIGHTS"):
        changed["DIVERSEVIS_WEIGHTS"] = str(Path(weights).resolve())
    return os.environ | changed


def searched(tree: Path, config: dict[str, Any]) -> int:
    """Image-steps of a unit's search."""
    restarts, steps = config["objective"]["restarts"], config["optimizer"]["search_steps"]
    if "rivals" not in (tree / "diversevis/method/optimize/loop.py").read_text():
        return restarts * steps
    return steps_of_rivals(restarts, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("earlier", type=Path, help="checkout of an earlier version")
    parser.add_argument("--units", type=int, default=40, help="of every layer")
    parser.add_argument("--offset", type=int, default=0, help="number of the first unit")
    parser.add_argument("--steps", default="", help="further numbers of steps, of both versions")
    parser.add_argument("--out", type=Path, default=Path("outputs/against_version.json"))
    given = parser.parse_args()
    trees = {"earlier": given.earlier.resolve(), "now": HERE}
    kinds = [(name, "default") for name in trees]
    kinds += [(name, steps) for steps in given.steps.split(",") if steps for name in trees]
    ratios: dict[str, list[Any]] = {}
    print("| version, steps | image-steps | best response | mean response | smallest distance |")
    print("|---|---|---|---|---|", flush=True)
    reference: dict[str, Any] = {}
    for name, steps in kinds:
        words = [] if steps == "default" else [f"optimizer.steps={steps}"]
        of_layers, spent = [], []
        for model, layer, count in LAYERS:
            units = [(count * k // given.units + given.offset) % count for k in range(given.units)]
            numbers, image_steps = make(trees[name], model, layer, units, words)
            of_layers.append(numbers / reference.setdefault(layer, numbers))
            spent.append(image_steps)
        ratios[f"{name}, {steps}"] = [values.tolist() for values in of_layers]
        cells = [told([values[k] for values in of_layers]) for k in range(len(NUMBERS))]
        print(f"| {name}, {steps} | {np.mean(spent):.0f} | {' | '.join(cells)} |", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"layers": LAYERS, "numbers": NUMBERS, "ratios": ratios}))


def told(of_layers: Sequence[np.ndarray]) -> str:
    """Median and mean over all units, and the medians of the layers, in percent of change."""
    every = np.concatenate(of_layers)
    medians = " ".join(f"{100 * (np.median(values) - 1):+.1f}" for values in of_layers)
    return f"{100 * (np.median(every) - 1):+.2f}, {100 * (every.mean() - 1):+.2f} ({medians})"


if __name__ == "__main__":
    main()
