"""Measures of invariance of all units of a run: the leaves of `analyze` joined to its network.

Units are measured side by side in batches; what is drawn for a unit depends on the seed and the
unit alone, so that its numbers do not depend on the others. METHOD.md sections 6 to 8.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis import natural
from diversevis.analyze import dimension as dimensions
from diversevis.analyze import diversity, phase, stimuli
from diversevis.analyze.shift import Texture
from diversevis.errors import InputError, suggest
from diversevis.looking import Looking, LookingAtAll, generator_of, noise_of
from diversevis.prepare import Setting, precision
from diversevis.visualize import images_alone

# measure, units done, of how many
Progress = Callable[[str, int, int], None]
Numbers = dict[str, Any]


class Measured(NamedTuple):
    """One measure: numbers per unit (None for a dead one), arrays [unit, ...], and with what it was
    made."""

    numbers: list[Numbers | None]
    arrays: dict[str, Tensor]
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The units that are measured.

    rows        places of the units in the setting's targets
    alive       whether a unit has a gradient (all, where nothing is known)
    images      [unit, image, 3, h, w] and responses [unit, image]; None without a run
    best        best single-image response [unit]
    knees       of every unit, the weight at which its front has its knee, where one was traced
    sample_seed the seed that draws the sample of units, if it is not the setting's
    """

    setting: Setting
    rows: tuple[int, ...]
    alive: tuple[bool, ...]
    images: Float[Tensor, "unit image 3 height width"] | None
    responses: Float[Tensor, "unit image"] | None
    best: Float[Tensor, " unit"] | None
    knees: tuple[float | None, ...] | None = None
    sample_seed: int | None = None

    @property
    def units(self) -> list[int]:
        return [self.setting.targets.units[row] for row in self.rows]

    @property
    def living(self) -> list[int]:
        """Places of the units that are alive."""
        return [place for place, alive in enumerate(self.alive) if alive]

    def parts(self, each: int) -> Iterator[list[int]]:
        """The living in batches, `each` images at once for one unit."""
        count = max(1, self.setting.batch // each)
        for first in range(0, len(self.living), count):
            yield self.living[first : first + count]

    def sample(self) -> Subject:
        """Itself with those units alone alive that the slow measures take."""
        count, every = self.setting.experiment.measure.sample, len(self.setting.targets.units)
        if count is None or count >= every:
            return self
        drawing = self.setting
        if self.sample_seed is not None:
            first = dataclasses.replace(drawing.experiment, seed=self.sample_seed)
            drawing = dataclasses.replace(drawing, experiment=first)
        drawn = torch.randperm(every, generator=generator_of(drawing, "sample"))[:count]
        kept = set(drawn.tolist())
        alive = [one and row in kept for row, one in zip(self.rows, self.alive, strict=True)]
        return dataclasses.replace(self, alive=tuple(alive))

    def respond(self, places: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Images [unit, image, 3, h, w] of the units at `places` -> their responses."""
        device = self.setting.device
        rows = torch.tensor([self.rows[place] for place in places], device=device)
        look, own = Looking(setting=self.setting, rows=rows), torch.arange(len(rows), device=device)
        return lambda x: look(x.to(device), own).responses

    def best_images(self, places: Sequence[int]) -> Float[Tensor, "unit 3 height width"]:
        """The image of each batch that drives its unit most."""
        images, responses = self.of_run()
        kept = list(places)
        return images[kept, responses[kept].argmax(1)]

    def of_run(self) -> tuple[Tensor, Tensor]:
        if self.images is None or self.responses is None:
            raise InputError("this measure needs a run's images")
        return self.images, self.responses


def chosen(names: str | Sequence[str], *, with_images: bool = True) -> list[str]:
    """The measures that `analysis=` names, in the order of METHOD.md.

    Raises `InputError` for a name that is none, and for one that needs a run's images without them.
    """
    possible = [name for name in MEASURES if with_images or name in WITHOUT_IMAGES]
    words = [names] if isinstance(names, str) else list(names)
    if "all" in words:
        return possible
    for word in words:
        if word not in MEASURES:
            raise InputError(f"analysis={word} is no measure. {suggest(word, ['all', *MEASURES])}")
        if word not in possible:
            raise InputError(
                f"analysis={word} is measured on the images of a run: give the run's folder, or "
                f"leave it to those that need none: analysis=[{','.join(possible)}]."
            )
    return [name for name in MEASURES if name in words]


def measure(subject: Subject, name: str, progress: Progress = lambda *_: None) -> Measured:
    """One measure of all units, in plain float32."""
    with precision("float32"):
        found = MEASURES[name](subject, progress)
    units = {"units": torch.tensor(subject.units)}
    return found._replace(arrays=units | found.arrays) if found.arrays else found


# -- the measures ---------------------------------------------------------------------------------


def _gain(subject: Subject, progress: Progress) -> Measured:
    """Against images each made alone, from random starts, with the same steps and norm."""
    setting, (together, responses) = subject.setting, subject.of_run()
    numbers, count = _empty(subject), len(subject.living)
    apart, alone_responses = torch.full_like(together, torch.nan), responses * torch.nan
    done = 0
    for places in subject.parts(setting.experiment.n):
        found = images_alone(setting, [subject.rows[place] for place in places])
        for place, one in zip(places, found, strict=True):
            if one is not None:
                apart[place], alone_responses[place] = one
                numbers[place] = _gain_numbers(
                    (together[place], responses[place]), (apart[place], alone_responses[place])
                )
        done += len(places)
        progress("gain", done, count)
    experiment = setting.experiment
    made_with = {
        "optimizer": dataclasses.asdict(experiment.optimizer),
        "precondition": experiment.precondition,
        "response": experiment.objective.response,
    }
    return Measured(numbers, {"images": apart, "responses": alone_responses}, made_with)


def _gain_numbers(together: tuple[Tensor, Tensor], alone: tuple[Tensor, Tensor]) -> Numbers:
    pairs = []
    for images, _ in (together, alone):
        distances = diversity.distance_matrix(images[None])[0]
        above = torch.triu_indices(len(images), len(images), 1)
        pairs.append(distances[above[0], above[1]])
    ours, theirs = together[1].mean().item(), alone[1].mean().item()
    several = len(pairs[0]) > 0
    found: Numbers = {}
    for name, value in (("min", torch.amin), ("mean", torch.mean)):
        batch, apart = (value(one).item() if several else math.nan for one in pairs)
        found[f"distance_{name}"] = _finite(batch - apart)
        found[f"distance_{name}_alone"] = _finite(apart)
    return found | {"response": _share(ours, theirs), "response_mean_alone": theirs}


def _phase(subject: Subject, progress: Progress) -> Measured:
    setting = subject.setting
    settings, size, device = setting.experiment.measure.phase, setting.field.size, setting.device
    found = settings.search(LookingAtAll(setting), size, setting.norm, device)
    shown = {"tuning": settings.phases, "grating": (3, *size)}
    arrays = _nan_arrays(subject, shown)
    if subject.images is not None:
        arrays |= _nan_arrays(subject, {f"fitted_{name}": shape for name, shape in shown.items()})
    numbers, done = _empty(subject), 0
    for places in subject.parts(settings.phases):
        rows = torch.tensor([subject.rows[place] for place in places])
        tuned = settings.best(_no_grad(subject.respond(places)), found, rows, size, setting.norm,
                              device)  # fmt: skip
        fitted = None
        if subject.images is not None:
            best = subject.best_images(places)
            fitted = settings.fitted(_no_grad(subject.respond(places)), best, setting.norm, device)
        for i, place in enumerate(places):
            row = subject.rows[place]
            facts = found.largest[row].item(), bool(found.varies[row])
            arrays["tuning"][place], arrays["grating"][place] = (
                tuned.responses[i],
                tuned.gratings[i],
            )
            own = phase.numbers(tuned, i, *facts)
            if fitted is not None:
                arrays["fitted_tuning"][place] = fitted.responses[i]
                arrays["fitted_grating"][place] = fitted.gratings[i]
            if own is not None:
                own["color"] = phase.color_name(own["color"])
                own["fitted"] = phase.numbers(fitted, i, *facts) if fitted is not None else None
            numbers[place] = own
        done += len(places)
        progress("phase", done, len(subject.living))
    arrays |= {
        "map": found.strength[list(subject.rows)],
        "frequencies": found.frequencies,
        "orientations": found.orientations,
        "phases": stimuli.phases(settings.phases),
    }
    return Measured(numbers, arrays, dataclasses.asdict(settings))


def _shift(subject: Subject, progress: Progress) -> Measured:
    subject, setting = subject.sample(), subject.setting
    settings, size = setting.experiment.measure.shift, setting.field.size
    names = {
        "texture": (3, *(2 * side - 1 for side in size)), "map": tuple(side - 1 for side in size),
        "mask": size, "masked": (3, *size), "best_masked": (),
    }  # fmt: skip
    kinds = ("fixed", "learned")
    arrays = _nan_arrays(subject, {f"{n}_{k}": shape for k in kinds for n, shape in names.items()})
    arrays["best"] = torch.full((len(subject.rows),), torch.nan)
    numbers, done = _empty(subject), 0
    if min(size) < 2:  # a texture needs more than one shift
        return Measured(numbers, {}, dataclasses.asdict(settings))
    crops = math.prod(side - 1 for side in size)
    for places in subject.parts(min(crops, settings.crops or crops)):
        best = _best_of(subject, places)
        found = {kind: _texture(subject, places, kind) for kind in kinds}
        for i, place in enumerate(places):
            arrays["best"][place] = best[i]
            for kind, one in found.items():
                values = one.texture, one.responses, one.mask, one.masked, one.masked_response
                for name, value in zip(names, values, strict=True):
                    arrays[f"{name}_{kind}"][place] = value[i]
            numbers[place] = _shift_numbers(found, i, best[i].item())
        done += len(places)
        progress("shift", done, len(subject.living))
    if subject.living:
        arrays["mask_fixed"] = arrays["mask_fixed"][subject.living[0]]
    return Measured(numbers, arrays, dataclasses.asdict(settings))


def _texture(subject: Subject, places: Sequence[int], kind: str) -> Texture:
    setting, device = subject.setting, subject.setting.device

    def noise(count: int, size: tuple[int, int]) -> Tensor:
        units = [subject.units[place] for place in places]
        purpose = f"shift/{kind}/{size}"
        return torch.stack([noise_of(setting, unit, purpose, count, size)() for unit in units])

    return setting.experiment.measure.shift(
        subject.respond(places),
        subject.best_images(places).to(device),
        noise,
        setting.norm,
        generator_of(setting, f"shift/{kind}/crops"),
        learned=kind == "learned",
    )


def _shift_numbers(found: dict[str, Texture], row: int, best: float) -> Numbers:
    def indices(one: Texture) -> Numbers:
        mean, least = one.responses[row].mean().item(), one.responses[row].min().item()
        masked = one.masked_response[row].item()
        return {
            "mean": _share(mean, best), "min": _share(least, best),
            "mean_masked": _share(mean, masked), "min_masked": _share(least, masked),
        }  # fmt: skip

    learned = found["learned"]
    shape = {name: getattr(learned, name)[row].item() for name in ("p", "q", "sigma")}
    return indices(found["fixed"]) | {"learned": indices(learned) | shape}


def _deformation(subject: Subject, progress: Progress) -> Measured:
    subject, setting, (images, _) = subject.sample(), subject.setting, subject.of_run()
    settings, count = setting.experiment.measure.deformation, len(subject.rows)
    deltas = settings.deltas
    kinds = "kept", "stability", "stability_error", "strict", "strict_error"
    arrays = _nan_arrays(subject, dict.fromkeys(kinds, (len(deltas),)))
    arrays["deformed"] = torch.full((count, len(deltas), *images.shape[2:]), torch.nan)
    numbers, done = _empty(subject), 0
    for places in subject.parts(3 * images.shape[1]):
        order = _best_first(subject, places).to(setting.device)
        with torch.no_grad():
            found = settings(subject.respond(places), order, generator_of(setting, "deformation"))
        for i, place in enumerate(places):
            for kind in kinds:
                arrays[kind][place] = getattr(found, kind)[i]
            arrays["deformed"][place] = found.examples[i]
            numbers[place] = _deformation_numbers(arrays, place, deltas, settings.delta)
        done += len(places)
        progress("deformation", done, len(subject.living))
    for error in ("", "_error"):
        arrays[f"stability_strict{error}"] = arrays.pop(f"strict{error}")
    return Measured(
        numbers, arrays | {"deltas": torch.tensor(deltas)}, dataclasses.asdict(settings)
    )


def _deformation_numbers(
    arrays: dict[str, Tensor], place: int, deltas: Sequence[float], delta: float
) -> Numbers:
    kinds = "kept", "stability", "stability_error", "strict", "strict_error"
    at = {kind: dict(zip(deltas, arrays[kind][place].tolist(), strict=True)) for kind in kinds}

    def curve(kind: str) -> Numbers:
        return {f"{d:g}": _finite(value) for d, value in at[kind].items()}

    return {
        "stability": _finite(at["stability"][delta]),
        "stability_error": _finite(at["stability_error"][delta]),
        "stability_strict": _finite(at["strict"][delta]),
        "stability_strict_error": _finite(at["strict_error"][delta]),
        "delta": delta,
        "kept": curve("kept"),
        "stability_at": curve("stability"),
        "stability_strict_at": curve("strict"),
    }


def _diversity(subject: Subject, progress: Progress) -> Measured:
    """Null where no closed form holds: a single image, or a response that is no projection."""
    experiment, (images, _) = subject.setting.experiment, subject.of_run()
    objective, n = experiment.objective, images.shape[1]
    numbers = _empty(subject)
    distances = torch.cat([diversity.distance_matrix(own[None]) for own in images])
    unit = subject.setting.norm / math.sqrt(images[0, 0].numel())  # of distance: grey levels
    comparable = objective.distance == "pixels" and objective.scale == "best"
    for place in subject.living if n > 1 and objective.response == "max" else []:
        weight = objective.diversity if subject.knees is None else subject.knees[place]
        ends = diversity.ends(
            n, diversity=weight if comparable else None, fraction=objective.fraction
        )
        mean = distances[place].sum().item() / (n * (n - 1))
        numbers[place] = {
            "index": diversity.index(mean / unit, ends),
            "distance_mean": mean,
            "distance_simple": ends.simple * unit,
            "distance_complex": ends.complex * unit,
        }
    progress("diversity", len(subject.living), len(subject.living))
    made_with = {"response": objective.response, "scale": objective.scale}
    return Measured(numbers, {"distances": distances}, made_with)


def _dimension(subject: Subject, progress: Progress) -> Measured:
    setting, (images, _) = subject.setting, subject.of_run()
    settings, n = setting.experiment.measure.dimension, images.shape[1]
    pairs = n * (n - 1) // 2
    arrays = _nan_arrays(subject, {"paths": (pairs, settings.points), "spectrum": (n,)})
    numbers, done = _empty(subject), 0
    for places in subject.parts(settings.points):
        with torch.no_grad():
            own = images[places].to(setting.device)
            paths = settings.paths(subject.respond(places), own)
        smallest = dimensions.smallest_along(paths)
        for i, place in enumerate(places):
            ratio, spectrum = dimensions.participation(images[place : place + 1])
            arrays["paths"][place], arrays["spectrum"][place] = paths.responses[i], spectrum[0]
            known = smallest[i][~smallest[i].isnan()]
            numbers[place] = {
                "participation": ratio.item(),
                "path_min": known.min().item() if len(known) else None,
                "path_mean": known.mean().item() if len(known) else None,
                "groups": settings.groups(paths, i, n) if len(known) or n == 1 else None,
            }
        done += len(places)
        progress("dimension", done, len(subject.living))
    arrays["pairs"] = torch.triu_indices(n, n, 1).T
    return Measured(numbers, arrays, dataclasses.asdict(settings))


def _natural(subject: Subject, progress: Progress) -> Measured:
    setting, experiment = subject.setting, subject.setting.experiment
    settings = experiment.measure.natural
    if experiment.natural is None:
        raise InputError("analysis=natural needs a folder of photographs: natural=FOLDER.")
    folder = Path(experiment.natural).expanduser()
    respond = _Watched(LookingAtAll(setting), subject.rows)
    found = settings(
        respond,
        folder,
        mean=setting.network.weights.mean,
        size=setting.field.size,
        norm=setting.norm,
        seed=experiment.seed,
        batch=setting.batch,
        units=len(subject.rows),
        progress=lambda done, total: progress("natural", done, total),
    )
    numbers, images, responses_of = _empty(subject), found.images, found.responses
    silent = set(range(len(subject.rows))) - set(subject.living) | respond.constant()
    images[list(silent)], responses_of[list(silent)] = torch.nan, torch.nan
    for place in range(len(subject.rows)):
        responses = responses_of[place][~responses_of[place].isnan()]
        if not len(responses):
            continue
        synthetic = None if subject.responses is None else subject.responses[place].mean().item()
        largest = responses.max().item()
        numbers[place] = {
            "response_max": largest,
            "response_mean": responses.mean().item(),
            "of_synthetic": None if synthetic is None else _share(largest, synthetic),
            "photographs": found.photographs,
            "crops": found.crops,
            "exemplars": [
                {"file": file, "row": row, "column": column, "response": response}
                for (file, row, column), response in zip(
                    found.places[place], responses.tolist(), strict=True
                )
            ],
        }
    digest = natural.names_and_sizes(folder, "natural")
    made_with = dataclasses.asdict(settings) | {"photographs": digest}
    return Measured(numbers, {"images": images, "responses": responses_of}, made_with)


MEASURES: dict[str, Callable[[Subject, Progress], Measured]] = {
    "gain": _gain,
    "phase": _phase,
    "shift": _shift,
    "deformation": _deformation,
    "diversity": _diversity,
    "dimension": _dimension,
    "natural": _natural,
}
WITHOUT_IMAGES = ("phase", "natural")


# -- small things ---------------------------------------------------------------------------------


def _empty(subject: Subject) -> list[Numbers | None]:
    return [None] * len(subject.rows)


def _nan_arrays(subject: Subject, shapes: dict[str, Any]) -> dict[str, Tensor]:
    """Of every unit; a dead one keeps NaN."""
    count = len(subject.rows)
    return {
        name: torch.full((count, *((shape,) if isinstance(shape, int) else shape)), torch.nan)
        for name, shape in shapes.items()
    }


def _no_grad(respond: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def quietly(x: Tensor) -> Tensor:
        with torch.no_grad():
            return respond(x)

    return quietly


class _Watched:
    """Responses of some units to images, remembering between which values they were."""

    def __init__(self, respond: LookingAtAll, rows: Sequence[int]) -> None:
        self.respond, self.rows = respond, list(rows)
        self.lowest = torch.full((len(rows),), torch.inf)
        self.highest = -self.lowest

    def __call__(self, x: Tensor) -> Tensor:
        responses = self.respond(x)[:, self.rows].cpu()
        self.lowest = torch.fmin(self.lowest, responses.amin(0))
        self.highest = torch.fmax(self.highest, responses.amax(0))
        return responses

    def constant(self) -> set[int]:
        """Units that answered the same to everything."""
        size = torch.maximum(self.lowest.abs(), self.highest.abs())
        return set((self.highest - self.lowest <= phase.CONSTANT * size).nonzero()[:, 0].tolist())


def _best_of(subject: Subject, places: Sequence[int]) -> Float[Tensor, " unit"]:
    """Best single-image response: of the search, or of the batch if that found a better one."""
    _, responses = subject.of_run()
    of_batch = responses[list(places)].amax(1)
    return of_batch if subject.best is None else torch.fmax(subject.best[list(places)], of_batch)


def _best_first(
    subject: Subject, places: Sequence[int]
) -> Float[Tensor, "unit image 3 height width"]:
    images, responses = subject.of_run()
    kept = list(places)
    order = responses[kept].argsort(dim=1, descending=True)
    return torch.stack([images[place, own] for place, own in zip(kept, order, strict=True)])


def _share(value: float, of: float) -> float | None:
    """A share of something that is not above 0 says nothing."""
    return value / of if of > 0 and math.isfinite(value) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
