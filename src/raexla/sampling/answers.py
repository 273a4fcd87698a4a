"""Image + question -> answer: batched decoding with a key-value cache and static shapes.

Two compiled functions, whatever the questions: `prefill` reads the prompts of a batch at the recipe's length, `step`
reads one token in every row and chooses the next. A row that has ended goes on being fed and is ignored; the batch
ends when every row has, which is looked at only now and then so that the devices don't wait for the host.

B: batch, L: prompt length, V: vocabulary rows.
"""

from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raexla.data import Refused, Turn, collate_chat
from raexla.models.mllm import DecodeState, extend, prefill
from raexla.recipe import Recipe, UserError
from raexla.runtime import Draws, Runtime
from raexla.sampling.base import WithWeights
from raexla.sampling.model import TextToImage

_LOOK_EVERY = 4
"""Tokens between two looks at whether every row has ended."""


class AnsweringRecipe(Recipe):
    """How questions are answered."""

    batch_images: Annotated[int, Field(ge=1)] = 16
    """Questions at a time; rounded up to a multiple of the batch shards."""
    max_tokens: Annotated[int, Field(ge=1)] = 48
    """Tokens of an answer; a longer one is cut."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 takes the likeliest token each time; otherwise one is drawn from softmax(logits / temperature)."""


class QuestionError(UserError):
    """A question that the model's sequence has no room for."""

    def __init__(self, question: str, detail: str) -> None:
        super().__init__(f"question too long ({detail}): {shorten(question, 80, placeholder=' …')!r}")


class _Decoder(torch.nn.Module):
    """The two steps of decoding as methods of a module, so that they can be called with other weights."""

    def __init__(self, model: TextToImage, capacity: int) -> None:
        super().__init__()
        self.unified = model.unified
        self._capacity = capacity

    def read(self, tokens: Tensor, slot: Tensor, length: Tensor, features: Tensor) -> tuple[Tensor, DecodeState]:
        """Logits [B, V] after the prompts, and where decoding stands."""
        mllm = self.unified.mllm
        valid = torch.arange(tokens.shape[1], device=tokens.device)[None] < length[:, None]
        last, state = prefill(mllm, mllm.embed(tokens, slot, features), valid, self._capacity)
        return mllm.logits(last), state

    def go_on(self, token: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Logits [B, V] after one more token [B] in every row."""
        mllm = self.unified.mllm
        hidden, state = extend(mllm, mllm.embed(token[:, None]), state)
        return mllm.logits(hidden[:, 0]), state


class Answerer:
    """Answers questions about images with a placed model.

    Args:
        weights: replace `model.unified`'s own (its moving average, say); names as in its `state_dict`.
    """

    def __init__(
        self,
        model: TextToImage,
        runtime: Runtime,
        recipe: AnsweringRecipe | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.runtime, self.recipe = model, runtime, recipe or AnsweringRecipe()
        shards = runtime.batch_shards
        self.batch = -(-self.recipe.batch_images // shards) * shards
        chat = model.recipe.chat
        decoder = _Decoder(model, (chat.conversation_length or chat.length) + self.recipe.max_tokens)
        named = {f"unified.{name}": value for name, value in weights.items()} if weights else None
        self._decoder = WithWeights(decoder, named)
        self._prefill = runtime.compile(self._prefill_of)
        self._step = runtime.compile(self._step_of)

    def _choose(self, logits: Tensor, rows: Tensor, number: Tensor, seed: int) -> Tensor:
        """The next token [B]; by Gumbel's trick where the temperature is not 0."""
        logits = logits.float()
        if self.recipe.temperature == 0:
            return logits.argmax(dim=-1)
        uniform = Draws(seed, number, rows).uniform("answer", (logits.shape[-1],))
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-7, 1 - 1e-7)))
        return (logits / self.recipe.temperature + gumbel).argmax(dim=-1)

    def _prefill_of(self, batch: dict[str, Tensor], number: Tensor, seed: int) -> tuple[Tensor, DecodeState]:
        rows = {name: value[0] for name, value in batch.items()}
        with torch.no_grad(), self.runtime.autocast():
            features = self.model.features(rows["image"])
            logits, state = self._decoder.call("read", rows["tokens"], rows["image_slot"], rows["length"], features)
            return self._choose(logits, rows["rows"], number, seed), state

    def _step_of(
        self, token: Tensor, state: DecodeState, rows: Tensor, number: Tensor, seed: int
    ) -> tuple[Tensor, DecodeState]:
        with torch.no_grad(), self.runtime.autocast():
            logits, state = self._decoder.call("go_on", token, state)
            return self._choose(logits, rows[0], number, seed), state

    def _arrays(self, questions: Sequence[str]) -> dict[str, np.ndarray]:
        rows = []
        for question in questions:
            try:
                rows.append(self.model.chat.answer_prompt([Turn("user", f"<image>\n{question}")]))
            except Refused as refused:
                raise QuestionError(question, refused.detail) from None
        arrays = collate_chat(rows)
        return {name: arrays[name] for name in ("tokens", "image_slot", "length")}

    def tokens(self, images: np.ndarray, questions: Sequence[str], seed: int = 0, first_row: int = 0) -> np.ndarray:
        """Generated ids [batch, <= max_tokens] for exactly one batch; what follows an end-of-turn id means nothing."""
        rows = np.arange(first_row, first_row + self.batch, dtype=np.int32)
        batch = self.runtime.put({**self._arrays(questions), "image": images.astype(np.float32), "rows": rows})
        token, state = self._prefill(batch, self._number(0), seed)
        chosen, ended = [token], np.zeros(self.batch, dtype=bool)
        read: list[np.ndarray] = []
        for number in range(1, self.recipe.max_tokens):
            if number % _LOOK_EVERY == 0:
                read += [self.runtime.to_host(tensor) for tensor in chosen[len(read) :]]
                ended |= np.isin(np.stack(read[-_LOOK_EVERY:]), self._ends()).any(axis=0)
                if ended.all():
                    break
            token, state = self._step(token, state, batch["rows"], self._number(number), seed)
            chosen.append(token)
        read += [self.runtime.to_host(tensor) for tensor in chosen[len(read) :]]
        return np.stack(read, axis=1)

    def _number(self, value: int) -> Tensor:
        return self.runtime.replicate(np.array(value, dtype=np.int32))

    def _ends(self) -> list[int]:
        special = self.model.chat.tokenizer
        return [special.turn_end, special.pad, special.image_start]

    def answers(
        self,
        images: np.ndarray,
        questions: Sequence[str],
        seed: int = 0,
        tick: Callable[[int], Any] = lambda count: None,
    ) -> list[str]:
        """The answer to each question about the image of the same place.

        Args:
            images: float [n, 3, H, W] in [0, 1], of the codec's size.
            questions: n of them.
            seed: of the draws, where the temperature is not 0.
            tick: called with the number of answers that each batch has finished.

        Raises:
            QuestionError: one is too long.
        """
        if len(images) != len(questions):
            raise ValueError(f"{len(images)} images for {len(questions)} questions")
        out: list[str] = []
        for start in range(0, len(questions), self.batch):
            part = list(questions[start : start + self.batch])
            rest = self.batch - len(part)
            pictures = np.concatenate([images[start : start + len(part)], *[images[-1:]] * rest])
            ids = self.tokens(pictures, part + [part[-1]] * rest, seed, start)
            out += [self._text(row) for row in ids[: len(part)]]
            tick(len(part))
        return out

    def _text(self, ids: np.ndarray) -> str:
        ends = np.flatnonzero(np.isin(ids, self._ends()))
        return self.model.chat.tokenizer.decode(ids[: ends[0] if len(ends) else None].tolist()).strip()
