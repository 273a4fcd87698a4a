"""A conversation or a caption -> the language model's input at a fixed length.

The layout is that of the released model: ChatML turns, each `<|im_start|>ROLE\\n` text `<|im_end|>\\n`, the system turn
first; an image is `<im_start>` N slots `<im_end>` wherever it stands. In the user's turn its slots take the features of
a given image (context), in the assistant's turn the learned queries whose hidden states condition the diffusion model
(answer). So a generation sample reads

    <|im_start|>system\\n{system}<|im_end|>\\n<|im_start|>user\\n{instruct}<|im_end|>\\n
    <|im_start|>assistant\\n{answer_prefix}<im_start>{N queries}<im_end><|im_end|>\\n{padding to L}

and every query sees the prompt under plain causal attention. Texts are tokenised piece by piece between the special
tokens, so that the tokens of a prompt are exactly the head of the tokens of the same prompt with its answer; a special
token that is spelt out in a caption stays text.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator
from tokenizers import Tokenizer

from raexla.data.parse import IMAGE_MARK
from raexla.data.sample import Refused, Turn
from raexla.recipe import Recipe, UserError

IGNORE = -100
"""The label of tokens that are not learned."""

IMAGE_START, IMAGE_END = "<im_start>", "<im_end>"
TURN_START, TURN_END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


class ChatRecipe(Recipe):
    """How texts become token sequences. Sampling must use what training used."""

    length: int = Field(default=512, gt=0)
    """Tokens of a sequence, L: 512 in pretraining, 1024 in finetuning. Longer samples are refused, never cut."""
    conversation_length: int | None = Field(default=None, gt=0)
    """L of understanding samples, where it is another than that of generation samples."""
    system: str = "You are a helpful assistant."
    """The system turn; without one if empty."""
    instruct: str = "{caption}"
    """The user's request for an image, e.g. `Can you generate an image of {caption}?`."""
    answer_prefix: str = "Here you go:\n"
    """What the assistant says before the image."""
    labels: Literal["corrected", "released"] = "corrected"
    """`corrected`: the assistant's text and marks and the `<|im_end|>` that closes its turn are learned. `released`: as
    the official code, in addition every `<|im_start|>`, `<|im_end|>` and newline token of any turn."""

    @property
    def answer_tokens(self) -> int:
        """Learned tokens of a caption's sequence at most, known without a tokenizer: the prefix, a token a byte, and
        three marks, in eights; with `released` labels all of it, since a caption may hold newlines."""
        if self.labels == "released":
            return self.length
        return min(self.length, -(-(len(self.answer_prefix.encode()) + 3) // 8) * 8)

    @field_validator("instruct")
    @classmethod
    def _holds_the_caption(cls, value: str) -> str:
        if value.count("{caption}") != 1:
            raise ValueError("must contain {caption} once")
        return value


class ChatTokenizer:
    """A Hugging Face `tokenizer.json` with Qwen2's chat tokens. `<im_start>` and `<im_end>` are added at the end of the
    vocabulary where they are missing, as the released model has them (151665 and 151666 on Qwen2.5)."""

    def __init__(self, tokenizer: Tokenizer, name: str = "tokenizer") -> None:
        self.tokenizer, self.name = tokenizer, name
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.add_special_tokens([mark for mark in (IMAGE_START, IMAGE_END) if tokenizer.token_to_id(mark) is None])
        tokenizer.encode_special_tokens = True  # spelt-out special tokens in a text are text
        missing = [mark for mark in (TURN_START, TURN_END, PAD) if tokenizer.token_to_id(mark) is None]
        if missing:
            raise UserError(f"{name}: the tokenizer has no {', '.join(missing)}: it isn't one of Qwen2's chat models")
        self.turn_start, self.turn_end = self._id(TURN_START), self._id(TURN_END)
        self.image_start, self.image_end = self._id(IMAGE_START), self._id(IMAGE_END)
        self.pad = self._id(PAD)
        self.newline = self.encode("\n")
        self._short = lru_cache(maxsize=64)(self.encode)

    def __reduce__(self) -> tuple[Any, ...]:  # what is set below `__init__`'s first line isn't in a pickled Tokenizer
        return _from_text, (self.tokenizer.to_str(), self.name)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "ChatTokenizer":
        """From a Hugging Face model folder. Raises `UserError` if there is no readable `tokenizer.json`."""
        path = os.path.join(folder, "tokenizer.json")
        if not os.path.isfile(path):
            raise UserError(f"{path}: there is no such file; a Hugging Face folder with a fast tokenizer is wanted")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        try:
            parts = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path}: not JSON: {error}") from None
        if not isinstance(parts, dict) or "model" not in parts:
            raise UserError(f"{path}: not a tokenizer: it has no key `model`")
        return cls(Tokenizer.from_str(text), path)

    @property
    def size(self) -> int:
        """One more than the largest token id: the rows that the model's embedding must have."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of plain text, without any special token."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids) if text else ()

    def encode_often(self, text: str) -> tuple[int, ...]:
        """`encode` for the few texts that every sequence has."""
        return self._short(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def _id(self, mark: str) -> int:
        return int(self.tokenizer.token_to_id(mark) or 0)


def _from_text(text: str, name: str) -> ChatTokenizer:
    return ChatTokenizer(Tokenizer.from_str(text), name)


@dataclass(frozen=True)
class ChatRow:
    """One sequence; arrays are int32 `[L]`.

    `labels[i]` is `tokens[i]` where it is learned, else -100: the loss shifts by one. `image_slot` is -1, or 0..N-1 at
    the slots of the image (whose token id is the padding's: the model puts features or queries there).
    """

    tokens: np.ndarray
    labels: np.ndarray
    image_slot: np.ndarray
    query_start: int
    """Where the queries begin; -1 if the image is context or there is none."""
    length: int
    """Tokens before the padding."""

    @property
    def learned(self) -> int:
        """Tokens whose prediction is learned; the first of all has none."""
        return int((self.labels[1:] != IGNORE).sum())


class Chat:
    """Builds `ChatRow`s of one recipe, tokenizer and number of slots N."""

    def __init__(self, recipe: ChatRecipe, tokenizer: ChatTokenizer, queries: int) -> None:
        self.recipe, self.tokenizer, self.queries = recipe, tokenizer, queries
        shortest = self._draft(self._request("")).length
        if shortest > recipe.length:
            raise UserError(
                f"chat: an empty caption with {queries} image slots takes {shortest} tokens, length is {recipe.length}"
            )

    def generation(self, caption: str) -> ChatRow:
        """Training: the caption asks for the image, the queries stand in the answer. Raises
        `Refused("text_too_long")`."""
        return self._finish(self._draft(self._request(caption)))

    def conversation(self, turns: Sequence[Turn]) -> ChatRow:
        """Training: question and answer turns with at most one `<image>` mark. With the mark in an answer it is a
        generation sample, word by word. Raises `Refused("text_too_long")`."""
        draft = self._draft([_split(turn) for turn in turns])
        return self._finish(draft, self.recipe.conversation_length if draft.query_start < 0 else None)

    def text(self, text: str) -> ChatRow:
        """Training on plain text: the assistant's turn alone, after the system's. Raises `Refused("text_too_long")`."""
        return self._finish(self._draft([("assistant", [text])]))

    def generation_prompt(self, caption: str, length: int | None = None) -> ChatRow:
        """Sampling: everything up to the last query; what follows the queries can't change them. `labels` are all -100.

        `length` replaces the recipe's. Raises `Refused("text_too_long")`.
        """
        draft = self._draft(self._request(caption))
        draft.cut(draft.query_start + self.queries)
        return self._finish(draft, length)

    def answer_prompt(self, turns: Sequence[Turn], length: int | None = None) -> ChatRow:
        """Answering: the turns, the last one the user's, and the head of the assistant's. `labels` are all -100.

        `length` replaces the recipe's: leave room for the answer. Raises `Refused("text_too_long")`.
        """
        draft = self._draft([_split(turn) for turn in turns])
        draft.add((self.tokenizer.turn_start, *self._often("assistant"), *self.tokenizer.newline), False)
        draft.labels = [IGNORE] * draft.length
        return self._finish(draft, length or self.recipe.conversation_length)

    def _often(self, text: str) -> tuple[int, ...]:
        return self.tokenizer.encode_often(text)

    def _request(self, caption: str) -> "list[_Parts]":
        return [
            ("user", [self.recipe.instruct.replace("{caption}", caption)]),
            ("assistant", [self.recipe.answer_prefix, None]),
        ]

    def _draft(self, turns: "Sequence[_Parts]") -> "_Draft":
        special = self.tokenizer
        draft = _Draft(special.pad)
        if self.recipe.system:
            self._turn(draft, "system", [self.recipe.system], self._often)
        for role, pieces in turns:
            self._turn(draft, role, pieces, special.encode)
        if self.recipe.labels == "released":
            always = {special.turn_start, special.turn_end}
            always |= {special.newline[0]} if len(special.newline) == 1 else set()
            for place, (token, slot) in enumerate(zip(draft.tokens, draft.slots, strict=True)):
                if token in always and slot < 0:
                    draft.labels[place] = token
        return draft

    def _turn(
        self, draft: "_Draft", role: str, pieces: "Sequence[str | None]", encode: Callable[[str], tuple[int, ...]]
    ) -> None:
        special, learned = self.tokenizer, role == "assistant"
        draft.add((special.turn_start, *self._often(role), *special.newline), False)
        for piece in pieces:
            if piece is None:
                draft.add((special.image_start,), learned)
                draft.add_image(self.queries, learned)
                draft.add((special.image_end,), learned)
            else:
                draft.add(encode(piece), learned)
        draft.add((special.turn_end,), learned)
        draft.add(special.newline, False)

    def _finish(self, draft: "_Draft", length: int | None = None) -> ChatRow:
        total = self.recipe.length if length is None else length
        if draft.length > total:
            raise Refused("text_too_long", f"{draft.length} tokens with {self.queries} image slots, length is {total}")
        tokens = np.full(total, self.tokenizer.pad, dtype=np.int32)
        labels = np.full(total, IGNORE, dtype=np.int32)
        slots = np.full(total, -1, dtype=np.int32)
        tokens[: draft.length], labels[: draft.length], slots[: draft.length] = draft.tokens, draft.labels, draft.slots
        return ChatRow(tokens, labels, slots, draft.query_start, draft.length)


_Parts = tuple[str, list[str | None]]
"""A role and what it says; None is the image."""


def _split(turn: Turn) -> _Parts:
    pieces: list[str | None] = []
    for number, text in enumerate(turn.text.split(IMAGE_MARK)):
        pieces += [text] if number == 0 else [None, text]
    return turn.role, pieces


class _Draft:
    """A sequence while it is being written."""

    def __init__(self, filler: int) -> None:
        self.filler = filler
        self.tokens: list[int] = []
        self.labels: list[int] = []
        self.slots: list[int] = []
        self.query_start = -1

    @property
    def length(self) -> int:
        return len(self.tokens)

    def add(self, tokens: Sequence[int], learned: bool) -> None:
        self.tokens += tokens
        self.labels += tokens if learned else [IGNORE] * len(tokens)
        self.slots += [-1] * len(tokens)

    def add_image(self, count: int, answer: bool) -> None:
        if answer:
            self.query_start = self.length
        self.tokens += [self.filler] * count
        self.labels += [IGNORE] * count
        self.slots += range(count)

    def cut(self, length: int) -> None:
        self.tokens, self.slots = self.tokens[:length], self.slots[:length]
        self.labels = [IGNORE] * length
