"""The nano data set on disk: ordinary WebDataset shards with an index, a folder for each split.

Samples are made by several processes and written in order, so that the bytes depend on (split, count, seed) alone. A
folder that is complete and was made of the same is left as it is, a part of it gone on with, all else written anew.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raexla.data.nano.samples import SPLITS, NanoSample, Split, samples
from raexla.data.shards.made import Made, Making, state_of, workers, write_made
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
    wanted = {split: making(out, split, number, seed) for split, number in counts.items()}
    missing = {split for split, one in wanted.items() if state_of(one) != "complete"}
    lines = []
    with workers(processes, sum(counts[split] for split in missing), _FEW) as pool:
        for split, one in wanted.items():
            index = write_made(one, pool=pool, overwrite=True, tick=tick).index
            state = f"{index.bytes} bytes" if split in missing else "complete already"
            lines.append(f"{one.folder}: {one.count} samples, {state}")
    return lines


def making(out: Path, split: Split, count: int, seed: int) -> Making:
    """The folder of a split."""
    record = {"format": FORMAT, "split": split, "count": count, "seed": seed}

    def job(start: int, chunk: int) -> Callable[[], Made]:
        return partial(_make, split, seed, start, chunk)

    return Making(str(out / split), count, job, record, RECORD, samples_per_shard=_SAMPLES_PER_SHARD)


def _make(split: Split, seed: int, start: int, count: int) -> Made:
    return [(sample.key, members_of(sample)) for sample in samples(split, count, seed, start)]


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
