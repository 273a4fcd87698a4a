"""What a layout's reader is, and several readers as one."""

import bisect
import hashlib
import json
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable


class Reader(Protocol):
    """Samples by (shard, row). Safe between threads; can be pickled, without what it holds in memory for speed."""

    @property
    def shard_samples(self) -> list[int]:
        """Samples of each shard."""

    @property
    def order_hash(self) -> str:
        """Stands for all that the order of a run is a function of: shards, samples, keys."""

    @property
    def manifest_hash(self) -> str | None:
        """Stands for the contents; None where they weren't read."""

    @property
    def cached_sample_bytes(self) -> float:
        """Mean bytes of a sample that the cache of remote pieces holds; 0 where nothing is cached."""

    def key(self, shard: int, row: int) -> str:
        """A sample's name: unique in the set, the same for good."""

    def read(self, shard: int, row: int, wanted: Collection[str] | None = None) -> dict[str, bytes]:
        """A sample's members by extension, only those `wanted`, if given.

        The caption is `txt`, the object that holds the rest `json`, the picture has one of the image extensions. Raises
        `Refused` for the sample's content, `UserError` for the storage.
        """


@runtime_checkable
class Tars(Reader, Protocol):
    """A reader whose shards are files; a sample's key is `shard_name without .tar/key in the shard`."""

    @property
    def shard_names(self) -> list[str]:
        """What the shards are called."""


class Joined:
    """Several readers one after another. `names` stand before the keys, so that equal names stay apart."""

    def __init__(self, readers: Sequence[Reader], names: Sequence[str]) -> None:
        self.readers = list(readers)
        self._names = [f"{name}/" if name else "" for name in names]
        self._ends = list(accumulate(len(reader.shard_samples) for reader in self.readers))

    @property
    def shard_samples(self) -> list[int]:
        """Samples of each shard."""
        return [samples for reader in self.readers for samples in reader.shard_samples]

    @property
    def shard_names(self) -> list[str]:
        """With the names of their parts. Raises `AttributeError` where a part's shards are no files."""
        return [
            f"{part}{name}"
            for part, reader in zip(self._names, self.readers, strict=True)
            for name in reader.shard_names  # type: ignore[attr-defined]
        ]

    @property
    def order_hash(self) -> str:
        """Of the parts' hashes and names."""
        return hash_of([[name, reader.order_hash] for name, reader in zip(self._names, self.readers, strict=True)])

    @property
    def manifest_hash(self) -> str | None:
        """Of the parts' hashes; None if one has none."""
        parts = [reader.manifest_hash for reader in self.readers]
        return None if None in parts else hash_of(parts)

    @property
    def cached_sample_bytes(self) -> float:
        """The mean over all samples."""
        counts = [sum(reader.shard_samples) for reader in self.readers]
        held = sum(reader.cached_sample_bytes * count for reader, count in zip(self.readers, counts, strict=True))
        return held / max(1, sum(counts))

    def key(self, shard: int, row: int) -> str:
        """`part/shard/key`."""
        part, inner = self._place(shard)
        return self._names[part] + self.readers[part].key(inner, row)

    def read(self, shard: int, row: int, wanted: Collection[str] | None = None) -> dict[str, bytes]:
        """The members of one sample."""
        part, inner = self._place(shard)
        return self.readers[part].read(inner, row, wanted)

    def _place(self, shard: int) -> tuple[int, int]:
        part = bisect.bisect_right(self._ends, shard)
        return part, shard - (self._ends[part - 1] if part else 0)


def hash_of(value: Any) -> str:
    """SHA-256 of plain JSON values."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()
