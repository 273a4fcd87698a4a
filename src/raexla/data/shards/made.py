"""Folders of samples that are made, not found: written in order by several processes, gone on with where they stood.

Sample i is a pure function of (what its folder is made from, i), and shard k holds samples [k S, (k + 1) S). So the
bytes don't depend on the number of processes, a shard that is there need not be made again, and a stop at any instant
costs the shard that was being written.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.pool import Pool
from typing import Any, Literal

from raexla.data.shards.index import INDEX, Index, read_index
from raexla.data.shards.store import ShardDamaged, Store
from raexla.data.shards.writer import ShardWriter
from raexla.recipe import UserError

Made = list[tuple[str, dict[str, bytes]]]
"""Samples: key and members each."""

State = Literal["empty", "complete", "begun", "other", "foreign"]

_HASH = "manifest_hash"


@dataclass(frozen=True)
class Making:
    """One folder of made samples."""

    folder: str
    """Path or fsspec URL."""
    count: int
    make: Callable[[int, int], Made]
    """(start, how many) -> these samples, in order; goes to other processes, so it is a function of a module."""
    record: Mapping[str, Any]
    """All that the samples are made from, as JSON values; written beside the shards."""
    record_name: str
    """The file that holds `record`, and at the end the manifest's hash."""
    samples_per_shard: int = 1000
    chunk: int = 250
    """Samples that a process makes at a time."""

    @property
    def store(self) -> Store:
        """The folder."""
        return Store(self.folder)


def state_of(making: Making) -> State:
    """What is in the folder: nothing; just these shards; some of them; shards made from something else; other files.

    Complete by index and sizes: contents are not read.
    """
    store = making.store
    names = set(store.names()) if store.exists() else set()
    if not names:
        return "empty"
    found = recorded(making) if making.record_name in names else None
    if found is None:
        return "other" if any(name.endswith(".tar") for name in names) else "foreign"
    if {key: value for key, value in found.items() if key != _HASH} != _plain(making.record):
        return "other"
    if INDEX not in names or _HASH not in found:
        return "begun"
    try:
        index = read_index(store)
    except ShardDamaged:
        return "begun"
    whole = all(shard.name in names and store.size(shard.name) == shard.bytes for shard in index.shards)
    return "complete" if whole and found[_HASH] == index.manifest_hash else "begun"


def recorded(making: Making) -> dict[str, Any] | None:
    """The record that stands in the folder; None if it can't be read."""
    try:
        found = json.loads(making.store.read(making.record_name))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def write_made(
    making: Making,
    *,
    pool: Pool | None = None,
    overwrite: bool = False,
    tick: Callable[[int], Any] = lambda count: None,
) -> Index:
    """Make what is missing of a folder; a complete one is left as it is.

    Args:
        pool: of `workers`; None makes the samples in this process.
        overwrite: replace shards that were made from something else.
        tick: told how many more samples are there, those found included.

    Raises:
        UserError: the folder holds other files, or shards made from something else (what differs is named).
    """
    store, state = making.store, state_of(making)
    if state == "complete":
        tick(making.count)
        return read_index(store)
    if state == "foreign":
        raise UserError(f"{store.url} is not empty and holds no shards; choose another --out")
    if state == "other" and not overwrite:
        raise UserError(f"{store.url}: {_difference(making)}; choose another --out, or --overwrite")
    if state != "begun":
        if making.record_name in (store.names() if store.exists() else []):
            store.remove(making.record_name)
    with ShardWriter(
        making.folder,
        samples_per_shard=making.samples_per_shard,
        bytes_per_shard=1 << 62,  # the number of samples alone says where a shard ends
        overwrite=state == "other",
        resume=state == "begun",
    ) as writer:
        store.write_bytes(making.record_name, _text(making.record))
        tick(writer.kept)
        starts = range(writer.kept, making.count, making.chunk)
        jobs = [(making, start, min(making.chunk, making.count - start)) for start in starts]
        for chunk in map(_make, jobs) if pool is None else pool.imap(_make, jobs):
            for key, members in chunk:
                writer.write(key, members)
            tick(len(chunk))
    assert writer.index is not None
    store.write_bytes(making.record_name, _text({**making.record, _HASH: writer.index.manifest_hash}))
    return writer.index


@contextmanager
def workers(processes: int, samples: int, few: int) -> Iterator[Pool | None]:
    """A pool for `write_made`; None where one process will do: only one asked for, or no more than `few` samples."""
    if processes == 1 or samples <= few:
        yield None
        return
    with get_context("spawn").Pool(processes) as pool:
        yield pool


def _make(job: tuple[Making, int, int]) -> Made:
    making, start, count = job
    return making.make(start, count)


def _plain(record: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(record)))  # tuples become lists, as in the file


def _text(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(dict(record), indent=1, ensure_ascii=False) + "\n").encode()


def _difference(making: Making) -> str:
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
