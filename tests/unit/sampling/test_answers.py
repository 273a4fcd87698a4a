"""Cached, batched decoding against a full forward for every token."""

import numpy as np
import pytest
import torch

from raexla.data import Turn
from raexla.runtime import EagerRecipe, open_runtime
from raexla.sampling.answers import Answerer, AnsweringRecipe, QuestionError
from raexla.sampling.model import load_model
from tests.unit.sampling.on_xla import QUESTIONS, answers_on_xla
from tests.unit.sampling.tiny import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def runtime():
    return open_runtime(EagerRecipe(device="cpu"))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((len(QUESTIONS), 3, 32, 32), dtype=np.float32)


def uncached(model, image: np.ndarray, question: str, count: int) -> tuple[list[int], float]:
    """Greedy ids by a whole forward each, and the least gap between the likeliest two on the way."""
    row = model.chat.answer_prompt([Turn("user", f"<image>\n{question}")])
    tokens = torch.from_numpy(row.tokens[: row.length]).long()[None]
    slot = torch.from_numpy(row.image_slot[: row.length]).long()[None]
    features = model.features(torch.from_numpy(image)[None])
    gap = float("inf")
    for _ in range(count):
        hidden = model.unified.hidden(tokens, slot, features)
        best = model.unified.mllm.logits(hidden[:, -1]).topk(2)
        gap = min(gap, float(best.values[0, 0] - best.values[0, 1]))
        tokens = torch.cat([tokens, best.indices[:, :1]], 1)
        slot = torch.cat([slot, torch.full((1, 1), -1)], 1)
    return tokens[0, row.length :].tolist(), gap


@torch.no_grad()
def test_equals_a_forward_without_cache(model, runtime, images):
    answerer = Answerer(model, runtime, AnsweringRecipe(batch_images=5, max_tokens=9))
    ids = answerer.tokens(images, QUESTIONS)
    for row, question in enumerate(QUESTIONS):
        expected, gap = uncached(model, images[row], question, 9)
        assert gap > 1e-4, "the two likeliest tokens are too near for this test"
        stop = next((i + 1 for i, token in enumerate(expected) if token in answerer._ends()), 9)
        assert ids[row, :stop].tolist() == expected[:stop]
    assert len({tuple(row) for row in ids.tolist()}) > 1


def test_batch_size_does_not_change_an_answer(model, runtime, images):
    for temperature in (0.0, 1.0):
        whole = Answerer(model, runtime, AnsweringRecipe(batch_images=5, max_tokens=6, temperature=temperature))
        pairs = Answerer(model, runtime, AnsweringRecipe(batch_images=2, max_tokens=6, temperature=temperature))
        seen: list[int] = []
        assert whole.answers(images, QUESTIONS, seed=3) == pairs.answers(images, QUESTIONS, seed=3, tick=seen.append)
        assert seen == [2, 2, 1]
    assert whole.answers(images, QUESTIONS, seed=3) != whole.answers(images, QUESTIONS, seed=4)


def test_the_image_decides(model, runtime, images):
    answerer = Answerer(model, runtime, AnsweringRecipe(batch_images=5, max_tokens=6))
    same = [QUESTIONS[0]] * 5
    assert len(set(answerer.answers(images, same))) > 1


def test_an_answer_ends_at_its_turn(model, runtime):
    answerer = Answerer(model, runtime)
    chat = model.chat.tokenizer
    ids = np.array([*chat.encode("yes"), chat.turn_end, *chat.encode("no")])
    assert answerer._text(ids) == "yes"
    assert answerer._text(np.array(chat.encode(" two "))) == "two"


def test_a_question_without_room_is_named(model, runtime, images):
    with pytest.raises(QuestionError, match=r"question too long \(\d+ tokens with 16 image slots, length is 160\)"):
        Answerer(model, runtime).answers(images[:1], ["why " * 50])


def test_xla_gives_the_same_and_compiles_once(in_process, folder, model, runtime, images):
    answers, compilations, fallbacks = in_process(answers_on_xla, str(folder))
    eager = Answerer(model, runtime, AnsweringRecipe(batch_images=6, max_tokens=9)).answers(images, QUESTIONS)
    assert answers == eager
    assert (compilations, fallbacks) == (0, {})
