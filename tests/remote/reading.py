"""Batches for the tests of remote shards, in a module that worker processes can import."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from raexla.data import DataRecipe, Sample, open_loader
from raexla.files import Retry

ROWS = 8


def keep(sample: Sample, rng: np.random.Generator) -> Sample:
    """No transform."""
    return sample


def stack(group: str, items: list[Any]) -> dict[str, np.ndarray]:
    """The pictures."""
    return {"pixels": np.stack([sample.image for sample in items])}


def batches(
    path: str, count: int, cursor: dict[str, Any] | None = None, retry: Retry | None = None, **loader: Any
) -> Iterator[tuple[Any, ...]]:
    """(uids, pixels, cursor) of batches; with another cache they fetch more often."""
    recipe = DataRecipe.model_validate(
        {
            "sources": [{"name": "s", "path": path}],
            "order": {"streams": 4, "piece": 2, "window": 8},
            "loader": {"read_ahead": 1, **loader},
        }
    )
    with open_loader(
        recipe, transform=keep, collate=stack, global_batch_images=ROWS, seed=1, cursor=cursor, retry=retry
    ) as opened:
        for _ in range(count):
            batch = next(opened)
            assert batch.refused == []
            yield batch.uids["generation"], batch.arrays["generation/pixels"], batch.cursor


def same_batches(found: Iterator[tuple[Any, ...]], expected: Iterator[tuple[Any, ...]]) -> dict[str, Any]:
    """The cursor after the last of them; fails where they differ."""
    cursor: dict[str, Any] = {}
    for (uids, pixels, cursor), (other_uids, other_pixels, other_cursor) in zip(found, expected, strict=True):
        assert uids == other_uids
        assert cursor == other_cursor
        assert (pixels == other_pixels).all()
    return cursor


def through_workers(url: str, local: str) -> int:
    """Batches of two worker processes over the URL are those of one process over the disk."""
    from tests.remote import reading  # by a name that workers can import too; this may have been loaded by another

    cursor = same_batches(reading.batches(url, 4, workers=2), reading.batches(local, 4))
    same_batches(reading.batches(url, 2, cursor, workers=2), reading.batches(local, 2, cursor))
    return 6
