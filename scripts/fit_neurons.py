#!/usr/bin/env python3
"""Fits a digital twin: two small networks that predict 50 model neurons, whose truth is known.

    python scripts/fit_neurons.py twin                         # images: noise
    python scripts/fit_neurons.py twin --photographs FOLDER    # half of them crops of photographs
    python scripts/fit_neurons.py twin --run outputs/.../v001  # what the program found

Neurons 0 to 24 are simple cells (a half-rectified Gabor filter), 25 to 49 complex cells (the root
of the energy of two Gabors in quadrature; Adelson & Bergen 1985). They see gray images of 36 x 64
pixels and answer with Poisson noise. A twin is a core, shared by all neurons, and a readout: a mask
over space times weights over the core's channels for each neuron (Klindt et al. 2017).
docs/neurons.md tells what to do with it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from diversevis.measures.phase import fourier
from diversevis.measures.stimuli import phases, soft_mask
from diversevis.photographs.files import read, upright
from diversevis.photographs.survey import survey
from diversevis.runs.folder import RunFolder

SIZE = 36, 64  # rows and columns of an image
MEAN, STD = 0.45, 0.25  # of the networks' input, as a share of white
GREY_LEVELS = 255 * STD  # an input z of 1 is this far from the mean
KINDS = "simple", "complex"
NEURONS = 50
ROWS, COLUMNS = (12.0, 23.0), (14.0, 49.0)  # where the middle of a neuron's field may lie
WAVELENGTHS = 6.0, 12.0  # pixels
ENVELOPE = 0.45  # standard deviation of a Gabor's envelope, in wavelengths
SPIKES = 2.0  # of every neuron per image, on average
CONTRASTS = 15.0, 60.0  # RMS grey levels of the images; the program's have 32
WINDOWS = 3.0, 15.0  # standard deviation of the window through which half of the noise is seen
SIDE = 144  # shorter side to which a photograph is scaled before it is cut, pixels
PHASES = 32
CHANNELS, KERNELS, STRIDE = 32, (13, 5), 2  # of the core's two convolutions
SEEDS = 0, 1  # of the two networks
BATCH, STEP, SPARSE = 64, 3e-3, 1e-3  # images, learning rate, weight of the readout's L1 norm


class Neurons(nn.Module):
    """Model neurons: inputs [image, 1, 36, 64] -> spikes expected [image, neuron], without noise.

    facts  of each neuron: kind, row and column of its middle, orientation (of the wave vector, in
           degrees, counter-clockwise from the horizontal), wavelength, phase (radians), gain
    """

    filters: Tensor
    simple: Tensor
    gain: Tensor

    def __init__(self, facts: list[dict[str, Any]]) -> None:
        super().__init__()
        self.facts = facts
        pairs = [gabor(fact, shift) for fact in facts for shift in (0.0, math.pi / 2)]
        simple = torch.tensor([fact["kind"] == "simple" for fact in facts])
        self.register_buffer("filters", torch.stack(pairs)[:, None])
        self.register_buffer("simple", simple)
        self.register_buffer("gain", torch.tensor([fact["gain"] for fact in facts]))

    def forward(self, z: Tensor) -> Tensor:
        pairs = functional.conv2d(z, self.filters).reshape(-1, len(self.facts), 2)
        even, odd = pairs.unbind(2)
        energy = even.square() + odd.square()
        # The root's derivative at 0 is infinite.
        return self.gain * torch.where(self.simple, even.relu(), (energy + 1e-12).sqrt())


class Twin(nn.Module):
    """Core and readout: inputs [image, 1, 36, 64] -> predicted spikes [image, neuron].

    rectified  False: the drive, which may be below 0; ELU + 1 makes spikes of it
    """

    def __init__(self, neurons: int, *, rectified: bool = True) -> None:
        super().__init__()
        self.rectified = rectified
        first, second = KERNELS
        self.core = nn.Sequential(
            nn.Conv2d(1, CHANNELS, first, stride=STRIDE),
            nn.ELU(),
            nn.Conv2d(CHANNELS, CHANNELS, second, padding=second // 2),
            nn.ELU(),
        )
        rows, columns = (1 + (side - first) // STRIDE for side in SIZE)
        flat = 1 / math.sqrt(rows * columns)
        self.mask = nn.Parameter(flat + 0.01 * torch.randn(neurons, rows, columns))
        self.weight = nn.Parameter(0.1 / math.sqrt(CHANNELS) * torch.randn(neurons, CHANNELS))
        self.bias = nn.Parameter(torch.ones(neurons))

    def forward(self, z: Tensor) -> Tensor:
        seen = torch.einsum("bchw,nhw->bcn", self.core(z), self.mask)
        drive = torch.einsum("bcn,nc->bn", seen, self.weight) + self.bias
        return functional.elu(drive) + 1 if self.rectified else drive

    def sparseness(self) -> Tensor:
        """L1 norm of the readout, summed over the neurons."""
        return (self.mask.abs().sum((1, 2)) * self.weight.abs().sum(1)).sum()


def build(folder: str | Path = "twin", rectified: bool = True) -> list[nn.Module]:
    """The two fitted networks in `folder`: what `model.target=fit_neurons.build` calls.

    rectified  False: without the output nonlinearity. A neuron that an image silences then still
               says in which direction it would respond
    """
    twins: list[nn.Module] = []
    for seed in SEEDS:
        tensors = load_file(Path(folder).expanduser() / f"twin-{seed}.safetensors")
        twin = Twin(len(tensors["bias"]), rectified=rectified)
        twin.load_state_dict(tensors)
        twins.append(twin.eval())
    return twins


def gabor(fact: dict[str, Any], shift: float) -> Tensor:
    """A neuron's filter [36, 64], of unit norm and without response to uniform images.

    shift  added to its phase
    """
    up, right, along = _from(fact["row"], fact["column"], fact["orientation"])
    width = ENVELOPE * fact["wavelength"]
    envelope = torch.exp(-(up**2 + right**2) / (2 * width**2))
    wave = envelope * torch.cos(2 * math.pi / fact["wavelength"] * along - fact["phase"] - shift)
    wave = wave - envelope * wave.sum() / envelope.sum()
    return wave / wave.norm()


def _from(row: float, column: float, orientation: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels upwards, to the right and along a wave vector from the point at (row, column)."""
    up = row - torch.arange(SIZE[0])[:, None]
    right = torch.arange(SIZE[1])[None, :] - column
    angle = math.radians(orientation)
    return up, right, math.cos(angle) * right + math.sin(angle) * up


def draw_neurons(count: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """Facts of `count` neurons: the first half simple, the others complex; gain 1."""
    facts = []
    for index, shares in enumerate(torch.rand(count, 5, generator=generator).tolist()):
        row, column, turn, octave, cycle = shares
        facts.append(
            {
                "kind": KINDS[2 * index // count],
                "row": _between(ROWS, row),
                "column": _between(COLUMNS, column),
                "orientation": 180 * turn,
                "wavelength": WAVELENGTHS[0] * (WAVELENGTHS[1] / WAVELENGTHS[0]) ** octave,
                "phase": 2 * math.pi * cycle,
                "gain": 1.0,
            }
        )
    return facts


def _between(ends: tuple[float, float], share: Any) -> Any:
    return ends[0] + (ends[1] - ends[0]) * share


def noise(count: int, generator: torch.Generator) -> Tensor:
    """White to pink noise [image, 1, 36, 64] in grey levels, half of it through a window.

    Seen through a window, an image has strong contrast in a small part. Such are also the images
    that drive a neuron most.
    """
    rows, columns = SIZE
    fy, fx = torch.fft.fftfreq(rows)[:, None], torch.fft.rfftfreq(columns)
    frequency = torch.hypot(fx, fy).clamp(min=1 / columns)
    drawn = torch.rand(5, count, 1, 1, generator=generator)
    white = torch.randn(count, *SIZE, generator=generator)
    images = torch.fft.irfft2(torch.fft.rfft2(white) * frequency ** -drawn[0], s=SIZE)
    down = torch.arange(rows)[:, None] - rows * drawn[1]
    right = torch.arange(columns) - columns * drawn[2]
    window = torch.exp(-(down**2 + right**2) / (2 * _between(WINDOWS, drawn[3]) ** 2))
    images = torch.where(drawn[4] < 0.5, images * window, images)[:, None]
    low, high = CONTRASTS
    wanted = low * (high / low) ** torch.rand(count, 1, 1, 1, generator=generator)
    return images * wanted / _contrast(images)


def crops(folder: Path, count: int, generator: torch.Generator) -> Tensor:
    """Crops of photographs in grey levels around the mean, [image, 1, 36, 64].

    Raises `InputError` where the folder holds none.
    """
    held = survey(folder, "--photographs").photographs
    files = [folder / photograph.file for photograph in held]
    ground = (round(255 * MEAN),) * 3

    def as_rgb(image: Image.Image) -> Image.Image:
        return upright(image, side=SIDE, ground=ground)

    sheets = [np.array(read(file, as_rgb).convert("L"), dtype=np.float32) for file in files[:count]]
    cut = []
    for index, shares in enumerate(torch.rand(count, 2, generator=generator).tolist()):
        sheet = torch.from_numpy(sheets[index % len(sheets)])
        top, left = (
            int(share * (side - edge + 1))
            for share, side, edge in zip(shares, sheet.shape, SIZE, strict=True)
        )
        cut.append(sheet[top : top + SIZE[0], left : left + SIZE[1]] - 255 * MEAN)
    images = torch.stack(cut)[:, None]
    contrast = _contrast(images).clamp(min=1e-3)  # a crop of uniform grey stays one
    return images * contrast.clamp(*CONTRASTS) / contrast


def _contrast(images: Tensor) -> Tensor:
    return images.square().mean((1, 2, 3), keepdim=True).sqrt()


def draw_images(count: int, folder: Path | None, generator: torch.Generator) -> Tensor:
    """Inputs [image, 1, 36, 64]: noise, and as many crops if there is a folder of photographs."""
    if folder is None:
        return noise(count, generator) / GREY_LEVELS
    parts = noise(count - count // 2, generator), crops(folder, count // 2, generator)
    return torch.cat(parts) / GREY_LEVELS


def fit(inputs: Tensor, spikes: Tensor, *, epochs: int, seed: int) -> Twin:
    """A twin fitted to `spikes` [image, neuron] by the Poisson likelihood."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        twin = Twin(spikes.shape[1])
        optimizer = torch.optim.Adam(twin.parameters(), lr=STEP)
        steps = epochs * math.ceil(len(inputs) / BATCH)
        # Up in the first steps, and down to 0 in the second half.
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1, (step + 1) / 50, 2 * (1 - step / steps))
        )
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(inputs)), BATCH):
                predicted = twin(inputs[batch])
                misfit = predicted - spikes[batch] * torch.log(predicted + 1e-3)
                loss = misfit.mean(0).sum() + SPARSE * twin.sparseness()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return twin.eval().requires_grad_(False)


def correlations(predicted: Tensor, rates: Tensor) -> Tensor:
    """Of each neuron's predicted [image, neuron] and true responses."""
    a, b = (values - values.mean(0) for values in (predicted, rates))
    return (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))


def phase_indices(respond: Callable[[Tensor], Tensor], facts: list[dict[str, Any]]) -> Tensor:
    """F1/F0 of each neuron's responses to gratings of its own wavelength and orientation.

    As the program shows them: under the soft mask, at an RMS contrast of 32 grey levels.
    """
    mask, (row, column) = soft_mask(SIZE), ((side - 1) / 2 for side in SIZE)
    indices = []
    for index, fact in enumerate(facts):
        along = _from(row, column, fact["orientation"])[2] * (2 * math.pi / fact["wavelength"])
        waves = mask * torch.cos(along - phases(PHASES)[:, None, None])
        shown = waves[:, None] * (32 / waves.square().mean().sqrt() / GREY_LEVELS)
        f0, f1 = fourier(respond(shown)[:, index])
        indices.append(f1 / f0)
    return torch.stack(indices)


def make(folder: Path, photos: Path | None, images: int, epochs: int, count: int) -> None:
    """Draw neurons and images, fit the twins, and write `folder`; prints how well they fit."""
    generator = torch.Generator().manual_seed(0)
    facts = draw_neurons(count, generator)
    inputs, held_out = (draw_images(n, photos, generator) for n in (images, images // 3))
    for fact, mean in zip(facts, Neurons(facts)(inputs).mean(0).tolist(), strict=True):
        fact["gain"] = SPIKES / mean
    neurons = Neurons(facts)
    spikes = torch.poisson(neurons(inputs), generator=generator)
    for fact, index in zip(facts, phase_indices(neurons, facts).tolist(), strict=True):
        fact["f1f0"] = index
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "neurons.json").write_text(json.dumps(facts, indent=1) + "\n")
    twins = []
    for seed in SEEDS:
        start = time.monotonic()
        twins.append(fit(inputs, spikes, epochs=epochs, seed=seed))
        metadata = {"mean": json.dumps([MEAN]), "std": json.dumps([STD])}
        save_file(twins[-1].state_dict(), folder / f"twin-{seed}.safetensors", metadata=metadata)
        print(f"network {seed} fitted in {time.monotonic() - start:.0f} s")

    def averaged(z: Tensor) -> Tensor:
        return torch.stack([twin(z) for twin in twins]).mean(0)

    fitted = correlations(averaged(held_out), neurons(held_out))
    print(f"correlation with the noiseless responses to {len(held_out)} further images, median "
          f"{fitted.median():.3f}, smallest {fitted.min():.3f}")  # fmt: skip
    print_indices(facts, phase_indices(averaged, facts).tolist())


def print_indices(facts: list[dict[str, Any]], indices: list[float]) -> None:
    """A table: known and fitted phase index of both kinds, and how many are on the right side."""
    print("| F1/F0 | neurons | known | fitted, median | smallest | largest | right side of 1 |")
    print("|---" * 7 + "|")
    for kind in KINDS:
        chosen = [i for i, fact in enumerate(facts) if fact["kind"] == kind]
        if not chosen:
            continue
        known = sum(facts[i]["f1f0"] for i in chosen) / len(chosen)
        found = torch.tensor([indices[i] for i in chosen])
        right = int(((found > 1) == (kind == "simple")).sum())
        print(f"| {kind} | {len(chosen)} | {known:.2f} | {found.median():.2f} | {found.min():.2f} "
              f"| {found.max():.2f} | {right} |")  # fmt: skip


def compare(folder: Path, run: Path) -> None:
    """Print what a run found in the twins against what is known of the neurons."""
    facts = json.loads((folder / "neurons.json").read_text())
    found = {
        entry["unit"]: entry["phase"]["f1f0"]
        for entry in RunFolder(run).read_metrics()
        if entry.get("phase") and entry["phase"]["f1f0"] is not None
    }
    print_indices([facts[unit] for unit in found], list(found.values()))
    stored = RunFolder(run).read_images()
    true, best = show(Neurons(facts), stored["images"], stored["units"])
    print(f"median response to the run's images: of the twin {stored['responses'].median():.1f}, "
          f"of the neurons {true.median():.1f} (at most {best.median():.1f})")  # fmt: skip


def show(neurons: Neurons, images: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """Responses [unit, image] of model neurons to their images, and to the best of that norm.

    images  [unit, image, 1, 36, 64] in grey levels around the mean
    """
    z = images / GREY_LEVELS
    rates = [neurons(own)[:, unit] for own, unit in zip(z, units.tolist(), strict=True)]
    # A filter has norm 1, so that no image of norm c drives a simple cell more than c times its
    # gain. Those of a complex cell are nearly at right angles, which gives the same.
    return torch.stack(rates), neurons.gain[units] * z[0, 0].norm()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="where the networks and the truth are written")
    parser.add_argument("--photographs", type=Path, help="folder; default: noise alone")
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--neurons", type=int, default=NEURONS)
    parser.add_argument("--run", type=Path, help="a run folder with the measure phase")
    chosen = parser.parse_args()
    if chosen.run is not None:
        compare(chosen.folder, chosen.run)
    else:
        make(chosen.folder, chosen.photographs, chosen.images, chosen.epochs, chosen.neurons)


if __name__ == "__main__":
    main()
