"""`stats`: what is in a set of shards."""

import re
from collections import Counter
from functools import lru_cache, partial
from typing import Any

import numpy as np

from raexla.data.decode import open_image
from raexla.data.latents import LATENT, REFUSED, describe_latent, unpack_refusal
from raexla.data.parse import find_captions, parse_json
from raexla.data.sample import Refused
from raexla.data.shards.index import Progress
from raexla.data.shards.measure import CAPTIONS, add_up
from raexla.data.shards.parallel import ordered, workers
from raexla.data.shards.reader import ShardSet
from raexla.data.shards.tar import IMAGE_EXTENSIONS
from raexla.recipe import UserError

_CHUNK = 250  # samples that a process looks at at a time
_FEW = 4000  # that are looked at sooner than a second process starts
_COUNTS = ("formats", "refused")
_SPREADS = ("width", "height", "caption_characters")


def stats(
    folder: str,
    *,
    limit: int | None = 10_000,
    processes: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What is in a set: totals, extensions and, over at most `limit` samples spread evenly, image formats, modes and
    sizes, caption lengths, and what would be refused. `all` is what the index knows of every sample. Plain JSON values;
    image headers are read, pictures aren't decoded. `progress` opens a bar."""
    shards = ShardSet(folder)
    index = shards.index
    total = index.samples
    count = total if limit is None else min(limit, total)
    places = shards_of([entry.samples for entry in index.shards], [number * total // count for number in range(count)])
    tick = progress("samples", count) if progress else lambda count: None
    counts: dict[str, Counter[str]] = {name: Counter() for name in _COUNTS}
    spreads: dict[str, list[int]] = {name: [] for name in _SPREADS}
    with workers(processes, count, _FEW) as pool:
        chunks = [places[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
        look_at = partial(_look_at, shards) if pool is None else partial(_look_into, folder)
        for chunk, (counted, values) in zip(chunks, ordered(pool, (partial(look_at, c) for c in chunks)), strict=True):
            for name in _COUNTS:
                counts[name].update(counted[name])
            for name in _SPREADS:
                spreads[name] += values[name]
            tick(len(chunk))
    known = all(entry.statistics for entry in index.shards if entry.samples)
    return {
        "samples": total,
        "shards": len(index.shards),
        "empty_shards": [entry.name for entry in index.shards if entry.samples == 0],
        "bytes": index.bytes,
        "manifest_hash": index.manifest_hash,
        "order_hash": index.order_hash,
        "extensions": index.schema,
        "all": add_up(entry.statistics for entry in index.shards) if known else {},
        "examined": count,
        "image_formats": dict(counts["formats"].most_common()),
        "width_pixels": _spread(spreads["width"]),
        "height_pixels": _spread(spreads["height"]),
        "caption_characters": _spread(spreads["caption_characters"]),
        "refused": dict(counts["refused"].most_common()),
    }


def shards_of(samples: list[int], numbers: list[int]) -> list[tuple[int, int]]:
    """Numbers in the whole set, rising -> (shard, row)."""
    found, shard, first = [], 0, 0
    for number in numbers:
        while number >= first + samples[shard]:
            first += samples[shard]
            shard += 1
        found.append((shard, number - first))
    return found


def stats_lines(found: dict[str, Any]) -> list[str]:
    """For a person."""
    samples, examined = found["samples"], found["examined"]
    lines = [
        f"{samples:,} samples in {found['shards']:,} shards, {_size(found['bytes'])}"
        + (f", {found['bytes'] / samples / 1024:,.1f} KiB a sample" if samples else ""),
        f"manifest       {found['manifest_hash'] or 'unknown: no index; `raexla shards index` makes one'}",
        f"order          {found['order_hash']}",
    ]
    if found["empty_shards"]:
        named = ", ".join(found["empty_shards"][:5])
        lines.append(f"empty shards   {len(found['empty_shards'])}: {named}")
    sizes = found["all"].get("member_bytes", {})
    members = (
        f"{extension} {number:,}" + (f" ({_size(sizes[extension])})" if extension in sizes else "")
        for extension, number in found["extensions"].items()
    )
    lines.append(f"members        {', '.join(members)}")
    lines.append(f"of {examined:,} samples{', spread evenly' if examined < samples else ''}:")
    if found["image_formats"]:
        formats = ", ".join(f"{name} {number:,}" for name, number in found["image_formats"].items())
        lines.append(f"  pictures     {formats}")
    spreads = [name for name in ("width_pixels", "height_pixels", "caption_characters") if found[name]]
    if spreads:
        head = "".join(f"{column:>9}" for column in ("min", "p25", "median", "p75", "max"))
        lines.append(f"  {'':20}{head}")
    for name in spreads:
        lines.append(f"  {name.replace('_', ' '):20}" + "".join(f"{value:>9,.0f}" for value in found[name].values()))
    if found["refused"]:
        refused = ", ".join(f"{reason} {number:,}" for reason, number in found["refused"].items())
        lines.append(f"  would be refused: {refused}")
    else:
        lines.append("  would be refused: none (by headers, texts and JSON; `verify --decode` decodes)")
    return lines


Looked = tuple[dict[str, Counter[str]], dict[str, list[int]]]


def _look_into(folder: str, places: list[tuple[int, int]]) -> Looked:
    return _look_at(_opened(folder), places)


@lru_cache(maxsize=1)
def _opened(folder: str) -> ShardSet:
    """In a worker, which lives no longer than the call."""
    return ShardSet(folder)


def _look_at(shards: ShardSet, places: list[tuple[int, int]]) -> Looked:
    counts: dict[str, Counter[str]] = {name: Counter() for name in _COUNTS}
    values: dict[str, list[int]] = {name: [] for name in _SPREADS}
    for number, row in places:
        members = shards.read(number, row)
        data = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
        try:
            if data is not None:
                image = open_image(data)
                counts["formats"][f"{image.format} {image.mode}"] += 1
                values["width"].append(image.width)
                values["height"].append(image.height)
            if LATENT in members:
                counts["formats"][describe_latent(members[LATENT])] += 1
            if REFUSED in members:
                raise unpack_refusal(members[REFUSED])
            meta = parse_json(members["json"]) if "json" in members else {}
            if "txt" in members or "captions" in meta:
                values["caption_characters"].append(len(find_captions(members, meta, CAPTIONS)[0]))
        except Refused as refusal:
            counts["refused"][refusal.reason] += 1
    return counts, values


def _spread(values: list[int]) -> dict[str, float]:
    if not values:
        return {}
    low, quarter, median, three, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    return {"min": low, "p25": quarter, "median": median, "p75": three, "max": high}


def _size(count: int) -> str:
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count} B"


def parse_bytes(option: str, text: str) -> int:
    """`512MiB`, `200MB`, `1.5 GB` or plain bytes. Raises `UserError` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if match is None or not 1 <= (size := _in_bytes(*match.groups())) < 1 << 60:
        raise UserError(f"{option} {text}: write a size such as 512MiB, 200MB or 1GB")
    return size


def _in_bytes(number: str, unit: str, binary: str) -> int:
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(unit.lower() or " "))
