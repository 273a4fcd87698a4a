"""Where the members of a WebDataset shard stand: one row a sample, one column an extension.

webdataset's conventions: a member's key is its path up to the first dot of its base name, its extension the rest, in
lower case; members with one key make a sample. Two things webdataset gets wrong or refuses are put right here, because
a table allows random access: members of a sample that are not adjacent still make one sample (counted), and a second
member with the same key and extension is left aside (counted and named).

Nothing is ever extracted: names are only read.
"""

import gzip
import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from raexla.data.shards.store import ShardDamaged

BLOCK = 512
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")
"""In the order in which a sample's image is looked for."""


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
        }
        return gzip.compress(json.dumps(plain, ensure_ascii=True, separators=(",", ":")).encode(), 6, mtime=0)

    @classmethod
    def unpack(cls, data: bytes) -> "MemberTable":
        """The inverse of `pack`."""
        plain = json.loads(gzip.decompress(data))
        shape = (len(plain["keys"]), len(plain["extensions"]))
        offsets = np.cumsum(np.asarray(plain["offset_steps"], dtype=np.int64)).reshape(shape)
        sizes = np.asarray(plain["sizes"], dtype=np.int64).reshape(shape)
        return cls(plain["keys"], plain["extensions"], offsets, sizes, plain["not_adjacent"], plain["duplicates"])


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
    column = {extension: number for number, extension in enumerate(extensions)}
    offsets = np.full((len(samples), len(extensions)), -1, dtype=np.int64)
    sizes = np.full((len(samples), len(extensions)), -1, dtype=np.int64)
    for row, sample in enumerate(samples.values()):
        for extension, (offset, size) in sample.items():
            offsets[row, column[extension]], sizes[row, column[extension]] = offset, size
    return MemberTable(list(samples), extensions, offsets, sizes, len(apart), duplicates)


def scan(file: BinaryIO, name: str) -> MemberTable:
    """Read a shard's headers. Raises `ShardDamaged` for what isn't a tar that ends with its end marker."""
    return make_table(_members(file, name))


def _members(file: BinaryIO, name: str) -> Iterator[tuple[str, int, int]]:
    seen = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                seen += 1
                if info.isreg() and not info.issparse():
                    yield info.name.removeprefix("./"), info.offset_data, info.size
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            end = tar.offset  # type: ignore[attr-defined]
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ShardDamaged(f"{name}: after {seen} members: {error}: {_ADVICE}") from None
    # tarfile takes a missing or damaged header for the end; only a block of zeros is one.
    file.seek(end)
    if file.read(BLOCK) != bytes(BLOCK):
        raise ShardDamaged(f"{name}: after {seen} members there is no end-of-archive marker: {_ADVICE}")


_ADVICE = "the file is truncated or damaged; copy or write it again"
