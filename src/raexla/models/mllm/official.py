"""The released text-to-image model's state dict (`ScaleRAEQwenForCausalLM`) without its DiT <-> our `MLLM`'s.

The language model's own keys are Hugging Face's: ours are the same under `llm.` instead of `model.`.
"""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raexla.models.dit.official import released_layout as dit_layout
from raexla.models.dit.recipe import DiTRecipe
from raexla.models.mllm.build import build_mllm
from raexla.models.mllm.recipe import MLLMRecipe
from raexla.models.official import Derived, ReleasedLayout, entries_of, joined
from raexla.recipe import UserError

if TYPE_CHECKING:
    from transformers import Qwen2Config

DIT_PREFIX = "diff_head.model."
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# ours -> official, for what is no part of the language model itself
_ATTACHED = {
    "queries": "model.latent_queries",
    **{f"projector.{i}.{leaf}": f"model.mm_projector.{i}.{leaf}" for i in (0, 2) for leaf in ("weight", "bias")},
    **{f"connector.{leaf}": f"diff_head_projector.{leaf}" for leaf in ("weight", "bias")},
}


def official_name(name: str) -> str:
    """The official key of a tensor of our `MLLM`: `llm.norm.weight` -> `model.norm.weight`."""
    return _ATTACHED.get(name) or (f"model.{name.removeprefix('llm.')}" if name.startswith("llm.") else name)


def released_layout(
    recipe: MLLMRecipe, config: "Qwen2Config", feature_channels: int, condition_channels: int
) -> ReleasedLayout:
    """The official state dict of the language model with queries, projector and connector.

    Where the embedding table is used for output too (tied), `lm_head.weight` is derived: absent, or a copy of it.

    Raises:
        UserError: the connector is not the one linear that the released models have.
    """
    if recipe.connector != "linear":
        raise UserError(
            f"the released layout has one linear from the language model to the DiT; this model's connector is "
            f"{recipe.connector!r}: it can't be written in that layout"
        )
    with torch.device("meta"):
        mllm = build_mllm(recipe, 0, feature_channels, condition_channels, config)
    derived = {}
    if mllm.lm_head is None:
        derived[HEAD] = Derived((config.vocab_size, config.hidden_size), copy_of=EMBEDDINGS)
    head_channels = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    frequencies = partial(_rotary_frequencies, config, head_channels)
    for layer in range(config.num_hidden_layers):  # files of older transformers hold them
        key = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        derived[key] = Derived((head_channels // 2,), frequencies, written=False)
    names = {official_name(name): name for name in mllm.state_dict()}
    what = f"a Scale-RAE language model, {config.hidden_size} wide, {config.num_hidden_layers} deep, "
    return ReleasedLayout(f"{what}{recipe.queries} queries", entries_of(mllm, names), derived)


def unified_layout(
    recipe: MLLMRecipe, config: "Qwen2Config", dit: DiTRecipe, grid: tuple[int, int], channels: int
) -> ReleasedLayout:
    """The official state dict of the whole model on a latent of `grid` and `channels`: ours is `UnifiedModel`'s."""
    language = released_layout(recipe, config, channels, dit.condition_width)
    diffusion = dit_layout(dit, grid, channels, "scale_rae")
    name = f"{language.name}, with {diffusion.name}"
    return joined(name, language.prefixed("", "mllm."), diffusion.prefixed(DIT_PREFIX, "dit."))


def _rotary_frequencies(config: "Qwen2Config", head_channels: int) -> Tensor:
    base = rope_theta(config)
    return 1.0 / base ** (torch.arange(0, head_channels, 2, dtype=torch.float32) / head_channels)


def rope_theta(config: "Qwen2Config") -> float:
    """The base of the rotary frequencies, wherever this version of transformers keeps it."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return float(parameters.get("rope_theta") or getattr(config, "rope_theta", 0) or 10000.0)
