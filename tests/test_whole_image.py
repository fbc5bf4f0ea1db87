"""Units that see the whole image, and what each model neuron sees of it."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import QUICK, custom_model
from PIL import Image
from torch import nn

from diversevis.cli.main import main
from diversevis.models.network import OpenNetwork

SIZE = 20, 32
PIXELS = {"mean": [0.5], "std": [0.25], "container": None}
READ = (0, 3, 0, 4), (5, 9, 10, 16), (17, 20, 28, 32)  # rows from, to and columns from, to
# A 3 x 3 convolution adds a pixel on every side, but for those where the image ends.
BOXES = [[0, 0, 4, 5], [4, 9, 6, 8], [16, 27, 4, 5]]


class Neurons(nn.Module):
    """Each reads a box of a map: that part alone, or all of it times a mask."""

    def __init__(self, masked):
        super().__init__()
        self.masked = masked
        self.core = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.weights = nn.Parameter(torch.randn(len(READ), 4, *SIZE))
        masks = torch.zeros(len(READ), 1, *SIZE)
        for mask, (top, bottom, left, right) in zip(masks, READ, strict=True):
            mask[:, top:bottom, left:right] = 1
        self.register_buffer("masks", masks)

    def forward(self, x):
        maps = self.core(x)
        if self.masked:
            drive = torch.einsum("bcij,ncij->bn", maps, self.weights * self.masks)
        else:
            read = [
                (maps * weights)[:, :, top:bottom, left:right].sum((1, 2, 3))
                for weights, (top, bottom, left, right) in zip(self.weights, READ, strict=True)
            ]
            drive = torch.stack(read, dim=1)
        return nn.functional.elu(drive) + 1


def neurons(masked):
    return Neurons(masked)


def classifier():
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *pooled, nn.Linear(4, 5))


def opened(target, size=SIZE, **changes):
    model = custom_model(f"test_whole_image.{target}", **PIXELS, **changes)
    return OpenNetwork(model=model, size=size)


@pytest.mark.parametrize("masked", [False, True])
def test_each_neuron_sees_its_box(masked):
    """NaN shows the boxes; it would go to all units through a mask's zeros, where noise does."""
    network = opened("neurons", arguments={"masked": masked})
    fields = network.unit_fields(network.layer("output"))
    assert [list(field) for field in fields] == BOXES
    assert network.unit_fields(network.layer("core.0")) is None


def test_blind_neuron_has_no_box():
    network = opened("neurons", arguments={"masked": True})
    network.root.masks[1] = 0
    fields = network.unit_fields(network.layer("output"))
    assert fields[1] is None
    assert list(fields[2]) == BOXES[2]


def test_classes_see_all_of_it():
    network = opened("classifier")
    layer = network.layer("4")
    assert layer.kind == "vector"
    assert network.unit_fields(layer) is None
    large = opened("classifier", size=(130, 20))
    assert large.unit_fields(large.layer("4")) is None


WORDS = ["model=custom", "model.target=test_whole_image.neurons", "model.arguments={masked:true}",
         "model.mean=[0.5]", "model.std=[0.25]", "size=[20,32]"]  # fmt: skip


def test_measures_of_photographs_of_a_model_neuron(current_folder, tmp_path_factory):
    """Crops as large as the network's input, grey; and the units compared with one another."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    words = [*WORDS, "layer=output", "unit=[2,0]", "n=3", "device=cpu", f"natural={folder}"]
    few = ["analysis=[selectivity,varied]", "measure.varied.crops=20", "measure.varied.side=40",
           "measure.varied.fractions=[0.001]"]  # fmt: skip
    assert main(["run", *words, *few, *QUICK]) == 0
    (path,) = current_folder.rglob("metrics.json")
    assert json.loads((path.parent / "run.json").read_text())["not_measured"] == {}
    for unit in json.loads(path.read_text())["units"]:
        assert unit["selectivity"]["units"] == 2
        assert unit["varied"]["crops_shown"] == 60
        if unit["varied"]["best_crop"] > 0.001:
            assert unit["varied"]["images"]["0.001"] >= 1


def test_layers_tells_the_range_of_boxes(capsys):
    assert main(["layers", *WORDS]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "output" in line)
    assert line.split()[:4] == ["output", "3", "whole", "image"]
    assert line.endswith("Neurons, units see 4 x 5 to 6 x 8 pixels of it")


def test_all_measures_of_a_model_neuron(current_folder, capsys):
    """Shift is circular; run.json has the boxes of the run's units."""
    few = ["measure.shift.steps=3", "measure.shift.crops=4", "measure.deformation.draws=2",
           "measure.deformation.deltas=[0.5,1]", "measure.phase.orientations=4",
           "measure.align.rotations=2", "measure.align.scales=[1]",
           "measure.align.steps=2", "measure.align.checked=0",
           "measure.bipartite.steps=2", "measure.bipartite.shown=8"]  # fmt: skip
    words = [*WORDS, "layer=output", "unit=[2,0]", "analysis=all", "n=3", "device=cpu"]
    assert main(["run", *words, *few, *QUICK]) == 0
    (path,) = current_folder.rglob("run.json")
    record = json.loads(path.read_text())
    assert record["unit_fields"] == [BOXES[unit] for unit in record["units"]]
    assert record["receptive_field"] == {
        "size": [20, 32],
        "stride": [0, 0],
        "offset": [0, 0],
        "period": [1, 1],
    }
    for unit in json.loads((path.parent / "metrics.json").read_text())["units"]:
        assert unit["shift"]["step"] == 1
        names = {"gain", "phase", "deformation", "diversity", "dimension", "bipartite", "align"}
        assert names <= set(unit)
    assert main(["run", "model=energy", "layer=simple", "n=2", *QUICK, "device=cpu"]) == 0
    (other,) = current_folder.glob("outputs/energy/**/run.json")
    assert json.loads(other.read_text())["unit_fields"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["position=[9,9]"], r"position=\[9,9\]: layer output is a single vector, not a map"),
    ],
)
def test_refused_for_a_model_neuron(words, said, capsys, current_folder):
    assert main(["run", *WORDS, "layer=output", "device=cpu", *words]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (current_folder / "outputs").exists()


def test_distance_in_a_later_layer(capsys, current_folder):
    words = "layer=core.0", "objective.distance=output", "device=cpu"
    assert main(["run", *WORDS, *words]) == 2
    assert "output does not lie before layer=core.0" in capsys.readouterr().err
