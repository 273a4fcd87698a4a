"""One global batch after another: slots -> positions -> samples -> arrays, with the cursor that follows each."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raexla.data.cursor import Cursor
from raexla.data.draws import generator
from raexla.data.mixture import Mixture
from raexla.data.order import SourceOrder
from raexla.data.sample import Refusal, Refused, Sample
from raexla.data.source import Source
from raexla.recipe import BadDataError

Transform = Callable[[Sample, np.random.Generator], Any]
"""A decoded sample and its own draws -> what collate takes. May raise `Refused`."""
Collate = Callable[[str, list[Any]], dict[str, np.ndarray]]
"""A group's name and its items, in row order -> arrays `[n, ...]` of constant shapes."""


class TooMuchBadData(BadDataError):
    """Raised past `max_bad_fraction`; `refused` are the refusals that no batch has handed out yet."""

    def __init__(self, message: str, refused: list[Refusal]) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass
class Batch:
    """This process's rows of one global batch."""

    arrays: dict[str, np.ndarray]
    """`GROUP/NAME` -> `[n, ...]`; each group has `rows` int32 `[n]`, the rows' numbers in the global batch."""
    cursor: dict[str, Any]
    """Resumes exactly after this batch (this process's streams; see `merge_cursors`)."""
    refused: list[Refusal] = field(default_factory=list)
    """What was refused on the way, for the quarantine file."""
    uids: dict[str, list[str]] = field(default_factory=dict)
    """Group -> the uids of its rows."""
    epochs: dict[str, float] = field(default_factory=dict)
    """Source -> epochs begun and gone through, over this process's streams, e.g. 1.25."""
    wait_seconds: float = 0.0
    """How long the consumer waited for it."""


class _Lane:
    """The samples of one (source, stream) from a position on, those wanted for one batch started at once."""

    def __init__(self, start: Callable[[int], "Future[Any] | _Now"], position: int, wanted: int) -> None:
        self._start = start
        self._next = position
        self.wanted = wanted
        self._running: deque[Future[Any] | _Now] = deque()
        for _ in range(wanted):
            self._begin()

    def _begin(self) -> None:
        self._running.append(self._start(self._next))
        self._next += 1

    def take(self, refuse: Callable[[Refused], None]) -> Any:
        """The next good item; each refusal is told and replaced by one more position at the end."""
        while True:
            try:
                return self._running.popleft().result()
            except Refused as refusal:
                refuse(refusal)
                self._begin()


class _Now:
    """A future without a pool: the work is done when the result is asked for."""

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        self._work, self._arguments = work, arguments

    def result(self) -> Any:
        return self._work(*self._arguments)


class BatchMaker:
    """Turns the streams `[first, first + count)` into batches, one after another."""

    def __init__(
        self,
        sources: Sequence[Source],
        orders: Sequence[SourceOrder],
        mixture: Mixture,
        cursor: Cursor,
        *,
        streams: range,
        transform: Transform,
        collate: Collate,
        seed: int,
        max_bad_fraction: float,
        threads: int = 1,
    ) -> None:
        self.sources, self.orders, self.mixture, self.cursor = sources, orders, mixture, cursor
        self.streams, self.transform, self.collate, self.seed = streams, transform, collate, seed
        self.max_bad_fraction = max_bad_fraction
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode") if threads > 1 else None
        self._locate = threading.Lock()
        self._positions = {
            (stream, number): self._position(stream, number) for number in range(len(sources)) for stream in streams
        }
        self._failed = False

    def next(self) -> Batch:
        """Make the next batch and move the cursor past it. Raises `TooMuchBadData`, or `UserError` for the storage."""
        if self._failed:
            raise RuntimeError("an earlier batch could not be made; open the data again from a cursor")
        self._failed = True
        batch = Batch({}, {})
        lanes = self._open_lanes()
        for group in self.mixture.groups:
            count = self.mixture.rows_per_stream[group]
            items, uids = [], []
            for stream in self.streams:
                place = stream - self.streams.start
                for number in self.mixture.slots(group, stream, self.cursor.slots[group][place], count):
                    uid, item = lanes[stream, number].take(self._refuser(batch, stream, number))
                    uids.append(uid)
                    items.append(item)
            arrays = self.collate(group, items)
            first = self.mixture.first_row(group) + self.streams.start * count
            arrays["rows"] = np.arange(first, first + len(items), dtype=np.int32)
            wrong = {name: array.shape for name, array in arrays.items() if array.shape[:1] != (len(items),)}
            if wrong:
                raise ValueError(f"collate({group!r}) of {len(items)} items gave arrays of the shapes {wrong}")
            batch.arrays |= {f"{group}/{name}" if group else name: array for name, array in arrays.items()}
            batch.uids[group] = uids
        for group, count in self.mixture.rows_per_stream.items():
            self.cursor.slots[group] = [slots + count for slots in self.cursor.slots[group]]
        for (stream, number), lane in lanes.items():
            self._positions[stream, number] += lane.wanted
        batch.cursor = self.cursor.as_dict()
        batch.epochs = {
            source.recipe.name: self._seen(number) / self._stream_samples(number)
            for number, source in enumerate(self.sources)
        }
        self._failed = False
        return batch

    def close(self) -> None:
        """Stop the decoding threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _open_lanes(self) -> dict[tuple[int, int], _Lane]:
        lanes = {}
        for group, count in self.mixture.rows_per_stream.items():
            for stream in self.streams:
                slots = self.cursor.slots[group][stream - self.streams.start]
                wanted = Counter(self.mixture.slots(group, stream, slots, count))
                for number, many in wanted.items():
                    lanes[stream, number] = _Lane(self._starter(stream, number), self._positions[stream, number], many)
        return lanes

    def _starter(self, stream: int, number: int) -> Callable[[int], Future[Any] | _Now]:
        if self._pool is None:
            return lambda position: _Now(self._load, stream, number, position)
        pool = self._pool
        return lambda position: pool.submit(self._load, stream, number, position)

    def _load(self, stream: int, number: int, position: int) -> tuple[str, Any]:
        source = self.sources[number]
        with self._locate:  # permutations are made once, not once a thread
            place = self.orders[number].locate(stream, position)
        uid = source.uid(place.shard, place.row)
        try:
            sample = source.load(place.shard, place.row, seed=self.seed, epoch=place.epoch)
            return uid, self.transform(sample, generator(self.seed, "transform", uid, place.epoch))
        except Refused as refusal:
            raise _RefusedAt(refusal, uid, place.epoch) from None

    def _refuser(self, batch: Batch, stream: int, number: int) -> Callable[[Refused], None]:
        def refuse(refusal: Refused) -> None:
            assert isinstance(refusal, _RefusedAt)
            name = self.sources[number].recipe.name
            self.cursor.skips[name][stream - self.streams.start] += 1
            self._positions[stream, number] += 1
            batch.refused.append(
                Refusal(refusal.uid, name, refusal.reason, refusal.detail, stream=stream, epoch=refusal.epoch)
            )
            seen, bad = self._seen(number), sum(self.cursor.skips[name])
            if bad > self.max_bad_fraction * max(seen, 100):
                reasons = Counter(row.reason for row in batch.refused if row.source == name)
                raise TooMuchBadData(
                    f"source {name}: {bad} of the {seen} samples read were refused, more than the "
                    f"{self.max_bad_fraction:.1%} of data.loader.max_bad_fraction (of at least 100); last: "
                    f"{refusal.reason} "
                    f"{refusal.uid} {refusal.detail}; in this batch: {dict(reasons)}",
                    batch.refused,
                )

        return refuse

    def _position(self, stream: int, number: int) -> int:
        share, place = self.mixture.shares[number], stream - self.streams.start
        consumed = self.mixture.consumed(share.group, stream, self.cursor.slots[share.group][place])[number]
        return consumed + self.cursor.skips[share.name][place]

    def _seen(self, number: int) -> int:
        return sum(self._positions[stream, number] for stream in self.streams)

    def _stream_samples(self, number: int) -> int:
        bounds = [self.orders[number].bounds(stream) for stream in self.streams]
        return sum(high - low for low, high in bounds)


class _RefusedAt(Refused):
    """A refusal together with where it happened."""

    def __init__(self, refusal: Refused, uid: str, epoch: int) -> None:
        super().__init__(refusal.reason, refusal.detail)
        self.uid, self.epoch = uid, epoch
