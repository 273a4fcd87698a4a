"""`index.json` and `index.members` beside a set of shards.

`index.json` is small and readable: per shard its name, samples, bytes, SHA-256, extensions. `index.members` holds the
shards' member tables one after another, each compressed, so that a reader fetches only the tables of the shards that
it reads. Two hashes stand for the set: `order_hash` (names, keys and sizes; the order of a run depends on it, and it
can be had without reading the pictures) and `manifest_hash` (names and SHA-256; what reports call the data by).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raexla.data.shards.store import ShardDamaged, Store
from raexla.data.shards.tar import MemberTable, scan
from raexla.recipe import UserError

INDEX = "index.json"
MEMBERS = "index.members"
FORMAT = "raexla-shards"
VERSION = 1

Say = Callable[[str], None]


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


@dataclass
class Index:
    """What is known about a set of shards. `tables` are the packed member tables where they are held in memory."""

    shards: list[ShardEntry]
    tables: list[bytes] | None = None
    places: list[tuple[int, int]] = field(default_factory=list)
    """(offset, size) of each shard's table in `index.members`."""
    warnings: list[str] = field(default_factory=list)

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
        if self.tables is not None:
            return MemberTable.unpack(self.tables[number])
        offset, size = self.places[number]
        try:
            table = MemberTable.unpack(store.read(MEMBERS, offset, offset + size))
        except (ValueError, OSError, EOFError, KeyError) as error:
            raise ShardDamaged(f"{store.url}/{MEMBERS}: {error}; run `raexla shards index {store.url}`") from None
        if table.digest() != self.shards[number].table_sha256:
            raise ShardDamaged(
                f"{store.url}/{MEMBERS}: the table of {self.shards[number].name} isn't the one that {INDEX} names; "
                f"run `raexla shards index {store.url}`"
            )
        return table


def entry_of(name: str, size: int, sha256: str | None, table: MemberTable) -> ShardEntry:
    """The index entry of a shard whose table is known."""
    return ShardEntry(
        name, len(table), size, sha256, table.digest(), table.counts(), table.not_adjacent, len(table.duplicates)
    )


def index(folder: str, *, say: Say | None = None) -> Index:
    """Read every shard of `folder` (path or URL) once and write `index.json` and `index.members` there.

    Raises `UserError` when there is no shard, `ShardDamaged` naming every shard that isn't whole; nothing is written
    then.
    """
    store = Store(folder)
    made = build_index(store, checksums=True, say=say)
    save_index(store, made)
    return made


def load_index(store: Store, *, names: Sequence[str] | None = None, say: Say | None = None) -> Index:
    """The index of `store`, or, without one, an index made in memory from the shards' headers (`say` tells what is
    missed). `names`: of these shards only, in their order."""
    if store.exists(INDEX):
        found = read_index(store)
        if names is None:
            return found
        absent = sorted(set(names) - {shard.name for shard in found.shards})
        if absent:
            named = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
            raise UserError(
                f"{store.url}/{INDEX}: has no {named} ({len(absent)} of the {len(names)} shards that are wanted); "
                f"`raexla shards index {store.url}` makes a new index"
            )
        return found.select(names)
    if say is not None:
        say(
            f"{store.url}: no {INDEX}: reading the headers of every shard; contents can't be checked against "
            f"checksums and "
            f"every start pays this again. `raexla shards index {store.url}` makes one"
        )
    return build_index(store, checksums=False, names=names, say=say)


def read_index(store: Store) -> Index:
    """`index.json` as written; raises `ShardDamaged` if it can't be understood."""
    try:
        plain = json.loads(store.read(INDEX))
        if plain["format"] != FORMAT or plain["version"] != VERSION:
            raise UserError(
                f"{store.url}/{INDEX}: format {plain['format']} version {plain['version']}, this program reads "
                f"{FORMAT} "
                f"version {VERSION}; run `raexla shards index {store.url}`"
            )
        shards = [
            ShardEntry(
                row["name"],
                row["samples"],
                row["bytes"],
                row["sha256"],
                row["table_sha256"],
                row["extensions"],
                row.get("not_adjacent", 0),
                row.get("duplicates", 0),
            )
            for row in plain["shards"]
        ]
        places = [(row["table"][0], row["table"][1]) for row in plain["shards"]]
        found = Index(shards, places=places)
        if plain["manifest_hash"] != found.manifest_hash:
            raise ShardDamaged(
                f"{store.url}/{INDEX}: its manifest_hash isn't the hash of its own entries: it was edited"
            )
        return found
    except (ValueError, KeyError, TypeError, IndexError) as error:
        said = f"{type(error).__name__}: {error}"
        raise ShardDamaged(f"{store.url}/{INDEX}: {said}; run `raexla shards index {store.url}`") from None


def save_index(store: Store, made: Index) -> None:
    """Write `index.members`, then `index.json`."""
    if made.tables is None:
        raise ValueError("save_index: this index was read from files; its tables are not in memory")
    rows, offset = [], 0
    for shard, table in zip(made.shards, made.tables, strict=True):
        rows.append(_row(shard, offset, len(table)))
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


def build_index(store: Store, *, checksums: bool, names: Sequence[str] | None = None, say: Say | None = None) -> Index:
    """Scan all `*.tar` below the root, in the order of their names, or those of `names`. Empty shards stay in the index
    and are named."""
    names = shard_names(store) if names is None else names
    shards, tables, damaged, warnings = [], [], [], []
    for name in names:
        size = store.size(name)
        if size == 0:
            damaged.append(f"{store.url}/{name}: 0 bytes: an upload or a disk that stopped; write it again")
            continue
        try:
            with store.open(name) as file:
                table = scan(file, f"{store.url}/{name}")
                sha256 = digest_of(file) if checksums else None
        except ShardDamaged as error:
            damaged.append(str(error))
            continue
        entry = entry_of(name, size, sha256, table)
        warnings += describe_oddities(entry, table)
        shards.append(entry)
        tables.append(table.pack())
    if damaged:
        raise ShardDamaged("\n".join(damaged))
    for line in warnings if say else ():
        say(f"{store.url}/{line}")  # type: ignore[misc]
    return Index(shards, tables, warnings=warnings)


def shard_names(store: Store) -> list[str]:
    """The `*.tar` below a folder, sorted; raises `UserError` if there are none."""
    if not store.exists():
        raise UserError(
            f"{store.url}: there is no such folder; `raexla shards pack FOLDER --out DIR` makes one from pictures, "
            f"`raexla shards nano --out DIR` the nano data"
        )
    names = [name for name in store.names() if name.endswith(".tar")]
    if not names:
        raise UserError(f"{store.url}: no shard (*.tar) in it; `raexla shards pack FOLDER --out DIR` makes them")
    return names


def describe_oddities(entry: ShardEntry, table: MemberTable) -> list[str]:
    """One line for each thing about a shard that its owner should know."""
    lines = []
    if entry.samples == 0:
        lines.append(f"{entry.name}: an empty shard: 0 samples")
    if table.not_adjacent:
        lines.append(
            f"{entry.name}: {table.not_adjacent} samples whose members are not adjacent (they are put together)"
        )
    if table.duplicates:
        named = ", ".join(table.duplicates[:3])
        lines.append(
            f"{entry.name}: {len(table.duplicates)} members with the name of an earlier one left aside: {named}"
        )
    return lines


def _row(shard: ShardEntry, offset: int, size: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": shard.name,
        "samples": shard.samples,
        "bytes": shard.bytes,
        "sha256": shard.sha256,
        "table": [offset, size],
        "table_sha256": shard.table_sha256,
        "extensions": shard.extensions,
    }
    if shard.not_adjacent:
        row["not_adjacent"] = shard.not_adjacent
    if shard.duplicates:
        row["duplicates"] = shard.duplicates
    return row


def _hash(rows: Iterable[list[Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def digest_of(file: Any) -> str:
    """SHA-256 of an open file, from its start."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()
