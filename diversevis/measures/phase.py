"""Phase invariance: F1/F0 of the response to the phases of a unit's best grating.

Skottun et al. 1991; Mechler & Ringach 2002; METHOD.md section 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diversevis.measures.stimuli import COLOR_AXES, gratings, phases, soft_mask

NYQUIST = 0.5  # cycles per pixel
LOWEST = 0.5  # cycles per receptive field
AT_ONCE = 256  # images
SEARCH_PHASES = 8  # of the search for the best grating; the tuning curve has more
WEAK = 0.01  # F0 below this share of the largest response to any grating: F1/F0 means little
CONSTANT = 1e-4  # responses that vary by less than this share of their size do not vary
FINE = 4  # so many phases are looked at for each that is shown
SPECTRUM = 4  # an image is padded to so many times its side before its peak frequency is read

# images [image, 3, h, w] -> responses of all units to each of them, [image, unit]
RespondAll = Callable[[Tensor], Tensor]
# images [unit, image, 3, h, w] -> responses of every unit to its own, [unit, image]
RespondOwn = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Responses to the phases of one grating per unit; nothing is rectified.

    responses    [unit, phase]
    gratings     [unit, 3, h, w], at the phase that drives the unit most
    frequency    cycles per pixel; orientation: degrees, of the wave vector; color: [unit, 3]
    """

    responses: Float[Tensor, "unit phase"]
    gratings: Float[Tensor, "unit 3 height width"]
    frequency: Float[Tensor, " unit"]
    orientation: Float[Tensor, " unit"]
    color: Float[Tensor, "unit 3"]


@dataclass(frozen=True, kw_only=True)
class GratingMap:
    """How well every grating drives every unit: the largest response over its phases.

    strength  [unit, color, frequency, orientation]; colours as in `stimuli.COLOR_AXES`
    largest   largest size of a response (not rectified) to any of them; varies: whether it did
    """

    strength: Float[Tensor, "unit color frequency orientation"]
    frequencies: Float[Tensor, " frequency"]
    orientations: Float[Tensor, " orientation"]
    largest: Float[Tensor, " unit"]
    varies: Tensor


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Best grating of every unit, and the response to its phases.

    orientations  over half a turn
    per_octave    frequencies per octave, from one half cycle per receptive field to Nyquist
    phases        of the tuning curve
    """

    orientations: int
    per_octave: int
    phases: int

    def search(
        self, respond: RespondAll, size: tuple[int, int], norm: float, device: torch.device
    ) -> GratingMap:
        """All gratings shown to all units, in one pass over the layer."""
        mask = soft_mask(size, device=device)
        frequencies = self.frequencies(size)
        orientations = torch.arange(self.orientations) * (180 / self.orientations)
        colors = torch.tensor(list(COLOR_AXES.values()))
        shape = len(colors), len(frequencies), len(orientations)
        grid = torch.cartesian_prod(*(torch.arange(count) for count in shape))
        strengths, highest, lowest = [], [], []
        for part in torch.split(grid, max(1, AT_ONCE // SEARCH_PHASES)):
            shown = gratings(
                mask,
                frequencies[part[:, 1]].to(device),
                orientations[part[:, 2]].to(device),
                colors[part[:, 0]].to(device),
                phases(SEARCH_PHASES).to(device),
                norm,
            )
            responses = respond(shown.flatten(0, 1)).reshape(len(part), SEARCH_PHASES, -1)
            strengths.append(peak(responses.movedim(-1, 0)))
            highest.append(responses.amax((0, 1)))
            lowest.append(responses.amin((0, 1)))
        most, least = torch.stack(highest).amax(0), torch.stack(lowest).amin(0)
        largest = torch.maximum(most.abs(), least.abs())
        return GratingMap(
            strength=torch.cat(strengths, dim=1).reshape(-1, *shape).cpu(),
            frequencies=frequencies,
            orientations=orientations,
            largest=largest.cpu(),
            varies=(most - least > CONSTANT * largest).cpu(),
        )

    def frequencies(self, size: tuple[int, int]) -> Float[Tensor, " frequency"]:
        """Cycles per pixel, logarithmically spaced, both ends included."""
        low = LOWEST / max(size)
        count = 1 + max(1, round(self.per_octave * math.log2(NYQUIST / low)))
        return torch.logspace(math.log10(low), math.log10(NYQUIST), count)

    def best(
        self,
        respond: RespondOwn,
        found: GratingMap,
        rows: Int[Tensor, " unit"],
        size: tuple[int, int],
        norm: float,
        device: torch.device,
    ) -> Tuning:
        """Tuning curve of the best grating of the units at `rows` of `found`."""
        strength = found.strength[rows].flatten(1)
        colors, frequencies, orientations = torch.unravel_index(
            strength.argmax(1), found.strength.shape[1:]
        )
        return self.curve(
            respond,
            found.frequencies[frequencies],
            found.orientations[orientations],
            torch.tensor(list(COLOR_AXES.values()))[colors],
            size,
            norm,
            device,
        )

    def fitted(
        self,
        respond: RespondOwn,
        images: Float[Tensor, "unit 3 height width"],
        norm: float,
        device: torch.device,
    ) -> Tuning:
        """Tuning curve of the grating that is most alike each unit's `images`."""
        size = images.shape[2], images.shape[3]
        frequency, orientation, color = fit_grating(images.cpu())
        return self.curve(respond, frequency, orientation, color, size, norm, device)

    def curve(
        self,
        respond: RespondOwn,
        frequency: Float[Tensor, " unit"],
        orientation: Float[Tensor, " unit"],
        color: Float[Tensor, "unit 3"],
        size: tuple[int, int],
        norm: float,
        device: torch.device,
    ) -> Tuning:
        """Responses to the phases of a grating of each unit's own."""
        shown = gratings(
            soft_mask(size, device=device),
            frequency.to(device),
            orientation.to(device),
            color.to(device),
            phases(self.phases).to(device),
            norm,
        )
        responses = respond(shown)
        best = shown[torch.arange(len(shown), device=device), responses.argmax(1)]
        return Tuning(
            responses=responses.cpu(),
            gratings=best.cpu(),
            frequency=frequency,
            orientation=orientation,
            color=color,
        )


def fourier(
    responses: Float[Tensor, "*batch phase"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """F0 and F1 of rectified responses to equally spaced phases.

    `F0 = mean r_k`, `F1 = (2/K) |sum r_k exp(-i phi_k)|` (METHOD.md section 8).
    """
    count = responses.shape[-1]
    spectrum = torch.fft.fft(responses.clamp(min=0).double())
    return spectrum[..., 0].real / count, spectrum[..., 1].abs() * (2 / count)


def peak(responses: Float[Tensor, "*batch phase"]) -> Float[Tensor, "*batch"]:
    """Largest response over all phases, between those shown too: on the sum of sinusoids through
    them. (A linear unit's best phase may lie between two of the few that are shown.)"""
    count = responses.shape[-1]
    fine = torch.fft.irfft(torch.fft.rfft(responses), n=FINE * count) * FINE
    return fine.amax(-1)


def fit_grating(
    images: Float[Tensor, "unit 3 height width"],
) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"], Float[Tensor, "unit 3"]]:
    """Frequency (cycles per pixel), orientation (degrees) and colour of the strongest grating in
    each image under the soft mask: the peak of its spectrum, all colours together.

    Frequencies below one half cycle per image are not considered.
    """
    height, width = images.shape[2:]
    rows, columns = SPECTRUM * height, SPECTRUM * width
    masked = images * soft_mask((height, width))
    spectrum = torch.fft.rfft2(masked, s=(rows, columns))  # [unit, 3, rows, half]
    fy = torch.fft.fftfreq(rows)[:, None]
    fx = torch.fft.rfftfreq(columns)[None, :]
    radius = torch.hypot(fx, fy)
    allowed = (radius >= LOWEST / max(height, width) * 0.999) & (radius <= NYQUIST * 1.001)
    power = spectrum.abs().square().sum(1).masked_fill(~allowed, 0)
    place = power.flatten(1).argmax(1)
    row, column = place // power.shape[2], place % power.shape[2]
    frequency = radius[row, column]
    orientation = torch.rad2deg(torch.atan2(-fy[row, 0], fx[0, column])) % 180
    amplitude = spectrum[torch.arange(len(images)), :, row, column]  # [unit, 3], complex
    parts = torch.view_as_real(amplitude)  # [unit, 3, 2]: colour's main axis in the complex plane
    color = torch.linalg.svd(parts).U[:, :, 0]
    strongest = color.gather(1, color.abs().argmax(1, keepdim=True))
    return frequency, orientation, color * strongest.sign()


def numbers(tuning: Tuning, row: int, largest: float, varies: bool) -> dict[str, Any] | None:
    """F0, F1/F0 and what the grating was; None for a unit whose responses never vary.

    largest  size of the largest response to any grating, against which F0 is called weak
    """
    if not varies or not math.isfinite(largest):
        return None
    f0, f1 = (value.item() for value in fourier(tuning.responses[row]))
    return {
        "f1f0": f1 / f0 if f0 > 0 else None,
        "f0": f0,
        "response": tuning.responses[row].max().item(),
        "orientation": tuning.orientation[row].item(),
        "frequency": tuning.frequency[row].item(),
        "color": tuning.color[row].tolist(),
        "weak": f0 < WEAK * largest,
    }


def color_name(color: list[float]) -> str:
    """The axis that `color` lies along."""
    return max(
        COLOR_AXES,
        key=lambda name: abs(sum(a * b for a, b in zip(color, COLOR_AXES[name], strict=True))),
    )
