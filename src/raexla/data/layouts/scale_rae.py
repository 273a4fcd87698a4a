"""The tars of the official Scale-RAE loader: every JSON member is a sample and names its picture.

    sample_000001.json   {"conversations": [{"from": "human", "value": ...}, ...], "metadata": {},
                          "image_filename": "sample_000001.png"}
    sample_000001.png

The picture is a member of the same tar, wherever it stands and whatever its name; without `image_filename` the sample
has none. The tars are listed in a `wds_manifest.json`.
"""

from collections.abc import Collection

import numpy as np

from raexla.data.layouts.reader import hash_of
from raexla.data.parse import inside, parse_json
from raexla.data.sample import Refused
from raexla.data.shards.reader import BoundedCache, ShardSet
from raexla.data.shards.tar import IMAGE_EXTENSIONS, split_name
from raexla.recipe import UserError

_Rows = tuple[list[tuple[int, str]], dict[str, int]]
"""Sample -> (row of the member table, extension of its JSON); key -> row of the member table."""


class ScaleRaeTars:
    """JSON members with the pictures that they name, of a set of shards. Raises `UserError` where there is none."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self.shard_samples: list[int] = [
            sum(count for extension, count in shard.extensions.items() if _is_json(extension))
            for shard in shards.index.shards
        ]
        if not sum(self.shard_samples):
            raise UserError(
                f"{shards.store.url}: none of its {len(self.shard_samples)} shards has a *.json; in the official "
                "layout each sample is one. For tars of x.jpg + x.txt write `layout: webdataset` in the source's recipe"
            )
        self._rows: BoundedCache[_Rows] = BoundedCache(1_000_000)  # samples whose places are held

    @property
    def shard_names(self) -> list[str]:
        """What the shards are called."""
        return [shard.name for shard in self.shards.index.shards]

    @property
    def order_hash(self) -> str:
        """Of the index's and the layout."""
        return hash_of(["scale_rae", self.shards.index.order_hash])

    @property
    def manifest_hash(self) -> str | None:
        """The index's."""
        return self.shards.index.manifest_hash

    @property
    def cached_sample_bytes(self) -> float:
        """All members of a sample are held."""
        return self.shards.cached_sample_bytes

    def key(self, shard: int, row: int) -> str:
        """`shard/name of the JSON member`."""
        place, extension = self._places(shard)[0][row]
        return f"{self.shards.key(shard, place)}.{extension}".removesuffix(".json")

    def read(self, shard: int, row: int, wanted: Collection[str] | None = None) -> dict[str, bytes]:
        """`json` and the picture. Raises `Refused`: `bad_json`, `bad_utf8`, `missing_image`, `several_images`,
        `outside_folder`."""
        rows, keys = self._places(shard)
        place, extension = rows[row]
        pictures = wanted is None or any(name in wanted for name in IMAGE_EXTENSIONS)
        beside = self.shards.read(shard, place, {extension, *(IMAGE_EXTENSIONS if pictures else ())})
        members = {"json": beside[extension]}
        named = parse_json(beside[extension]).get("image_filename") if pictures else None
        if named is not None:
            if not isinstance(named, str):
                detail = f"image_filename: {type(named).__name__} where one name is expected"
                raise Refused("several_images" if isinstance(named, list) else "missing_image", detail)
            key, kind = split_name(inside(named)) or ("", "")
            found = beside if keys.get(key) == place else {}
            if kind not in found and key in keys:
                found = self.shards.read(shard, keys[key], {kind})
            if kind not in found:
                raise Refused("missing_image", f"image_filename: the tar has no {named}")
            last = kind.rpartition(".")[2]
            members[last if last in IMAGE_EXTENSIONS else "jpg"] = found[kind]
        return {name: data for name, data in members.items() if wanted is None or name in wanted}

    def _places(self, shard: int) -> _Rows:
        def make() -> tuple[_Rows, int]:
            table = self.shards.table(shard)
            columns = [number for number, extension in enumerate(table.extensions) if _is_json(extension)]
            found, which = np.nonzero(table.sizes[:, columns] >= 0)
            rows = [(int(row), table.extensions[columns[column]]) for row, column in zip(found, which, strict=True)]
            return (rows, {key: row for row, key in enumerate(table.keys)}), len(table) + 1

        return self._rows.get(shard, make)


def _is_json(extension: str) -> bool:
    return extension == "json" or extension.endswith(".json")
