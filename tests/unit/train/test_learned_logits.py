"""Pretraining computes the logits of learned tokens alone: losses and gradients are those of the whole sequence's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raexla.data import Chat, ChatRecipe, ChatTokenizer
from raexla.data.collate import chat_rows
from raexla.data.sample import Refused, Sample, Turn
from raexla.data.transforms import SquashRecipe
from raexla.losses import language
from raexla.recipe import UserError
from tests import stages

CHATS: dict[str, dict[str, Any]] = {
    "plain": {"length": 128, "system": "", "answer_prefix": ""},
    "prefix": {"length": 160, "conversation_length": 128},
    "released": {"length": 160, "labels": "released"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return stages.world(tmp_path_factory.mktemp("world"))


def opened(made: dict[str, str], run: Path, chat: str, **losses: Any) -> Any:
    """A Task, on the eager runtime."""
    task, _ = stages.open_stage(stages.pretrain(made, run, chat=CHATS[chat], losses=losses))
    return task


def outcome(task: Any, batch: dict[str, np.ndarray]) -> list[torch.Tensor]:
    """Loss and gradients of a batch."""
    placed = task.runtime.put(batch, 1)
    (micro,) = task.micro_batches(placed)
    values = task.shares(task.model.unified, micro, torch.zeros((), dtype=torch.int32), task.totals(placed))
    parameters = [p for part in task.parts for p in part.parameters.values()]
    found = torch.autograd.grad(values["loss"], parameters)
    return [values["loss"].detach(), values["loss/language"].detach(), *found]


@pytest.mark.parametrize(
    ("chat", "losses", "tokens"),
    [
        ("plain", {}, 8),
        ("prefix", {}, 16),
        ("prefix", {"language_chunks": 4}, 16),
        ("released", {}, 160),
        ("released", {"answer_tokens": 32, "language_chunks": 2}, 32),
    ],
)
def test_losses_and_gradients_are_those_of_all_logits(
    chat: str, losses: dict[str, Any], tokens: int, made: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    task = opened(made, tmp_path, chat, **losses)
    assert task.answer_tokens == tokens
    with task.open_loader(None) as loader:
        batch = next(loader).arrays
    learned = (batch["generation/labels"][:, 1:] != language.IGNORE).sum(1)
    assert 3 <= learned.min() <= learned.max() <= tokens
    seen: list[int] = []
    summed = language._summed
    monkeypatch.setattr(language, "_summed", lambda *given: seen.append(given[1].shape[1]) or summed(*given))
    found = outcome(task, batch)
    task.answer_tokens = task.model.recipe.chat.length
    task.losses = task.losses.model_copy(update={"language_chunks": 1})
    for one, other in zip(found, outcome(task, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    whole = CHATS[chat]["length"] - 1
    assert seen[0] == min(tokens, whole)
    assert whole in seen[-2:]


def test_fewer_flops_are_claimed_by_just_the_logits(made: dict[str, str], tmp_path: Path) -> None:
    task = opened(made, tmp_path, "prefix")
    claimed = task.flops_per_step()
    task.answer_tokens = 160
    config = task.model.unified.mllm.config
    logits = 6 * 16 * (160 - 16) * config.hidden_size * config.vocab_size  # 16 captions a step, thrice, two a product
    assert task.flops_per_step() - claimed == pytest.approx(logits)


@pytest.fixture(scope="module")
def tokenizer(made: dict[str, str]) -> ChatTokenizer:
    return ChatTokenizer.load(made["language_model"])


@pytest.mark.parametrize("prefix", ["", "Here you go:\n", "Sure!", "你好\n给你", "\n\n\n\n\n\n", "ﬁ½ΐ", "x" * 60])
def test_the_bound_holds_with_a_real_tokenizer(prefix: str, tokenizer: ChatTokenizer) -> None:
    recipe = ChatRecipe(length=512, answer_prefix=prefix)
    row = Chat(recipe, tokenizer, 16).generation("a red circle\nand a blue one")
    assert row.learned == len(tokenizer.encode(prefix)) + 3
    assert row.learned <= recipe.answer_tokens <= 72
    assert recipe.answer_tokens % 8 == 0


def test_a_longer_written_answer_is_refused_by_its_numbers(tokenizer: ChatTokenizer) -> None:
    """Never cut, never left out of the loss."""
    chat = Chat(ChatRecipe(length=256), tokenizer, 16)
    turns = (Turn("user", "A fox?"), Turn("assistant", "Certainly, here is a picture of a small red fox: <image>"))
    sample = Sample("x", "x", "caption", np.zeros((32, 32, 3), np.uint8), "A fox?", turns)
    draws = np.random.default_rng(0)
    change, _ = chat_rows(chat, SquashRecipe(type="squash", size=32))
    learned = change(sample, draws).row.learned
    assert learned > 16
    change, _ = chat_rows(chat, SquashRecipe(type="squash", size=32), learned)
    assert change(sample, draws).row.learned == learned
    change, _ = chat_rows(chat, SquashRecipe(type="squash", size=32), learned - 1)
    said = f"answer_too_long: {learned} tokens are learned, losses.answer_tokens has room for {learned - 1}"
    with pytest.raises(Refused, match=said):
        change(sample, draws)


def test_conversations_can_not_pass_for_generation(made: dict[str, str], tmp_path: Path) -> None:
    values = stages.pretrain(made, tmp_path)
    values = json.loads(json.dumps(values))
    values["data"]["sources"][1]["group"] = "generation"
    with pytest.raises(UserError, match=r"understanding: kind conversation can't be of group generation"):
        stages.open_stage(values)
