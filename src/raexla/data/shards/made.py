"""Folders of shards that are made from something: written in order by several processes, gone on with where they stood.

Candidate i becomes a sample, or is left out and named: a pure function of (what the folder is made from, i). Samples
fill shards in order. So the bytes don't depend on the number of processes. With each finished shard a note tells how
many candidates it took, so that a stop at any instant costs the shard that was being written and nothing else.
"""

import base64
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from raexla.data.shards.journal import SUFFIX, Journal, Note
from raexla.data.shards.listing import listing
from raexla.data.shards.manifest import INDEX, ShardEntry, as_row, of_row, read_index
from raexla.data.shards.parallel import Workers, ordered, workers
from raexla.data.shards.report import LEFT_OUT, RENAMED, LeftOut, MadeReport
from raexla.data.shards.store import ShardDamaged, Store
from raexla.data.shards.writer import ShardWriter, reads_back
from raexla.recipe import UserError

__all__ = ["LEFT_OUT", "LeftOut", "Made", "MadeReport", "Making", "recorded", "state_of", "workers", "write_made"]

HASH = "manifest_hash"
OUTCOME = "outcome"
"""Keys that a record gets at the end; what it says of how it was made is compared without them."""
JOURNAL = "making"
"""Notes called so, or so and more, are leftovers of a stop."""


Made = list[tuple[str, dict[str, bytes]] | LeftOut]
"""Candidates in their order: samples (key and members), or what was left out."""

State = Literal["empty", "complete", "begun", "other", "foreign"]


class Recorded(Protocol):
    """A folder of shards beside which a record says all that they were made from."""

    @property
    def store(self) -> Store:
        """The folder."""

    @property
    def record(self) -> Mapping[str, Any]:
        """All that the samples are made from, as JSON values."""

    @property
    def record_name(self) -> str:
        """The file that holds `record`, and at the end the manifest's hash."""


@dataclass(frozen=True)
class Making:
    """One folder of made samples."""

    folder: str
    """Path or fsspec URL."""
    count: int
    """Candidates."""
    job: Callable[[int, int], Callable[[], Made]]
    """(start, how many) -> a job that makes these candidates; it goes to other processes, so it is a `partial` of a
    module's function."""
    record: Mapping[str, Any]
    """All that the samples are made from, as JSON values; written beside the shards."""
    record_name: str
    """The file that holds `record`, and at the end the manifest's hash."""
    samples_per_shard: int = 1000
    bytes_per_shard: int = 1 << 62
    chunk: int = 250
    """Candidates that a process makes at a time."""
    limit: int | None = None
    """Samples after which it ends."""

    @property
    def store(self) -> Store:
        """The folder."""
        return Store(self.folder)


def state_of(making: Recorded) -> State:
    """What is in the folder: nothing; just these shards; some of them; shards made from something else; other files.

    Complete by index and sizes: contents are not read.
    """
    store = making.store
    names = {name for name in store.names() if not _is_leftover(name)}
    if not names:
        return "empty"
    found = recorded(making) if making.record_name in names else None
    if found is None:
        return "other" if any(name.endswith(".tar") for name in names) else "foreign"
    if {key: value for key, value in found.items() if key not in (HASH, OUTCOME)} != _plain(making.record):
        return "other"
    if INDEX not in names or HASH not in found:
        return "begun"
    try:
        index = read_index(store)
    except UserError:
        return "begun"
    listed = listing(store)
    whole = all(shard.name in listed and listed[shard.name].bytes == shard.bytes for shard in index.shards)
    return "complete" if whole and found[HASH] == index.manifest_hash else "begun"


def _is_leftover(name: str) -> bool:
    """What a stop may leave: half a file, notes."""
    return name.endswith(".partial") or (name.startswith(f"{JOURNAL}-") and name.endswith(SUFFIX))


def recorded(making: Recorded) -> dict[str, Any] | None:
    """The record that stands in the folder; None if it can't be read."""
    try:
        found = json.loads(making.store.read(making.record_name))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def write_made(
    making: Making,
    *,
    pool: Workers | None = None,
    overwrite: bool = False,
    tick: Callable[[int], Any] = lambda count: None,
) -> MadeReport:
    """Make what is missing of a folder; a complete one is left as it is.

    Args:
        pool: of `workers`; None makes the samples in this process.
        overwrite: replace shards that were made from something else.
        tick: told how many more candidates are done, those found done included.

    Raises:
        UserError: the folder holds other files, or shards made from something else (what differs is named); or every
            candidate was left out.
    """
    store, state = making.store, state_of(making)
    if state == "complete":
        Journal(store, JOURNAL).clear()
        tick(making.count)
        return _report_of(making)
    if state == "foreign":
        raise UserError(f"{store.url} is not empty and holds no shards; choose another --out")
    if state == "other" and not overwrite:
        raise UserError(f"{store.url}: {difference(making)}; choose another --out, or --overwrite")
    if state != "begun" and store.exists():
        for name in (making.record_name, LEFT_OUT):  # from here on the folder isn't what it was
            store.remove(name)
        Journal(store, JOURNAL).clear()
    return _Run(making, go_on=state == "begun", tick=tick).make(pool)


class _Run:
    """One go at a folder: candidates in, shards and notes out."""

    def __init__(self, making: Making, *, go_on: bool, tick: Callable[[int], Any]) -> None:
        self.making = making
        self.store = making.store
        self.tick = tick
        self.journal = Journal(self.store, JOURNAL, 0.0 if self.store.local else 10.0)
        self.report = MadeReport()
        self.sealed = 0  # candidates that the finished shards and the notes account for
        self.place = 0  # candidates that have been taken
        self.open_places: deque[int] = deque()  # `place` after each sample of the unfinished shard
        self.open_rows: deque[tuple[int, LeftOut]] = deque()  # left out since the last note, with their places
        kept = self._kept() if go_on else []
        self.writer = ShardWriter(
            making.folder,
            samples_per_shard=making.samples_per_shard,
            bytes_per_shard=making.bytes_per_shard,
            kept=kept,
            on_shard=self._seal,
        )
        self.written = sum(entry.samples for entry, _ in kept)

    def make(self, pool: Workers | None) -> MadeReport:
        making = self.making
        self.store.write_bytes(making.record_name, record_text(making.record))
        self.place = self.sealed
        self.tick(self.place)
        with self.writer:
            try:
                self._take_all(pool)
            finally:
                self.journal.flush()
            if self.written == 0 and making.count:
                self.store.remove(making.record_name)
                self.journal.clear()
                counts = ", ".join(f"{number} {reason}" for reason, number in sorted(self.report.counts.items()))
                raise UserError(f"none of {self.place} can be used: {counts}; first: {self.report.details[0]}")
        assert self.writer.index is not None
        self.report.index, self.report.seen = self.writer.index, self.place
        self.journal.flush()
        self._name_all()
        outcome = {OUTCOME: self.report.outcome()} if self.report.counts or making.limit else {}
        end = {**making.record, HASH: self.writer.index.manifest_hash, **outcome}
        self.store.write_bytes(making.record_name, record_text(end))
        self.journal.clear()
        return self.report

    def _take_all(self, pool: Workers | None) -> None:
        if self.written == self.making.limit:
            return
        for chunk in ordered(pool, self._jobs()):
            for item in chunk:
                self._take(item)
                if self.written == self.making.limit:
                    return
            self.tick(len(chunk))

    def _jobs(self) -> Iterator[Callable[[], Made]]:
        making = self.making
        for start in range(self.place, making.count, making.chunk):
            yield making.job(start, min(making.chunk, making.count - start))

    def _take(self, item: tuple[str, dict[str, bytes]] | LeftOut) -> None:
        self.place += 1
        if isinstance(item, LeftOut):
            self._note(item)
            return
        key, members = item
        odd = [extension for extension in members if not reads_back(key, extension)]
        if odd:
            self._note(LeftOut(key, "bad_name", f"{key}.{odd[0]} would not read back"))
            return
        new = _free(key, self.writer)
        if new != key:
            self._note(LeftOut(key, RENAMED, new))
        self.open_places.append(self.place)
        self.writer.write(new, members)
        self.written += 1

    def _note(self, row: LeftOut) -> None:
        self.report.note(row)
        self.open_rows.append((self.place, row))

    def _seal(self, entry: ShardEntry, table: bytes) -> None:
        """A shard stands: note it, and all that was left out up to its last sample."""
        for _ in range(entry.samples):
            self.sealed = self.open_places.popleft()
        rows = []
        while self.open_rows and self.open_rows[0][0] <= self.sealed:
            row = self.open_rows.popleft()[1]
            rows.append([row.name, row.reason, row.detail])
        packed = base64.b64encode(table).decode()
        self.journal.add({"entry": as_row(entry), "table": packed, "next": self.sealed, "left": rows})

    def _kept(self) -> list[tuple[ShardEntry, bytes]]:
        """The finished shards from the first on that are noted and there."""
        listed = listing(self.store)
        found = self._notes() or self._without_notes()
        if not all(entry.name in listed and listed[entry.name].bytes == entry.bytes for entry, *_ in found):
            self.journal.clear()  # notes that no longer hold
            return []
        for *_, place, rows in found:
            self.sealed = place
            for row in rows:
                self.report.note(row)
        return [(entry, table) for entry, table, *_ in found]

    def _notes(self) -> list[tuple[ShardEntry, bytes, int, list[LeftOut]]]:
        try:
            return [_of_note(note) for note in self.journal.read()]
        except (KeyError, TypeError, ValueError):  # written by another version
            self.journal.clear()
            return []

    def _without_notes(self) -> list[tuple[ShardEntry, bytes, int, list[LeftOut]]]:
        """A folder that was complete, and of which shards were lost: the first ones stand, if nothing was left out."""
        try:
            index = read_index(self.store)
            if index.samples != self.making.count:
                return []
            listed = listing(self.store)
            found, place = [], 0
            for number, entry in enumerate(index.shards):
                if entry.name not in listed or listed[entry.name].bytes != entry.bytes:
                    break
                place += entry.samples
                found.append((entry, index.packed_table(self.store, number), place, list[LeftOut]()))
            return found
        except (ShardDamaged, UserError):
            return []

    def _name_all(self) -> None:
        """Write the names of all that was left out."""
        if not self.report.counts:
            return
        with tempfile.SpooledTemporaryFile(max_size=1 << 26) as file:
            for note in self.journal.read():
                for row in _of_note(note)[3]:
                    file.write(row.line())
            for _, row in self.open_rows:
                file.write(row.line())
            self.store.write(LEFT_OUT, file)  # type: ignore[arg-type]


def _of_note(note: Note) -> tuple[ShardEntry, bytes, int, list[LeftOut]]:
    return of_row(note["entry"]), base64.b64decode(note["table"]), note["next"], [LeftOut(*row) for row in note["left"]]


def _free(key: str, writer: ShardWriter) -> str:
    """The key, or the first of `key-2`, `key-3`, ... that its shard doesn't hold yet."""
    new, number = key, 1
    while writer.has(new):
        number += 1
        new = f"{key}-{number}"
    return new


def _report_of(making: Making) -> MadeReport:
    """What the record of a complete folder tells."""
    report = MadeReport(read_index(making.store), making.count, complete_already=True)
    told = (recorded(making) or {}).get(OUTCOME) or {}
    report.seen = told.get("seen", making.count)
    report.counts.update(told.get("counts", {}))
    report.first.update(told.get("first", {}))
    return report


def _plain(record: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(record)))  # tuples become lists, as in the file


def record_text(record: Mapping[str, Any]) -> bytes:
    """A record as it stands beside the shards."""
    return (json.dumps(dict(record), indent=1, ensure_ascii=True) + "\n").encode()


def difference(making: Recorded) -> str:
    """What the shards there were made from, where it isn't what is wanted."""
    found = recorded(making) if making.record_name in making.store.names() else None
    if found is None:
        return f"has shards, but no {making.record_name} that says what they were made from"
    said = []
    for key, value in _plain(making.record).items():
        if key in found and found[key] == value:
            continue
        short = all(not isinstance(item, (list, dict)) for item in (value, found.get(key)))
        said.append(f"{key} {found.get(key)} instead of {value}" if short else f"other {key}")
    return f"has shards that were made with {', '.join(said) or 'something else'}"
