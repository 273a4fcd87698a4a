"""What the tests of workers share; a module of its own because worker processes import it."""

import os
import time
from typing import Any

import numpy as np

from raexla.data import DataRecipe, Loader, Refused, Sample, open_loader
from raexla.recipe import UserError

ROWS = 16


def keep(sample: Sample, rng: np.random.Generator) -> tuple[np.ndarray, float, str]:
    assert sample.image is not None
    return sample.image, float(rng.random()), sample.caption or ""


def stack(group: str, items: list[Any]) -> dict[str, np.ndarray]:
    return {
        "pixels": np.stack([image for image, _, _ in items]),
        "draw": np.asarray([draw for _, draw, _ in items]),
        "caption": np.asarray([caption for _, _, caption in items]),
    }


def refuse_all(sample: Sample, rng: np.random.Generator) -> Any:
    raise Refused("text_too_long", sample.uid)


def storage_fails(sample: Sample, rng: np.random.Generator) -> Any:
    raise UserError("the disk is gone")


def has_a_bug(sample: Sample, rng: np.random.Generator) -> Any:
    return {}["no such thing"]


def told(sample: Sample, rng: np.random.Generator) -> Any:
    """Says which process made it."""
    return sample.image, float(os.getpid()), ""


def sleeps(sample: Sample, rng: np.random.Generator) -> Any:
    time.sleep(600)


class Noted:
    """`keep`, and a byte in a file for each sample."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Any:
        with open(self.path, "ab") as file:
            file.write(b".")
        return keep(sample, rng)


def recipe(folders: dict[str, tuple[str, float]], *, order: dict[str, Any] | None = None, **loader: Any) -> DataRecipe:
    sources = tuple({"name": name, "path": path, "weight": weight} for name, (path, weight) in folders.items())
    order = {"streams": 8, "piece": 4, "window": 20, "block": 16} | (order or {})
    return DataRecipe.model_validate({"sources": sources, "order": order, "loader": loader})


def opened(data: DataRecipe, transform: Any = keep, **options: Any) -> Loader:
    return open_loader(data, transform=transform, collate=stack, global_batch_images=ROWS, seed=7, **options)
