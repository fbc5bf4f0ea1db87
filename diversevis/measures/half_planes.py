"""Images of which a part stays and the rest may vary: half-planes, envelopes, curves and their fit.

docs/method.md, section 10. `x` is a unit's best image; a half-plane's share is the part of the
energy `sum x^2` that lies in it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

SHARES = tuple(number / 20 for number in range(21))
PARTIAL = SHARES[1:]  # those at which something varies
TENTHS = SHARES[2::2]
KNEE = 0.85  # share of the best response down to which a part counts as free
AS_GOOD = 0.02  # share of the response by which directions differ without being better
BLUR = 1 / 32  # standard deviation that smooths the local energy, in sides of the image


def directions(count: int) -> Float[Tensor, " direction"]:
    """Equally spaced over a turn, in degrees, counter-clockwise from the horizontal."""
    return torch.arange(count) * (360 / count)


def offsets(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pixels to the right of the centre and above it, [height, width] both."""
    height, width = size
    up = (height - 1) / 2 - torch.arange(height, dtype=torch.float64)
    right = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    return right.expand(height, width), up[:, None].expand(height, width)


def envelope(x: Float[Tensor, "unit color height width"]) -> Float[Tensor, "unit height width"]:
    """Local amplitude, from 0 to 1 at its peak: how strongly the image is at every pixel, whatever
    its phase there.

    The norm of the monogenic signal (Felsberg & Sommer 2001), the image with its Riesz transforms,
    slightly blurred. It needs no scale: a blur of the energy that joins the stripes of a wide Gabor
    makes a narrow envelope almost twice as wide.
    """
    height, width = x.shape[2:]
    rows, columns = 2 * height, 2 * width  # zeros around: the transform must not wrap around
    down = torch.fft.fftfreq(rows, device=x.device)[:, None]
    right = torch.fft.rfftfreq(columns, device=x.device)[None]
    radius = torch.hypot(down, right)
    spectrum = torch.fft.rfft2(x, s=(rows, columns))
    energy = x.square().sum(1)
    for axis in (down, right):
        riesz = spectrum * (-1j * axis / radius.clamp(min=1e-9))
        waves = torch.fft.irfft2(riesz, s=(rows, columns))[..., :height, :width]
        energy = energy + waves.square().sum(1)
    amplitude = _blurred(energy).sqrt()
    return amplitude / amplitude.amax((1, 2), keepdim=True)


def _blurred(energy: Float[Tensor, "unit height width"]) -> Float[Tensor, "unit height width"]:
    for axis in (1, 2):
        side = energy.shape[axis]
        at = torch.arange(side, device=energy.device, dtype=energy.dtype)
        weights = torch.exp(-(at[:, None] - at).square() / (2 * (BLUR * side) ** 2))
        weights = weights / weights.sum(1, keepdim=True)
        energy = torch.einsum("ij,ujw->uiw" if axis == 1 else "ij,uhj->uhi", weights, energy)
    return energy.clamp(min=0)


def fixed_parts(
    x: Float[Tensor, "unit color height width"],
    angles: Float[Tensor, "#unit direction"],
    share: float | Float[Tensor, "unit 1 1"],
) -> Float[Tensor, "unit direction height width"]:
    """What of every pixel stays, 0 or 1, where the half-plane towards an angle varies with `share`.

    Pixels vary in the order of their distance along the direction. The last has a weight g between
    0 and 1, such that a linear unit's best image keeps exactly `sqrt(1 - share)` of the response:
    `(sum g x^2)^2 = (1 - share) sum g^2 x^2 sum x^2`.
    """
    energy = x.double().square().sum(1).flatten(1)
    energy = energy / energy.sum(1, keepdim=True)
    right, up = (values.flatten().to(x.device) for values in offsets((x.shape[2], x.shape[3])))
    turn = torch.deg2rad(angles.double().to(x.device))[:, :, None]
    # Pixels at the same distance follow in the order of their distance across the direction.
    along = torch.cos(turn) * right + torch.sin(turn) * up
    across = torch.cos(turn) * up - torch.sin(turn) * right
    order = (along.mul(1e6).round() + across * 1e-3).argsort(dim=2, descending=True)
    order = order.expand(len(x), -1, -1)
    ordered = energy[:, None].expand_as(order).gather(2, order)  # [unit, direction, pixel]
    behind = (1 - ordered.cumsum(2)).clamp(min=0)
    keeps = 1 - share
    weight = _weight_of_edge(ordered, behind, keeps)
    weight = torch.where(behind >= keeps, 0.0, weight)
    weight = torch.where(behind + ordered <= keeps, 1.0, weight)
    fixed = torch.empty_like(weight).scatter_(2, order, weight)
    return torch.unflatten(fixed, 2, x.shape[2:]).to(x.dtype)


def _weight_of_edge(energy: Tensor, behind: Tensor, keeps: float | Tensor) -> Tensor:
    """g with `(behind + g energy)^2 = keeps (behind + g^2 energy)`, a quadratic equation."""
    square, linear = energy * (energy - keeps), 2 * behind * energy
    constant = behind * (behind - keeps)
    root = (linear.square() - 4 * square * constant).clamp(min=0).sqrt()
    return (-2 * constant / (linear + root).clamp(min=1e-300)).clamp(0, 1)


def middle_of_best(
    values: Float[Tensor, "*unit direction"],
) -> Int[Tensor, "*unit"]:
    """Index of the best direction; of those as good but for `AS_GOOD`, the one with the best
    neighbours: many directions may part two subfields equally well, and the middle is meant."""
    best = values.amax(-1, keepdim=True)
    around = torch.stack([values.roll(by, -1) for by in range(-2, 3)]).sum(0)
    return around.masked_fill(values < best - AS_GOOD * best.abs(), -torch.inf).argmax(-1)


def side_of(
    x: Float[Tensor, "color height width"], fixed: Float[Tensor, "height width"]
) -> float | None:
    """Direction from the centre of the fixed part's energy to that of the rest: degrees,
    counter-clockwise from the horizontal; None where a part is empty."""
    energy, right, up = x.double().square().sum(0), *offsets((x.shape[1], x.shape[2]))
    centers = []
    for weights in (energy * (1 - fixed), energy * fixed):
        if weights.sum() <= 1e-9 * energy.sum():
            return None
        centers.append([(weights * axis).sum() / weights.sum() for axis in (right, up)])
    (free_right, free_up), (right_of, up_of) = centers
    return math.degrees(math.atan2(free_up - up_of, free_right - right_of)) % 360


def boundary_of(fixed: Float[Tensor, "height width"], angle: float) -> float:
    """Distance of the half-plane's edge from the field's centre, pixels along its direction."""
    right, up = offsets((fixed.shape[0], fixed.shape[1]))
    turn = math.radians(angle)
    along = math.cos(turn) * right + math.sin(turn) * up
    return along[fixed < 1].min().item()


def index_of(shares: Float[Tensor, " share"], curve: Float[Tensor, " share"]) -> float:
    """`3 (area - 2/3)`: 0 for a linear unit, 1 where nothing is lost.

    The curve's square is taken as straight between the shares, as that of a linear unit is, whose
    curve is too steep near 1 for trapezoids. Responses below 0 count as 0.
    """
    y = curve.double().clamp(min=0)
    low, high = y[:-1], y[1:]
    squares = low.square() + low * high + high.square()
    means = 2 / 3 * squares / (low + high).clamp(min=1e-12)
    return 3 * ((means * shares.double().diff()).sum().item() - 2 / 3)


def model_curve(
    shares: Float[Tensor, " share"], q: float, contrast: Float[Tensor, " share"]
) -> Float[Tensor, " share"]:
    """The curve of a bipartite unit with a share q, which responds as if the energy `1 - k + q`, at
    most 1, of its best image were there.

    contrast  response to the best image with the energy `1 - k`, for the shares k
    """
    squares = contrast.clamp(min=0).square()  # straight lines between the shares, as in `index_of`
    at = (shares - q).clamp(min=0) * (len(shares) - 1)
    below = at.long().clamp(max=len(shares) - 2)
    return torch.lerp(squares[below], squares[below + 1], at - below).sqrt()


def fitted_share(
    shares: Float[Tensor, " share"],
    curve: Float[Tensor, " share"],
    contrast: Float[Tensor, " share"],
) -> tuple[float, float, float]:
    """Least squares fit of c times `model_curve` above k = 0: q in steps of 0.005, c, and the
    root-mean-square misfit.

    shares    evenly spaced from 0 to 1
    c         what the texture keeps of the response where it takes the free subfield's part
    """
    shares, curve, contrast = shares.double(), curve.double(), contrast.double()
    fits = []
    for number in range(201):
        model = model_curve(shares, number / 200, contrast)[1:]
        kept = ((model * curve[1:]).sum() / model.square().sum().clamp(min=1e-12)).item()
        misfit = (kept * model - curve[1:]).square().mean().sqrt().item()
        fits.append((misfit, number / 200, kept))
    misfit, q, kept = min(fits)
    return q, kept, misfit


def at_least(curve: Float[Tensor, "*unit share"]) -> Float[Tensor, "*unit share"]:
    """The largest response with at least every share: a curve that only falls."""
    return curve.flip(-1).cummax(-1).values.flip(-1)


def knee_of(shares: Float[Tensor, " share"], curve: Float[Tensor, " share"]) -> float:
    """The largest share at which a falling curve is at `KNEE`, between two of the shares if need
    be; 1 if it is never below."""
    below = (curve < KNEE).nonzero()
    if len(below) == 0:
        return 1.0
    at = int(below[0])
    if at == 0:
        return 0.0
    (k0, k1), (r0, r1) = (values[at - 1 : at + 1].tolist() for values in (shares, curve))
    return k0 + (k1 - k0) * (r0 - KNEE) / (r0 - r1)
