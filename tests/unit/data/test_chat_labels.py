"""Which tokens are learned, written out by hand on the tokenizer file that the repository ships.

A line is a turn, a word is a token as the tokenizer file spells it (`Ċ` is the newline, `Ġ` a space before a word). A
star behind a token says that it is learned. `Q0 Q1 ...` are queries, `F0 F1 ...` features of a given image.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from raexla.data import Chat, ChatRecipe, ChatTokenizer, Turn, collate_chat
from raexla.data.chat import IGNORE, ChatRow
from raexla.losses import cross_entropy_sum

TOKENIZER = Path(__file__).parents[3] / "recipes" / "nano" / "artifacts" / "language"
SYSTEM, LENGTH = "a red ring", 80

GENERATION = {
    "corrected": """
        <|im_start|> s y s t e m Ċ a Ġred Ġring <|im_end|> Ċ
        <|im_start|> u s e r Ċ two Ġred Ġcircles <|im_end|> Ċ
        <|im_start|> a ss is t an t Ċ Here* Ġyou* Ġgo* :* Ċ* <im_start>* Q0 Q1 Q2 <im_end>* <|im_end|>* Ċ
        """,
    # facts of the released trainer: in addition every newline, <|im_start|> and <|im_end|>, whoever speaks
    "released": """
        <|im_start|>* s y s t e m Ċ* a Ġred Ġring <|im_end|>* Ċ*
        <|im_start|>* u s e r Ċ* two Ġred Ġcircles <|im_end|>* Ċ*
        <|im_start|>* a ss is t an t Ċ* Here* Ġyou* Ġgo* :* Ċ* <im_start>* Q0 Q1 Q2 <im_end>* <|im_end|>* Ċ*
        """,
}

TURNS = [
    Turn("user", "<image>\nIs there a ring?"),
    Turn("assistant", "no"),
    Turn("user", "How many?\nred"),
    Turn("assistant", "two\nblue"),
]
CONVERSATION = {
    "corrected": """
        <|im_start|> s y s t e m Ċ a Ġred Ġring <|im_end|> Ċ
        <|im_start|> u s e r Ċ <im_start> F0 F1 F2 <im_end> Ċ Is Ġthere Ġa Ġring ? <|im_end|> Ċ
        <|im_start|> a ss is t an t Ċ no* <|im_end|>* Ċ
        <|im_start|> u s e r Ċ How Ġmany ? Ċ red <|im_end|> Ċ
        <|im_start|> a ss is t an t Ċ two* Ċ* blue* <|im_end|>* Ċ
        """,
    "released": """
        <|im_start|>* s y s t e m Ċ* a Ġred Ġring <|im_end|>* Ċ*
        <|im_start|>* u s e r Ċ* <im_start> F0 F1 F2 <im_end> Ċ* Is Ġthere Ġa Ġring ? <|im_end|>* Ċ*
        <|im_start|>* a ss is t an t Ċ* no* <|im_end|>* Ċ*
        <|im_start|>* u s e r Ċ* How Ġmany ? Ċ* red <|im_end|>* Ċ*
        <|im_start|>* a ss is t an t Ċ* two* Ċ* blue* <|im_end|>* Ċ*
        """,
}


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer.load(TOKENIZER)


def chat(tokenizer: ChatTokenizer, **fields: object) -> Chat:
    return Chat(ChatRecipe.model_validate({"length": LENGTH, "system": SYSTEM, **fields}), tokenizer, 3)


def check(row: ChatRow, script: str, tokenizer: ChatTokenizer) -> None:
    words = script.split()
    number = tokenizer.tokenizer.get_vocab(with_added_tokens=True)
    padding = LENGTH - len(words)
    tokens, labels, slots = [], [], []
    for word in words:
        learned, word = word.endswith("*"), word.removesuffix("*")
        slot = int(word[1:]) if word in ("Q0", "Q1", "Q2", "F0", "F1", "F2") else -1
        tokens.append(tokenizer.pad if slot >= 0 else number[word])
        labels.append(tokens[-1] if learned else IGNORE)
        slots.append(slot)
    assert row.length == len(words)
    assert row.tokens.tolist() == tokens + [tokenizer.pad] * padding
    assert row.labels.tolist() == labels + [IGNORE] * padding
    assert row.image_slot.tolist() == slots + [-1] * padding
    assert row.query_start == (words.index("Q0") if "Q0" in words else -1)


@pytest.mark.parametrize("labels", ["corrected", "released"])
def test_generation(tokenizer: ChatTokenizer, labels: str) -> None:
    check(chat(tokenizer, labels=labels).generation("two red circles"), GENERATION[labels], tokenizer)


@pytest.mark.parametrize("labels", ["corrected", "released"])
def test_conversation(tokenizer: ChatTokenizer, labels: str) -> None:
    check(chat(tokenizer, labels=labels).conversation(TURNS), CONVERSATION[labels], tokenizer)


def test_corrected_is_the_default_and_the_other_would_be_seen(tokenizer: ChatTokenizer) -> None:
    row = chat(tokenizer).conversation(TURNS)
    check(row, CONVERSATION["corrected"], tokenizer)
    with pytest.raises(AssertionError):
        check(row, CONVERSATION["released"], tokenizer)
    released = chat(tokenizer, labels="released").conversation(TURNS)
    assert (released.tokens == row.tokens).all()  # the mask is all that differs
    assert (released.labels != row.labels).sum() == 20  # 4 + 5 + 3 + 5 + 3, turn by turn


def test_what_the_loss_asks_for(tokenizer: ChatTokenizer) -> None:
    """Shifted by one: the token before a learned one predicts it. The last query predicts `<im_end>`; the header's
    newline predicts the answer's first word; nothing is asked of the other queries or of the user."""
    row = chat(tokenizer).generation("two red circles")
    answer = row.query_start - 6  # Here you go : newline <im_start>
    asked = [answer + i - 1 for i in range(6)] + [row.query_start + 2, row.query_start + 3]
    logits = torch.zeros(1, LENGTH, tokenizer.size, requires_grad=True)
    summed, count = cross_entropy_sum(logits, torch.from_numpy(row.labels)[None].long())
    (gradient,) = torch.autograd.grad(summed, logits)
    assert int(count) == 8
    assert gradient[0].abs().sum(-1).nonzero().flatten().tolist() == asked
    assert gradient[0, row.query_start + 2].argmin().item() == tokenizer.image_end
    assert gradient[0, row.query_start + 3].argmin().item() == tokenizer.turn_end


def test_positions_count_queries_like_any_token(tokenizer: ChatTokenizer) -> None:
    rows = [chat(tokenizer).generation("two red circles"), chat(tokenizer).conversation(TURNS)]
    arrays = collate_chat(rows)
    assert (arrays["positions"] == np.arange(LENGTH)).all()
    assert arrays["query_start"].tolist() == [rows[0].query_start, -1]
