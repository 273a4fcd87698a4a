#!/usr/bin/env python3
"""Pictures per CPU-second: raexla's data loader next to plain webdataset, on the same shards, one after the other.

Two kinds of shards, made here from noise and gradients: small PNGs (32 px, where the loader's own work shows) and
photographs' size (JPEG, 384 px, cropped to 256, where decoding is nearly all). Both sides give batches of uint8 arrays
and captions; raexla besides checks, orders by seed and gives a cursor with every batch. The best round counts.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import webdataset as wds
from PIL import Image

from raexla.data import (
    CentreCropRecipe,
    DataRecipe,
    LoaderRecipe,
    OrderRecipe,
    Sample,
    SourceRecipe,
    build_transform,
    open_loader,
)
from raexla.data.shards import ShardWriter

BATCH = 32


def write_shards(folder: Path, size: int, kind: str, count: int) -> None:
    """`count` captioned pictures of `size` pixels, as PNG or JPEG."""
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 160, size)[:, None, None] + np.linspace(0, 60, size)[None, :, None]
    with ShardWriter(folder, samples_per_shard=250) as writer:
        for number in range(count):
            grain = rng.normal(0, 6, (size, size, 3))
            pixels = np.clip(slope + rng.integers(0, 60, 3) + grain, 0, 255).astype(np.uint8)
            out = io.BytesIO()
            Image.fromarray(pixels).save(out, kind, **({"quality": 90} if kind == "JPEG" else {}))
            extension = {"PNG": "png", "JPEG": "jpg"}[kind]
            writer.write(f"{number:06d}", {extension: out.getvalue(), "txt": b"a picture of nothing much"})


def ours(folder: Path, side: int) -> Iterator[int]:
    """Batches by raexla's loader; gives the size of each."""
    crop = build_transform(CentreCropRecipe(type="centre_crop", size=side))

    def transform(sample: Sample, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        assert sample.image is not None
        return crop(sample.image, rng), sample.caption or ""

    def collate(group: str, items: list[tuple[np.ndarray, str]]) -> dict[str, np.ndarray]:
        return {"pixels": np.stack([pixels for pixels, _ in items])}

    data = DataRecipe(
        sources=(SourceRecipe(name="bench", path=str(folder)),), order=OrderRecipe(streams=4), loader=LoaderRecipe()
    )
    with open_loader(data, transform=transform, collate=collate, global_batch_images=BATCH, seed=0) as loader:
        for batch in loader:
            yield len(batch.arrays["generation/pixels"])


def theirs(folder: Path, side: int) -> Iterator[int]:
    """Batches by plain webdataset with the same crop; gives the size of each."""
    crop = build_transform(CentreCropRecipe(type="centre_crop", size=side))
    rng = np.random.default_rng(0)
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards), empty_check=False)
        .repeat()
        .shuffle(256)
        .decode("rgb8")
        .to_tuple("png;jpg", "txt")
        .map_tuple(lambda pixels: crop(pixels, rng))
        .batched(BATCH)
    )
    for pixels, _ in dataset:
        yield len(np.asarray(pixels))


def rate(batches: Iterator[int], pictures: int) -> float:
    """Pictures per CPU-second, all threads counted, after two batches to warm up."""
    next(batches)
    next(batches)
    start, done = time.process_time(), 0
    while done < pictures:
        done += next(batches)
    return done / (time.process_time() - start)


def main() -> None:
    """Print a line a kind of shard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    sides: list[Callable[[Path, int], Iterator[int]]] = [ours, theirs]
    for name, size, side, kind, pictures in (("PNG 32", 32, 32, "PNG", 4000), ("JPEG 384", 384, 256, "JPEG", 600)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "shards"
            write_shards(folder, size, kind, 1000)
            best = [max(rate(side_of(folder, side), pictures) for _ in range(rounds)) for side_of in sides]
        print(f"{name:9s} raexla {best[0]:7.0f}  webdataset {best[1]:7.0f} images per CPU-second, ratio", end=" ")
        print(f"{best[0] / best[1]:.2f}")


if __name__ == "__main__":
    main()
