"""Sizes of the pretrained networks that a recipe names, from their configurations: nothing is built, and transformers
isn't imported (it takes seconds)."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from raexla.models.critic import CriticRecipe, DinoFeaturesRecipe
from raexla.models.critic.features import DINO_BLOCKS, DINO_INPUT, DINO_SIZES
from raexla.models.decoder import DecoderRecipe
from raexla.models.dit import ClassConditioning, DiTRecipe
from raexla.models.published import PUBLISHED, PUBLISHED_VAES
from raexla.nn.swiglu import swiglu_width
from raexla.nn.timestep import FOURIER_FREQUENCIES
from raexla.recipe import UserError


def read_sizes(path: str) -> SimpleNamespace:
    """The fields of a Hugging Face configuration, of its vision tower if it has one.

    Raises:
        UserError: neither a folder with a `config.json` nor a name whose configuration is known.
    """
    raw = _read(path, PUBLISHED)
    if raw["model_type"] == "siglip":
        raw = {**_SIGLIP, **raw["vision_config"]}
    else:
        raw = {**_DEFAULTS.get(raw["model_type"], {}), **raw}
    return SimpleNamespace(**raw)


def read_vae_sizes(path: str) -> SimpleNamespace:
    """The fields of an `AutoencoderKL`'s configuration; raises as `read_sizes`.

    Args:
        path: subfolder included.
    """
    return SimpleNamespace(**{**_VAE, **_read(path, PUBLISHED_VAES)})


def _read(path: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    file = Path(path) / "config.json"
    if file.is_file():
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return raw
    if path in known:
        return dict(known[path])
    raise UserError(
        f"{path}: no config.json there, and not one of the published models that are known: {', '.join(known)}"
    )


# what transformers and diffusers take where a configuration says nothing
_VIT: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "image_size": 224,
    "patch_size": 14,
}
_VAE: dict[str, Any] = {
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "latent_channels": 4,
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
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


def dit_parameters(recipe: DiTRecipe, channels: int) -> int:
    """A `LightningDiT`'s parameters on a latent of `channels`; its positions and time frequencies are fixed."""
    width, z, token = recipe.width, recipe.condition_width, channels * recipe.patch_size**2
    null = recipe.condition_dropout > 0
    classes = recipe.conditioning.num_classes if isinstance(recipe.conditioning, ClassConditioning) else 0
    total = _linear(token, width) + _linear(2 * FOURIER_FREQUENCIES, z) + _linear(z, z) + (classes + null) * z
    total += recipe.depth * _gated_block(width, z, recipe.heads, recipe.qk_norm)
    if recipe.head is not None:
        head = recipe.head
        total += _linear(token, head.width) + (_linear(width, head.width) if width != head.width else 0)
        total += head.depth * _gated_block(head.width, head.width, head.heads, recipe.qk_norm)
        width = z = head.width
    return total + width + _linear(width, token) + _linear(z, 2 * width)


def _gated_block(width: int, z: int, heads: int, qk_norm: bool) -> int:
    mlp = swiglu_width(width)
    norms = 2 * width + (2 * width // heads if qk_norm else 0)
    attention = _linear(width, 3 * width) + _linear(width, width)
    return norms + attention + _linear(width, 2 * mlp) + _linear(mlp, width) + _linear(z, 6 * width)


def _linear(channels_in: int, channels_out: int) -> int:
    return channels_in * channels_out + channels_out


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


def vae_parameters(config: Any) -> int:
    """An `AutoencoderKL`'s parameters, encoder and decoder."""
    blocks, layers, latent = config.block_out_channels, config.layers_per_block, config.latent_channels
    bottom = blocks[-1]
    middle = 2 * _resnet(bottom, bottom)
    if config.mid_block_add_attention:
        middle += 2 * bottom + 4 * _convolution(bottom, bottom, 1)
    total = 2 * middle + _convolution(3, blocks[0]) + _convolution(latent, bottom)
    total += 2 * bottom + _convolution(bottom, 2 * latent) + 2 * blocks[0] + _convolution(blocks[0], 3)
    for level, width in enumerate(blocks):
        last = level == len(blocks) - 1
        before, above = blocks[max(level - 1, 0)], blocks[level if last else level + 1]
        total += _resnet(before, width) + _resnet(above, width) + (2 * layers - 1) * _resnet(width, width)
        total += (0 if last else _convolution(width, width)) + (0 if level == 0 else _convolution(width, width))
    total += _convolution(2 * latent, 2 * latent, 1) if config.use_quant_conv else 0
    return total + (_convolution(latent, latent, 1) if config.use_post_quant_conv else 0)


def _convolution(channels_in: int, channels_out: int, kernel: int = 3) -> int:
    return channels_in * channels_out * kernel**2 + channels_out


def _resnet(channels_in: int, channels_out: int) -> int:
    shortcut = _convolution(channels_in, channels_out, 1) if channels_in != channels_out else 0
    norms = 2 * channels_in + 2 * channels_out
    return _convolution(channels_in, channels_out) + _convolution(channels_out, channels_out) + norms + shortcut


def decoder_parameters(recipe: DecoderRecipe, channels: int) -> int:
    """A `ViTDecoder`'s parameters on a latent of `channels`; its positions are fixed."""
    width, depth, _, mlp = recipe.shape
    biases = (4 if recipe.qkv_bias else 1) * width + mlp + width
    block = 4 * width**2 + 2 * width * mlp + biases + 4 * width
    drawn = 3 * recipe.patch_size**2
    return channels * width + width + width + depth * block + 2 * width + width * drawn + drawn


VGG16_PARAMETERS = 14_714_688
"""Of VGG16's convolutions."""


def dino_parameters(size: str) -> int:
    """Of the critic's frozen DINO ViT."""
    width, depth, _, patch = DINO_SIZES[size]
    places = (DINO_INPUT // patch) ** 2 + 1
    return 3 * patch**2 * width + width + width + places * width + depth * (12 * width**2 + 13 * width) + 2 * width


def head_parameters(recipe: CriticRecipe, channels: int) -> int:
    """Of the critic's heads.

    Args:
        channels: of the codec's own encoder.
    """
    if isinstance(recipe.features, DinoFeaturesRecipe):
        width, taps = DINO_SIZES[recipe.features.size][0], len(DINO_BLOCKS) + 1
    else:
        width, taps = channels, len(recipe.features.layers) + 1
    return taps * ((1 + recipe.kernel) * width**2 + 6 * width + width + 1)
