"""Annotated shapes are checked throughout; tests on real weights run where these are."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

CHECKED = [
    "prepare",
    "receptive_field",
    "images",
    "natural",
    "objective",
    "optimize",
    "report",
    "run_folder",
    "target",
    "visualize",
    "finished",
    "checkpoints",
    "looking",
    "analyze",
    "analysis",
    "measuring",
    "readout",
    "batches",
    "tuning",
    "machine",
    "devices",
    "compare",
]
install_import_hook([f"diversevis.{name}" for name in CHECKED], "beartype.beartype")

import numpy as np
import pytest
import torch
from matplotlib import cbook
from PIL import Image

from diversevis.bind import bind
from diversevis.models import EnergyModel, TorchvisionModel


@pytest.fixture(autouse=True)
def seeded():
    """Noise in tests is the same every time."""
    torch.manual_seed(0)


def torchvision_model(name, **changes):
    settings = {
        "kind": "torchvision", "name": name, "default_layer": None, "weights": "random",
        "seed": 0, "mean": None, "std": None,
    }  # fmt: skip
    return bind(TorchvisionModel, settings | changes, "model")


@pytest.fixture(scope="session")
def real_weights():
    """The folder with real ImageNet weights; where it is missing, what needs it is skipped."""
    folder = os.environ.get("DIVERSEVIS_WEIGHTS")
    if not folder:
        pytest.skip("real weights: DIVERSEVIS_WEIGHTS names no folder")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def golden(real_weights):
    """The paper's published images and responses, which lie beside the real weights."""
    file = real_weights.parent / "golden" / "conv3_1_unit21.npz"
    if not file.is_file():
        pytest.skip(f"published images: {file.name} is not beside the real weights")
    return np.load(file)


@pytest.fixture(scope="session")
def photograph():
    """A photograph [3, 512, 512], RGB in [0, 1] (matplotlib's sample image)."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        pixels = np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels[:512, :512].copy()).permute(2, 0, 1)


@pytest.fixture
def energy():
    return EnergyModel(kind="energy", name="energy", default_layer="complex")


@pytest.fixture
def without_weights_folder(monkeypatch):
    monkeypatch.delenv("DIVERSEVIS_WEIGHTS", raising=False)


@pytest.fixture
def here(tmp_path, monkeypatch, without_weights_folder):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
