"""`index.json` and `index.members`: what is known about a set of shards, read and written.

`index.json` is small and readable: per shard its name, samples, bytes, SHA-256, extensions, statistics.
`index.members` holds the shards' member tables one after another, each compressed, so that a reader fetches only the
tables of the shards that it reads. Two hashes stand for the set: `order_hash` (names, keys and sizes; the order of a
run depends on it, and it can be had without reading the pictures) and `manifest_hash` (names and SHA-256; what reports
call the data by).

Versions: a reader takes `version` 1 and passes over what it doesn't know, so fields may be added; a change that an old
reader would misread takes the next number, and the reader then says which command makes the index anew.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raexla.data.shards.store import ShardDamaged, Store
from raexla.data.shards.tar import MemberTable
from raexla.recipe import UserError

INDEX = "index.json"
MEMBERS = "index.members"
FORMAT = "raexla-shards"
VERSION = 1

Packed = bytes
"""A member table as `MemberTable.pack` makes it."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard: `sha256` is None in an index that was made without reading the contents."""

    name: str
    samples: int
    bytes: int
    sha256: str | None
    table_sha256: str
    extensions: dict[str, int]
    not_adjacent: int = 0
    duplicates: int = 0
    left_aside: dict[str, int] = field(default_factory=dict)
    """Why -> number of members that are none of a sample's: links, devices, names without a key."""
    statistics: dict[str, Any] = field(default_factory=dict)
    """What `measure` found; empty where the contents were not read."""


@dataclass
class Index:
    """What is known about a set of shards. `tables` are the packed member tables where they are held in memory."""

    shards: list[ShardEntry]
    tables: list[Packed] | None = None
    places: list[tuple[int, int]] = field(default_factory=list)
    """(offset, size) of each shard's table in `index.members`."""
    warnings: list[str] = field(default_factory=list)
    examined: int = 0
    """Shards that were read to make it; the rest were known."""

    @property
    def samples(self) -> int:
        """Samples of all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def schema(self) -> dict[str, int]:
        """Extension -> number of samples that have it."""
        total: dict[str, int] = {}
        for shard in self.shards:
            for extension, count in shard.extensions.items():
                total[extension] = total.get(extension, 0) + count
        return dict(sorted(total.items()))

    @property
    def order_hash(self) -> str:
        """What the order of a run depends on; the same with and without an index file."""
        return _hash([shard.name, shard.samples, shard.table_sha256] for shard in self.shards)

    @property
    def manifest_hash(self) -> str | None:
        """Hash of the contents; None when these were not read."""
        if any(shard.sha256 is None for shard in self.shards):
            return None
        return _hash([shard.name, shard.samples, shard.sha256] for shard in self.shards)

    def select(self, names: Sequence[str]) -> "Index":
        """The part of it for these shards, in their order. Raises `KeyError` for a name that it doesn't have."""
        numbers = {shard.name: number for number, shard in enumerate(self.shards)}
        chosen = [numbers[name] for name in names]
        tables = None if self.tables is None else [self.tables[number] for number in chosen]
        places = [self.places[number] for number in chosen] if self.places else []
        return Index([self.shards[number] for number in chosen], tables, places, self.warnings)

    def table(self, store: Store, number: int) -> MemberTable:
        """The member table of one shard, read from `index.members` if it isn't in memory."""
        return self._checked_table(store, number)[1]

    def packed_table(self, store: Store, number: int) -> Packed:
        """The member table of one shard as `index.members` holds it, checked."""
        return self._checked_table(store, number)[0]

    def _checked_table(self, store: Store, number: int) -> tuple[Packed, MemberTable]:
        if self.tables is not None:
            return self.tables[number], MemberTable.unpack(self.tables[number])
        offset, size = self.places[number]
        try:
            packed = store.read(MEMBERS, offset, offset + size)
            table = MemberTable.unpack(packed)
        except (ValueError, OSError, EOFError) as error:
            raise ShardDamaged(f"{store.url}/{MEMBERS}: {error}; run `raexla shards index {store.url}`") from None
        if table.digest() != self.shards[number].table_sha256:
            raise ShardDamaged(
                f"{store.url}/{MEMBERS}: the table of {self.shards[number].name} isn't the one that {INDEX} names; "
                f"run `raexla shards index {store.url}`"
            )
        return packed, table


def entry_of(
    name: str, size: int, sha256: str | None, table: MemberTable, statistics: Mapping[str, Any] | None = None
) -> ShardEntry:
    """The index entry of a shard whose table is known."""
    return ShardEntry(
        name,
        len(table),
        size,
        sha256,
        table.digest(),
        table.counts(),
        table.not_adjacent,
        len(table.duplicates),
        table.left_aside,
        dict(statistics or {}),
    )


def as_row(entry: ShardEntry) -> dict[str, Any]:
    """An entry as plain JSON values; oddities only where there are any."""
    row: dict[str, Any] = {
        "name": entry.name,
        "samples": entry.samples,
        "bytes": entry.bytes,
        "sha256": entry.sha256,
        "table_sha256": entry.table_sha256,
        "extensions": entry.extensions,
    }
    for name in ("not_adjacent", "duplicates", "left_aside", "statistics"):
        if getattr(entry, name):
            row[name] = getattr(entry, name)
    return row


def of_row(row: Mapping[str, Any]) -> ShardEntry:
    """The inverse of `as_row`. Raises `KeyError`, `TypeError` or `ValueError` for what isn't one."""
    entry = ShardEntry(
        row["name"],
        row["samples"],
        row["bytes"],
        row["sha256"],
        row["table_sha256"],
        row["extensions"],
        row.get("not_adjacent", 0),
        row.get("duplicates", 0),
        row.get("left_aside", {}),
        row.get("statistics", {}),
    )
    texts, numbers = (entry.name, entry.table_sha256), (entry.samples, entry.bytes)
    maps = (entry.extensions, entry.left_aside, entry.statistics)
    if (
        not all(isinstance(text, str) for text in texts)
        or not all(type(number) is int and number >= 0 for number in numbers)
        or not all(isinstance(map_, dict) for map_ in maps)
        or not isinstance(entry.sha256, str | None)
        or ".." in entry.name.split("/")
    ):
        raise ValueError(f"no entry of a shard: {str(dict(row))[:200]}")
    return entry


def read_index(store: Store) -> Index:
    """`index.json` as written; raises `ShardDamaged` if it can't be understood, `UserError` for another version."""
    again = f"run `raexla shards index {store.url}`"
    try:
        plain = json.loads(store.read(INDEX))
        if plain["format"] != FORMAT or plain["version"] != VERSION:
            raise UserError(
                f"{store.url}/{INDEX}: format {plain['format']} version {plain['version']}, this program reads "
                f"{FORMAT} version {VERSION}; {again}"
            )
        shards = [of_row(row) for row in plain["shards"]]
        places = [(int(row["table"][0]), int(row["table"][1])) for row in plain["shards"]]
        said = plain["manifest_hash"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ShardDamaged(f"{store.url}/{INDEX}: {type(error).__name__}: {error}; {again}") from None
    found = Index(shards, places=places)
    if said != found.manifest_hash:
        raise ShardDamaged(
            f"{store.url}/{INDEX}: its manifest_hash isn't the hash of its own entries: it was edited; {again}"
        )
    return found


def save_index(store: Store, made: Index) -> None:
    """Write `index.members`, then `index.json`."""
    if made.tables is None:
        raise ValueError("save_index: this index was read from files; its tables are not in memory")
    rows, offset = [], 0
    for shard, table in zip(made.shards, made.tables, strict=True):
        row = as_row(shard)
        rows.append({**row, "table": [offset, len(table)]})
        offset += len(table)
    plain = {
        "format": FORMAT,
        "version": VERSION,
        "samples": made.samples,
        "bytes": made.bytes,
        "manifest_hash": made.manifest_hash,
        "order_hash": made.order_hash,
        "schema": made.schema,
    }
    head = json.dumps(plain, indent=1)[:-2]
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    store.write_bytes(MEMBERS, b"".join(made.tables))
    store.write_bytes(INDEX, f'{head},\n "shards": [\n{lines}\n ]\n}}\n'.encode())


def _hash(rows: Iterable[list[Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()
