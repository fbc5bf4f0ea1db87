"""What a unit sees, and by which way its response is computed: proved before anything is computed.

The plain way runs the network as it is published. The fast way is its traced graph without padding;
it is taken only where it gave the same numbers as the plain way on a few random images. That a
receptive field is right is shown on the network itself: NaN in each of its outermost rows and
columns changes the unit; other pixels around it, and a larger canvas, do not.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from diversevis.errors import InputError
from diversevis.models.layer import Layer, Reading
from diversevis.models.load import Network
from diversevis.models.network import OpenNetwork
from diversevis.models.plain import (
    Pair,
    Place,
    PlainNetwork,
    central_place,
    smallest_place,
    unit_of,
    units_inside,
)
from diversevis.models.probe import STRONG, Probe, marker_for, native_convolutions
from diversevis.models.receptive_field import ReceptiveField, unpad

TOLERANCE = 1e-4  # largest difference between two ways, relative to a channel's responses
SPREAD = 0.5  # standard deviation of random network inputs, about that of images
REPEATS = 4  # passes that must agree with the first: a coin decides on a flip, say
OTHERS = 5.0  # of images that share a batch: batch statistics show themselves
LARGE = 64  # networks may treat images with smaller sides differently
LARGEST = 1024
STEP = 32  # some networks take sides that are multiples of 32 only
EVERYTHING = slice(None), slice(None)


@dataclass(frozen=True, kw_only=True)
class View:
    """What the units of a layer see, and how their responses are computed.

    field     the receptive field; the whole image where its stride is 0
    plain     z [image, color, *field.size] -> the target [image, channel, 1, 1], then the features
              [image, channel, rows, columns]
    fast      the same by the fast way, where it gives the same numbers
    why_slow  why the fast way is not used, where one could expect it
    """

    field: ReceptiveField
    plain: PlainNetwork
    fast: fx.GraphModule | None
    why_slow: str | None


def view(opened: OpenNetwork, network: Network, reading: Reading) -> View:
    """Find and prove what the units see, and the way in which responses are computed.

    Raises `InputError` for a network whose answers are no function of the image alone, and for
    units that see the whole image where its size is not known.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        if reading.size is not None:
            return _whole_image(network, reading, reading.size)
        walked = opened.field(network.layer)
        for field in _candidates(opened, network, walked):
            if (plain := _proved(opened, network, field)) is not None:
                return _faster(network, plain, field)
        size = opened.model.input_size
        if size is None:
            _whole_image(network, reading, opened.listing.size)  # is it a function of the image?
            raise InputError(
                f"layer={network.layer.name} of {network.name}: its units see the whole image, or "
                "what they see depends on where they are. Give the size of the network's images, "
                "in pixels: size=224 or size=[36,64]."
            )
        return _whole_image(network, reading, size)


def _candidates(
    opened: OpenNetwork, network: Network, walked: ReceptiveField | None
) -> Iterator[ReceptiveField]:
    """Fields to be proved: that of the graph or the table, then those that the loaded network
    shows by native convolutions, which spread no NaN, and by noise."""
    if walked is None:
        return
    yield walked
    size = opened.listing.size
    with native_convolutions():
        for marker in dict.fromkeys((marker_for(network.root), "noise")):
            probe = Probe(root=network.root, colors=len(network.weights.mean), marker=marker)
            (field,) = probe.fields([network.layer], size, thorough=not opened.has_published_size)
            if field is not None and field != walked:
                yield field


def _proved(opened: OpenNetwork, network: Network, field: ReceptiveField) -> PlainNetwork | None:
    """The plain network on the smallest canvas on which `field` holds; None where on none."""
    z = random_images(network.colors, field.size)
    smaller: PlainNetwork | None = None
    compared = False
    for place in _places(opened, field):
        plain = _placed(opened, network, place, field)
        if not _runs(plain, z):
            continue
        if smaller is None:
            _check_function(plain, z)
        elif difference(smaller(z), _amid_noise(plain, z)) <= TOLERANCE:
            beside = _same_beside(opened, network, plain.place, field, z)
            return smaller if beside and _holds(smaller, z) else None
        else:  # it treats small images differently
            compared = True
        smaller = plain
    if smaller is None or compared:
        return None
    neighbour = _neighbour(field, smaller.place)  # the network takes images of one size
    if neighbour is None:
        return None
    answers = _amid_noise(_placed(opened, network, neighbour, field), z)
    same = difference(smaller(z), answers) <= TOLERANCE
    return smaller if same and _holds(smaller, z) else None


def _places(opened: OpenNetwork, field: ReceptiveField) -> Iterator[Place]:
    """Places of a unit on canvases of growing size, the smallest first."""
    smallest = smallest_place(field)
    yield smallest
    strides = [max(1, math.ceil(stride)) for stride in field.stride]
    wanted = [
        STEP * math.ceil(max(LARGE, side + 2 * stride) / STEP)
        for side, stride in zip(smallest.canvas, strides, strict=True)
    ]
    canvases = [(wanted[0], wanted[1])]
    while max(canvases[-1]) < LARGEST:
        canvases.append((2 * canvases[-1][0], 2 * canvases[-1][1]))
    known = opened.size or opened.model.input_size
    if known is None and opened.traced is None:
        known = opened.listing.size
    for canvas in sorted({*canvases, *([known] if known else [])}):
        if (place := central_place(field, canvas)) is not None:
            yield place


def _neighbour(field: ReceptiveField, place: Place) -> Place | None:
    """The same canvas with another unit; None if no other unit's field lies inside."""
    smallest = smallest_place(field)
    if smallest.unit == place.unit:
        return None
    return Place(place.canvas, smallest.corner, smallest.unit)


def _same_beside(
    opened: OpenNetwork, network: Network, place: Place, field: ReceptiveField, z: Tensor
) -> bool:
    """Whether the next units below and beside answer in the same way: not so behind a constant
    that alternates, as the checkerboards of coupling layers."""
    here = _placed(opened, network, place, field)(z)[0]
    for down, right in ((1, 0), (0, 1)):
        assert place.unit is not None  # noqa: S101  (a place of a field has a unit)
        row, column = (
            unit + by * period
            for unit, by, period in zip(place.unit, (down, right), field.period, strict=True)
        )
        top, left = (
            first + by * step
            for first, by, step in zip(place.corner, (down, right), field.step, strict=True)
        )
        fits = all(
            first + side <= length
            for first, side, length in zip((top, left), field.size, place.canvas, strict=True)
        )
        if fits:
            moved = Place(place.canvas, (top, left), (row, column))
            there = _placed(opened, network, moved, field)(z)[0]
            if difference([here], [there]) > TOLERANCE:
                return False
    return True


def _placed(
    opened: OpenNetwork, network: Network, place: Place, field: ReceptiveField
) -> PlainNetwork:
    """The plain network, its features those of the units that see nothing but the image."""
    features = list[tuple[Layer, tuple[slice, slice]]]()
    for layer in network.features:
        of_feature = opened.field(layer)
        if of_feature is None:
            features.append((layer, EVERYTHING))
        else:
            features.append((layer, units_inside(of_feature, place, field.size)))
    return PlainNetwork(network.root, network.adapt, network.layer, place, features)


def _runs(plain: PlainNetwork, z: Tensor) -> bool:
    try:
        plain(z)
    except Exception:  # networks can raise anything for a size that they do not take
        return False
    return True


def _check_function(plain: PlainNetwork, z: Float[Tensor, "image color h w"]) -> None:
    """Raises `InputError` where a response is no function of its image alone, or no number."""
    layer, first = plain.layer.name, plain(z)
    with contextlib.suppress(Exception):  # what lies behind the layer may not take small images
        plain.to_the_end(z)
    if not all(bool(torch.isfinite(values).all()) for values in first):
        raise InputError(
            f"layer={layer} gives NaN or infinite responses to noise: the network or its weights "
            "are damaged, or model.mean, model.std and model.scale are not those that it expects."
        )
    if any(difference(first, plain(z)) > TOLERANCE for _ in range(REPEATS)):
        # The rest of the pass may leave the network as the next pass expects it.
        plain.stop = False
        if not _runs(plain, z) or difference(plain(z), plain(z)) > TOLERANCE:
            raise InputError(
                f"layer={layer}: two passes over the same images give different responses. "
                "Something in the network is drawn at random or remembered, though it is in eval "
                "mode: F.dropout without training=self.training, augmentation, or state. Switch it "
                "off in the network."
            )
        first = plain(z)
    # Others before and after each image, and none: a pass may read the batch's first, or its order.
    crowd = plain(torch.cat([OTHERS * z, z, OTHERS * z.flip(0)]))
    of_batch = difference(first, [values[len(z) : 2 * len(z)] for values in crowd]) > TOLERANCE
    try:
        alone = [torch.cat(parts) for parts in zip(*(plain(one[None]) for one in z), strict=True)]
    except Exception as error:  # squeeze() takes the batch's axis away, too
        raise InputError(
            f"layer={layer} takes several images at once, but fails on a single one "
            f"({' '.join(f'{type(error).__name__}: {error}'.split())[:200]}), as squeeze() without "
            "an axis does. Give it the axis in the network, or use flatten(1)."
        ) from error
    if of_batch or difference(first, alone) > TOLERANCE:
        raise InputError(
            f"layer={layer}: an image's response depends on the other images in its batch, as "
            "with batch norm that uses the statistics of the batch (track_running_stats=False). "
            "Give that layer fixed statistics."
        )


def _holds(plain: PlainNetwork, z: Float[Tensor, "image color h w"]) -> bool:
    """Whether the unit sees each outermost row and column of its field, and nothing outside."""
    (height, width), (top, left) = plain.place.canvas, plain.place.corner
    bottom, right = top + z.shape[2] - 1, left + z.shape[3] - 1
    outside = torch.ones(height, width, dtype=torch.bool)
    outside[top : bottom + 1, left : right + 1] = False
    marks = [outside]
    for row, column in ((top, None), (bottom, None), (None, left), (None, right)):
        marks.append(torch.zeros_like(outside))
        if row is not None:
            marks[-1][row, left : right + 1] = True
        if column is not None:
            marks[-1][top : bottom + 1, column] = True
    canvas = plain.canvas_of(z[:1])
    other = torch.full_like(canvas, torch.nan)
    if marker_for(plain.root) == "noise":
        other = STRONG * _noise(tuple(canvas.shape), seed=1)
    marked = torch.where(torch.stack(marks)[:, None], other, canvas)
    with native_convolutions():
        base, *seen = plain.on_canvas(torch.cat([canvas, marked]))[0].flatten(1)
    same_outside = difference([base[None]], [seen[0][None]]) <= TOLERANCE
    return same_outside and all(bool((edge != base).any()) for edge in seen[1:])


def _amid_noise(plain: PlainNetwork, z: Float[Tensor, "image color h w"]) -> Sequence[Tensor]:
    """The answers with noise around the images."""
    (height, width), (top, left) = plain.place.canvas, plain.place.corner
    canvas = _noise((len(z), z.shape[1], height, width), seed=1)
    canvas[:, :, top : top + z.shape[2], left : left + z.shape[3]] = z
    return plain.on_canvas(canvas)


def difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Largest difference relative to the channel's largest value; infinite for other shapes, and
    where there is nothing to compare."""
    largest = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape or not x.numel():
            return math.inf
        size = torch.maximum(x.abs(), y.abs()).transpose(0, 1).flatten(1).amax(1)
        size = size.clamp(min=1e-3 * size.max().item() + torch.finfo(size.dtype).tiny)
        change = (x - y).abs().transpose(0, 1).flatten(1).amax(1) / size
        largest = max(largest, change.nan_to_num(math.inf).max().item())
    return largest


def _faster(network: Network, plain: PlainNetwork, field: ReceptiveField) -> View:
    """The fast way, where it agrees with the plain one."""
    fast, why_slow = None, None
    try:
        fast = None if network.fast is None else unpad(network.fast)
    except Exception as error:  # steps that have no form without padding
        why_slow = f"its graph has no form without padding ({error})"
    if fast is not None:
        why_slow = differs(fast, plain, random_images(network.colors, field.size))
    elif why_slow is None:
        why_slow = "torch.fx cannot trace it up to this layer"
    return View(field=field, plain=plain, fast=None if why_slow else fast, why_slow=why_slow)


def differs(fast: nn.Module, plain: nn.Module, *inputs: Tensor) -> str | None:
    """In words, how the answers of the fast way differ from those of the plain way, if they do."""
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # torch.fx prints its errors
        try:
            largest = difference(plain(*inputs), fast(*inputs))
        except Exception as error:  # a graph that was read wrongly can raise anything
            return f"its graph without padding fails ({type(error).__name__}: {error})"
    if largest > TOLERANCE:
        return f"its graph without padding gives other responses (by {largest:.2g} of them)"
    return None


def _whole_image(network: Network, reading: Reading, size: Pair) -> View:
    """The image is the network's input. Raises `InputError` where the network does not take it."""
    try:
        z = random_images(network.colors, size)
    except RuntimeError as error:
        raise InputError(
            f"Images of {size[0]} x {size[1]} pixels do not fit into memory: give a smaller size."
        ) from error
    whole = Place(size, (0, 0), (0, 0))
    features = [(layer, EVERYTHING) for layer in network.features]
    plain = PlainNetwork(network.root, network.adapt, network.layer, whole, features)
    try:
        shape = plain.maps(z)[-1].shape[2:]
    except Exception as error:  # networks can raise anything
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(
            f"layer={network.layer.name} of {network.name} fails on images of {z.shape[1]} "
            f"channels and {size[0]} x {size[1]} pixels: {words}. Give the size of the images "
            "that it takes, size=224 or size=[36,64]."
        ) from error
    unit = unit_of(network.layer, (shape[0], shape[1]), size, reading.position, reading.token)
    plain.place = whole._replace(unit=unit)
    _check_function(plain, z)
    field = ReceptiveField(size=size, stride=(0, 0), offset=(0, 0))
    return View(field=field, plain=plain, fast=None, why_slow=None)


def fingerprint(network: Network, view: View) -> str:
    """A hash of what the network computes, not of its code: its responses to a fixed image.

    In float64, of which six digits are the same on all machines; where the network does not run in
    float64, two digits of float32.
    """
    z, root = random_images(network.colors, view.field.size)[:1], view.plain.root
    digits = 6
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            root.double()
            responses = view.plain(z.double())[0]
        except Exception:  # it casts to float32 on its way
            digits, responses = 2, None
        finally:
            root.float()
        if responses is None:
            responses = view.plain(z)[0]
    text = " ".join(f"{value:.{digits - 1}e}" for value in responses.flatten().tolist())
    return hashlib.sha256(text.encode()).hexdigest()


def random_images(colors: int, size: Pair, count: int = 2) -> Float[Tensor, "image color h w"]:
    """Network inputs z of noise, always the same."""
    return _noise((count, colors, *size), seed=0)


def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return SPREAD * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
