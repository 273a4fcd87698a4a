"""Write WebDataset shards: the same samples give the same bytes, a shard appears whole or not at all."""

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from raexla.data.shards.manifest import INDEX, MEMBERS, Index, ShardEntry, entry_of, save_index
from raexla.data.shards.measure import Tally
from raexla.data.shards.store import Store
from raexla.data.shards.tar import BLOCK, IMAGE_EXTENSIONS, make_table, split_name
from raexla.recipe import UserError

_RECORD = 20 * BLOCK  # tar files are padded to whole records
_FIRST = {extension: rank for rank, extension in enumerate((*IMAGE_EXTENSIONS, "txt", "json"))}


def reads_back(key: str, extension: str) -> bool:
    """Whether a member of this name is read as it was written."""
    name = f"{key}.{extension}"
    return split_name(name) == (key, extension) and not name.startswith(("/", "./")) and "\0" not in name


class ShardFile:
    """One shard in the making; nothing of it is seen before `finish`."""

    def __init__(self) -> None:
        self._file: Any = tempfile.SpooledTemporaryFile(max_size=1 << 28)  # noqa: SIM115 (closed with its shard)
        self._digest = hashlib.sha256()
        self._keys: set[str] = set()
        self._tally = Tally()
        self._members: list[tuple[str, int, int]] = []
        self.bytes = 0
        """So far."""

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample. `key` has no dot in its last part and is new; extensions are `png`, `txt`, ...

        Raises `ValueError` for a key or an extension that would not read back as it was written.
        """
        if not members:
            raise ValueError(f"{key}: a sample without members")
        if key in self:
            raise ValueError(f"{key}: a second sample with this key in one shard")
        for extension in members:
            if not reads_back(key, extension):
                raise ValueError(f"{key}.{extension}: would not read back as key {key!r}, extension {extension!r}")
        self._keys.add(key)
        self._tally.add({extension: len(data) for extension, data in members.items()}, members)
        for extension in sorted(members, key=lambda name: (_FIRST.get(name, len(_FIRST)), name)):
            self._append(f"{key}.{extension}", members[extension])

    def finish(self, store: Store, name: str) -> tuple[ShardEntry, bytes]:
        """Write it into the folder; its entry and packed table."""
        self._put(bytes(2 * BLOCK))
        self._put(bytes(-self.bytes % _RECORD))
        store.write(name, self._file)
        table = make_table(self._members)
        self.close()
        return entry_of(name, self.bytes, self._digest.hexdigest(), table, self._tally.plain()), table.pack()

    def close(self) -> None:
        """Drop what is held."""
        self._file.close()

    def _append(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")  # mtime, uid, gid are 0
        self._put(header)
        self._members.append((name, self.bytes, len(data)))
        self._put(data + bytes(-len(data) % BLOCK))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)


class ShardWriter:
    """Writes `OUT/shard-00000.tar`, ... and at the end the index.

    >>> with ShardWriter("shards/cats") as writer:
    ...     writer.write("000001", {"png": png_bytes, "txt": "a cat".encode()})

    Leaving the `with` block by an exception drops the unfinished shard and writes no index: the finished shards are
    good, and the folder says that it isn't complete by having no `index.json`. A folder that already has shards is
    refused unless `overwrite`, which removes the old index and shards first, or `kept`, which names the shards of an
    earlier writer to go on behind: those are left as they are, others removed.

    Args:
        samples_per_shard, bytes_per_shard: a shard ends at either; a sample larger than the bytes has its own.
        kept: entries and packed tables of the finished shards, from the first on; an empty list begins anew.
        on_shard: told of each shard as soon as it stands.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        prefix: str = "shard",
        samples_per_shard: int = 1000,
        bytes_per_shard: int = 1 << 29,
        overwrite: bool = False,
        kept: Sequence[tuple[ShardEntry, bytes]] | None = None,
        on_shard: Callable[[ShardEntry, bytes], Any] = lambda entry, table: None,
    ) -> None:
        self.store = Store(out)
        self.prefix = prefix
        self.samples_per_shard = samples_per_shard
        self.bytes_per_shard = bytes_per_shard
        self.index: Index | None = None
        self._entries: list[ShardEntry] = [entry for entry, _ in kept or ()]
        self._tables: list[bytes] = [table for _, table in kept or ()]
        self._on_shard = on_shard
        self._make_room(overwrite or kept is not None)
        self._file = ShardFile()

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample; see `ShardFile.write`."""
        size = sum(len(data) for data in members.values())
        if len(self._file) and self._file.bytes + size > self.bytes_per_shard:
            self._finish_shard()
        self._file.write(key, members)
        if len(self._file) >= self.samples_per_shard:  # at once: a stop now costs nothing
            self._finish_shard()

    def has(self, key: str) -> bool:
        """Whether the shard that is being written holds this key."""
        return key in self._file

    def close(self) -> Index:
        """Finish the last shard, write the index, return it. A writer that got no sample writes one empty shard."""
        if len(self._file) or not self._entries:
            self._finish_shard()
        self._file.close()
        self.index = Index(self._entries, self._tables)
        save_index(self.store, self.index)
        return self.index

    def abort(self) -> None:
        """Drop the unfinished shard; no index is written."""
        self._file.close()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _make_room(self, replace: bool) -> None:
        if not self.store.exists():
            return
        if not self.store.is_folder():
            raise UserError(f"{self.store.url}: is a file; --out wants a folder")
        ours = (INDEX, MEMBERS)
        old = [name for name in self.store.names() if name in ours or name.endswith((".tar", ".partial"))]
        if old and not replace:
            raise UserError(
                f"{self.store.url}: has {len(old)} shard files already ({old[0]}, ...); choose another or overwrite"
            )
        kept = {entry.name for entry in self._entries}
        for name in sorted(old, key=lambda name: name != INDEX):  # the index first: without it the set isn't complete
            if name not in kept:
                self.store.remove(name)

    def _name(self) -> str:
        return f"{self.prefix}-{len(self._entries):05d}.tar"

    def _finish_shard(self) -> None:
        entry, table = self._file.finish(self.store, self._name())
        self._entries.append(entry)
        self._tables.append(table)
        self._on_shard(entry, table)
        self._file = ShardFile()
