"""Read single samples out of shards, by (shard, row), in any order, with bounded memory.

On a local disk a sample is one read of its own bytes: the page cache does the rest. On remote storage whole pieces
(runs of neighbouring samples, the unit of the shuffle) are fetched by range reads and kept in a cache of a stated size.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, Generic, TypeVar

from raexla.data.sample import Refused
from raexla.data.shards.index import Index, Say, load_index
from raexla.data.shards.store import Retry, ShardDamaged, Store
from raexla.data.shards.tar import MemberTable

V = TypeVar("V")

MAX_SAMPLE_BYTES = 1 << 28
"""A sample of more is refused unread: no picture that training can use has 256 MiB."""

_GAP = 1 << 16  # bytes between members that are read along rather than asked for in two requests


class BoundedCache(Generic[V]):
    """Least recently used values up to a total cost. Safe between threads; a value is made once even if two ask for
    it. A pickled one comes back empty."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.limit,)

    def get(self, key: Hashable, make: Callable[[], tuple[V, int]]) -> V:
        """The value of `key`; `make` gives (value, cost). A value that alone costs more than the limit isn't kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._values:
                    return self._values[key][0]
            try:
                value, cost = make()
            finally:
                with self._lock:
                    self._making.pop(key, None)
            with self._lock:
                if cost <= self.limit:
                    self._values[key] = (value, cost)
                    self.held += cost
                while self.held > self.limit:
                    self.held -= self._values.popitem(last=False)[1][1]
            return value


class ShardSet:
    """The shards under one path or URL, or those of `names`, with their index.

    `samples` counts all; `read(shard, row)` gives a sample's members. `cache` is shared between sets, so that one
    limit holds for all sources of a run.
    """

    def __init__(
        self,
        url: str,
        *,
        names: Sequence[str] | None = None,
        piece: int = 64,
        cache: BoundedCache[bytes] | None = None,
        retry: Retry | None = None,
        say: Say | None = None,
    ) -> None:
        self.store = Store(url, retry)
        self.index: Index = load_index(self.store, names=names, say=say)
        self.piece = piece
        self._cache = cache or BoundedCache(1 << 28)
        self._tables: BoundedCache[MemberTable] = BoundedCache(2_000_000)  # samples whose places are held
        self._checked: set[int] = set()

    @property
    def samples(self) -> int:
        """Samples of all shards."""
        return self.index.samples

    @property
    def cached_sample_bytes(self) -> float:
        """Mean bytes of a sample that the cache of remote pieces holds; 0 on a local disk, where there is none."""
        return 0.0 if self.store.local else self.index.bytes / max(1, self.samples)

    def table(self, shard: int) -> MemberTable:
        """Where the members of a shard stand. The shard's size is checked against the index when it is first used."""
        if shard not in self._checked:
            entry = self.index.shards[shard]
            size = self.store.size(entry.name)
            if size != entry.bytes:
                raise ShardDamaged(
                    f"{self.store.url}/{entry.name}: {size} bytes, its index says {entry.bytes}: the shard was "
                    f"changed or cut "
                    f"short; `raexla shards verify {self.store.url}` tells, `raexla shards index` makes a new index"
                )
            self._checked.add(shard)

        def load() -> tuple[MemberTable, int]:
            table = self.index.table(self.store, shard)
            return table, len(table) + 1

        return self._tables.get(shard, load)

    def key(self, shard: int, row: int) -> str:
        """`shard-name/key`, unique in the set."""
        return f"{self.index.shards[shard].name.removesuffix('.tar')}/{self.table(shard).keys[row]}"

    def read(self, shard: int, row: int, wanted: Collection[str] | None = None) -> dict[str, bytes]:
        """The members of one sample, by extension; only those `wanted`, if given.

        Raises `Refused("image_too_large")` for more than `MAX_SAMPLE_BYTES`.
        """
        table = self.table(shard)
        places = table.members(row)
        if wanted is not None:
            places = {extension: place for extension, place in places.items() if extension in wanted}
        if not places:
            return {}
        total = sum(size for _, size in places.values())
        if total > MAX_SAMPLE_BYTES:
            raise Refused("image_too_large", f"{total} bytes in {', '.join(places)}, limit {MAX_SAMPLE_BYTES}")
        start = min(offset for offset, _ in places.values())
        end = max(offset + size for offset, size in places.values())
        name = self.index.shards[shard].name
        if not self.store.local:
            first = row - row % self.piece
            low, high = table.span(first, min(len(table), first + self.piece))
            if high - low <= self._cache.limit // 8:

                def fetch() -> tuple[bytes, int]:
                    data = self.store.read(name, low, high)
                    return data, len(data)

                data = self._cache.get((self.store.url, name, first), fetch)
                return {
                    extension: data[offset - low : offset - low + size] for extension, (offset, size) in places.items()
                }
        if end - start > 2 * total + _GAP:  # members far apart
            return {
                extension: self.store.read(name, offset, offset + size) for extension, (offset, size) in places.items()
            }
        data = self.store.read(name, start, end)
        return {extension: data[offset - start : offset - start + size] for extension, (offset, size) in places.items()}
