"""From a recipe to the language model, in two steps: `build_mllm` (structure, possible on `meta`) and `load_mllm`."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raexla.models.mllm.model import MLLM, init_weights
from raexla.models.mllm.recipe import MLLMRecipe
from raexla.models.mllm.tokenizer import Tokenizer
from raexla.models.pretrained import load_pretrained, read_config
from raexla.recipe import UserError

if TYPE_CHECKING:
    from transformers import Qwen2Config


def read_llm_config(path: str) -> "Qwen2Config":
    """The language model's configuration.

    Raises:
        UserError: nothing there, another class, or attention in a sliding window (whose mask is not built here).
    """
    from transformers import Qwen2Config

    raw = read_config(path, {"qwen2": "Qwen2ForCausalLM"}, "the language model")
    config: Any = Qwen2Config.from_dict({key: value for key, value in raw.items() if key != "model_type"})
    if config.use_sliding_window:
        raise UserError(f"{path}: sliding-window attention (use_sliding_window: true) is not supported")
    return config


def build_mllm(
    recipe: MLLMRecipe,
    vocabulary: int,
    feature_channels: int,
    condition_channels: int,
    config: "Qwen2Config | None" = None,
) -> MLLM:
    """The structure, with weights that mean nothing yet; under `torch.device("meta")` it takes no memory.

    Args:
        recipe: the language model's recipe.
        vocabulary: number of token ids (`Tokenizer.size`); the embedding table grows to it if it is smaller, and is
            never shrunk.
        feature_channels: channels of the encoder that the projector reads.
        condition_channels: what the diffusion model wants.
        config: its configuration; read from `recipe.path` if not given.
    """
    config = read_llm_config(recipe.path) if config is None else config
    config.vocab_size = max(config.vocab_size, vocabulary)
    return MLLM(config, recipe, feature_channels, condition_channels)


def load_mllm(
    recipe: MLLMRecipe,
    tokenizer: Tokenizer,
    feature_channels: int,
    condition_channels: int,
    generator: torch.Generator | None = None,
) -> MLLM:
    """The pretrained language model, float32 on the CPU, with fresh queries, projector and connector.

    Rows of tokens that were not in the folder are set to the mean of the older rows, in and out (facts A1).

    Raises:
        UserError: no such folder, another class, missing weights.
    """
    from transformers import Qwen2ForCausalLM

    config = read_llm_config(recipe.path)
    pretrained: Any = load_pretrained(Qwen2ForCausalLM, recipe.path, config)
    state = {f"llm.{name}": value for name, value in pretrained.model.state_dict().items()}
    tables = ["llm.embed_tokens.weight"]
    if not config.tie_word_embeddings:
        state["lm_head.weight"] = pretrained.lm_head.weight.detach()
        tables.append("lm_head.weight")
    for name in tables:
        state[name] = _with_rows(state[name], tokenizer)
    with torch.device("meta"):
        mllm = build_mllm(recipe, tokenizer.size, feature_channels, condition_channels, config)
    fresh = {name: torch.empty(p.shape) for name, p in mllm.named_parameters() if name not in state}
    mllm.load_state_dict(state | fresh, assign=True)
    for name, buffer in mllm.named_buffers():
        owner, _, leaf = name.rpartition(".")
        mllm.get_submodule(owner).register_buffer(leaf, torch.empty_like(buffer, device="cpu"), persistent=False)
    mllm.reset_tables()
    mllm.requires_grad_(True)
    init_weights(mllm, generator)
    return mllm


def _with_rows(table: Tensor, tokenizer: Tokenizer) -> Tensor:
    """`table` [V, h] with at least `tokenizer.size` rows, those of added tokens at the mean of the rows before them."""
    table = table.detach().clone()
    missing = tokenizer.size - len(table)
    if missing > 0:
        table = torch.cat([table, table.mean(0, keepdim=True).expand(missing, -1)])
    if tokenizer.added:
        first = min(tokenizer.added)
        table[list(tokenizer.added)] = table[:first].mean(0)
    return table
