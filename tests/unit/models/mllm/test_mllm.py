"""The MLLM on a Qwen2 folder saved by transformers itself, against transformers' own forward."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from raexla.data import ChatTokenizer
from raexla.models.dit import DiTRecipe, LightningDiT
from raexla.models.mllm import (
    MLLMRecipe,
    UnifiedModel,
    build_mllm,
    extend,
    load_mllm,
    load_tokenizer,
    prefill,
    sharding_table,
)
from raexla.recipe import UserError
from raexla.runtime.sharding import resolve

WORDS = [
    "<unk>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *["a", "red", "circle", "left", "of", "blue", "square", "here", "you", "go"],
]


def save_llm(folder, *, tied: bool, rows: int = 16, words=WORDS) -> str:
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    model = Qwen2ForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 + (1.0 if parameter.dim() == 1 else 0.0)
    model.save_pretrained(folder)
    raw = RawTokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def loaded(request, tmp_path):
    path = save_llm(tmp_path, tied=request.param)
    recipe = MLLMRecipe(path=path, queries=4)
    mllm = load_mllm(recipe, load_tokenizer(path), 24, 40, torch.Generator().manual_seed(0))
    return mllm.eval(), Qwen2ForCausalLM.from_pretrained(path).eval()


def tokens_of(*lengths: int) -> torch.Tensor:
    return torch.randint(4, 13, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))


def test_equals_transformers(loaded):
    mllm, reference = loaded
    tokens = tokens_of(7, 7)
    with torch.no_grad():
        expected = reference(tokens, output_hidden_states=True)
    hidden = mllm(tokens)
    torch.testing.assert_close(hidden, expected.hidden_states[-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mllm.logits(hidden)[..., :14], expected.logits[..., :14], rtol=1e-4, atol=1e-5)


def test_added_tokens_start_at_the_mean(loaded, tmp_path):
    mllm, reference = loaded
    tokenizer = load_tokenizer(mllm.recipe.path)
    assert tokenizer.added == (tokenizer.image_start, tokenizer.image_end) == (14, 15)
    assert tokenizer.tokenizer.encode("a <im_start> red") == [4, 14, 5]
    table = mllm.llm.embed_tokens.weight
    assert len(table) == 16  # rows that the folder has anyway are used, none are cut away
    old = reference.model.embed_tokens.weight
    torch.testing.assert_close(table[14], old[:14].mean(0))
    assert torch.equal(table[:14], old[:14])
    if mllm.lm_head is not None:
        torch.testing.assert_close(mllm.lm_head.weight[15], reference.lm_head.weight[:14].mean(0))
    path = save_llm(tmp_path / "small", tied=True, rows=14)
    grown = load_mllm(MLLMRecipe(path=path, queries=4), load_tokenizer(path), 24, 40)
    assert grown.llm.embed_tokens.weight.shape == (16, 32)


def test_data_and_model_agree_on_every_id(tmp_path):
    """The tokenizer file that the repository ships, whole and without the two image tokens, read by the data pipeline
    and by the model; Qwen2.5's own ids 151665 and 151666 come about the same way: after the last one."""
    shipped = Path(__file__).parents[4] / "recipes" / "nano" / "artifacts" / "language"
    texts = ["two red circles left of a blue square", "Here you go:\n", "ünïcode 漢字"]
    for bare in (False, True):
        folder = tmp_path / str(bare)
        shutil.copytree(shipped, folder)
        raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        if bare:
            marks = {"<im_start>", "<im_end>"}
            raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] not in marks]
            raw["model"]["vocab"] = {t: i for t, i in raw["model"]["vocab"].items() if t not in marks}
            (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
        ours, data = load_tokenizer(str(folder)), ChatTokenizer.load(folder)
        assert (ours.size, ours.image_start, ours.image_end) == (data.size, data.image_start, data.image_end)
        assert bool(ours.added) is bare
        if bare:
            assert ours.added == (ours.size - 2, ours.size - 1) == (data.image_start, data.image_end)
        for text in texts:
            assert ours.tokenizer.encode(text, add_special_tokens=False) == list(data.encode(text))


def test_tokens_that_the_folder_knows_keep_their_rows(tmp_path):
    path = save_llm(tmp_path, tied=True, words=[*WORDS, "<im_start>", "<im_end>"])
    tokenizer = load_tokenizer(path)
    assert tokenizer.added == ()
    mllm = load_mllm(MLLMRecipe(path=path, queries=4), tokenizer, 24, 40)
    assert torch.equal(mllm.llm.embed_tokens.weight, Qwen2ForCausalLM.from_pretrained(path).model.embed_tokens.weight)


def test_image_slots_take_queries_or_projected_features(loaded):
    mllm, _ = loaded
    tokens = tokens_of(9, 9)
    slot = torch.full((2, 9), -1)
    slot[0, 3:7] = torch.arange(4)
    slot[1, 5:9] = torch.arange(4)
    plain = mllm.embed(tokens)
    queried = mllm.embed(tokens, slot, use_queries=True)
    assert torch.equal(queried[0, 3:7], mllm.queries)
    assert torch.equal(queried[1, 5:9], mllm.queries)
    assert torch.equal(queried[slot < 0], plain[slot < 0])
    features = torch.randn(2, 6, 24)
    seen = mllm.embed(tokens, slot, features)
    torch.testing.assert_close(seen[1, 5:9], mllm.projector(features)[1, :4])
    assert torch.equal(seen[slot < 0], plain[slot < 0])
    with pytest.raises(ValueError, match="need features or use_queries"):
        mllm.embed(tokens, slot)


def test_condition_reads_the_query_positions_themselves(loaded):
    mllm, _ = loaded
    hidden = torch.randn(2, 9, 32)
    condition = mllm.condition(hidden, torch.tensor([2, 5]))
    assert condition.shape == (2, 4, 40)
    torch.testing.assert_close(condition[1, 3], mllm.connector(hidden[1, 8]))
    torch.testing.assert_close(condition[0, 0], mllm.connector(hidden[0, 2]))


def test_padding_on_either_side_changes_nothing(loaded):
    mllm, _ = loaded
    tokens = tokens_of(6)
    alone = mllm(tokens)
    junk = torch.full((1, 3), 7)
    right = mllm(torch.cat([tokens, junk], 1))
    torch.testing.assert_close(right[:, :6], alone, rtol=1e-4, atol=1e-5)
    valid = torch.tensor([[False] * 3 + [True] * 6])
    left = mllm(torch.cat([junk, tokens], 1), valid=valid)
    torch.testing.assert_close(left[:, 3:], alone, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(left).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_cached_decoding_equals_one_forward(loaded, side):
    mllm, _ = loaded
    rows = [tokens_of(7)[0], tokens_of(4)[0]]
    later = tokens_of(3, 3)  # three tokens more in each row
    batch = torch.full((2, 7), 1)
    valid = torch.zeros(2, 7, dtype=torch.bool)
    for index, row in enumerate(rows):
        where = slice(7 - len(row), 7) if side == "left" else slice(0, len(row))
        batch[index, where], valid[index, where] = row, True
    last, state = prefill(mllm, mllm.embed(batch), valid, capacity=12)
    one, state = extend(mllm, mllm.embed(later[:, :1]), state)
    two, state = extend(mllm, mllm.embed(later[:, 1:]), state)
    assert state.position.tolist() == [10, 7]
    for index, row in enumerate(rows):
        whole = mllm(torch.cat([row, later[index]])[None])[0]
        torch.testing.assert_close(last[index], whole[len(row) - 1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.cat([one, two], 1)[index], whole[len(row) :], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="can't hold a prompt of 7"):
        prefill(mllm, mllm.embed(batch), valid, capacity=6)


@pytest.mark.parametrize("connector", ["linear", "mlp"])
def test_sharding_table_matches_both_ways_and_meta_takes_no_memory(loaded, connector):
    mllm, _ = loaded
    recipe = MLLMRecipe(path=mllm.recipe.path, queries=4, connector=connector)
    with torch.device("meta"):
        empty = build_mllm(recipe, 20, 24, 40)
    shapes = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert shapes["llm.embed_tokens.weight"] == (20, 32)
    assert set(resolve(sharding_table(recipe, tied=mllm.lm_head is None), shapes)) == set(shapes)


def test_meta_then_load_gives_working_rotary_tables(loaded):
    mllm, _ = loaded
    with torch.device("meta"):
        empty = build_mllm(mllm.recipe, 16, 24, 40)
    empty.to_empty(device="cpu")
    empty.load_state_dict(mllm.state_dict())
    empty.reset_tables()
    tokens = tokens_of(5)
    torch.testing.assert_close(empty.eval()(tokens), mllm(tokens))


def test_unified_model_trains_queries_and_language_model_through_the_diffusion_loss(loaded):
    mllm, _ = loaded
    dit = LightningDiT(DiTRecipe(type="lightning", width=40, depth=1, heads=2), (2, 2), 24)
    for parameter in dit.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    model = UnifiedModel(mllm, dit)
    tokens, slot = tokens_of(8, 8), torch.full((2, 8), -1)
    slot[:, 3:7] = torch.arange(4)
    condition = model.prompt_condition(tokens, slot, torch.tensor([3, 3]))
    velocity = model.velocity(torch.randn(2, 4, 24), torch.rand(2), condition)
    velocity.square().mean().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without <= {f"mllm.projector.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")} | {
        "mllm.lm_head.weight",
        "dit.y_embedder.dropout_embedding",
    }
    assert mllm.queries.grad.abs().sum() > 0
    # causal: the text after the queries can't reach the condition, the prompt before them does
    changed = tokens.clone()
    changed[:, 7] = 5
    torch.testing.assert_close(model.prompt_condition(changed, slot, torch.tensor([3, 3])), condition)
    changed[:, 1] = (changed[:, 1] - 3) % 9 + 4
    assert not torch.allclose(model.prompt_condition(changed, slot, torch.tensor([3, 3])), condition)
    with pytest.raises(UserError, match="has 4 queries, but the DiT conditions 9"):
        UnifiedModel(mllm, LightningDiT(DiTRecipe(type="lightning", width=40, depth=1, heads=2), (3, 3), 24))


def test_refusals(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "gpt")
    with pytest.raises(UserError, match=r"holds GPT2LMHeadModel .* the language model needs Qwen2ForCausalLM"):
        build_mllm(MLLMRecipe(path=str(tmp_path / "gpt")), 10, 24, 40)
    with pytest.raises(UserError, match="no tokenizer can be read there"):
        load_tokenizer(str(tmp_path / "nothing"))
