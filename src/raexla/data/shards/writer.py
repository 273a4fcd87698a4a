"""Write WebDataset shards: the same samples give the same bytes, a shard appears whole or not at all."""

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from raexla.data.shards.index import INDEX, MEMBERS, Index, ShardEntry, digest_of, entry_of, save_index
from raexla.data.shards.store import ShardDamaged, Store
from raexla.data.shards.tar import BLOCK, IMAGE_EXTENSIONS, make_table, scan, split_name
from raexla.recipe import UserError

_RECORD = 20 * BLOCK  # tar files are padded to whole records
_FIRST = {extension: rank for rank, extension in enumerate((*IMAGE_EXTENSIONS, "txt", "json"))}


class ShardWriter:
    """Writes `OUT/shard-00000.tar`, ... and at the end the index.

    >>> with ShardWriter("shards/cats") as writer:
    ...     writer.write("000001", {"png": png_bytes, "txt": "a cat".encode()})

    Leaving the `with` block by an exception drops the unfinished shard and writes no index: the finished shards are
    good, and the folder says that it isn't complete by having no `index.json`. A folder that already has shards is
    refused unless `overwrite`, which removes the old index and shards first, or `resume`, which keeps the full shards
    that are there from the first on (`kept` says how many samples they hold) and removes the rest.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        prefix: str = "shard",
        samples_per_shard: int = 1000,
        bytes_per_shard: int = 1 << 29,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.store = Store(out)
        self.prefix = prefix
        self.samples_per_shard = samples_per_shard
        self.bytes_per_shard = bytes_per_shard
        self.index: Index | None = None
        self._entries: list[ShardEntry] = []
        self._tables: list[bytes] = []
        self._make_room(overwrite, resume)
        self.kept = sum(entry.samples for entry in self._entries)
        self._begin()

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample. `key` has no dot in its last part and is new in its shard; extensions are `png`, `txt`,
        ...

        Raises `ValueError` for a key or an extension that would not read back as it was written.
        """
        if not members:
            raise ValueError(f"{key}: a sample without members")
        if key in self._keys:
            raise ValueError(f"{key}: a second sample with this key in one shard")
        for extension in members:
            if split_name(f"{key}.{extension}") != (key, extension) or key.startswith("/") or "\0" in key:
                raise ValueError(f"{key}.{extension}: would not read back as key {key!r}, extension {extension!r}")
        size = sum(len(data) for data in members.values())
        if self._keys and self._offset + size > self.bytes_per_shard:
            self._finish_shard()
            self._begin()
        self._keys.add(key)
        for extension in sorted(members, key=lambda name: (_FIRST.get(name, len(_FIRST)), name)):
            self._append(f"{key}.{extension}", members[extension])
        if len(self._keys) >= self.samples_per_shard:  # at once: a stop now costs nothing
            self._finish_shard()
            self._begin()

    def close(self) -> Index:
        """Finish the last shard, write the index, return it. A writer that got no sample writes one empty shard."""
        if self._keys or not self._entries:
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

    def _make_room(self, overwrite: bool, resume: bool) -> None:
        if not self.store.exists():
            return
        if not self.store.is_folder():
            raise UserError(f"{self.store.url}: is a file; --out wants a folder")
        old = [name for name in self.store.names() if name in (INDEX, MEMBERS) or name.endswith((".tar", ".partial"))]
        if resume:
            kept = self._keep(set(old))
            old = [name for name in old if name not in kept]
        elif old and not overwrite:
            raise UserError(
                f"{self.store.url}: has {len(old)} shard files already ({old[0]}, ...); choose another or overwrite"
            )
        for name in sorted(old, key=lambda name: name != INDEX):  # the index first: without it the set isn't complete
            self.store.remove(name)

    def _keep(self, names: set[str]) -> set[str]:
        """Takes over the full shards among `names`, from the first on."""
        while (name := self._name()) in names:
            try:
                with self.store.open(name) as file:
                    table = scan(file, f"{self.store.url}/{name}")
                    entry = entry_of(name, self.store.size(name), digest_of(file), table)
            except ShardDamaged:
                break
            if entry.samples != self.samples_per_shard:
                break
            self._entries.append(entry)
            self._tables.append(table.pack())
        return {entry.name for entry in self._entries}

    def _name(self) -> str:
        return f"{self.prefix}-{len(self._entries):05d}.tar"

    def _begin(self) -> None:
        self._file: Any = tempfile.SpooledTemporaryFile(max_size=1 << 28)  # noqa: SIM115 (closed with its shard)
        self._digest = hashlib.sha256()
        self._offset = 0
        self._keys: set[str] = set()
        self._members: list[tuple[str, int, int]] = []

    def _append(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")  # mtime, uid, gid are 0
        self._put(header)
        self._members.append((name, self._offset, len(data)))
        self._put(data + bytes(-len(data) % BLOCK))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._offset += len(data)

    def _finish_shard(self) -> None:
        self._put(bytes(2 * BLOCK))
        self._put(bytes(-self._offset % _RECORD))
        name = self._name()
        self.store.write(name, self._file)
        table = make_table(self._members)
        self._entries.append(entry_of(name, self._offset, self._digest.hexdigest(), table))
        self._tables.append(table.pack())
        self._file.close()
