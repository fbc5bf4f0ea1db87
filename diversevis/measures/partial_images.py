"""Images of which a part stays and a part shows crops of a texture; the search for the best.

The part that stays is cut from a unit's best image by a half-plane; docs/method.md, section 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from diversevis.measures.ascent import FIRST_STEP, Momentum, ascend
from diversevis.measures.half_planes import PARTIAL, TENTHS, directions, envelope, fixed_parts
from diversevis.measures.stimuli import at_norm
from diversevis.measures.subject import RespondOwn
from diversevis.measures.textures import Torus

BEST_STEPS = 40  # of the best image, which begins at the run's
GENTLE = 0.5  # first step of a texture that is improved
COARSE, FINE = 8, 16  # crops by which directions are compared; and windows and turns
# Degrees: the variable part has sin^2 of them of the energy. The finest steps keep cos(1.5 degrees)
# of the highest response, where it has a single peak.
COARSE_TURNS = 30.0, 50.0, 70.0
FINE_TURNS = 15.0, 27.0, 39.0, 51.0, 63.0, 75.0, 90.0
STEPS_OF_TURN = -6.0, -3.0, 0.0, 3.0, 6.0  # around the best of these


class Choice(NamedTuple):
    """How the images of every unit with a share that varies are made, [unit] all.

    value      mean response to the crops that the choice was made by
    direction  of the half-plane: index
    window     share of the energy that the texture is shown in
    turn       the variable part has sin^2 of it of the energy; degrees
    texture    which of the textures
    """

    value: Float[Tensor, " unit"]
    direction: Int[Tensor, " unit"]
    window: Float[Tensor, " unit"]
    turn: Float[Tensor, " unit"]
    texture: Int[Tensor, " unit"]

    def better(self, other: Choice) -> Choice:
        """Of every unit the choice with the higher value."""
        first = self.value >= other.value
        return Choice(*(torch.where(first, *both) for both in zip(self, other, strict=True)))


class PartialImages:
    """Images with a part that stays and a part that shows crops of a texture; of all units of a
    batch, side by side.

    start       images from which the search for the best image begins
    norm        root-mean-square Euclidean norm of the images over the crops
    directions_of_half_planes  how many
    crops  of a texture in a step, drawn by `generator`, which is on the CPU
    """

    def __init__(
        self,
        respond: RespondOwn,
        start: Float[Tensor, "unit color height width"],
        norm: float,
        *,
        directions_of_half_planes: int,
        crops: int,
        generator: torch.Generator,
    ) -> None:
        self.respond, self.norm, self.crops, self.generator = respond, norm, crops, generator
        self.torus, self.units = Torus(start.shape[2], start.shape[3]), len(start)
        self.angles = directions(directions_of_half_planes)
        self.x, self.best = self._best_images(at_norm(start, norm))
        self.mask = envelope(self.x)

    def _best_images(self, start: Tensor) -> tuple[Tensor, Float[Tensor, " unit"]]:
        """The best image of every unit, with norm `norm`, and the response to it."""
        x = ascend(self.respond, start[:, None], self.norm, BEST_STEPS)
        both = torch.cat([start[:, None], x], dim=1)
        with torch.no_grad():
            best, first = self.respond(both).max(1)
        return both[torch.arange(self.units), first], best

    def contrast(self, shares: Float[Tensor, " share"]) -> Float[Tensor, "unit share"]:
        """Response to the best image with its energy reduced by each share."""
        kept = (1 - shares).sqrt().to(self.x.device)
        return self.respond(kept[:, None, None, None] * self.x[:, None])

    def images(
        self,
        fixed: Float[Tensor, "unit candidate height width"],
        window: Float[Tensor, "unit candidate height width"],
        turn: Float[Tensor, "unit candidate"],
        crops: Float[Tensor, "unit crop color height width"],
    ) -> Float[Tensor, "unit candidate crop color height width"]:
        """`cos(turn)` of the fixed part at norm 1 plus `sin(turn)` of the crops at RMS norm 1, in
        the window and under the envelope, times `norm`.

        Every crop is brought to the same norm; then their mean is subtracted, so that a linear
        unit's mean response is that to the fixed part. The RMS norm is `norm`.
        """
        still = self.x[:, None] * fixed[:, :, None]
        size = torch.linalg.vector_norm(still, dim=(2, 3, 4), keepdim=True).clamp(min=1e-12)
        moving = crops[:, None] * (window * self.mask[:, None])[:, :, None, None]
        length = torch.linalg.vector_norm(moving, dim=(3, 4, 5), keepdim=True)
        moving = moving / length.clamp(min=1e-12)
        moving = moving - moving.mean(2, keepdim=True)
        square = moving.square().sum((3, 4, 5), keepdim=True).mean(2, keepdim=True)
        moving = moving / square.clamp(min=1e-24).sqrt()  # the root has no derivative at 0
        turn = torch.deg2rad(turn)[:, :, None, None, None]
        still = torch.cos(turn) * still / size
        return self.norm * (still[:, :, None] + torch.sin(turn)[:, :, None] * moving)

    def responses(self, *parts: Tensor) -> Float[Tensor, "unit candidate crop"]:
        """Responses to `images` of these parts, none counted as more than the best."""
        images = self.images(*parts)
        responses = torch.unflatten(self.respond(images.flatten(1, 2)), 1, images.shape[1:3])
        return torch.minimum(responses, self.best[:, None, None])

    def half_planes(
        self, direction: Int[Tensor, " unit"], share: float | Float[Tensor, " unit"]
    ) -> Float[Tensor, "unit 1 height width"]:
        """What stays where the half-plane in every unit's direction varies."""
        by_unit = share[:, None, None].to(self.x.device) if isinstance(share, Tensor) else share
        return fixed_parts(self.x, self.angles[direction.cpu()][:, None], by_unit)

    def full_texture(
        self, noise: Callable[[tuple[int, int]], Tensor], steps: int
    ) -> Float[Tensor, "unit color rows columns"]:
        """The best texture where everything varies. It grows from the best image in noise: a unit
        with a threshold may respond to no crop of noise alone.

        noise  (rows, columns) -> a standard normal image of every unit
        """
        rows, columns = self.torus.texture_size
        height, width = self.mask.shape[1:]
        once = functional.pad(self.x, (0, columns - width, 0, rows - height))
        texture = at_norm(noise((rows, columns)).to(self.x.device), 1.0) + at_norm(once, 1.0)
        nothing = torch.zeros_like(self.mask)[:, None]
        turn = torch.full_like(nothing[:, :, 0, 0], 90.0)
        return self.optimize(at_norm(texture, 1.0), nothing, 1 - nothing, turn, FIRST_STEP, steps)

    def optimize(
        self, texture: Tensor, fixed: Tensor, window: Tensor, turn: Tensor, first: float, steps: int
    ) -> Float[Tensor, "unit color rows columns"]:
        """The texture with the highest mean response to its crops."""
        move = Momentum(first)
        for step in range(steps):
            texture = texture.detach().requires_grad_(True)
            down, right = torch.rand(2, generator=self.generator).tolist()
            corners = self.torus.corners(self.crops, (down, right))
            responses = self.responses(fixed, window, turn, self.torus.cut(texture, corners))
            (gradient,) = torch.autograd.grad(-responses.mean((1, 2)).sum(), texture)
            texture = at_norm(move(texture.detach(), gradient, step / steps), 1.0)
        return texture.detach()

    def cut(self, texture: Tensor, count: int) -> Float[Tensor, "unit crop color h w"]:
        """`count` crops, spread evenly."""
        return self.torus.cut(texture, self.torus.corners(count, (0.0, 0.0)))

    def by_direction(self, texture: Tensor) -> Float[Tensor, "unit share direction"]:
        """Highest mean response for every share of `TENTHS` and direction of the half-plane, over
        few turns and crops."""
        crops, values = self.cut(texture, COARSE), []
        count, turns = len(self.angles), self._tensor(COARSE_TURNS)
        for share in TENTHS[:-1]:
            fixed = fixed_parts(self.x, self.angles[None], share).repeat(1, len(turns), 1, 1)
            turn = turns.repeat_interleave(count).expand(self.units, -1)
            found = self.responses(fixed, 1 - fixed, turn, crops).mean(2)
            values.append(torch.unflatten(found, 1, (len(turns), count)).amax(1))
        return torch.stack([*values, values[-1]], dim=1)

    def choose(
        self, texture: Tensor, number: int, share: float, direction: Int[Tensor, " unit"]
    ) -> Choice:
        """Window and turn of the highest mean response, found one after the other.

        number  of the texture
        """
        crops, fixed = self.cut(texture, FINE), self.half_planes(direction, share)
        shares = [window for window in PARTIAL if window <= share]
        windows = torch.cat([1 - self.half_planes(direction, w) for w in shares], dim=1)

        def value(window: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
            turn = turn.expand(self.units, -1)
            shape = *turn.shape, *self.mask.shape[1:]
            found = self.responses(fixed.expand(shape), window.expand(shape), turn, crops)
            return found.mean(2).max(1)

        rows = torch.arange(self.units, device=self.x.device)
        turns = self._tensor(FINE_TURNS if share < 1 else FINE_TURNS[-1:])
        turn = turns[value(1 - fixed, turns[None])[1]]
        at = value(windows, turn[:, None].expand(-1, len(shares)))[1]
        turns = (turn[:, None] + self._tensor(STEPS_OF_TURN)).clamp(max=90.0)
        if share == 1:
            turns = turn[:, None]
        best, index = value(windows[rows, at][:, None], turns)
        window = self._tensor(shares)[at]
        return Choice(best, direction, window, turns[rows, index], torch.full_like(at, number))

    def _tensor(self, values: Sequence[float]) -> Float[Tensor, " value"]:
        return torch.tensor(values, device=self.x.device)

    def chosen(
        self,
        textures: Float[Tensor, "unit texture color rows columns"],
        share: float | Float[Tensor, " unit"],
        how: Choice,
        shown: int,
    ) -> tuple[Float[Tensor, "unit crop"], Float[Tensor, "unit crop color height width"]]:
        """Responses to the images with `shown` crops, and the images."""
        rows = torch.arange(self.units, device=self.x.device)
        crops = self.cut(textures[rows, how.texture], shown)
        fixed = self.half_planes(how.direction, share)
        window = 1 - self.half_planes(how.direction, how.window)
        images = self.images(fixed, window, how.turn[:, None], crops)[:, 0]
        return self.respond(images), images

    def improve(
        self, texture: Tensor, share: Float[Tensor, " unit"], how: Choice, steps: int
    ) -> Float[Tensor, "unit color rows columns"]:
        """The texture, optimized for the images that are made in this way."""
        fixed = self.half_planes(how.direction, share)
        window = 1 - self.half_planes(how.direction, how.window)
        return self.optimize(texture, fixed, window, how.turn[:, None], GENTLE, steps)

    def alone(self, share: float, direction: Int[Tensor, " unit"]) -> Float[Tensor, " unit"]:
        """Response to the fixed part alone, brought to the norm; to grey where a pixel with more
        energy than may stay is all that is left."""
        still = self.x * self.half_planes(direction, share)
        length = torch.linalg.vector_norm(still, dim=(1, 2, 3), keepdim=True)
        return self.respond((self.norm / length.clamp(min=1e-12) * still)[:, None])[:, 0]
