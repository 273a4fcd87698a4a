"""One global batch after another: the rows of all of a process's streams, and the cursor that follows them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raexla.data.cursor import Cursor
from raexla.data.rows import Collate, RowMaker, Rows, Transform, Work
from raexla.data.sample import Refusal
from raexla.data.workers import Worker, start_workers
from raexla.recipe import BadDataError

__all__ = ["Batch", "BatchMaker", "Collate", "TooMuchBadData", "Transform"]


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
    """Source -> epochs gone through, over this process's streams, e.g. 1.25."""
    wait_seconds: float = 0.0
    """How long the consumer waited for it."""


class BatchMaker:
    """Turns `streams` into batches, one after another, here or in worker processes: the batches are the same."""

    def __init__(self, work: Work, cursor: Cursor, streams: range, workers: int = 0) -> None:
        self.work, self.cursor, self.streams = work, cursor, streams
        self.workers: list[Worker] = []
        self._here: RowMaker | None = None
        if workers:
            self.workers = start_workers(min(workers, len(streams)), work, cursor, streams)
        else:
            self._here = RowMaker(work, cursor.part(streams.start, len(streams)), streams)
        self._epochs = {
            order.name: sum(len(range(*order.bounds(stream))) for stream in streams) for order in work.orders
        }
        self._read = {share.name: self._consumed(number) for number, share in enumerate(work.mixture.shares)}
        self._failed = False

    def next(self) -> tuple[Batch, bool]:
        """The next batch, and whether it is hopeless: too much was refused, the batch has no arrays and no other
        follows.

        Raises `UserError` for the storage or a worker that died.
        """
        if self._failed:
            raise RuntimeError("an earlier batch could not be made; open the data again from a cursor")
        self._failed = True
        parts: list[Rows] = []
        free: list[Callable[[], None]] = []
        if self._here is not None:
            parts.append(self._here.next())
        for worker in self.workers:
            rows, done = worker.next()
            parts.append(rows)
            free.append(done)
        batch = Batch({}, {}, sorted((row for rows in parts for row in rows.refused), key=lambda row: row.stream))
        self._count(batch.refused, [rows.passed for rows in parts])
        self._failed = any(rows.hopeless for rows in parts)
        if not self._failed:
            for group in self.work.mixture.groups:
                batch.uids[group] = [uid for rows in parts for uid in rows.uids[group]]
                self._join(batch.arrays, group, [rows.arrays[group] for rows in parts])
            for done in free:
                done()
            self.cursor.advance(self.work.mixture.rows_per_stream)
            for uids in batch.uids.values():
                for name, count in Counter(uid.partition("/")[0] for uid in uids).items():
                    self._read[name] += count
        batch.cursor = self.cursor.as_dict()
        batch.epochs = {name: self._read[name] / samples for name, samples in self._epochs.items()}
        return batch, self._failed

    def interrupt(self) -> None:
        """End the workers, also while another thread waits for them in `next`."""
        for worker in self.workers:
            worker.close()

    def close(self) -> None:
        """End workers and threads."""
        self.interrupt()
        if self._here is not None:
            self._here.close()

    def _join(self, arrays: dict[str, np.ndarray], group: str, parts: Sequence[dict[str, np.ndarray]]) -> None:
        """The rows of a group out of its parts; what stands in workers' memory is copied."""
        count = self.work.mixture.rows_per_stream[group]
        first = self.work.mixture.first_row(group) + self.streams.start * count
        prefix = f"{group}/" if group else ""
        for name, array in parts[0].items():
            arrays[f"{prefix}{name}"] = np.concatenate([part[name] for part in parts]) if self.workers else array
        arrays[f"{prefix}rows"] = np.arange(first, first + len(self.streams) * count, dtype=np.int32)

    def _count(self, refused: list[Refusal], passed: Sequence[Counter[tuple[str, int]]]) -> None:
        skipped = Counter((row.source, row.stream) for row in refused)
        for rows, counts in [(self.cursor.skips, skipped), *((self.cursor.passed, counts) for counts in passed)]:
            for (name, stream), count in counts.items():
                rows[name][stream - self.streams.start] += count
                self._read[name] += count

    def _consumed(self, number: int) -> int:
        """Samples of a source that the streams have gone past, refused ones included."""
        mixture = self.work.mixture
        share, slots = mixture.shares[number], self.cursor.slots[mixture.shares[number].group]
        good = sum(mixture.consumed(share.group, self.streams[i], count)[number] for i, count in enumerate(slots))
        return good + sum(self.cursor.skips[share.name]) + sum(self.cursor.passed[share.name])
