#!/usr/bin/env python3
"""How long it takes from a cursor at sample 1,000,000 to the batch behind it.

The data set is an index of 1.25 million samples in 1,250 shards that are holes on the disk, so nothing is decoded: what
is timed is reading the index, finding the place in the order, and reading the member tables of the shards of one batch.
Each round is a fresh loader; Python's own start is not counted.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from raexla.data import DataRecipe, Sample, open_loader
from raexla.data.shards.manifest import Index, entry_of, save_index
from raexla.data.shards.store import Store
from raexla.data.shards.tar import MemberTable

SHARDS, SAMPLES, SIZE, STREAMS, BATCH = 1250, 1000, 512, 64, 256


def write(folder: Path) -> None:
    """The index, and files of the sizes that it names."""
    entries, tables = [], []
    places = (np.arange(SAMPLES, dtype=np.int64)[:, None] * 2 + 1) * 512
    for shard in range(SHARDS):
        keys = [f"{shard * SAMPLES + row:09d}" for row in range(SAMPLES)]
        table = MemberTable(keys, ["txt"], places, np.full((SAMPLES, 1), SIZE, dtype=np.int64))
        name = f"{shard:05d}.tar"
        bytes_ = (SAMPLES * 2 + 2) * 512
        with (folder / name).open("wb") as file:
            os.truncate(file.fileno(), bytes_)
        entries.append(entry_of(name, bytes_, None, table))
        tables.append(table.pack())
    save_index(Store(folder), Index(entries, tables))


def transform(sample: Sample, rng: np.random.Generator) -> int:
    """Nothing is made of the sample."""
    return 0


def collate(group: str, items: list[Any]) -> dict[str, np.ndarray]:
    """Zeros."""
    return {"zero": np.zeros(len(items))}


def resume(folder: Path, cursor: dict[str, Any] | None) -> tuple[float, dict[str, Any]]:
    """Seconds to the first batch, and its cursor."""
    source = {"name": "bench", "path": str(folder), "kind": "text", "group": ""}
    data = DataRecipe.model_validate({"sources": [source], "order": {"streams": STREAMS}, "loader": {"read_ahead": 0}})
    began = time.perf_counter()
    options = {"transform": transform, "collate": collate, "global_batch_images": BATCH, "seed": 0}
    with open_loader(data, cursor=cursor, **options) as loader:
        batch = next(loader)
        return time.perf_counter() - began, batch.cursor


def main() -> None:
    """Print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder)
        seconds, cursor = resume(folder, None)
        print(f"from the start: {seconds:.2f} s to the first batch of {BATCH}")
        cursor["slots"] = {name: [1_000_000 // STREAMS] * STREAMS for name in cursor["slots"]}
        found = [resume(folder, cursor)[0] for _ in range(rounds)]
        print(f"from sample 1,000,000: {statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()
