"""Sizes of the pretrained networks that a recipe names, from their configurations: nothing is built, and transformers
isn't imported (it takes seconds)."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from raexla.models.published import PUBLISHED
from raexla.recipe import UserError


def read_sizes(path: str) -> SimpleNamespace:
    """The fields of a Hugging Face configuration, of its vision tower if it has one.

    Raises:
        UserError: neither a folder with a `config.json` nor a name whose configuration is known.
    """
    file = Path(path) / "config.json"
    if file.is_file():
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    elif path in PUBLISHED:
        raw = dict(PUBLISHED[path])
    else:
        raise UserError(
            f"{path}: no config.json there, and not one of the published models that are known: {', '.join(PUBLISHED)}"
        )
    if raw["model_type"] == "siglip":
        raw = {**_SIGLIP, **raw["vision_config"]}
    else:
        raw = {**_DEFAULTS.get(raw["model_type"], {}), **raw}
    return SimpleNamespace(**raw)


# what transformers takes where a configuration says nothing
_VIT: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "image_size": 224,
    "patch_size": 14,
}
_SIGLIP = {**_VIT, "model_type": "siglip_vision_model", "intermediate_size": 3072, "patch_size": 16}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "siglip_vision_model": _SIGLIP,
    "dinov2": _VIT,
    "dinov2_with_registers": {**_VIT, "num_register_tokens": 4},
    "vit_mae": {**_VIT, "patch_size": 16, "intermediate_size": 3072},
}


def language_parameters(config: Any) -> dict[str, int]:
    """A Qwen2's parameters: `embedding`, `blocks`, `head` (0 if it is tied)."""
    width, mlp = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    block = 2 * width * queries + 2 * width * keys + queries + 2 * keys + 3 * width * mlp + 2 * width
    table = config.vocab_size * width
    return {
        "embedding": table,
        "blocks": config.num_hidden_layers * block + width,
        "head": 0 if config.tie_word_embeddings else table,
    }


def vision_parameters(config: Any) -> int:
    """A frozen vision transformer's parameters (SigLIP without its pooling head, DINOv2, MAE's encoder)."""
    width, depth, patch = config.hidden_size, config.num_hidden_layers, config.patch_size
    mlp = getattr(config, "intermediate_size", None) or int(width * config.mlp_ratio)
    block = 4 * width * width + 4 * width + 2 * width * mlp + mlp + width + 4 * width
    side = config.image_size // patch
    rest = 3 * patch * patch * width + width + side * side * width + 2 * width
    if config.model_type != "siglip_vision_model":
        rest += 2 * width + getattr(config, "num_register_tokens", 0) * width  # class token and its position
    if config.model_type.startswith("dinov2"):
        block += 2 * width  # layer scale
        rest += width  # mask token
    return depth * block + rest
