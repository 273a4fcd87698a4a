"""Which sample a stream reads at which position: a pure function of (shard sizes, seed, order recipe).

One epoch of one source: the shards are cut into pieces of `piece` neighbouring samples, the pieces are permuted over
the whole source, and the result is cut into S equal ranges, one a stream. Inside its range a stream permutes the
samples of each window of `window` samples, so neighbours come from window / piece places of the source while every
piece is read in one go. The next epoch has its own permutations. Any position is found without walking there.
"""

from typing import NamedTuple

import numpy as np
from pydantic import Field

from raexla.data.draws import key, permutation
from raexla.recipe import Recipe, UserError


class OrderRecipe(Recipe):
    """The global order. Everything here belongs to the run: another value is another order, which no cursor fits."""

    streams: int = Field(default=8, gt=0)
    """Canonical streams S. The batch is dealt over them evenly, processes get S / processes of them each; S is the
    largest number of processes that the run can ever be spread over."""
    shuffle: bool = True
    """False: every stream reads its part of the shards from first to last."""
    piece: int = Field(default=32, gt=0)
    """Neighbouring samples that are moved together (and fetched together from remote storage)."""
    window: int = Field(default=256, gt=0)
    """Samples over which a stream shuffles within its own range."""
    block: int = Field(default=256, gt=0)
    """Samples of one stream and group over which the weights of the sources hold exactly."""


class Place(NamedTuple):
    """Where a position of a stream leads."""

    epoch: int
    shard: int
    row: int


class SourceOrder:
    """The order of one source. `shard_samples` are the samples of its shards in the order of the index."""

    def __init__(self, name: str, shard_samples: list[int], seed: int, recipe: OrderRecipe) -> None:
        self.name, self.seed, self.recipe = name, seed, recipe
        counts = np.asarray(shard_samples, dtype=np.int64)
        self.samples = int(counts.sum())
        if self.samples < recipe.streams:
            raise UserError(
                f"data.sources: {name} has {self.samples} samples for {recipe.streams} streams; every stream needs at "
                f"least "
                "one: set data.order.streams lower or add data"
            )
        pieces = -(-counts // recipe.piece)
        self._piece_shard = np.repeat(np.arange(len(counts)), pieces)
        ordinal = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        self._piece_first = ordinal * recipe.piece
        self._piece_count = np.minimum(recipe.piece, counts[self._piece_shard] - self._piece_first)
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._windows: dict[int, tuple[int, int, np.ndarray]] = {}

    def bounds(self, stream: int) -> tuple[int, int]:
        """The stream's range of the permuted source, the same in every epoch."""
        streams = self.recipe.streams
        return stream * self.samples // streams, (stream + 1) * self.samples // streams

    def locate(self, stream: int, position: int) -> Place:
        """The sample at `position` (from 0, over all epochs) of `stream`."""
        low, high = self.bounds(stream)
        epoch, inside = divmod(position, high - low)
        if self.recipe.shuffle:
            window, offset = divmod(inside, self.recipe.window)
            first = window * self.recipe.window
            count = min(self.recipe.window, high - low - first)
            inside = first + int(self._window(stream, epoch, window, count)[offset])
        pieces, ends = self._epoch(epoch)
        number = int(np.searchsorted(ends, low + inside, side="right"))
        piece = pieces[number]
        row = self._piece_first[piece] + low + inside - (ends[number] - self._piece_count[piece])
        return Place(epoch, int(self._piece_shard[piece]), int(row))

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(piece numbers in this epoch's order, where each one ends). Streams are at most a little apart: two are
        kept."""
        if epoch not in self._epochs:
            count = len(self._piece_shard)
            if self.recipe.shuffle:
                pieces = permutation(count, key(self.seed, "pieces", self.name, epoch))
            else:
                pieces = np.arange(count)
            while len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = pieces, np.cumsum(self._piece_count[pieces])
        return self._epochs[epoch]

    def _window(self, stream: int, epoch: int, window: int, count: int) -> np.ndarray:
        held = self._windows.get(stream)
        if held is None or held[:2] != (epoch, window):
            chosen = permutation(count, key(self.seed, "window", self.name, stream, epoch, window))
            held = self._windows[stream] = (epoch, window, chosen)
        return held[2]
