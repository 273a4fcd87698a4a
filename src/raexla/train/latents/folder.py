"""A folder of latents in the making: a shard for each shard of the source, of the same name and with the same samples.

A shard is a pure function of its source's shard, so several processes make some each. With each finished shard a note
says what is in it; what is noted is not made again after a stop. When all stand, one process writes the index.
"""

import base64
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raexla.data.latents import RECORD
from raexla.data.shards import Index, LeftOut, MadeReport, ShardEntry, Store, state_of
from raexla.data.shards.journal import SUFFIX, Journal
from raexla.data.shards.listing import listing
from raexla.data.shards.made import HASH, JOURNAL, LEFT_OUT, OUTCOME, difference, record_text, recorded
from raexla.data.shards.manifest import INDEX, MEMBERS, as_row, of_row, read_index, save_index
from raexla.recipe import UserError


@dataclass(frozen=True)
class ShardNote:
    """A finished shard."""

    number: int
    """Its place in the source."""
    entry: ShardEntry
    table: bytes
    """Its packed member table."""
    pictures: int
    """Latents in it."""
    refused: tuple[LeftOut, ...] = ()
    error: float = 0.0
    """Of rounding to the stored type: root mean square over that of the latents, of the shard's first batch."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [[row.name, row.reason, row.detail] for row in self.refused]
        packed = base64.b64encode(self.table).decode()
        plain = {"number": self.number, "pictures": self.pictures, "error": self.error, "refused": rows}
        return plain | {"entry": as_row(self.entry), "table": packed}

    @classmethod
    def of_json(cls, plain: Mapping[str, Any]) -> "ShardNote":
        """The inverse of `as_json`. Raises `KeyError`, `TypeError` or `ValueError` for what isn't one."""
        rows = tuple(LeftOut(*row) for row in plain["refused"])
        table = base64.b64decode(plain["table"])
        return cls(plain["number"], of_row(plain["entry"]), table, plain["pictures"], rows, plain["error"])


@dataclass(frozen=True)
class LatentFolder:
    """Where the latents of one source go, and what they are made from."""

    folder: str
    """Path or fsspec URL."""
    record: Mapping[str, Any]
    """All that they depend on, as JSON values."""
    shards: Sequence[tuple[str, int]] = field(repr=False)
    """Names and samples of the source's shards."""
    record_name: str = RECORD

    @property
    def store(self) -> Store:
        """The folder."""
        return Store(self.folder)

    def begin(self, overwrite: bool) -> list[ShardNote] | None:
        """The shards that stand already, after making room for the others; None if the folder is complete.

        Raises:
            UserError: it holds other files, or shards made from something else (what differs is named).
        """
        store, state = self.store, state_of(self)
        if state == "complete":
            self._clear()
            return None
        if state == "foreign":
            raise UserError(f"{store.url} is not empty and holds no shards; choose another --out")
        if state == "other" and not overwrite:
            raise UserError(f"{store.url}: {difference(self)}; choose another --out, or --overwrite")
        found = self._standing() if state == "begun" else []
        if not found and store.exists():
            self._clear()
            ours = (INDEX, MEMBERS, RECORD, LEFT_OUT)  # the index first: without it the set isn't complete
            old = [name for name in store.names() if name in ours or name.endswith((".tar", ".partial"))]
            for name in sorted(old, key=lambda name: name != INDEX):
                store.remove(name)
        store.write_bytes(RECORD, record_text(self.record))
        return found

    def journal(self, process: int) -> Journal:
        """The notes of one process, behind those that it has written before."""
        made = Journal(self.store, f"{JOURNAL}-{process:03d}", 0.0 if self.store.local else 10.0)
        made.read()
        return made

    def finish(self, how: Mapping[str, Any]) -> None:
        """Write the index, the names of what was refused and the record's end.

        Args:
            how: what a person wants to know of this run, as JSON values.

        Raises:
            UserError: a shard is missing (another process has removed it).
        """
        notes = {note.number: note for note in self._standing()}
        lost = [name for number, (name, _) in enumerate(self.shards) if number not in notes]
        if lost:
            raise UserError(f"{self.store.url}: {', '.join(lost[:5])}: gone again; the same command makes them anew")
        ordered = [notes[number] for number in range(len(self.shards))]
        index = Index([note.entry for note in ordered], [note.table for note in ordered])
        save_index(self.store, index)
        report = MadeReport(index, index.samples)
        with tempfile.SpooledTemporaryFile(max_size=1 << 26) as file:
            for row in (row for note in ordered for row in note.refused):
                report.note(row)
                file.write(row.line())
            if report.counts:
                self.store.write(LEFT_OUT, file)  # type: ignore[arg-type]
        figures = {
            "latents": sum(note.pictures for note in ordered),
            "rounding_error": max((note.error for note in ordered), default=0.0),
            **report.outcome(),
            **how,
        }
        self.store.write_bytes(RECORD, record_text({**self.record, HASH: index.manifest_hash, OUTCOME: figures}))
        self._clear()

    def report(self) -> MadeReport:
        """What the record of a complete folder tells."""
        report, told = MadeReport(read_index(self.store)), self.outcome()
        report.seen = told.get("seen", report.samples)
        report.counts.update(told.get("counts", {}))
        report.first.update(told.get("first", {}))
        return report

    def outcome(self) -> dict[str, Any]:
        """What the record of a complete folder says of how it came out."""
        return dict((recorded(self) or {}).get(OUTCOME) or {})

    def _standing(self) -> list[ShardNote]:
        """The shards that are noted and there, each once."""
        listed = listing(self.store)
        found = {}
        for note in self._notes():
            there = listed.get(note.entry.name)
            if there is not None and there.bytes == note.entry.bytes:
                found[note.number] = note
        return list(found.values())

    def _notes(self) -> list[ShardNote]:
        try:
            plain = [note for name in self._journals() for note in Journal(self.store, name).read()]
            return [ShardNote.of_json(note) for note in plain]
        except (KeyError, TypeError, ValueError):  # written by another version
            self._clear()
            return []

    def _journals(self) -> list[str]:
        pattern = re.compile(rf"({JOURNAL}-\d+)-\d+{re.escape(SUFFIX)}")
        names = self.store.names() if self.store.exists() else []
        return sorted({match[1] for name in names if (match := pattern.fullmatch(name))})

    def _clear(self) -> None:
        for name in self._journals():
            Journal(self.store, name).clear()
