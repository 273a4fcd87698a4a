"""Make the index of a set of shards: each shard is read once, and again only when it has changed.

What `manifest` says of the files is importable from here too.
"""

import base64
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, cast

from raexla.data.shards.journal import Journal
from raexla.data.shards.listing import Listed, listing
from raexla.data.shards.manifest import (
    FORMAT,
    INDEX,
    MEMBERS,
    VERSION,
    Index,
    ShardEntry,
    as_row,
    entry_of,
    of_row,
    read_index,
    save_index,
)
from raexla.data.shards.measure import measure
from raexla.data.shards.parallel import ordered, workers
from raexla.data.shards.store import ShardDamaged, Store
from raexla.data.shards.tar import MemberTable, scan
from raexla.recipe import UserError

__all__ = [
    "FORMAT",
    "INDEX",
    "MEMBERS",
    "SEEN",
    "VERSION",
    "Index",
    "Say",
    "ShardEntry",
    "as_row",
    "build_index",
    "digest_of",
    "entry_of",
    "index",
    "load_index",
    "of_row",
    "read_index",
    "save_index",
    "shard_names",
]

SEEN = "index.seen"
"""Size and stamp of each shard as `index` read it; without it the next `index` reads all again."""

Say = Callable[[str], None]
Progress = Callable[[str, int], Callable[[int], Any]]
"""Opens a bar: (what, how many) -> what is told how many more are done."""
Known = tuple[ShardEntry, bytes]
"""A shard's entry and packed table."""

_FEW_BYTES = 64 << 20  # shards that are read sooner than a second process starts
_PIECE = 16 << 20  # bytes of one range read


def index(
    folder: str,
    *,
    full: bool = False,
    processes: int = 1,
    say: Say | None = None,
    progress: Progress | None = None,
) -> Index:
    """Read the shards of `folder` (path or URL) and write `index.json` and `index.members` there.

    A shard whose name, size and stamp (time, etag or generation, where the file system gives one) are those of an
    earlier `index`, finished or stopped, is not read again, unless `full`. `progress` opens a bar.

    Raises `UserError` when there is no shard, `ShardDamaged` naming every shard that isn't whole; the index is left as
    it was then, and what was read of the others is kept for the next call.
    """
    store = Store(folder)
    names = shard_names(store)
    listed = listing(store)
    journal = Journal(store, "index-full" if full else "index", 5.0)
    known = {} if full else _known(store)
    noted = journal.read()
    for note in noted:
        _take(note, known)
    standing: dict[str, Known] = {
        name: known[name][0] for name in names if name in known and known[name][1] == listed[name]
    }
    missing = [name for name in names if name not in standing]
    tick = progress("shards", len(names)) if progress else lambda count: None
    tick(len(standing))
    damaged = []
    with workers(processes, sum(listed[name].bytes for name in missing), _FEW_BYTES) as pool:
        jobs = (partial(examine, folder, name, listed[name].bytes) for name in missing)
        try:
            for name, found in zip(missing, ordered(pool, jobs), strict=True):
                tick(1)
                if isinstance(found, str):
                    damaged.append(found)
                    continue
                standing[name] = found
                journal.add(_note(found, listed[name]))
        finally:
            journal.flush()
    if damaged:
        raise ShardDamaged("\n".join(damaged))
    made = Index([standing[name][0] for name in names], [standing[name][1] for name in names], examined=len(missing))
    made.warnings = [line for name in names for line in oddities(*standing[name])]
    for line in made.warnings if say else ():
        cast(Say, say)(f"{store.url}/{line}")
    if missing or noted or not _stands(store, made):
        save_index(store, made)
        seen = {name: [listed[name].bytes, listed[name].stamp] for name in names}
        store.write_bytes(SEEN, json.dumps({"version": 1, "shards": seen}, indent=0).encode())
        for name in ("index", "index-full"):
            Journal(store, name).clear()
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
            f"checksums and every start pays this again. `raexla shards index {store.url}` makes one"
        )
    return build_index(store, checksums=False, names=names, say=say)


def build_index(store: Store, *, checksums: bool, names: Sequence[str] | None = None, say: Say | None = None) -> Index:
    """Scan all `*.tar` below the root, in the order of their names, or those of `names`, in this process; nothing is
    written. Empty shards stay in the index and are named."""
    shards, tables, damaged, warnings = [], [], [], []
    for name in shard_names(store) if names is None else names:
        found = examine(store.url, name, store.size(name), checksums=checksums, store=store)
        if isinstance(found, str):
            damaged.append(found)
            continue
        shards.append(found[0])
        tables.append(found[1])
        warnings += oddities(*found)
    if damaged:
        raise ShardDamaged("\n".join(damaged))
    for line in warnings if say else ():
        cast(Say, say)(f"{store.url}/{line}")
    return Index(shards, tables, warnings=warnings)


def examine(folder: str, name: str, size: int, *, checksums: bool = True, store: Store | None = None) -> Known | str:
    """Read one shard: its entry and packed table, or, if it isn't whole, a line that says so."""
    store = store or Store(folder)
    if size == 0:
        return f"{store.url}/{name}: 0 bytes: an upload or a disk that stopped; write it again"
    try:
        if not checksums:
            with store.open(name) as file:
                table = scan(file, f"{store.url}/{name}")
            return entry_of(name, size, None, table), table.pack()
        with whole(store, name, size) as file:
            table = scan(file, f"{store.url}/{name}")
            entry = entry_of(name, size, digest_of(file), table, measure(file, table))
            return entry, table.pack()
    except ShardDamaged as error:
        return str(error)


@contextmanager
def whole(store: Store, name: str, size: int) -> Iterator[BinaryIO]:
    """A shard open for several readings: a local file as it is, another fetched once, piece by piece."""
    if store.local:
        with store.open(name) as file:
            yield file
        return
    with tempfile.SpooledTemporaryFile(max_size=1 << 28) as fetched:
        for start in range(0, size, _PIECE):
            fetched.write(store.read(name, start, min(size, start + _PIECE)))
        yield cast(BinaryIO, fetched)


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


def oddities(entry: ShardEntry, packed: bytes) -> list[str]:
    """One line for each thing about a shard that its owner should know."""
    lines = []
    if entry.samples == 0:
        lines.append(f"{entry.name}: an empty shard: 0 samples")
    if entry.not_adjacent:
        lines.append(
            f"{entry.name}: {entry.not_adjacent} samples whose members are not adjacent (they are put together)"
        )
    if entry.duplicates:
        named = ", ".join(MemberTable.unpack(packed).duplicates[:3])
        lines.append(f"{entry.name}: {entry.duplicates} members with the name of an earlier one left aside: {named}")
    if entry.left_aside:
        counts = ", ".join(f"{number} {kind}" for kind, number in entry.left_aside.items())
        lines.append(f"{entry.name}: members that are no sample's left aside: {counts}")
    return lines


def digest_of(file: Any) -> str:
    """SHA-256 of an open file, from its start."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _known(store: Store) -> dict[str, tuple[Known, Listed]]:
    """The shards that the last complete `index` read, as they were then; none if its files don't fit together."""
    try:
        seen = json.loads(store.read(SEEN))["shards"] if store.exists(SEEN) else {}
        old = read_index(store) if seen else Index([])
        return {
            entry.name: ((entry, old.packed_table(store, number)), Listed(*seen[entry.name]))
            for number, entry in enumerate(old.shards)
            if entry.name in seen and entry.statistics
        }
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _note(found: Known, listed: Listed) -> dict[str, Any]:
    entry, packed = found
    table = base64.b64encode(packed).decode()
    return {"entry": as_row(entry), "table": table, "bytes": listed.bytes, "stamp": listed.stamp}


def _take(note: Mapping[str, Any], known: dict[str, tuple[Known, Listed]]) -> None:
    """A shard that a stopped `index` had read; a note that isn't whole is passed over."""
    try:
        entry, packed = of_row(note["entry"]), base64.b64decode(note["table"])
        if MemberTable.unpack(packed).digest() == entry.table_sha256:
            known[entry.name] = (entry, packed), Listed(note["bytes"], note["stamp"])
    except (KeyError, TypeError, ValueError):
        return


def _stands(store: Store, made: Index) -> bool:
    """Whether the index that is there is this one."""
    try:
        return read_index(store).shards == made.shards
    except UserError:
        return False
