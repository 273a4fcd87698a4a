#!/usr/bin/env python3
"""Pictures per CPU-second: raexla's data loader next to plain webdataset and MosaicML's StreamingDataset.

All read the same JPEGs from the same disk, one process each and nothing ahead, in rounds: in each round every variant
has a turn, in an order that changes, and its rate is divided by webdataset's of that round. Reported are the median of
these ratios and the smallest and largest. CPU seconds are those of all threads.

    webdataset    plain: shuffled shards and samples, Pillow decodes, Pillow resizes
    same          raexla with that very decoding: what order, index, cursor and checks cost
    exact         raexla as it comes: the same pixels, JPEGs without Pillow's detours
    fast          raexla with `transform.fast: true`
    streaming     StreamingDataset, shuffled, with that very decoding; needs --mosaic PYTHON, an environment of its own:
                  python -m venv V && V/bin/pip install mosaicml-streaming, then --mosaic V/bin/python
"""

import argparse
import io
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import webdataset as wds
from PIL import Image

from raexla.data import CentreCropRecipe, DataRecipe, LoaderRecipe, OrderRecipe, SourceRecipe, image_rows, open_loader
from raexla.data.shards import ShardWriter

BATCH = 32
SIZES = {256: 224, 384: 256, 512: 256}
"""Side of the stored JPEGs -> side of what is made of them."""
STREAMING = Path(__file__).with_name("streaming_turns.py")


def write(folder: Path, side: int, count: int) -> None:
    """Captioned JPEGs (quality 90) whose spectrum falls as photographs' does, as tars and loose."""
    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    falling = np.hypot(rows, columns)
    falling[0, 0] = 1.0
    (folder / "loose").mkdir(parents=True)
    with ShardWriter(folder / "tars", samples_per_shard=100) as writer:
        for number in range(count):
            waves = np.fft.rfft2(rng.normal(size=(side, side, 3)), axes=(0, 1)) / falling[..., None] ** 1.2
            pixels = np.fft.irfft2(waves, s=(side, side), axes=(0, 1))
            low, high = pixels.min(), pixels.max()
            out = io.BytesIO()
            Image.fromarray(((pixels - low) / (high - low) * 255).astype(np.uint8)).save(out, "JPEG", quality=90)
            writer.write(f"{number:06d}", {"jpg": out.getvalue(), "txt": b"a picture of nothing much"})
            (folder / "loose" / f"{number:06d}.jpg").write_bytes(out.getvalue())


def pillow(data: bytes, **_: object) -> np.ndarray:
    """As webdataset's `rgb8` decodes."""
    with io.BytesIO(data) as stream:
        image = Image.open(stream)
        image.load()
        return np.asarray(image.convert("RGB"))


def ours(folder: Path, side: int, *, fast: bool = False, plainly: bool = False) -> Iterator[int]:
    """Batches by raexla's loader; gives the size of each."""
    transform, collate = image_rows(CentreCropRecipe(type="centre_crop", size=side, fast=fast))
    data = DataRecipe(
        sources=(SourceRecipe(name="bench", path=str(folder / "tars"), group=""),),
        order=OrderRecipe(streams=4),
        loader=LoaderRecipe(read_ahead=0),
    )
    with ExitStack() as held:
        if plainly:
            held.enter_context(mock.patch("raexla.data.source.decode_image", pillow))
        options = {"transform": transform, "collate": collate, "global_batch_images": BATCH, "seed": 0}
        for batch in held.enter_context(open_loader(data, **options)):
            yield len(batch.arrays["pixels"])


def webdataset(folder: Path, side: int) -> Iterator[int]:
    """Batches by plain webdataset."""
    shards = sorted(str(path) for path in (folder / "tars").glob("*.tar"))
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards), empty_check=False)
        .repeat()
        .shuffle(256)
        .decode("rgb8")
        .to_tuple("jpg", "txt")
        .map_tuple(lambda pixels: np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)))
        .batched(BATCH)
    )
    for pixels, _ in dataset:
        yield len(np.stack(pixels))


def turn(batches: Iterator[int], pictures: int) -> float:
    """Pictures per CPU-second, after two batches to warm up."""
    next(batches)
    next(batches)
    start, done = time.process_time(), 0
    while done < pictures:
        done += next(batches)
    rate = done / (time.process_time() - start)
    batches.close()  # type: ignore[attr-defined]
    return rate


class Streaming:
    """StreamingDataset in another environment, which waits between its turns."""

    def __init__(self, python: str, folder: Path, side: int) -> None:
        command = [python, str(STREAMING), str(folder / "loose"), str(folder / "mds"), str(side), str(BATCH)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self, pictures: int) -> float:
        """Pictures per CPU-second."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(pictures, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self.process.communicate()


def compare(folder: Path, side: int, pictures: int, rounds: int, mosaic: str | None) -> dict[str, list[float]]:
    """Variant -> its rate in each round."""
    turns: dict[str, Callable[[], float]] = {
        "webdataset": lambda: turn(webdataset(folder, side), pictures),
        "same": lambda: turn(ours(folder, side, plainly=True), pictures),
        "exact": lambda: turn(ours(folder, side), pictures),
        "fast": lambda: turn(ours(folder, side, fast=True), pictures),
    }
    with ExitStack() as held:
        if mosaic:
            streaming = Streaming(mosaic, folder, side)
            held.callback(streaming.close)
            turns["streaming"] = lambda: streaming.turn(pictures)
        rates: dict[str, list[float]] = {name: [] for name in turns}
        for number in range(rounds):
            names = list(turns)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                rates[name].append(turns[name]())
    return rates


def main() -> None:
    """Print a line a variant and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=256, help="of a turn")
    parser.add_argument("--mosaic", metavar="PYTHON", help="a Python that has mosaicml-streaming")
    options = parser.parse_args()
    if not options.mosaic:
        print("streaming is left out: --mosaic names a Python that has mosaicml-streaming")
    for stored, side in SIZES.items():
        with tempfile.TemporaryDirectory() as temporary:
            write(Path(temporary), stored, 200)
            rates = compare(Path(temporary), side, options.pictures, options.rounds, options.mosaic)
        print(f"JPEG {stored} -> {side}: pictures per CPU-second, and divided by webdataset's")
        for name, found in rates.items():
            ratios = [rate / plain for rate, plain in zip(found, rates["webdataset"], strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"  {name:10s} {statistics.median(found):6.0f}   {spread}", flush=True)


if __name__ == "__main__":
    main()
