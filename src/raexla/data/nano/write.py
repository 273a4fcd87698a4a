"""The nano data set on disk: ordinary WebDataset shards with an index, a folder for each split.

Samples are made by several processes and written in order, so that the bytes depend on (split, count, seed) alone. A
folder that is complete and was made of the same is left as it is; anything else there is written anew.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raexla.data.nano.samples import SPLITS, NanoSample, Split, samples
from raexla.data.shards.index import INDEX, read_index
from raexla.data.shards.store import Store
from raexla.data.shards.writer import ShardWriter
from raexla.recipe import UserError

RECORD = "nano.json"
FORMAT = 1
COUNTS: dict[Split, int] = {
    "pretrain": 48_000,
    "finetune": 12_000,
    "understanding": 24_000,
    "words": 2_000,
    "decoder": 16_000,
    "language": 48_000,
    "validation": 1_000,
    "held_out": 500,
}
"""Samples of each split unless told otherwise: the demo's data."""

_CHUNK = 250
_FEW = 4000  # samples that are made sooner than a second process starts
_SAMPLES_PER_SHARD = 4000


def parse_counts(values: Iterable[str]) -> dict[Split, int]:
    """`pretrain=96000` -> the default counts with that one changed.

    Raises:
        UserError: no such split, or no whole number of samples.
    """
    counts = dict(COUNTS)
    for value in values:
        name, _, number = value.partition("=")
        if name not in SPLITS:
            raise UserError(f"--count {value}: there is no split {name!r}; choose from {', '.join(SPLITS)}")
        if not number.isdigit() or int(number) < 1:
            raise UserError(f"--count {value}: write SPLIT=NUMBER, for example {name}={COUNTS[name]}")
        counts[name] = int(number)
    return counts


def members_of(sample: NanoSample) -> dict[str, bytes]:
    """A sample's files in a shard: `png` and `json` (`captions` or `conversations`, and what is known of the scene)."""
    members: dict[str, bytes] = {}
    if sample.image is not None:
        members["png"] = _png(sample.image)
    record: dict[str, Any] = dict(sample.meta)
    if sample.kind == "conversation":
        turns = [text for turn in sample.conversation for text in turn]
        record["conversations"] = [
            {"from": "gpt" if place % 2 else "human", "value": text} for place, text in enumerate(turns)
        ]
    else:
        record["captions"] = list(sample.captions)
    members["json"] = json.dumps(record, sort_keys=True).encode()
    return members


def write_nano(
    out: Path,
    counts: Mapping[Split, int],
    *,
    seed: int = 0,
    processes: int = 2,
    tick: Callable[[int], Any] = lambda count: None,
) -> list[str]:
    """Write each split to `out/SPLIT`; returns a line about each.

    Args:
        counts: samples of the splits to write.
        processes: that make samples; 1 makes them in this one.
        tick: called with the number of samples written, or found written.

    Raises:
        UserError: a split's folder holds something that is not its shards.
    """
    lines = []
    wanted: dict[Split, tuple[Path, dict[str, Any]]] = {
        split: (out / split, {"format": FORMAT, "split": split, "count": n, "seed": seed})
        for split, n in counts.items()
    }
    missing = {split for split, (folder, record) in wanted.items() if not is_complete(folder, record)}
    parallel = processes > 1 and bool(missing)
    with get_context("spawn").Pool(processes) if parallel else nullcontext() as pool:
        for split, (folder, record) in wanted.items():
            if split not in missing:
                tick(record["count"])
                lines.append(f"{folder}: {record['count']} samples, complete already")
                continue
            if folder.is_dir() and any(folder.iterdir()) and not any(folder.glob("*.tar")):
                raise UserError(f"{folder} is not empty and holds no shards; choose another --out")
            (folder / RECORD).unlink(missing_ok=True)
            jobs = [
                (split, seed, start, min(_CHUNK, record["count"] - start))
                for start in range(0, record["count"], _CHUNK)
            ]
            made = map(_make, jobs) if pool is None else pool.imap(_make, jobs)
            with ShardWriter(folder, samples_per_shard=_SAMPLES_PER_SHARD, overwrite=True) as writer:
                for chunk in made:
                    for key, members in chunk:
                        writer.write(key, members)
                    tick(len(chunk))
            assert writer.index is not None
            whole = record | {"manifest_hash": writer.index.manifest_hash}
            (folder / RECORD).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
            lines.append(f"{folder}: {record['count']} samples, {writer.index.bytes} bytes")
    return lines


def is_complete(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether `folder` holds exactly the shards that `record` describes (by its index; contents are not read)."""
    if not (folder / RECORD).is_file() or not (folder / INDEX).is_file():
        return False
    found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    index = read_index(Store(folder))
    sizes = all((folder / s.name).is_file() and (folder / s.name).stat().st_size == s.bytes for s in index.shards)
    return sizes and found == dict(record) | {"manifest_hash": index.manifest_hash}


def _make(job: tuple[Split, int, int, int]) -> list[tuple[str, dict[str, bytes]]]:
    split, seed, start, count = job
    return [(sample.key, members_of(sample)) for sample in samples(split, count, seed, start)]


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
