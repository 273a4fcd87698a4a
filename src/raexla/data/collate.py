"""Samples -> arrays of constant shapes: what the stages hand to `open_loader` as transform and collate.

Images stay uint8 `[n, H, W, 3]` until they are on the device; there `pixels / 255` in `[B, 3, H, W]` is an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raexla.data.batches import Collate, Transform
from raexla.data.chat import Chat, ChatRow
from raexla.data.decode import CentreCropRecipe, RandomCropRecipe, SquashRecipe, build_transform
from raexla.data.sample import Refused, Sample

AnyTransformRecipe = SquashRecipe | CentreCropRecipe | RandomCropRecipe


@dataclass(frozen=True)
class ImageRow:
    """One image `[size, size, 3]` with its label, or -1, and the place of its source in the list that was asked for."""

    pixels: np.ndarray
    label: int = -1
    source: int = 0


@dataclass(frozen=True)
class ChatItem:
    """One sequence with its image; `pixels` is None where it has none."""

    row: ChatRow
    pixels: np.ndarray | None


def image_rows(
    recipe: AnyTransformRecipe, *, labels: bool = False, sources: Sequence[str] = ()
) -> tuple[Transform, Collate]:
    """For image-only stages: arrays `pixels` uint8 `[n, size, size, 3]` and, with `labels`, `label` int32 `[n]`; with
    `sources`, `source` int32 `[n]`, the place of each row's source among these names."""
    change = build_transform(recipe)

    def transform(sample: Sample, rng: np.random.Generator) -> ImageRow:
        if sample.image is None:
            raise Refused("missing_image")
        if labels and sample.label is None:
            raise Refused("missing_label", "the source's recipe names no field for it")
        source = sources.index(sample.source) if sources else 0
        return ImageRow(change(sample.image, rng), -1 if sample.label is None else sample.label, source)

    def collate(group: str, items: list[Any]) -> dict[str, np.ndarray]:
        arrays = {"pixels": np.stack([item.pixels for item in items])}
        if labels:
            arrays["label"] = np.asarray([item.label for item in items], dtype=np.int32)
        if sources:
            arrays["source"] = np.asarray([item.source for item in items], dtype=np.int32)
        return arrays

    return transform, collate


def chat_rows(chat: Chat, recipe: AnyTransformRecipe) -> tuple[Transform, Collate]:
    """For the unified model. Captions become generation sequences, conversations and texts understanding ones; arrays
    are those of `collate_chat` and `pixels`: the target of a generation row, the context of an understanding one."""
    change = build_transform(recipe)

    def transform(sample: Sample, rng: np.random.Generator) -> ChatItem:
        pixels = None if sample.image is None else change(sample.image, rng)
        if sample.kind == "caption":
            turns = sample.conversation  # official generation data: the request and the answer as they were written
            row = chat.conversation(turns) if turns else chat.generation(sample.caption or "")
        elif sample.kind == "conversation":
            row = chat.conversation(sample.conversation)
            if row.query_start >= 0:
                raise Refused("bad_conversation", "an image in an answer; generation samples are of kind caption")
        elif sample.kind == "text":
            row = chat.text(sample.caption or "")
        else:
            raise ValueError(f"{sample.source}: kind {sample.kind} makes no sequence")
        return ChatItem(row, pixels)

    def collate(group: str, items: list[Any]) -> dict[str, np.ndarray]:
        arrays = collate_chat([item.row for item in items])
        blank = np.zeros((recipe.size, recipe.size, 3), dtype=np.uint8)
        arrays["pixels"] = np.stack([blank if item.pixels is None else item.pixels for item in items])
        return arrays

    return transform, collate


def collate_chat(rows: Sequence[ChatRow]) -> dict[str, np.ndarray]:
    """`tokens`, `labels`, `image_slot`, `positions` int32 `[n, L]`; `query_start`, `length` int32 `[n]`."""
    tokens = np.stack([row.tokens for row in rows])
    return {
        "tokens": tokens,
        "labels": np.stack([row.labels for row in rows]),
        "image_slot": np.stack([row.image_slot for row in rows]),
        "positions": np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape).copy(),
        "query_start": np.asarray([row.query_start for row in rows], dtype=np.int32),
        "length": np.asarray([row.length for row in rows], dtype=np.int32),
    }
