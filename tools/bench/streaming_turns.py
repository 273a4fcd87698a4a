"""StreamingDataset's side of `data.py`, run by a Python that has mosaicml-streaming.

`PYTHON streaming_turns.py LOOSE MDS SIDE BATCH` writes the JPEGs of LOOSE into MDS in its format, then reads numbers of
pictures from stdin and answers each with the pictures per CPU-second that it made of so many.
"""

import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from streaming import MDSWriter, StreamingDataset


def batches(folder: str, side: int, batch: int) -> Iterator[int]:
    """Shuffled batches, epoch after epoch; gives the size of each."""
    dataset = StreamingDataset(local=folder, shuffle=True, shuffle_seed=0, batch_size=batch)
    rows: list[np.ndarray] = []
    while True:
        for sample in dataset:
            with io.BytesIO(sample["jpg"]) as stream:
                image = Image.open(stream)
                image.load()
                pixels = np.asarray(image.convert("RGB"))
            rows.append(np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)))
            if len(rows) == batch:
                yield len(np.stack(rows))
                rows = []


def main() -> None:
    """Write, then take turns."""
    loose, mds, side, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with MDSWriter(out=mds, columns={"jpg": "bytes", "txt": "str"}) as writer:
        for path in sorted(Path(loose).iterdir()):
            writer.write({"jpg": path.read_bytes(), "txt": "a picture of nothing much"})
    made = batches(mds, side, batch)
    next(made)
    next(made)
    for line in sys.stdin:
        start, done = time.process_time(), 0
        while done < int(line):
            done += next(made)
        print(done / (time.process_time() - start), flush=True)


if __name__ == "__main__":
    main()
