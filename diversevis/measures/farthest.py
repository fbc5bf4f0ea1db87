"""The most different crops of photographs among those that units accept: greedy farthest points.

Every unit sees every crop once. Which crops it accepts is remembered as bits; for every further
crop that is chosen, the photographs are read again, without the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from diversevis.measures.natural import CutAndCount, Report
from diversevis.photographs.crops import Crops, Respond, Scissors, Sheet, responses
from diversevis.photographs.files import read_ahead
from diversevis.photographs.survey import Photograph


@dataclass(frozen=True)
class Accepted:
    """Crops of a photograph that pairs accept. A pair is a threshold and a unit: number
    `threshold * units + unit`.

    number  of the photograph
    pairs   those that accept any crop
    bits    of these, whether a crop is accepted: eight crops in a byte
    crops   how many crops were shown
    """

    number: int
    pairs: Int[np.ndarray, " pair"]
    bits: UInt8[np.ndarray, "pair byte"]
    crops: int

    def crops_of(self, free: Bool[np.ndarray, " pair"]) -> Bool[np.ndarray, "free crop"]:
        """Whether each of these pairs accepts a crop."""
        return np.unpackbits(self.bits[free], axis=1, count=self.crops).astype(bool)


class Chosen:
    """The crops that pairs have chosen, in the order of their choice; NaN and -1 for none.

    images       [pair, n, c, h, w]
    photographs  number of a crop's photograph [pair, n]
    corners      row and column of a crop in it [pair, n, 2]
    """

    def __init__(self, pairs: int, n: int, shape: tuple[int, int, int]) -> None:
        self.images = torch.full((pairs, n, *shape), torch.nan)
        self.photographs = np.full((pairs, n), -1)
        self.corners = np.full((pairs, n, 2), -1)

    def put(
        self, pairs: Int[np.ndarray, " pair"], at: int, photograph: int, crops: Crops,
        index: Int[np.ndarray, " pair"],
    ) -> None:  # fmt: skip
        """Let pairs have crops of a photograph as their choice number `at`, in place of others."""
        self.images[pairs, at] = crops.x[index]
        self.photographs[pairs, at] = photograph
        self.corners[pairs, at] = crops.corners[index]

    def largest_product(
        self, crops: Crops, accepted: Bool[np.ndarray, "pair crop"],
        pairs: Int[np.ndarray, " pair"], at: int,
    ) -> Float[np.ndarray, "pair crop"]:  # fmt: skip
        """Of every crop with the first `at` crops of a pair; infinite where it is not accepted."""
        wanted = np.flatnonzero(accepted.any(0))
        x = crops.x[wanted].flatten(1)
        largest = torch.full((len(pairs), len(wanted)), -torch.inf)
        for earlier in range(at):
            chosen = self.images[pairs, earlier].flatten(1)
            largest = torch.maximum(largest, chosen @ x.T)
        products = np.full(accepted.shape, np.inf, dtype=np.float32)
        products[:, wanted] = largest.numpy()
        products[~accepted] = np.inf
        return products


class Search:
    """Photographs that are shown to units, and the crops that these choose of them.

    least   the response that a crop must reach; infinite where a unit accepts none
    n       crops that a pair chooses at most, each of another photograph
    crops   random positions in a photograph
    report  called with how many photographs were read, of how many
    """

    def __init__(
        self, scissors: Scissors, photographs: Sequence[Photograph],
        least: Float[np.ndarray, "threshold unit"], *, n: int, crops: int, seed: int,
        report: Report,
    ) -> None:  # fmt: skip
        self.scissors, self.photographs, self.least = scissors, photographs, least
        self.crops, self.seed, self.report = crops, seed, report
        self.chosen = Chosen(least.size, n, scissors.crop_shape)
        self.best = np.full(least.shape[1], -np.inf)  # response of every unit to its best crop
        self.reached = np.zeros((2, least.size), dtype=int)  # crops and photographs, of every pair
        self.shown = 0, 0  # photographs and crops
        self.done, self.total = 0, n * len(photographs)

    def __call__(self, respond: Respond, batch: int) -> Chosen:
        """The crops that pairs choose. The first is the best; then always, of all that the pair
        accepts in photographs that it has not chosen from, the most different from those chosen:
        the smallest distance to them is largest. Of equal ones the first.

        respond  takes images on the CPU; responses that are not finite are never accepted
        batch    upper bound on the crops that go through the network at once

        Raises `InputError` where no crop has the contrast.
        """
        accepted = self._show(respond, batch)
        for at in range(1, self.chosen.images.shape[1]):
            self._choose(accepted, at)
        return self.chosen

    def _show(self, respond: Respond, batch: int) -> list[Accepted]:
        """Show all crops to all units. The best crop of every pair that accepts it is chosen."""
        cut = CutAndCount(self.scissors, lambda done, total: self._tell(1), len(self.photographs))
        accepted = []
        drawn = self._read(range(len(self.photographs)))
        for number, crops, answers in responses(respond, cut(drawn), batch):
            reaches = (self.least[..., None] <= answers.T).reshape(-1, len(answers))
            counts = reaches.sum(1)
            self.reached += counts, counts > 0
            pairs = np.flatnonzero(counts)
            bits = np.packbits(reaches[pairs], axis=1)
            accepted.append(Accepted(number, pairs, bits, len(answers)))
            self._put_best(number, crops, answers)
        cut.refuse_none()
        self.shown = cut.photographs, cut.crops
        return accepted

    def _put_best(self, number: int, crops: Crops, answers: Float[np.ndarray, "crop unit"]) -> None:
        index = answers.argmax(0)
        response = np.take_along_axis(answers, index[None], 0)[0]
        better = response > self.best
        self.best[better] = response[better]
        pairs = np.flatnonzero(better & (response >= self.least))
        self.chosen.put(pairs, 0, number, crops, index[pairs % len(index)])

    def _choose(self, accepted: Sequence[Accepted], at: int) -> None:
        """Every pair chooses its crop number `at`. As all crops have the same norm, the distance
        to a chosen crop is largest where the product with it is smallest."""
        free = {}  # photographs that any pair can choose from, and these pairs
        for of in accepted:
            is_free = (self.chosen.photographs[of.pairs] != of.number).all(1)
            if is_free.any():
                free[of.number] = of, is_free
        smallest = np.full(len(self.chosen.images), np.inf)
        self._tell(len(self.photographs) - len(free))
        for number, sheet in self._read(tuple(free)):
            of, is_free = free[number]
            crops, pairs, accepts = self.scissors(sheet), of.pairs[is_free], of.crops_of(is_free)
            products = self.chosen.largest_product(crops, accepts, pairs, at)
            index = products.argmin(1)
            product = products[np.arange(len(pairs)), index]
            better = product < smallest[pairs]
            smallest[pairs[better]] = product[better]
            self.chosen.put(pairs[better], at, number, crops, index[better])
            self._tell(1)

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Sheet]]:
        """Photographs with the positions of their crops, the same every time."""

        def draw(number: int) -> Sheet:
            return self.scissors.draw(self.photographs[number], crops=self.crops, seed=self.seed)

        return read_ahead(numbers, draw)

    def _tell(self, photographs: int) -> None:
        self.done += photographs
        self.report(self.done, self.total)
