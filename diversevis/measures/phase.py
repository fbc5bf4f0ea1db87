"""Phase invariance: F1/F0 of the response to the phases of a unit's best grating.

`F0 = mean r_k`, `F1 = (2/K) |sum r_k exp(-i phi_k)|` of rectified responses r_k to K phases phi_k:
pi/2 for a half-rectified linear unit, 0 for a phase-invariant unit. Skottun et al. 1991; Mechler &
Ringach 2002; docs/method.md, section 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diversevis.measures.checks import check_least, varies
from diversevis.measures.stimuli import color_axes, color_table, gratings, phases, soft_mask
from diversevis.measures.subject import Measured, Numbers, Progress, RespondOwn, Subject, in_batches
from diversevis.photographs.crops import Respond

NYQUIST = 0.5  # cycles per pixel
LOWEST = 0.5  # cycles per receptive field
IMAGES_AT_ONCE = 256
SEARCH_PHASES = 8  # of the search for the best grating; the tuning curve has more
# Pixels of all images of the search where an image is the network's input, which costs a pass
# through the whole network: 5349 images of 224 x 224.
SEARCH_PIXELS = 2**28
FEWEST_ORIENTATIONS = 4
WEAK = 0.01  # F0 below this share of the largest response to any grating: F1/F0 means little
FINE = 4  # the peak is looked for at this many times as many phases as were shown
PADDING = 4  # an image is padded to this many times its side, for a finer grid of frequencies


class Grating(NamedTuple):
    """A grating per unit: cycles per pixel, degrees of the wave vector, colour."""

    frequency: Float[Tensor, " unit"]
    orientation: Float[Tensor, " unit"]
    color: Float[Tensor, "unit color"]


class Tuning(NamedTuple):
    """Responses to the phases of a grating per unit, not rectified, and the best phase's image."""

    grating: Grating
    responses: Float[Tensor, "unit phase"]
    images: Float[Tensor, "unit color height width"]


@dataclass(frozen=True, kw_only=True)
class GratingMap:
    """How well every grating drives every unit: the largest response over its phases.

    strength  colours in the order of `stimuli.color_axes`, as many as the images have channels
    largest   largest absolute response, not rectified, to any grating
    varies    whether the responses differ by more than rounding
    """

    strength: Float[Tensor, "unit color frequency orientation"]
    frequencies: Float[Tensor, " frequency"]
    orientations: Float[Tensor, " orientation"]
    largest: Float[Tensor, " unit"]
    varies: Bool[Tensor, " unit"]

    def best(self, rows: Int[Tensor, " unit"]) -> Grating:
        """The best grating of each unit at `rows`."""
        colors, frequencies, orientations = torch.unravel_index(
            self.strength[rows].flatten(1).argmax(1), self.strength.shape[1:]
        )
        color = color_table(self.strength.shape[1])[colors]
        return Grating(self.frequencies[frequencies], self.orientations[orientations], color)


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

    def __post_init__(self) -> None:
        # Fewer than 8 phases would add higher harmonics to F1 (docs/method.md, section 8).
        check_least("measure.phase", self, orientations=1, per_octave=1, phases=8)

    def bounded(self, size: tuple[int, int], channels: int) -> Phase:
        """With fewer frequencies, then fewer orientations, until the search has no more pixels than
        `SEARCH_PIXELS`."""
        count = channels * len(self.frequencies(size)) * self.orientations * SEARCH_PHASES
        if count * math.prod(size) <= SEARCH_PIXELS:
            return self
        if self.per_octave > 1:
            return replace(self, per_octave=self.per_octave - 1).bounded(size, channels)
        fewer = max(FEWEST_ORIENTATIONS, self.orientations // 2)
        if fewer >= self.orientations:
            return self
        return replace(self, orientations=fewer).bounded(size, channels)

    def frequencies(self, size: tuple[int, int]) -> Float[Tensor, " frequency"]:
        """Cycles per pixel, for images of this size."""
        low = LOWEST / max(size)
        count = 1 + max(1, round(self.per_octave * math.log2(NYQUIST / low)))
        return torch.logspace(math.log10(low), math.log10(NYQUIST), count)

    def search(
        self,
        respond: Respond,
        mask: Float[Tensor, "height width"],
        norm: float,
        *,
        channels: int,
        pulse: Callable[[], None] = lambda: None,
    ) -> GratingMap:
        """Show all gratings, seen through `mask`, to all units, in one pass over the layer.

        pulse  called again and again
        """
        frequencies = self.frequencies((mask.shape[0], mask.shape[1]))
        orientations = torch.arange(self.orientations) * (180 / self.orientations)
        colors = color_table(channels)
        shape = len(colors), len(frequencies), len(orientations)
        grid = torch.cartesian_prod(*(torch.arange(side) for side in shape))
        strengths, highest, lowest = [], [], []
        for part in torch.split(grid, max(1, IMAGES_AT_ONCE // SEARCH_PHASES)):
            color, frequency, orientation = part.unbind(1)
            grating = frequencies[frequency], orientations[orientation], colors[color]
            shown = gratings(mask, *grating, phases(SEARCH_PHASES), norm)
            responses = respond(shown.flatten(0, 1)).reshape(len(part), SEARCH_PHASES, -1)
            strengths.append(peak(responses.movedim(-1, 0)))
            highest.append(responses.amax((0, 1)))
            lowest.append(responses.amin((0, 1)))
            pulse()
        most, least = torch.stack(highest).amax(0), torch.stack(lowest).amin(0)
        return GratingMap(
            strength=torch.cat(strengths, dim=1).reshape(-1, *shape).cpu(),
            frequencies=frequencies,
            orientations=orientations,
            largest=torch.maximum(most.abs(), least.abs()).cpu(),
            varies=varies(least, most).cpu(),
        )

    def curve(self, respond: RespondOwn, grating: Grating, mask: Tensor, norm: float) -> Tuning:
        """Responses of every unit to the phases of its grating."""
        shown = gratings(mask, *grating, phases(self.phases), norm)
        responses = respond(shown)
        best = shown[torch.arange(len(shown), device=shown.device), responses.argmax(1)]
        return Tuning(grating, responses.cpu(), best.cpu())


def fourier(
    responses: Float[Tensor, "*batch phase"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """F0 and F1 of the rectified responses to equally spaced phases; docs/method.md, section 8."""
    count = responses.shape[-1]
    spectrum = torch.fft.fft(responses.clamp(min=0).double())
    return spectrum[..., 0].real / count, spectrum[..., 1].abs() * (2 / count)


def peak(responses: Float[Tensor, "*batch phase"]) -> Float[Tensor, "*batch"]:
    """Largest response over all phases, on the sum of sinusoids through those that were shown.

    The best phase of a linear unit may lie between two of the few that were shown.
    """
    count = responses.shape[-1]
    fine = torch.fft.irfft(torch.fft.rfft(responses), n=FINE * count) * FINE
    return fine.amax(-1)


def fit_grating(images: Float[Tensor, "unit color height width"]) -> Grating:
    """The strongest grating in every image under the soft mask: the peak of its power spectrum,
    summed over the colours.

    Frequencies below one half cycle per image are not considered.
    """
    height, width = images.shape[2:]
    rows, columns = PADDING * height, PADDING * width
    spectrum = torch.fft.rfft2(images * soft_mask((height, width)), s=(rows, columns))
    fy = torch.fft.fftfreq(rows)[:, None]
    fx = torch.fft.rfftfreq(columns)[None, :]
    radius = torch.hypot(fx, fy)
    allowed = (radius >= LOWEST / max(height, width) * 0.999) & (radius <= NYQUIST * 1.001)
    power = spectrum.abs().square().sum(1).masked_fill(~allowed, 0)
    strongest = power.flatten(1).argmax(1)
    row, column = strongest // power.shape[2], strongest % power.shape[2]
    frequency = radius[row, column]
    # Rows run downwards, orientations counter-clockwise: hence the minus.
    orientation = torch.rad2deg(torch.atan2(-fy[row, 0], fx[0, column])) % 180
    amplitude = spectrum[torch.arange(len(images)), :, row, column]  # [unit, color], complex
    parts = torch.view_as_real(amplitude)  # [.., 2]: colour's main axis in the complex plane
    color = torch.linalg.svd(parts).U[:, :, 0]
    main_channel = color.gather(1, color.abs().argmax(1, keepdim=True))
    return Grating(frequency, orientation, color * main_channel.sign())  # an axis has no sign


def numbers(tuning: Tuning, row: int, largest: float, varies: bool) -> Numbers | None:
    """F0, F1/F0 and the grating of the unit at `row`; None for a unit whose responses never vary.

    largest  absolute response to any grating, against which F0 is called weak
    """
    if not varies or not math.isfinite(largest):
        return None
    f0, f1 = (value.item() for value in fourier(tuning.responses[row]))
    return {
        "f1f0": f1 / f0 if f0 > 0 else None,
        "f0": f0,
        "response": tuning.responses[row].max().item(),
        "orientation": tuning.grating.orientation[row].item(),
        "frequency": tuning.grating.frequency[row].item(),
        "color": tuning.grating.color[row].tolist(),
        "weak": f0 < WEAK * largest,
    }


def color_name(color: list[float]) -> str:
    """The axis that `color` lies along."""
    axes = color_axes(len(color))
    vectors = torch.tensor(list(axes.values()), dtype=torch.float64)
    cosines = vectors @ torch.tensor(color, dtype=torch.float64)
    return list(axes)[int(cosines.abs().argmax())]


def measure_phase(subject: Subject, progress: Progress) -> Measured:
    """F1/F0 of the best grating and, with a run, of the grating fitted to a unit's best image."""
    settings: Phase = subject.settings["phase"]
    mask, norm = soft_mask(subject.size, device=subject.device), subject.norm
    respond_all = subject.respond_all(subject.batch)
    channels, count = len(subject.mean), len(subject.living)
    searched = settings.bounded(subject.size, channels) if subject.whole_image else settings
    shown = searched.search(
        respond_all, mask, norm, channels=channels, pulse=lambda: progress("phase", 0, count)
    )

    def measure_batch(batch: Subject) -> tuple[list[Numbers | None], dict[str, Tensor]]:
        respond, fitted = batch.respond_own(), None
        with torch.no_grad():
            best = settings.curve(respond, shown.best(torch.tensor(batch.rows)), mask, norm)
            arrays = {"tuning": best.responses, "grating": best.images}
            if batch.images is not None:
                grating = fit_grating(batch.best_images().cpu())
                fitted = settings.curve(respond, grating, mask, norm)
                arrays |= {"fitted_tuning": fitted.responses, "fitted_grating": fitted.images}
        return [_unit(best, fitted, i, shown, row) for i, row in enumerate(batch.rows)], arrays

    shapes = {"tuning": (settings.phases,), "grating": subject.image_shape}
    if subject.images is not None:
        shapes |= {f"fitted_{name}": shape for name, shape in shapes.items()}
    measured = in_batches(
        "phase", subject, subject.living, settings.phases, shapes, measure_batch, progress
    )
    measured.arrays["map"] = shown.strength[list(subject.rows)]
    measured.arrays["frequencies"] = shown.frequencies
    measured.arrays["orientations"] = shown.orientations
    measured.arrays["phases"] = phases(settings.phases)
    return measured


def _unit(
    best: Tuning, fitted: Tuning | None, index: int, shown: GratingMap, row: int
) -> Numbers | None:
    """Numbers of the unit at `index` of the tuning curves and `row` of the map."""
    facts = shown.largest[row].item(), bool(shown.varies[row])
    entry = numbers(best, index, *facts)
    if entry is not None:
        entry["color"] = color_name(entry["color"])
        entry["fitted"] = None if fitted is None else numbers(fitted, index, *facts)
    return entry
