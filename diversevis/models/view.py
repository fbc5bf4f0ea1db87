"""What a unit sees, and by which way its response is computed: proved before anything is computed.

The plain way runs the network as it is published. The fast way is its traced graph without padding;
it is taken only where it gave the same numbers as the plain way on a few random images. That a
receptive field is right is shown on the network itself: NaN in each of its outermost rows and
columns changes the unit; other pixels around it, and a larger canvas, do not.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from diversevis.errors import InputError
from diversevis.models.architectures import EnergyModel, TorchvisionModel
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
FLOOR = 0.05
KNOWN = EnergyModel, TorchvisionModel  # networks whose code is known to remember nothing
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
            return _whole_image(opened, network, reading, reading.size)
        walked = opened.field(network.layer)
        for field in _candidates(opened, network, walked):
            if (plain := _proved(opened, network, field)) is not None:
                return _faster(opened, network, plain, field)
        size = opened.model.input_size
        if size is None:
            _whole_image(
                opened, network, reading, opened.listing.size
            )  # is it a function of the image?
            raise InputError(
                f"layer={network.layer.name} of {network.name}: its units see the whole image, or "
                "what they see depends on where they are. Give the size of the network's images, "
                "in pixels: size=224 or size=[36,64]."
            )
        return _whole_image(opened, network, reading, size)


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
    answers: Sequence[Tensor] = ()
    compared = False
    for place in _places(opened, field):
        plain = _placed(opened, network, place, field)
        if not _runs(plain, z):
            continue
        if smaller is None:
            answers = _check_function(opened, plain, z)
        elif _difference(answers, _amid_noise(plain, z)) <= TOLERANCE:
            return smaller if _holds(smaller, z) else None
        else:  # it treats small images differently
            compared, answers = True, plain(z)
        smaller = plain
    if smaller is None or compared:
        return None
    neighbour = _neighbour(field, smaller.place)  # the network takes images of one size
    if neighbour is None:
        return None
    elsewhere = _amid_noise(_placed(opened, network, neighbour, field), z)
    same = _difference(answers, elsewhere) <= TOLERANCE
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


def _check_function(
    opened: OpenNetwork, plain: PlainNetwork, z: Float[Tensor, "image color h w"]
) -> Sequence[Tensor]:
    """The answers to `z`. Raises `InputError` where a response is no number, or no
    function of its image alone."""
    layer, first = plain.layer.name, plain(z)
    if not isinstance(opened.model, KNOWN):
        with contextlib.suppress(Exception):  # what follows the layer may not take small images
            plain.to_the_end(z)
    if not all(bool(torch.isfinite(values).all()) for values in first):
        raise InputError(
            f"layer={layer} gives NaN or infinite responses to noise: the network or its weights "
            "are damaged, or model.mean, model.std and model.scale are not those that it expects."
        )
    repeats = 1 if isinstance(opened.model, KNOWN) else REPEATS
    if any(_difference(first, plain(z)) > TOLERANCE for _ in range(repeats)):
        # The rest of the pass may leave the network as the next pass expects it.
        plain.stop = False
        if not _runs(plain, z) or _difference(plain(z), plain(z)) > TOLERANCE:
            raise InputError(
                f"layer={layer}: two passes over the same images give different responses. "
                "Something in the network is drawn at random or remembered, though it is in eval "
                "mode: F.dropout without training=self.training, augmentation, or state. Switch it "
                "off in the network."
            )
        first = plain(z)
    crowd = plain(torch.cat([z[:1], OTHERS * z[1:]]))
    if _difference([values[:1] for values in first], [values[:1] for values in crowd]) > TOLERANCE:
        raise InputError(
            f"layer={layer}: an image's response depends on the other images in its batch, as "
            "with batch norm that uses the statistics of the batch (track_running_stats=False). "
            "Give that layer fixed statistics."
        )
    return first


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
    same_outside = _difference([base[None]], [seen[0][None]]) <= TOLERANCE
    return same_outside and all(bool((edge != base).any()) for edge in seen[1:])


def _amid_noise(plain: PlainNetwork, z: Float[Tensor, "image color h w"]) -> Sequence[Tensor]:
    """The answers with noise around the images."""
    (height, width), (top, left) = plain.place.canvas, plain.place.corner
    canvas = _noise((len(z), z.shape[1], height, width), seed=1)
    canvas[:, :, top : top + z.shape[2], left : left + z.shape[3]] = z
    return plain.on_canvas(canvas)


def _difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Largest difference relative to the channel's largest value (of channels that hardly answer:
    to a part of the layer's largest); infinite for other shapes."""
    largest = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return math.inf
        size = torch.maximum(x.abs(), y.abs()).transpose(0, 1).flatten(1).amax(1)
        size = size.clamp(min=FLOOR * size.max().item() + torch.finfo(size.dtype).tiny)
        difference = (x - y).abs().transpose(0, 1).flatten(1).amax(1) / size
        largest = max(largest, difference.nan_to_num(math.inf).max().item())
    return largest


def _faster(
    opened: OpenNetwork, network: Network, plain: PlainNetwork, field: ReceptiveField
) -> View:
    """The fast way, where it agrees with the plain one."""
    fast, why_slow = None, None
    if opened.traced is None:
        why_slow = "torch.fx cannot trace the network"
    elif network.fast is None:  # the second call of a module, say
        why_slow = "its graph cannot be cut off at this layer"
    else:
        try:
            fast = unpad(network.fast)
        except Exception as error:  # steps that have no form without padding
            why_slow = f"its graph has no form without padding ({error})"
        else:
            why_slow = differs(fast, plain, random_images(network.colors, field.size))
    return View(field=field, plain=plain, fast=None if why_slow else fast, why_slow=why_slow)


def differs(fast: nn.Module, plain: nn.Module, *inputs: Tensor) -> str | None:
    """In words, how the answers of the fast way differ from those of the plain way, if they do."""
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # torch.fx prints its errors
        try:
            difference = _difference(plain(*inputs), fast(*inputs))
        except Exception as error:  # a graph that was read wrongly can raise anything
            return f"its graph without padding fails ({type(error).__name__}: {error})"
    if difference > TOLERANCE:
        return f"its graph without padding gives other responses (by {difference:.2g} of them)"
    return None


def _whole_image(opened: OpenNetwork, network: Network, reading: Reading, size: Pair) -> View:
    """The image is the network's input. Raises `InputError` where the network does not take it."""
    z = random_images(network.colors, size)
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
    _check_function(opened, plain, z)
    field = ReceptiveField(size=size, stride=(0, 0), offset=(0, 0))
    return View(field=field, plain=plain, fast=None, why_slow=None)


def random_images(colors: int, size: Pair, count: int = 2) -> Float[Tensor, "image color h w"]:
    """Network inputs z of noise, always the same."""
    return _noise((count, colors, *size), seed=0)


def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return SPREAD * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
