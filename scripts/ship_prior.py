"""Makes the file of a prior that comes with the package: 16-bit numbers, no paths in its record.

    python scripts/ship_prior.py outputs/priors/patches/v001/prior.safetensors \
        --photographs photos --about "74 photographs, public domain or CC0, of ..."

Writes diversevis/priors/trained/KIND.safetensors, and says how many bits per dimension the rounding
costs on the photographs that were held back.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from diversevis.config.bind import bind
from diversevis.priors import model_file
from diversevis.priors.training import TrainingSettings, generator_of, open_photographs

FOLDER = Path(__file__).parents[1] / "diversevis" / "priors" / "trained"
LARGEST = 300_000  # bytes
KEPT = "results", "seconds", "versions"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--photographs", required=True)
    parser.add_argument("--about", required=True, help="which photographs, and their licence")
    options = parser.parse_args(words)
    trained = model_file.read_prior(options.file, "file")
    settings = dict(trained.record["settings"])
    record = {name: trained.record[name] for name in KEPT}
    record |= {"photographs": options.about, "settings": {**settings, "data": "", "root": ""}}
    content = model_file.serialize(
        trained.kind, trained.model, trained.mean or (), record, dtype=torch.float16
    )
    if len(content) > LARGEST:
        parser.error(f"{len(content)} bytes are too many: at most {LARGEST}")
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{trained.kind}.safetensors"
    path.write_bytes(content)
    _, judged, _ = open_photographs(
        bind(TrainingSettings, {**settings, "data": options.photographs}, "")
    )
    crops = judged.crops(1024, settings["prior"]["crop"], generator_of_crops(settings))
    with torch.no_grad():
        costs = [model_file.read_prior(file, "file").model(crops) for file in (options.file, path)]
    before, after = (cost.mean().item() / torch.log(torch.tensor(2.0)).item() for cost in costs)
    print(f"{path}: {len(content)} bytes, {after:.4f} bits per dimension (before {before:.4f})")


def generator_of_crops(settings: dict[str, object]) -> torch.Generator:
    return generator_of(bind(TrainingSettings, {**settings, "data": "x"}, ""), "shipped")


if __name__ == "__main__":
    main()
