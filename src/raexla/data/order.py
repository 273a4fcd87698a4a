"""Which sample a stream reads at which position: a pure function of (shard sizes, seed, order recipe).

One epoch of one source: the shards are cut into pieces of `piece` neighbouring samples, the pieces are permuted over
the whole source, and the result is cut into S equal ranges, one a stream. Inside its range a stream permutes the
samples of each window of `window` samples, so neighbours come from window / piece places of the source while every
piece is read in one go. The next epoch has its own permutations. Any position is found without walking there.

Memory: the pieces of two epochs, 4 bytes each; the next epoch's are permuted by a thread before they are needed.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

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


@dataclass(frozen=True)
class _Epoch:
    """The pieces of one epoch in their order, and which of the short ones (the last of a shard) ends where."""

    pieces: np.ndarray | None
    """Piece numbers `[pieces]`; None: in their own order."""
    short_ends: np.ndarray
    """Where each short piece ends in the permuted source, int64 `[short pieces]`, ascending."""
    missing: np.ndarray
    """Samples that the first n short pieces lack, int64 `[short pieces + 1]`."""


@dataclass(frozen=True)
class _Window:
    """The places of a stream's window, in the order in which they are read."""

    epoch: int
    number: int
    shards: list[int]
    rows: list[int]


class SourceOrder:
    """The order of one source. `shard_samples` are the samples of its shards in the order of the index.

    Safe between threads. A copy that is pickled leaves its permutations behind and makes them again.
    """

    def __init__(self, name: str, shard_samples: list[int], seed: int, recipe: OrderRecipe) -> None:
        self.name, self.seed, self.recipe = name, seed, recipe
        counts = np.asarray(shard_samples, dtype=np.int64)
        self.samples = int(counts.sum())
        if self.samples < recipe.streams:
            raise UserError(
                f"data.sources: {name} has {self.samples} samples for {recipe.streams} streams; every stream needs at "
                "least one: set data.order.streams lower or add data"
            )
        pieces = -(-counts // recipe.piece)
        self._shard_ends = np.cumsum(pieces)  # pieces up to and with each shard
        self._shard_starts = self._shard_ends - pieces
        cut = counts % recipe.piece > 0
        self._short = self._shard_ends[cut] - 1  # piece numbers, ascending
        self._short_by = recipe.piece - counts[cut] % recipe.piece
        self.pieces = int(self._shard_ends[-1])
        self._forget()

    def bounds(self, stream: int) -> tuple[int, int]:
        """The stream's range of the permuted source, the same in every epoch."""
        streams = self.recipe.streams
        return stream * self.samples // streams, (stream + 1) * self.samples // streams

    def locate(self, stream: int, position: int) -> Place:
        """The sample at `position` (from 0, over all epochs) of `stream`."""
        low, high = self.bounds(stream)
        epoch, inside = divmod(position, high - low)
        number, offset = divmod(inside, self.recipe.window)
        with self._lock:
            window = self._windows.get(stream)
            if window is None or window.number != number or window.epoch != epoch:
                window = self._windows[stream] = self._make_window(stream, epoch, number)
        return Place(epoch, window.shards[offset], window.rows[offset])

    def __getstate__(self) -> dict[str, Any]:
        left = ("_lock", "_windows", "_epochs")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._windows: dict[int, _Window] = {}
        self._epochs: dict[int, Future[_Epoch]] = {}  # least recently used first

    def _make_window(self, stream: int, epoch: int, number: int) -> _Window:
        low, high = self.bounds(stream)
        first = number * self.recipe.window
        count = min(self.recipe.window, high - low - first)
        if self.recipe.shuffle:
            inside = permutation(count, key(self.seed, "window", self.name, stream, epoch, number))
        else:
            inside = np.arange(count)
        if first * 4 >= (high - low) * 3:  # the last quarter
            self._epoch(epoch + 1)
        shards, rows = self._places(self._epoch(epoch).result(), low + first + inside)
        return _Window(epoch, number, shards.tolist(), rows.tolist())

    def _places(self, epoch: _Epoch, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shards, rows) of samples of the permuted source. Were no piece short, sample x would stand in piece
        x // piece; so the samples that short pieces before it lack are added to x first."""
        lacking = epoch.missing[np.searchsorted(epoch.short_ends, wanted, side="right")]
        number, offset = np.divmod(wanted + lacking, self.recipe.piece)
        piece = number if epoch.pieces is None else epoch.pieces[number].astype(np.int64)
        shard = np.searchsorted(self._shard_ends, piece, side="right")
        return shard, (piece - self._shard_starts[shard]) * self.recipe.piece + offset

    def _epoch(self, epoch: int) -> Future[_Epoch]:
        """The pieces of `epoch`, made by a thread where they aren't held. Streams are at most a little apart: two
        epochs are kept."""
        future = self._epochs.pop(epoch, None)
        if future is None:
            thread = ThreadPoolExecutor(1, thread_name_prefix="epoch")
            future = thread.submit(self._permute, epoch)
            thread.shutdown(wait=False)
        self._epochs[epoch] = future  # the last used is the last to go
        while len(self._epochs) > 2:
            self._epochs.pop(next(iter(self._epochs)))
        return future

    def _permute(self, epoch: int) -> _Epoch:
        if not self.recipe.shuffle:
            ends = self._short_ends(self._short, self._short_by)
            return _Epoch(None, *ends)
        pieces = permutation(self.pieces, key(self.seed, "pieces", self.name, epoch))
        pieces = pieces.astype(np.uint32 if self.pieces < 1 << 32 else np.int64)
        short = np.zeros(self.pieces, dtype=bool)
        short[self._short] = True
        at = np.flatnonzero(short[pieces])
        return _Epoch(pieces, *self._short_ends(at, self._short_by[np.searchsorted(self._short, pieces[at])]))

    def _short_ends(self, at: np.ndarray, by: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the short pieces at the places `at`, which lack `by` samples each, end, and what they lack so far."""
        missing = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(by)])
        return (at + 1) * self.recipe.piece - missing[1:], missing
