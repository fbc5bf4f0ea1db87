"""The example of a digital twin: model neurons whose invariance is known, and networks fitted to them."""

import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUICK

from diversevis.cli.main import main

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
fit_neurons = importlib.import_module("fit_neurons")


def neurons(count=6):
    return fit_neurons.Neurons(fit_neurons.draw_neurons(count, torch.Generator().manual_seed(0)))


def test_only_simple_cells_mind_the_phase():
    """Closed form: pi/2 for a half-rectified cosine (32 phases: 0.3 %), 0 for a pair's energy."""
    cells = neurons(8)
    simple, complex_ = fit_neurons.phase_indices(cells, cells.facts).split(4)
    assert torch.allclose(simple, torch.tensor(math.pi / 2).double(), rtol=5e-3)
    assert simple.min() > 1.5
    assert complex_.max() < 1e-3


def test_a_cell_likes_its_own_filter_best():
    """Cauchy-Schwarz: of all images of a norm, the filter itself drives a cell most, by that norm."""
    cells = neurons()
    own = cells.filters[::2] * 7  # even filters; the odd ones drive complex cells as well
    assert torch.allclose(cells(own).diagonal(), torch.full((6,), 7.0), rtol=1e-4)
    odd = cells(cells.filters[1::2] * 7).diagonal()
    assert odd[:3].max() < 0.3  # simple: even and odd are nearly at right angles on the grid
    assert torch.allclose(odd[3:], torch.full((3,), 7.0), rtol=1e-2)
    assert cells(torch.ones(1, 1, *fit_neurons.SIZE)).max() < 1e-3  # uniform grey


def test_orientation_is_counter_clockwise():
    """45 degrees: up and to the right there is another phase, down and to the right the same."""
    fact = {"row": 17.0, "column": 31.0, "orientation": 45.0, "wavelength": 8.0, "phase": 0.0}
    filter_ = fit_neurons.gabor(fact, 0.0)
    assert filter_[19, 33] > 0.5 * filter_[17, 31]
    assert filter_[15, 33] < 0  # 2 sqrt(2) pixels along the wave, 0.35 cycles


def test_noise_has_the_wanted_contrasts():
    images = fit_neurons.noise(200, torch.Generator().manual_seed(0))
    contrast = images.square().mean((1, 2, 3)).sqrt()
    assert 15 <= contrast.min() < 17
    assert 53 < contrast.max() <= 60.001


def test_crops_have_the_wanted_contrasts(tmp_path, photograph):
    from PIL import Image

    pixels = (photograph.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images = fit_neurons.crops(tmp_path, 20, torch.Generator().manual_seed(0))
    assert images.shape == (20, 1, 36, 64)
    contrast = images.square().mean((1, 2, 3)).sqrt()
    assert contrast.min() >= 14.999
    assert contrast.max() <= 60.001


def test_correlation_of_known_vectors():
    """cos 60 degrees between two centred vectors of three numbers."""
    a = torch.tensor([[1.0], [0.0], [-1.0]])
    b = torch.tensor([[0.0], [1.0], [-1.0]])
    assert fit_neurons.correlations(a, b).item() == pytest.approx(0.5)


def test_run_images_are_shown_to_the_neurons():
    """All of the norm in the own filter, or a part of sqrt(1/2); the gain is 1."""
    cells, units = neurons(), torch.tensor([0, 2])
    own, other = (cells.filters[2 * units, 0], cells.filters[2 * units + 1, 0])
    images = torch.stack([own, math.sqrt(0.5) * (own + other)], 1)[:, :, None] * 63.75
    rates, best = fit_neurons.show(cells, images, units)
    assert torch.allclose(best, torch.ones(2), rtol=1e-4)
    assert torch.allclose(rates[:, 0], best, rtol=1e-4)
    assert torch.allclose(rates[:, 1], math.sqrt(0.5) * best, rtol=2e-2)


def test_fitted_networks_are_written_and_read(tmp_path):
    fit_neurons.make(tmp_path, None, images=96, epochs=1, count=4)
    facts = json.loads((tmp_path / "neurons.json").read_text())
    assert [fact["kind"] for fact in facts] == ["simple", "simple", "complex", "complex"]
    first, second = fit_neurons.build(tmp_path)
    z = fit_neurons.draw_images(3, None, torch.Generator().manual_seed(1))
    assert first(z).shape == (3, 4)
    assert (first(z) > 0).all()
    assert not torch.equal(first(z), second(z))
    drive = fit_neurons.build(tmp_path, rectified=False)[0](z)
    assert torch.equal(first(z), torch.nn.functional.elu(drive) + 1)


@pytest.mark.slow
def test_twin_has_phase_indices_of_neurons(tmp_path, capsys):
    """Median correlation 0.98 and 50 of 50 indices on the right side, as docs/neurons.md says."""
    fit_neurons.make(tmp_path, None, images=6000, epochs=15, count=50)
    assert float(capsys.readouterr().out.split("median ")[1].split(",")[0]) > 0.95
    facts = json.loads((tmp_path / "neurons.json").read_text())
    twins = fit_neurons.build(tmp_path)
    with torch.no_grad():
        indices = fit_neurons.phase_indices(
            lambda z: torch.stack([twin(z) for twin in twins]).mean(0), facts
        )
    assert (indices[:25] > 1.2).sum() >= 24
    assert (indices[25:] < 0.3).sum() >= 24


# -- through the program --------------------------------------------------------------------------


def exact(count):
    """Two networks that are model neurons; the second answers three times as much."""
    loud = neurons(count)
    loud.gain *= 3
    return [neurons(count), loud]


def test_exact_twin_has_the_exact_phase_index(current_folder, monkeypatch):
    """pi/2 and 0; the mean of both networks is twice the first, of which norm bounds the response."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    words = [
        "run", "device=cpu", "model=custom", "model.name=exact", "model.target=test_neurons.exact",
        "model.arguments={count:4}", "model.mean=[0.45]", "model.std=[0.25]", "layer=output",
        "unit=all", "size=[36,64]", "analysis=[phase]", "images=tensor", *QUICK,
    ]  # fmt: skip
    assert main(words) == 0
    (file,) = current_folder.rglob("metrics.json")
    units = json.loads(file.read_text())["units"]
    indices = [unit["phase"]["f1f0"] for unit in units]
    assert indices[:2] == pytest.approx([math.pi / 2] * 2, rel=5e-3)
    assert indices[2:] == pytest.approx([0, 0], abs=1e-3)
    limit = 2 * 32 * math.sqrt(36 * 64) / fit_neurons.GREY_LEVELS
    for unit, fact in zip(units, neurons(4).facts, strict=True):
        assert 0.5 * limit < unit["response_best"] < 1.01 * limit
        frequency = unit["phase"]["frequency"] * fact["wavelength"]
        assert 2 ** (-1 / 4) < frequency < 2 ** (1 / 4)  # gratings are a third of an octave apart
        turn = abs(unit["phase"]["orientation"] - fact["orientation"])
        assert min(turn, 180 - turn) < 12  # and 11 degrees
