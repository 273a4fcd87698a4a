"""Small pictures and shards for the data tests."""

import io
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raexla.data.shards import ShardWriter


def picture_bytes(number: int = 0, size: tuple[int, int] = (8, 6), format: str = "PNG") -> bytes:
    """A picture with a gradient, so that it has enough bytes to be cut."""
    pixels = (np.arange(size[0] * size[1] * 3).reshape(size[1], size[0], 3) * 5 + number) % 256
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """picture(number, size, format) -> bytes."""
    return picture_bytes


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., str]:
    """make_shards(name, samples, bad=...) -> folder of captioned shards in which the pictures `bad` are cut short."""

    def make(name: str, samples: int, bad: Collection[int] = (), per_shard: int = 17) -> str:
        out = tmp_path / name
        with ShardWriter(out, samples_per_shard=per_shard) as writer:
            for number in range(samples):
                data = picture_bytes(number)
                members = {
                    "png": data[: len(data) // 2] if number in bad else data,
                    "txt": f"{out.name} {number}".encode(),
                }
                writer.write(f"{number:06d}", members)
        return str(out)

    return make
