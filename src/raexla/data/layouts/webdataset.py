"""Tars by webdataset's conventions: members with one key make a sample."""

from collections.abc import Collection

from raexla.data.sample import Refused
from raexla.data.shards.reader import ShardSet
from raexla.data.shards.tar import IMAGE_EXTENSIONS


class WebdatasetTars:
    """`x.jpg`, `x.txt`, `x.json` -> sample `x`, of a set of shards. Extensions count in lower case."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards

    @property
    def shard_samples(self) -> list[int]:
        """Samples of each shard, in the order of the index."""
        return [shard.samples for shard in self.shards.index.shards]

    @property
    def shard_names(self) -> list[str]:
        """What the shards are called."""
        return [shard.name for shard in self.shards.index.shards]

    @property
    def order_hash(self) -> str:
        """The index's."""
        return self.shards.index.order_hash

    @property
    def manifest_hash(self) -> str | None:
        """The index's."""
        return self.shards.index.manifest_hash

    @property
    def cached_sample_bytes(self) -> float:
        """All members of a sample are held."""
        return self.shards.cached_sample_bytes

    def key(self, shard: int, row: int) -> str:
        """`shard/key`."""
        return self.shards.key(shard, row)

    def read(self, shard: int, row: int, wanted: Collection[str] | None = None) -> dict[str, bytes]:
        """The members of one sample. Raises `Refused("several_images")` for `x.0.jpg`, `x.1.jpg`, ..."""
        members = self.shards.read(shard, row, wanted)
        if wanted is not None and any(extension in wanted for extension in IMAGE_EXTENSIONS):
            if not any(extension in members for extension in IMAGE_EXTENSIONS):
                self._look(shard, row)
        return members

    def _look(self, shard: int, row: int) -> None:
        names = self.shards.table(shard).members(row)
        pictures = sorted(name for name in names if name.rpartition(".")[2] in IMAGE_EXTENSIONS)
        if len(pictures) > 1:
            raise Refused("several_images", f"{', '.join(pictures[:4])}; one is supported")
