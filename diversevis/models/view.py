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
from torch import Tensor, fx, nn

from diversevis.errors import InputError
from diversevis.models.checks import (
    TOLERANCE,
    amid_noise,
    check_function,
    difference,
    random_images,
    runs,
    sees_exactly,
)
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
from diversevis.models.probe import Probe, marker_for, native_convolutions
from diversevis.models.receptive_field import ReceptiveField, unpad

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
        if not runs(plain, z):
            continue
        if smaller is None:
            answers = check_function(opened, plain, z)
        elif difference(answers, amid_noise(plain, z)) <= TOLERANCE:
            beside = _same_beside(opened, network, plain.place, field, z)
            return smaller if beside and sees_exactly(smaller, z) else None
        else:  # it treats small images differently
            compared, answers = True, plain(z)
        smaller = plain
    if smaller is None or compared:
        return None
    neighbour = _neighbour(field, smaller.place)  # the network takes images of one size
    if neighbour is None:
        return None
    elsewhere = amid_noise(_placed(opened, network, neighbour, field), z)
    same = difference(answers, elsewhere) <= TOLERANCE
    return smaller if same and sees_exactly(smaller, z) else None


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
            largest = difference(plain(*inputs), fast(*inputs))
        except Exception as error:  # a graph that was read wrongly can raise anything
            return f"its graph without padding fails ({type(error).__name__}: {error})"
    if largest > TOLERANCE:
        return f"its graph without padding gives other responses (by {largest:.2g} of them)"
    return None


def _whole_image(opened: OpenNetwork, network: Network, reading: Reading, size: Pair) -> View:
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
    check_function(opened, plain, z)
    field = ReceptiveField(size=size, stride=(0, 0), offset=(0, 0))
    return View(field=field, plain=plain, fast=None, why_slow=None)
