"""Samples -> arrays of constant shapes: what the stages hand to `open_loader` as transform and collate.

Images stay uint8 `[n, H, W, 3]` until they are on the device; there `pixels / 255` in `[B, 3, H, W]` is an image. All
are objects that can be pickled, for worker processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raexla.data.chat import Chat, ChatRow
from raexla.data.rows import Collate, Transform
from raexla.data.sample import Refused, Sample
from raexla.data.transforms import AnyTransformRecipe, RandomCropRecipe, build_transform, decoded_at_least


@dataclass(frozen=True)
class ImageRow:
    """One image `[size, size, 3]` with its label, or -1, and the place of its source in the list that was asked for."""

    pixels: np.ndarray
    label: int = -1
    source: int = 0


@dataclass(frozen=True)
class ChatItem:
    """One sequence with its image, or with the latent that its source holds instead; `picture` is None where it has
    none."""

    row: ChatRow
    picture: np.ndarray | None


def image_rows(
    recipe: AnyTransformRecipe, *, labels: bool = False, sources: Sequence[str] = ()
) -> tuple[Transform, Collate]:
    """For image-only stages: arrays `pixels` uint8 `[n, size, size, 3]` and, with `labels`, `label` int32 `[n]`; with
    `sources`, `source` int32 `[n]`, the place of each row's source among these names."""
    return _ToImageRow(recipe, labels, tuple(sources)), _ImageRows(labels, bool(sources))


def chat_rows(
    chat: Chat,
    recipe: AnyTransformRecipe,
    answer_tokens: int | None = None,
    latents: Mapping[str, np.ndarray] | None = None,
) -> tuple[Transform, Collate]:
    """For the unified model. Captions become generation sequences, conversations and texts understanding ones; arrays
    are those of `collate_chat` and `pixels`: the target of a generation row, the context of an understanding one.

    With `answer_tokens`, a caption's sequence in which more tokens are learned is refused: `answer_too_long`. `latents`
    are the groups whose sources hold these, with what stands in a row without a picture [N, C]: such groups have
    `latent` [n, N, C] instead of `pixels`.
    """
    blanks = dict(latents or {})
    return _ToChatItem(chat, recipe, answer_tokens, blanks), _ChatRows(recipe.size, blanks)


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


@dataclass(frozen=True)
class Chosen:
    """A collate that keeps only some of another's arrays."""

    collate: Collate
    names: tuple[str, ...]

    def __call__(self, group: str, items: list[Any]) -> dict[str, np.ndarray]:
        arrays = self.collate(group, items)
        return {name: arrays[name] for name in self.names}


class Pictures:
    """Base of the transforms of samples with pictures: the resize and crop that a recipe describes."""

    def __init__(self, recipe: AnyTransformRecipe) -> None:
        self.change = build_transform(recipe)
        self.at_least = decoded_at_least(recipe)
        self.draws = isinstance(recipe, RandomCropRecipe)


class _ToImageRow(Pictures):
    def __init__(self, recipe: AnyTransformRecipe, labels: bool, sources: tuple[str, ...]) -> None:
        super().__init__(recipe)
        self.labels, self.sources = labels, sources

    def __call__(self, sample: Sample, rng: np.random.Generator) -> ImageRow:
        if sample.image is None:
            raise Refused("missing_image", "" if sample.latent is None else "latents are not taken here")
        if self.labels and sample.label is None:
            raise Refused("missing_label", "the source's recipe names no field for it")
        source = self.sources.index(sample.source) if self.sources else 0
        return ImageRow(self.change(sample.image, rng), -1 if sample.label is None else sample.label, source)


@dataclass(frozen=True)
class _ImageRows:
    labels: bool
    sources: bool

    def __call__(self, group: str, items: list[Any]) -> dict[str, np.ndarray]:
        arrays = {"pixels": np.stack([item.pixels for item in items])}
        if self.labels:
            arrays["label"] = np.asarray([item.label for item in items], dtype=np.int32)
        if self.sources:
            arrays["source"] = np.asarray([item.source for item in items], dtype=np.int32)
        return arrays


class _ToChatItem(Pictures):
    def __init__(
        self, chat: Chat, recipe: AnyTransformRecipe, answer_tokens: int | None, latents: Mapping[str, np.ndarray]
    ) -> None:
        super().__init__(recipe)
        self.chat, self.answer_tokens = chat, answer_tokens
        self.fitting = {(blank.shape, blank.dtype) for blank in latents.values()}

    def __call__(self, sample: Sample, rng: np.random.Generator) -> ChatItem:
        chat = self.chat
        picture = sample.latent if sample.image is None else self.change(sample.image, rng)
        if sample.latent is not None and (sample.latent.shape, sample.latent.dtype) not in self.fitting:
            shapes = ", ".join(f"{list(shape)} {dtype}" for shape, dtype in sorted(self.fitting, key=str))
            raise Refused("bad_latent", f"{list(sample.latent.shape)} {sample.latent.dtype} instead of {shapes}")
        if sample.kind == "caption":
            turns = sample.conversation  # official generation data: the request and the answer as they were written
            row = chat.conversation(turns) if turns else chat.generation(sample.caption or "")
            if self.answer_tokens is not None and row.learned > self.answer_tokens:
                room = f"{row.learned} tokens are learned, losses.answer_tokens has room for {self.answer_tokens}"
                raise Refused("answer_too_long", room)
        elif sample.kind == "conversation":
            row = chat.conversation(sample.conversation)
            if row.query_start >= 0:
                raise Refused("bad_conversation", "an image in an answer; generation samples are of kind caption")
        elif sample.kind == "text":
            row = chat.text(sample.caption or "")
        else:
            raise ValueError(f"{sample.source}: kind {sample.kind} makes no sequence")
        return ChatItem(row, picture)


@dataclass(frozen=True)
class _ChatRows:
    size: int
    latents: Mapping[str, np.ndarray]

    def __call__(self, group: str, items: list[Any]) -> dict[str, np.ndarray]:
        arrays = collate_chat([item.row for item in items])
        blank = self.latents.get(group)
        name = "pixels" if blank is None else "latent"
        if blank is None:
            blank = np.zeros((self.size, self.size, 3), dtype=np.uint8)
        arrays[name] = np.stack([blank if item.picture is None else item.picture for item in items])
        return arrays
