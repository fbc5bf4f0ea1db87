"""A person's own network whose code changes, or that draws other weights every time."""

import importlib
import json
import sys

import pytest
from conftest import QUICK

from diversevis.cli.main import main

CODE = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def build():
    torch.manual_seed(3)
    return Own()
"""
WORDS = ["run", "model=custom", "model.target=own_code.build", "model.mean=[0.5,0.5,0.5]",
         "model.std=[0.5,0.5,0.5]", "layer=second", "n=2", "device=cpu", "images=tensor", *QUICK]  # fmt: skip


@pytest.fixture
def write(current_folder, monkeypatch):
    """Writes the code of a network, which the next command reads anew."""
    monkeypatch.syspath_prepend(str(current_folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def to_file(code):
        (current_folder / "own_code.py").write_text(code)
        sys.modules.pop("own_code", None)
        importlib.invalidate_caches()

    yield to_file
    sys.modules.pop("own_code", None)


def hashes(folder):
    records = [json.loads(path.read_text()) for path in sorted(folder.rglob("run.json"))]
    return [record["config_hash"] for record in records]


@pytest.mark.parametrize(
    ("before", "after"),
    [("torch.relu(self.first(x))", "torch.tanh(self.first(x))"),
     ("self.second(torch.relu", "self.second(2 * torch.relu"),
     ("torch.relu(self.first(x))", "torch.relu(self.first(x + 0.01))"),
     ("self.second(torch.relu", "self.second(1.001 * torch.relu")],
)  # fmt: skip
def test_changed_code_is_new_work(before, after, write, current_folder, capsys):
    """The weights stay: a hash of these would not notice. What lies behind the layer is no part."""
    write(CODE)
    assert main([*WORDS, "unit=0"]) == 0
    behind = CODE.replace("return self.second", "return 2 * self.second")
    assert before in behind != CODE
    write(behind)
    capsys.readouterr()
    assert main([*WORDS, "unit=0"]) == 0
    assert "skipped: already finished" in capsys.readouterr().err
    assert len(hashes(current_folder)) == 1
    write(CODE.replace(before, after))
    assert main([*WORDS, "unit=0"]) == 0
    assert "skipped" not in capsys.readouterr().err
    first, second = hashes(current_folder)
    assert first != second


def test_unseeded_builder_is_the_same_throughout(write, current_folder, capsys):
    """The builder runs under `model.seed`: plan and jobs of a sweep see the same weights."""
    write(CODE.replace("    torch.manual_seed(3)\n", ""))
    words = [*WORDS, "-m", "unit=0-3", "units_per_job=2", "model.seed=1,2"]
    assert main(words) == 0
    assert "4 runs, all finished" in capsys.readouterr().err
    assert main(words) == 0
    assert "all units are already finished" in capsys.readouterr().err
    assert len(set(hashes(current_folder))) == 4


def test_measures_of_changed_code_are_refused(write, current_folder, capsys):
    write(CODE)
    assert main([*WORDS, "unit=0", "analysis=[]"]) == 0
    folder = capsys.readouterr().out.split()[-1]
    assert main(["analyze", folder, "analysis=[diversity]"]) == 0
    write(CODE.replace("torch.relu", "torch.tanh"))
    before = (current_folder / folder / "metrics.json").read_bytes()
    assert main(["analyze", folder, "analysis=[diversity]"]) == 2
    assert "its code has changed" in capsys.readouterr().err
    assert (current_folder / folder / "metrics.json").read_bytes() == before
