"""Phase invariance: F1/F0 of the response to the phases of a unit's best grating.

`F0 = mean r_k`, `F1 = (2/K) |sum r_k exp(-i phi_k)|` of rectified responses r_k to K phases phi_k:
pi/2 for a half-rectified linear unit, 0 for a phase-invariant unit. Skottun et al. 1991; Mechler &
Ringach 2002; docs/method.md, section 8.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diversevis.measures.stimuli import COLOR_AXES, gratings, phases, soft_mask
from diversevis.measures.subject import (
    BatchResult,
    Measured,
    Numbers,
    Progress,
    RespondAll,
    RespondOwn,
    Subject,
    check_least,
    in_batches,
    varies,
)

NYQUIST = 0.5  # cycles per pixel
LOWEST = 0.5  # cycles per receptive field
IMAGES_AT_ONCE = 256
SEARCH_PHASES = 8  # of the search for the best grating; the tuning curve has more
WEAK = 0.01  # F0 below this share of the largest response to any grating: F1/F0 means little
FINE = 4  # the peak is looked for at this many times as many phases as were shown
PADDING = 4  # an image is padded to this many times its side, for a finer grid of frequencies


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Responses to the phases of one grating per unit; nothing is rectified.

    gratings     at the phase that drives the unit most
    frequency    cycles per pixel
    orientation  degrees, of the wave vector
    """

    responses: Float[Tensor, "unit phase"]
    gratings: Float[Tensor, "unit 3 height width"]
    frequency: Float[Tensor, " unit"]
    orientation: Float[Tensor, " unit"]
    color: Float[Tensor, "unit 3"]


@dataclass(frozen=True, kw_only=True)
class GratingMap:
    """How well every grating drives every unit: the largest response over its phases.

    strength  colours in the order of `stimuli.COLOR_AXES`
    largest   largest absolute response, not rectified, to any grating
    varies    whether the responses differ by more than rounding
    """

    strength: Float[Tensor, "unit color frequency orientation"]
    frequencies: Float[Tensor, " frequency"]
    orientations: Float[Tensor, " orientation"]
    largest: Float[Tensor, " unit"]
    varies: Bool[Tensor, " unit"]


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

    def search(
        self, respond: RespondAll, size: tuple[int, int], norm: float, device: torch.device
    ) -> GratingMap:
        """Show all gratings to all units, in one pass over the layer."""
        mask = soft_mask(size, device=device)
        frequencies = self.frequencies(size)
        orientations = torch.arange(self.orientations) * (180 / self.orientations)
        colors = torch.tensor(list(COLOR_AXES.values()))
        shape = len(colors), len(frequencies), len(orientations)
        grid = torch.cartesian_prod(*(torch.arange(count) for count in shape))
        strengths, highest, lowest = [], [], []
        for part in torch.split(grid, max(1, IMAGES_AT_ONCE // SEARCH_PHASES)):
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
        return GratingMap(
            strength=torch.cat(strengths, dim=1).reshape(-1, *shape).cpu(),
            frequencies=frequencies,
            orientations=orientations,
            largest=torch.maximum(most.abs(), least.abs()).cpu(),
            varies=varies(least, most).cpu(),
        )

    def frequencies(self, size: tuple[int, int]) -> Float[Tensor, " frequency"]:
        """Cycles per pixel, logarithmically spaced, both ends included."""
        low = LOWEST / max(size)
        count = 1 + max(1, round(self.per_octave * math.log2(NYQUIST / low)))
        return torch.logspace(math.log10(low), math.log10(NYQUIST), count)

    def best(
        self,
        respond: RespondOwn,
        shown: GratingMap,
        rows: Int[Tensor, " unit"],
        size: tuple[int, int],
        norm: float,
        device: torch.device,
    ) -> Tuning:
        """Tuning curve of the best grating of the units at `rows` of the map."""
        strength = shown.strength[rows].flatten(1)
        colors, frequencies, orientations = torch.unravel_index(
            strength.argmax(1), shown.strength.shape[1:]
        )
        color = torch.tensor(list(COLOR_AXES.values()))[colors]
        grating = shown.frequencies[frequencies], shown.orientations[orientations], color
        return self.curve(respond, *grating, size, norm, device)

    def fitted(
        self,
        respond: RespondOwn,
        images: Float[Tensor, "unit 3 height width"],
        norm: float,
        device: torch.device,
    ) -> Tuning:
        """Tuning curve of the grating that is most similar to each unit's image."""
        size = images.shape[2], images.shape[3]
        return self.curve(respond, *fit_grating(images.cpu()), size, norm, device)

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
        """Responses of every unit to the phases of its grating."""
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


def fit_grating(
    images: Float[Tensor, "unit 3 height width"],
) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"], Float[Tensor, "unit 3"]]:
    """Frequency (cycles per pixel), orientation (degrees) and colour of the strongest grating in
    every image under the soft mask: the peak of its power spectrum, summed over the colours.

    Frequencies below one half cycle per image are not considered.
    """
    height, width = images.shape[2:]
    rows, columns = PADDING * height, PADDING * width
    masked = images * soft_mask((height, width))
    spectrum = torch.fft.rfft2(masked, s=(rows, columns))  # [unit, 3, rows, half]
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
    amplitude = spectrum[torch.arange(len(images)), :, row, column]  # [unit, 3], complex
    parts = torch.view_as_real(amplitude)  # [unit, 3, 2]: colour's main axis in the complex plane
    color = torch.linalg.svd(parts).U[:, :, 0]
    main_channel = color.gather(1, color.abs().argmax(1, keepdim=True))
    return frequency, orientation, color * main_channel.sign()  # the axis has no sign of its own


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


def measure_phase(subject: Subject, progress: Progress) -> Measured:
    """F1/F0 of the best grating and, with a run, of the grating fitted to a unit's best image."""
    settings: Phase = subject.settings["phase"]
    size, norm, device = subject.size, subject.norm, subject.device
    shown = settings.search(subject.respond_all(subject.batch), size, norm, device)

    def measure_batch(batch: Subject) -> BatchResult:
        respond, rows = batch.respond_own(), torch.tensor(batch.rows)
        with torch.no_grad():
            best = settings.best(respond, shown, rows, size, norm, device)
            arrays = {"tuning": best.responses, "grating": best.gratings}
            fitted = None
            if batch.images is not None:
                fitted = settings.fitted(respond, batch.best_images(), norm, device)
                arrays |= {"fitted_tuning": fitted.responses, "fitted_grating": fitted.gratings}
        return [_unit(best, fitted, i, shown, row) for i, row in enumerate(batch.rows)], arrays

    shapes = {"tuning": (settings.phases,), "grating": (3, *size)}
    if subject.images is not None:
        shapes |= {f"fitted_{name}": shape for name, shape in shapes.items()}
    numbers, arrays = in_batches(
        "phase", subject, subject.living, settings.phases, shapes, measure_batch, progress
    )
    arrays |= {
        "map": shown.strength[list(subject.rows)],
        "frequencies": shown.frequencies,
        "orientations": shown.orientations,
        "phases": phases(settings.phases),
    }
    return Measured(numbers, arrays, dataclasses.asdict(settings))


def _unit(
    best: Tuning, fitted: Tuning | None, index: int, shown: GratingMap, row: int
) -> Numbers | None:
    """Numbers of the unit at `index` of the tuning curves and `row` of the map."""
    facts = shown.largest[row].item(), bool(shown.varies[row])
    entry = numbers(best, index, *facts)
    if entry is None:
        return None
    entry["color"] = color_name(entry["color"])
    return entry | {"fitted": None if fitted is None else numbers(fitted, index, *facts)}
