"""Samples of the nano world -> arrays for the nano encoder: pictures, captions, what stands in each patch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from raexla.data.chat import ChatTokenizer
from raexla.data.collate import Pictures
from raexla.data.nano.scenes import COLORS, SHAPES
from raexla.data.sample import Refused, Sample
from raexla.data.transforms import AnyTransformRecipe


def patch_classes(meta: Mapping[str, Any], image_size: int, patch: int) -> np.ndarray:
    """What stands in each patch of a nano scene, int32 [N]: 0 nothing, else 1 + shape x colours + colour."""
    side = image_size // patch
    centre = (np.arange(side) + 0.5) * patch
    rows, columns = np.meshgrid(centre, centre, indexing="ij")
    classes = np.zeros((side, side), dtype=np.int32)
    for item in meta.get("objects", ()):
        reach = item["radius"] + patch / 2 - 1.5
        x, y = item["center"]
        inside = (np.abs(rows - y) < reach) & (np.abs(columns - x) < reach)
        classes[inside] = 1 + list(SHAPES).index(item["shape"]) * len(COLORS) + list(COLORS).index(item["color"])
    return classes.ravel()


class ToSceneRow(Pictures):
    """The transform: (pixels, padded token ids, their number, patch classes) of a captioned scene.

    Raises `Refused`: `missing_image`, `text_too_long` for captions of more than `length` tokens.
    """

    def __init__(
        self, recipe: AnyTransformRecipe, tokenizer: ChatTokenizer, length: int, image_size: int, patch: int
    ) -> None:
        super().__init__(recipe)
        self.tokenizer, self.length, self.image_size, self.patch = tokenizer, length, image_size, patch

    def __call__(self, sample: Sample, rng: np.random.Generator) -> tuple[Any, ...]:
        if sample.image is None:
            raise Refused("missing_image")
        tokens = self.tokenizer.encode(sample.caption or "")
        if len(tokens) > self.length:
            raise Refused("text_too_long", f"{len(tokens)} tokens, {self.length} is the limit")
        padded = np.full(self.length, self.tokenizer.pad, dtype=np.int32)
        padded[: len(tokens)] = tokens
        classes = patch_classes(sample.meta, self.image_size, self.patch)
        return self.change(sample.image, rng), padded, np.int32(len(tokens)), classes


def scene_rows(group: str, items: list[Any]) -> dict[str, np.ndarray]:
    """The collate: `pixels` uint8 `[n, H, W, 3]`, `tokens`, `classes` int32 `[n, ...]`, `length` int32 `[n]`."""
    names = ("pixels", "tokens", "length", "classes")
    return {name: np.stack([item[place] for item in items]) for place, name in enumerate(names)}
