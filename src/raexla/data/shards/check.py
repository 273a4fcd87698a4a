"""`verify` and `stats`: are the shards what their index says, and what is in them."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raexla.data.decode import decode_image, open_image
from raexla.data.parse import find_captions, parse_json
from raexla.data.sample import Refused
from raexla.data.shards.index import INDEX, ShardEntry, read_index, shard_names
from raexla.data.shards.reader import ShardSet
from raexla.data.shards.store import ShardDamaged, Store
from raexla.data.shards.tar import IMAGE_EXTENSIONS, scan
from raexla.recipe import UserError

Progress = Callable[[int], None]


@dataclass
class VerifyReport:
    """`problems` is empty when the set is what its index says."""

    shards: int
    samples: int
    bytes: int
    problems: list[str] = field(default_factory=list)


def verify(folder: str, *, decode: bool = False, progress: Progress | None = None) -> VerifyReport:
    """Read every byte of every shard and compare with `index.json`; with `decode`, decode every picture too.

    Finds missing, added, cut, changed shards and shards whose member table is another. Raises `UserError` without an
    index.
    """
    store = Store(folder)
    present = set(shard_names(store))
    if not store.exists(INDEX):
        raise UserError(f"{store.url}: no {INDEX} to verify against; `raexla shards index {store.url}` makes one")
    index = read_index(store)
    report = VerifyReport(len(index.shards), index.samples, index.bytes)
    listed = {entry.name for entry in index.shards}
    report.problems += [f"{name}: in the index, not in the folder" for name in sorted(listed - present)]
    report.problems += [f"{name}: in the folder, not in the index" for name in sorted(present - listed)]
    for number, entry in enumerate(index.shards):
        if entry.name in present:
            try:
                index.table(store, number)
                report.problems += _verify_shard(store, entry)
            except ShardDamaged as error:
                report.problems.append(str(error))
        if progress is not None:
            progress(number + 1)
    if decode and not report.problems:
        report.problems += _undecodable(folder)
    return report


def _verify_shard(store: Store, entry: ShardEntry) -> list[str]:
    name, size = entry.name, store.size(entry.name)
    if size != entry.bytes:
        return [f"{name}: {size} bytes, the index says {entry.bytes}: cut short or replaced"]
    with store.open(name) as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
        if entry.sha256 is not None and digest.hexdigest() != entry.sha256:
            return [f"{name}: SHA-256 {digest.hexdigest()}, the index says {entry.sha256}: its bytes were changed"]
        file.seek(0)
        if scan(file, f"{store.url}/{name}").digest() != entry.table_sha256:
            return [f"{name}: its members aren't those of the index"]
    return []


def _undecodable(folder: str) -> list[str]:
    shards, problems = ShardSet(folder), []
    for number, entry in enumerate(shards.index.shards):
        for row in range(entry.samples):
            members = shards.read(number, row, IMAGE_EXTENSIONS)
            for extension, data in members.items():
                try:
                    decode_image(data)
                except Refused as refusal:
                    problems.append(f"{shards.key(number, row)}.{extension}: {refusal}")
    return problems


def stats(folder: str, *, limit: int | None = 10_000, progress: Progress | None = None) -> dict[str, Any]:
    """What is in a set: totals, extensions and, over at most `limit` samples spread evenly, image formats, modes and
    sizes, caption lengths, and what would be refused. Plain JSON values; image headers are read, pictures aren't
    decoded."""
    shards = ShardSet(folder)
    index = shards.index
    places = [(number, row) for number, entry in enumerate(index.shards) for row in range(entry.samples)]
    if limit is not None and len(places) > limit:
        places = [places[number * len(places) // limit] for number in range(limit)]
    formats: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    widths, heights, characters = [], [], []
    for seen, (number, row) in enumerate(places, 1):
        members = shards.read(number, row)
        data = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
        try:
            if data is not None:
                image = open_image(data)
                formats[f"{image.format} {image.mode}"] += 1
                widths.append(image.width)
                heights.append(image.height)
            meta = parse_json(members["json"]) if "json" in members else {}
            if "txt" in members or "captions" in meta:
                characters.append(len(find_captions(members, meta, ("txt", "json.captions"))[0]))
        except Refused as refusal:
            refused[refusal.reason] += 1
        if progress is not None:
            progress(seen)
    return {
        "samples": index.samples,
        "shards": len(index.shards),
        "empty_shards": [entry.name for entry in index.shards if entry.samples == 0],
        "bytes": index.bytes,
        "manifest_hash": index.manifest_hash,
        "order_hash": index.order_hash,
        "extensions": index.schema,
        "examined": len(places),
        "image_formats": dict(formats.most_common()),
        "width_pixels": _spread(widths),
        "height_pixels": _spread(heights),
        "caption_characters": _spread(characters),
        "refused": dict(refused.most_common()),
    }


def _spread(values: list[int]) -> dict[str, float]:
    if not values:
        return {}
    low, quarter, median, three, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    return {"min": low, "p25": quarter, "median": median, "p75": three, "max": high}
