"""Where the members of a WebDataset shard stand: one row a sample, one column an extension.

webdataset's conventions: a member's key is its path up to the first dot of its base name, its extension the rest, in
lower case; members with one key make a sample. Two things webdataset gets wrong or refuses are put right here, because
a table allows random access: members of a sample that are not adjacent still make one sample (counted), and a second
member with the same key and extension is left aside (counted and named).

Nothing is ever extracted: names are only read. Links, devices and sparse members are left aside and counted.
"""

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from raexla.data.shards.headers import BLOCK, read_members
from raexla.data.shards.store import ShardDamaged

__all__ = ["BLOCK", "IMAGE_EXTENSIONS", "MemberTable", "make_table", "scan", "split_name"]

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")
"""In the order in which a sample's image is looked for."""


_MANY_EXTENSIONS = 64  # up to here a table grows as its shard does
_MAX_CELLS = 1 << 18  # samples x extensions of a table with more of them
_MAX_TABLE = 1 << 28  # bytes of a shard's table, unpacked


class _TooWide(Exception):
    """A table with too many columns."""


def split_name(name: str) -> tuple[str, str] | None:
    """`a/b.seg.PNG` -> (`a/b`, `seg.png`); None for names without a key or an extension (`.hidden`, `README`)."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or not extension:
        return None
    return f"{folder}{slash}{stem}", extension.lower()


@dataclass
class MemberTable:
    """`offsets` and `sizes` are int64 `[samples, extensions]`: where a member's bytes stand in the shard; -1 =
    absent."""

    keys: list[str]
    extensions: list[str]
    offsets: np.ndarray
    sizes: np.ndarray
    not_adjacent: int = 0
    """Samples whose members were not next to one another."""
    duplicates: list[str] = field(default_factory=list)
    """Members left aside because an earlier one had the same key and extension."""
    left_aside: dict[str, int] = field(default_factory=dict)
    """Why -> number of other members that can't be used: `link`, `device`, `sparse`, `other`, `no key or extension`."""

    def __len__(self) -> int:
        return len(self.keys)

    def members(self, row: int) -> dict[str, tuple[int, int]]:
        """Extension -> (offset, size) of one sample."""
        return {
            extension: (int(self.offsets[row, column]), int(self.sizes[row, column]))
            for column, extension in enumerate(self.extensions)
            if self.sizes[row, column] >= 0
        }

    def span(self, first: int, last: int) -> tuple[int, int]:
        """The byte range `[start, end)` that holds the samples `[first, last)`."""
        offsets, sizes = self.offsets[first:last], self.sizes[first:last]
        present = sizes >= 0
        return int(offsets[present].min()), int((offsets[present] + sizes[present]).max())

    def counts(self) -> dict[str, int]:
        """Extension -> number of samples that have it."""
        present = (self.sizes >= 0).sum(axis=0)
        return {extension: int(count) for extension, count in zip(self.extensions, present, strict=True)}

    def digest(self) -> str:
        """Hash of keys, extensions and sizes: what the order of a run is a function of."""
        plain = json.dumps([self.keys, self.extensions, self.sizes.tolist()], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(plain.encode()).hexdigest()

    def pack(self) -> bytes:
        """Compact bytes (gzipped JSON, offsets as differences), the same on every machine."""
        flat = self.offsets.reshape(-1)
        plain = {
            "keys": self.keys,
            "extensions": self.extensions,
            "offset_steps": np.diff(flat, prepend=0).tolist(),
            "sizes": self.sizes.reshape(-1).tolist(),
            "not_adjacent": self.not_adjacent,
            "duplicates": self.duplicates,
            **({"left_aside": self.left_aside} if self.left_aside else {}),
        }
        return gzip.compress(json.dumps(plain, ensure_ascii=True, separators=(",", ":")).encode(), 6, mtime=0)

    @classmethod
    def unpack(cls, data: bytes) -> "MemberTable":
        """The inverse of `pack`. Raises `ValueError` for anything else."""
        try:
            plain = json.loads(_gunzip(data))
            shape = (len(plain["keys"]), len(plain["extensions"]))
            offsets = np.cumsum(np.asarray(plain["offset_steps"], dtype=np.int64)).reshape(shape)
            sizes = np.asarray(plain["sizes"], dtype=np.int64).reshape(shape)
            left_aside = plain.get("left_aside", {})
            return cls(
                plain["keys"],
                plain["extensions"],
                offsets,
                sizes,
                plain["not_adjacent"],
                plain["duplicates"],
                left_aside,
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError, zlib.error) as error:
            raise ValueError(f"no member table: {type(error).__name__}: {error}") from None


def make_table(members: Iterable[tuple[str, int, int]]) -> MemberTable:
    """(name, offset, size) of the members in their order -> table. Names without key or extension are passed over."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    duplicates: list[str] = []
    apart: set[str] = set()
    previous = None
    for name, offset, size in members:
        parts = split_name(name)
        if parts is None:
            continue
        key, extension = parts
        sample = samples.setdefault(key, {})
        if extension in sample:
            duplicates.append(name)
            continue
        if sample and key != previous:
            apart.add(key)
        previous = key
        sample[extension] = (offset, size)
    extensions = sorted({extension for sample in samples.values() for extension in sample})
    if len(extensions) > _MANY_EXTENSIONS and len(samples) * len(extensions) > _MAX_CELLS:
        raise _TooWide(
            f"{len(extensions)} different extensions in {len(samples)} samples (such as {extensions[0]!r} and "
            f"{extensions[-1]!r}): a key ends at the first dot of a file's name, so keys must have none"
        )
    column = {extension: number for number, extension in enumerate(extensions)}
    offsets = np.full((len(samples), len(extensions)), -1, dtype=np.int64)
    sizes = np.full((len(samples), len(extensions)), -1, dtype=np.int64)
    for row, sample in enumerate(samples.values()):
        for extension, (offset, size) in sample.items():
            offsets[row, column[extension]], sizes[row, column[extension]] = offset, size
    return MemberTable(list(samples), extensions, offsets, sizes, len(apart), duplicates)


def scan(file: BinaryIO, name: str) -> MemberTable:
    """Read a shard's headers. Raises `ShardDamaged` for what isn't a tar that ends with its end marker, or whose names
    would make a table out of all proportion."""
    left_aside: Counter[str] = Counter()

    def files() -> Iterator[tuple[str, int, int]]:
        for member in read_members(file, name):
            plain = member.name.removeprefix("./")
            if member.kind not in ("file", "folder"):
                left_aside[member.kind] += 1
            elif member.kind == "file" and split_name(plain) is None:
                left_aside["no key or extension"] += 1
            elif member.kind == "file":
                yield plain, member.offset, member.size

    try:
        table = make_table(files())
    except _TooWide as error:
        raise ShardDamaged(f"{name}: {error}") from None
    table.left_aside = dict(sorted(left_aside.items()))
    return table


def _gunzip(data: bytes) -> bytes:
    """One gzip stream of at most `_MAX_TABLE` bytes."""
    unpacker = zlib.decompressobj(wbits=31)
    plain = unpacker.decompress(data, _MAX_TABLE)
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("no member table: cut short, too long, or with something behind it")
    return plain
