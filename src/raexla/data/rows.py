"""The rows of some streams for one batch after another: slots -> positions -> samples -> arrays.

A `RowMaker` stands for any part of a process's streams: all of them in the process itself, or a worker process's share.
What it gives depends on nothing but its streams and where they stand, so parts put together are the whole.
"""

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
from raexla.recipe import UserError

Transform = Callable[[Sample, np.random.Generator], Any]
"""A decoded sample and its own draws -> what collate takes. May raise `Refused`.

It may have the attributes `draws` (False: it never draws, and gets None instead of a generator, which takes time to
make) and `at_least` (see `decode_image`)."""
Collate = Callable[[str, list[Any]], dict[str, np.ndarray]]
"""A group's name and its items, in row order -> arrays `[n, ...]` of constant shapes, row i of item i alone: the rows
of a batch are collated in parts."""


@dataclass(frozen=True)
class Work:
    """What is read and what becomes of it, the same for every stream. Can be pickled if transform and collate can."""

    sources: Sequence[Source]
    orders: Sequence[SourceOrder]
    mixture: Mixture
    transform: Transform
    collate: Collate
    seed: int
    max_bad_fraction: float
    threads: int = 1
    at_least: int | None = None
    """Pixels of the shorter side that a JPEG may be decoded at; None: exactly as it is stored."""


@dataclass
class Rows:
    """What some streams give for one batch."""

    arrays: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """Group -> name -> `[n, ...]`, stream after stream."""
    uids: dict[str, list[str]] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    passed: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(source, stream) -> samples that were passed over because they belong to another source."""
    hopeless: bool = False
    """So many were refused that no batch will come of it, whatever the other streams give."""


def too_many(bad: int, good: int, fraction: float) -> bool:
    """Whether `bad` refused samples beside `good` ones are more than `fraction` of those read, or of 100 if these are
    fewer. More bad ones never make it false again."""
    return bad > fraction * max(good + bad, 100)


class RowMaker:
    """Makes the rows of `streams`, from `cursor` on, which it moves. Not safe between threads."""

    def __init__(self, work: Work, cursor: Cursor, streams: range) -> None:
        self.work, self.cursor, self.streams = work, cursor, streams
        self._draws = getattr(work.transform, "draws", True)
        self._pool = ThreadPoolExecutor(work.threads, thread_name_prefix="decode") if work.threads > 1 else None
        self._positions = {
            (stream, number): self._position(stream, number)
            for number in range(len(work.sources))
            for stream in streams
        }

    def next(self) -> Rows:
        """The rows of the next batch. Raises `UserError` for the storage, `ValueError` for a wrong collate."""
        work, rows = self.work, Rows()
        lanes = self._open_lanes(rows)
        try:
            for group, count in work.mixture.rows_per_stream.items():
                items: list[Any] = []
                rows.uids[group] = uids = []
                for place, stream in enumerate(self.streams):
                    for number in work.mixture.slots(group, stream, self.cursor.slots[group][place], count):
                        uid, item = lanes[stream, number].take()
                        uids.append(uid)
                        items.append(item)
                rows.arrays[group] = _checked(group, len(items), work.collate(group, items))
        except _Hopeless:
            return Rows(refused=rows.refused, passed=rows.passed, hopeless=True)
        self.cursor.advance(work.mixture.rows_per_stream)
        for drawn_from, lane in lanes.items():
            self._positions[drawn_from] += lane.wanted
        return rows

    def close(self) -> None:
        """Stop the decoding threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _open_lanes(self, rows: Rows) -> dict[tuple[int, int], "_Lane"]:
        work, lanes = self.work, {}
        for group, count in work.mixture.rows_per_stream.items():
            for place, stream in enumerate(self.streams):
                slots = self.cursor.slots[group][place]
                for number, wanted in Counter(work.mixture.slots(group, stream, slots, count)).items():
                    refuse = self._refuser(rows, stream, number, slots + count)
                    position = self._positions[stream, number]
                    lanes[stream, number] = _Lane(self._starter(stream, number), position, wanted, refuse)
        return lanes

    def _starter(self, stream: int, number: int) -> "Callable[[int], Future[Any] | _Now]":
        if self._pool is None:
            return lambda position: _Now(self._load, stream, number, position)
        pool = self._pool
        return lambda position: pool.submit(self._load, stream, number, position)

    def _load(self, stream: int, number: int, position: int) -> tuple[str, Any]:
        work, source = self.work, self.work.sources[number]
        place = work.orders[number].locate(stream, position)
        uid = source.uid(place.shard, place.row)
        try:
            sample = source.load(place.shard, place.row, seed=work.seed, epoch=place.epoch, at_least=work.at_least)
            rng: Any = generator(work.seed, "transform", uid, place.epoch) if self._draws else None
            return uid, work.transform(sample, rng)
        except Refused as refusal:
            raise _RefusedAt(refusal, uid, place.epoch) from None

    def _refuser(self, rows: Rows, stream: int, number: int, slots: int) -> "Callable[[_RefusedAt], None]":
        """What is done about a refusal. `slots`: those of the source's group that each stream has after this batch."""
        work, name, low = self.work, self.work.sources[number].recipe.name, self.streams.start
        epoch = len(range(*work.orders[number].bounds(stream)))
        skipped = 0

        def refuse(refusal: _RefusedAt) -> None:
            nonlocal skipped
            self._positions[stream, number] += 1
            skipped += 1
            if refusal.reason == "other_kind":
                self.cursor.passed[name][stream - low] += 1
                rows.passed[name, stream] += 1
            else:
                self.cursor.skips[name][stream - low] += 1
                detail = Refusal(refusal.uid, name, refusal.reason, refusal.detail, stream=stream, epoch=refusal.epoch)
                rows.refused.append(detail)
                if too_many(sum(self.cursor.skips[name]), work.mixture.good(number, slots), work.max_bad_fraction):
                    raise _Hopeless
            if skipped > epoch:
                raise UserError(
                    f"source {name}: none of the {epoch} samples of stream {stream} can be used; last: "
                    f"{refusal.reason} {refusal.uid} {refusal.detail}"
                )

        return refuse

    def _position(self, stream: int, number: int) -> int:
        share, place = self.work.mixture.shares[number], stream - self.streams.start
        slots = self.cursor.slots[share.group][place]
        consumed = self.work.mixture.consumed(share.group, stream, slots)[number]
        return consumed + self.cursor.skips[share.name][place] + self.cursor.passed[share.name][place]


class _Lane:
    """The samples of one (source, stream) from a position on, those wanted for one batch started at once."""

    def __init__(
        self,
        start: "Callable[[int], Future[Any] | _Now]",
        position: int,
        wanted: int,
        refuse: "Callable[[_RefusedAt], None]",
    ) -> None:
        self._start, self._next, self._refuse = start, position, refuse
        self.wanted = wanted
        self._running: deque[Future[Any] | _Now] = deque()
        for _ in range(wanted):
            self._begin()

    def _begin(self) -> None:
        self._running.append(self._start(self._next))
        self._next += 1

    def take(self) -> tuple[str, Any]:
        """(uid, item) of the next good sample; each refusal is told and replaced by one more position at the end."""
        while True:
            try:
                return self._running.popleft().result()
            except _RefusedAt as refusal:
                self._refuse(refusal)
                self._begin()


class _Now:
    """A future without a pool: the work is done when the result is asked for."""

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        self._work, self._arguments = work, arguments

    def result(self) -> Any:
        return self._work(*self._arguments)


class _Hopeless(Exception):
    """Too many refused: see `Rows.hopeless`."""


class _RefusedAt(Refused):
    """A refusal together with where it happened."""

    def __init__(self, refusal: Refused, uid: str, epoch: int) -> None:
        super().__init__(refusal.reason, refusal.detail)
        self.uid, self.epoch = uid, epoch


def _checked(group: str, count: int, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wrong = {name: array.shape for name, array in arrays.items() if array.shape[:1] != (count,)}
    if wrong:
        raise ValueError(f"collate({group!r}) of {count} items gave arrays of the shapes {wrong}")
    return arrays
