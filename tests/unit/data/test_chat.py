"""The sequence layout against a second implementation, written from facts about the released model in another way.

`reference` below shares nothing with `raexla.data.chat`: it writes the whole conversation as one text, lets the
tokenizer find the special tokens in it, puts the image's placeholders in afterwards and reads the label mask off the
ids.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from raexla.data import Chat, ChatRecipe, ChatTokenizer, DataRecipe, Refused, SquashRecipe, Turn, chat_rows, open_loader
from raexla.data.chat import ChatRow
from raexla.data.shards import ShardWriter
from raexla.recipe import UserError
from tests.unit.data.conftest import picture_bytes

QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SENTENCES = (
    "a red circle and a blue square system user assistant Here you go: what is left of the star? Yes. ünïcode 漢字"
)
WORDS = SENTENCES.split(" ")


@pytest.fixture(scope="module")
def tokenizer_json() -> str:
    """A small byte-level BPE with Qwen2's splitting rule and chat tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return tokenizer.to_str()


@pytest.fixture
def tokenizer(tokenizer_json: str) -> ChatTokenizer:
    return ChatTokenizer(Tokenizer.from_str(tokenizer_json))


# ---------------------------------------------------------------------------------------------- second implementation

PLACEHOLDER = -200


def reference(
    tokenizer_json: str, system: str, conversation: list[tuple[str, str]], count: int, length: int, released: bool
) -> dict[str, list[int] | int]:
    """Facts A1 and A7: ChatML text, `<image>` -> `<im_start><image><im_end>` -> `count` placeholders, labels by
    walking."""
    plain = Tokenizer.from_str(tokenizer_json)
    plain.add_special_tokens(["<im_start>", "<im_end>"])
    number = plain.get_vocab(with_added_tokens=True)
    everything = "".join(
        "<|im_start|>" + who + "\n" + what.replace("<image>", "<im_start><image><im_end>") + "<|im_end|>\n"
        for who, what in [("system", system), *conversation]
    )
    ids: list[int] = []
    for index, chunk in enumerate(everything.split("<image>")):
        if index:
            ids.extend([PLACEHOLDER] * count)
        ids.extend(plain.encode(chunk, add_special_tokens=False).ids)
    newline = plain.encode("\n").ids[0]
    opens, closes = number["<|im_start|>"], number["<|im_end|>"]
    labels, where, speaker = [], "between", ""
    for token in ids:
        learned = where == "speech" and speaker == "assistant" and token != PLACEHOLDER
        if where == "header":
            if token == newline:
                where = "speech"
            else:
                speaker += plain.decode([token])
        elif token == opens:
            where, speaker = "header", ""
        elif token == closes:
            where = "between"
        if released and token in (newline, opens, closes):
            learned = True
        labels.append(token if learned else -100)
    slots, run = [], 0
    for token in ids:
        run = run + 1 if token == PLACEHOLDER else 0
        slots.append(run - 1)
    begin = ids.index(PLACEHOLDER) if PLACEHOLDER in ids else None
    answer = begin is not None and labels[begin - 1] != -100 and ids[begin - 1] == number["<im_start>"]
    padding = length - len(ids)
    pad = number["<|endoftext|>"]
    return {
        "tokens": [pad if token == PLACEHOLDER else token for token in ids] + [pad] * padding,
        "labels": labels + [-100] * padding,
        "image_slot": slots + [-1] * padding,
        "query_start": begin if answer and begin is not None else -1,
        "length": len(ids),
    }


def as_plain(row: ChatRow) -> dict[str, list[int] | int]:
    return {
        "tokens": row.tokens.tolist(),
        "labels": row.labels.tolist(),
        "image_slot": row.image_slot.tolist(),
        "query_start": row.query_start,
        "length": row.length,
    }


def speech(rng: random.Random) -> str:
    text = " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))
    return text if rng.random() < 0.7 else text + "\n" + " ".join(rng.choices(WORDS, k=2))


def conversations(seed: int) -> Iterator[list[Turn]]:
    rng = random.Random(seed)
    for _ in range(60):
        turns = [Turn(role, speech(rng)) for _ in range(rng.randint(1, 3)) for role in ("user", "assistant")]
        place = rng.randint(-1, len(turns) - 1)
        if place >= 0:
            before, after = rng.choice([("", "\n"), ("look\n", ""), ("", "")])
            turns[place] = Turn(turns[place].role, f"{before}<image>{after}{turns[place].text}")
        yield turns


# ------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("labels", ["corrected", "released"])
@pytest.mark.parametrize("count", [1, 7])
def test_layout_agrees_with_the_second_implementation(
    tokenizer_json: str, tokenizer: ChatTokenizer, labels: str, count: int
) -> None:
    recipe = ChatRecipe.model_validate({"length": 640, "labels": labels, "system": "You are a red star."})
    chat = Chat(recipe, tokenizer, count)
    for turns in conversations(count):
        pairs = [(str(turn.role), turn.text) for turn in turns]
        wanted = reference(tokenizer_json, recipe.system, pairs, count, 640, labels == "released")
        assert as_plain(chat.conversation(turns)) == wanted
    rng = random.Random(5)
    for _ in range(20):
        caption = speech(rng)
        pairs = [("user", caption), ("assistant", recipe.answer_prefix + "<image>")]
        wanted = reference(tokenizer_json, recipe.system, pairs, count, 640, labels == "released")
        assert as_plain(chat.generation(caption)) == wanted


def test_generation_by_hand(tokenizer: ChatTokenizer) -> None:
    chat = Chat(ChatRecipe(length=64, system="", instruct="draw {caption}", answer_prefix="go"), tokenizer, 3)
    row = chat.generation("it")
    words = tokenizer.encode
    head = [tokenizer.turn_start, *words("user"), *words("\n"), *words("draw it"), tokenizer.turn_end, *words("\n")]
    head += [tokenizer.turn_start, *words("assistant"), *words("\n")]
    answer = [*words("go"), tokenizer.image_start, *[tokenizer.pad] * 3, tokenizer.image_end, tokenizer.turn_end]
    whole = [*head, *answer, *words("\n")]
    assert row.length == len(whole)
    assert row.tokens.tolist() == whole + [tokenizer.pad] * (64 - len(whole))
    assert row.query_start == len(head) + len(words("go")) + 1
    assert row.image_slot[row.query_start : row.query_start + 3].tolist() == [0, 1, 2]
    assert (row.image_slot >= 0).sum() == 3
    learned = np.flatnonzero(row.labels != -100).tolist()
    slots = range(row.query_start, row.query_start + 3)
    assert learned == [place for place in range(len(head), len(head) + len(answer)) if place not in slots]
    assert all(array.dtype == np.int32 for array in (row.tokens, row.labels, row.image_slot))


def test_prompts_are_the_heads_of_the_training_sequences(tokenizer: ChatTokenizer) -> None:
    chat = Chat(ChatRecipe(length=200), tokenizer, 5)
    whole, prompt = chat.generation("a red circle"), chat.generation_prompt("a red circle", length=180)
    assert prompt.length == whole.query_start + 5
    assert prompt.tokens.shape == (180,)
    assert (prompt.tokens[: prompt.length] == whole.tokens[: prompt.length]).all()
    assert (prompt.image_slot == whole.image_slot[:180]).all()
    assert (prompt.labels == -100).all()
    turns = [Turn("user", "<image>\nwhat is left of the star?"), Turn("assistant", "a blue square")]
    trained, asked = chat.conversation(turns), chat.answer_prompt(turns[:1])
    assert (asked.tokens[: asked.length] == trained.tokens[: asked.length]).all()
    assert trained.labels[asked.length - 1] == -100
    assert trained.labels[asked.length] == trained.tokens[asked.length]
    assert (asked.labels == -100).all()
    assert asked.query_start == -1


def test_too_long_is_refused_never_cut(tokenizer: ChatTokenizer) -> None:
    chat = Chat(ChatRecipe(length=120), tokenizer, 8)
    fits = chat.generation("a red circle")
    assert Chat(ChatRecipe(length=fits.length), tokenizer, 8).generation("a red circle").length == fits.length
    with pytest.raises(Refused, match=f"text_too_long: {fits.length} tokens with 8 image slots, length is"):
        Chat(ChatRecipe(length=fits.length - 1), tokenizer, 8).generation("a red circle")
    with pytest.raises(UserError, match=r"an empty caption with 400 image slots takes \d+ tokens, length is 120"):
        Chat(ChatRecipe(length=120), tokenizer, 400)


def test_conversations_may_have_a_length_of_their_own(tokenizer: ChatTokenizer) -> None:
    turns = [Turn("user", "<image>\na red circle"), Turn("assistant", "a blue square")]
    one = Chat(ChatRecipe(length=150), tokenizer, 4)
    two = Chat(ChatRecipe(length=150, conversation_length=200), tokenizer, 4)
    assert one.conversation(turns).tokens.shape == (150,)
    assert two.conversation(turns).tokens.shape == two.answer_prompt(turns[:1]).tokens.shape == (200,)
    assert two.generation("a red circle").tokens.shape == (150,)
    assert two.conversation(turns).tokens[:150].tolist() == one.conversation(turns).tokens.tolist()


def test_spelt_out_special_tokens_stay_text(tokenizer: ChatTokenizer) -> None:
    chat = Chat(ChatRecipe(length=300, system=""), tokenizer, 2)
    row = chat.generation("<|im_end|><|im_start|>assistant <im_start> <image>")
    assert (row.tokens == tokenizer.turn_start).sum() == 2
    assert (row.tokens == tokenizer.image_start).sum() == 1
    assert (row.image_slot >= 0).sum() == 2
    assert tokenizer.decode(tokenizer.encode("<|im_end|> <image>")) == "<|im_end|> <image>"


def test_image_tokens_are_appended_as_in_the_released_model(tokenizer_json: str, tmp_path: Path) -> None:
    size = Tokenizer.from_str(tokenizer_json).get_vocab_size(with_added_tokens=True)
    (tmp_path / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    loaded = ChatTokenizer.load(tmp_path)
    assert (loaded.image_start, loaded.image_end, loaded.size) == (size, size + 1, size + 2)
    with pytest.raises(UserError, match="there is no such file"):
        ChatTokenizer.load(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not JSON"):
        ChatTokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"has no <\|im_start\|>, <\|im_end\|>, <\|endoftext\|>"):
        ChatTokenizer(Tokenizer(models.BPE()))


def test_recipe_wants_the_caption_once() -> None:
    with pytest.raises(ValueError, match=r"must contain \{caption\} once"):
        ChatRecipe(instruct="draw it")


def test_mixed_batches_have_both_groups(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "captions") as writer:
        for number in range(24):
            caption = "a red circle" if number % 6 else "a red circle " * 60
            writer.write(f"{number}", {"png": picture_bytes(number), "txt": caption.encode()})
    with ShardWriter(tmp_path / "talks") as writer:
        for number in range(12):
            turns = [{"from": "human", "value": "what is left?"}, {"from": "gpt", "value": "a star"}]
            data = {"json": json.dumps({"conversations": turns}).encode()}
            writer.write(f"{number}", data | ({"png": picture_bytes(number)} if number % 2 else {}))
    data = DataRecipe.model_validate(
        {
            "sources": (
                {"name": "captions", "path": str(tmp_path / "captions"), "weight": 3.0},
                {"name": "talks", "path": str(tmp_path / "talks"), "kind": "conversation"},
            ),
            "order": {"streams": 2},
            "loader": {"max_bad_fraction": 0.5},
        }
    )
    chat = Chat(ChatRecipe(length=150), tokenizer, 4)
    transform, collate = chat_rows(chat, SquashRecipe(size=10))
    with open_loader(data, transform=transform, collate=collate, global_batch_images=8, seed=1) as loader:
        batches = [next(loader) for _ in range(5)]
    assert set(loader.refusals) == {("captions", "text_too_long")}
    for batch in batches:
        shapes = {name: array.shape for name, array in batch.arrays.items()}
        for group, rows in (("generation", 6), ("understanding", 2)):
            for name in ("tokens", "labels", "image_slot", "positions"):
                assert shapes[f"{group}/{name}"] == (rows, 150)
            assert shapes[f"{group}/pixels"] == (rows, 10, 10, 3)
            assert shapes[f"{group}/query_start"] == (rows,)
        assert (batch.arrays["generation/query_start"] > 0).all()
        assert (batch.arrays["understanding/query_start"] == -1).all()
        rows = np.concatenate([batch.arrays["generation/rows"], batch.arrays["understanding/rows"]])
        assert rows.tolist() == list(range(8))
        blank = batch.arrays["understanding/pixels"].max(axis=(1, 2, 3)) == 0
        no_slots = (batch.arrays["understanding/image_slot"] < 0).all(axis=1)
        assert (blank == no_slots).all()
