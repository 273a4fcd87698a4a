"""The configurations of published models that recipes name, as their hub repositories have them.

With these a recipe can be checked, counted and compiled for a TPU without a network and without weights. Only what
decides sizes and computation is kept.
"""

from collections.abc import Mapping
from typing import Any


def _qwen(width: int, mlp: int, depth: int, heads: int, kv: int, vocabulary: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "use_sliding_window": False,
    }


def _siglip(**vision: Any) -> dict[str, Any]:
    return {"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model", **vision}}


def _dino(width: int, depth: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    fixed = {"image_size": 518, "patch_size": 14, "num_register_tokens": 4}
    return {"model_type": "dinov2_with_registers", **sizes, **fixed}


PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen(896, 4864, 24, 14, 2, 151_936, True),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen(1536, 8960, 28, 12, 2, 151_936, True),
    "Qwen/Qwen2.5-3B-Instruct": _qwen(2048, 11008, 36, 16, 2, 151_936, True),
    "Qwen/Qwen2.5-7B-Instruct": _qwen(3584, 18944, 28, 28, 4, 152_064, False),
    "google/siglip2-so400m-patch14-224": _siglip(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        patch_size=14,
        image_size=224,
    ),
    "google/siglip2-base-patch16-256": _siglip(image_size=256),
    "facebook/dinov2-with-registers-small": _dino(384, 12, 6),
    "facebook/dinov2-with-registers-base": _dino(768, 12, 12),
    "facebook/dinov2-with-registers-large": _dino(1024, 24, 16),
    "facebook/webssl-dino300m-full2b-224": {
        "model_type": "dinov2",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
    },
    "facebook/vit-mae-base": {"model_type": "vit_mae", "image_size": 224, "patch_size": 16},
}

_FLUX_VAE: Mapping[str, Any] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}

PUBLISHED_VAES: Mapping[str, Mapping[str, Any]] = {
    "black-forest-labs/FLUX.1-dev/vae": _FLUX_VAE,
    "black-forest-labs/FLUX.1-schnell/vae": _FLUX_VAE,
}
"""Of diffusers' `AutoencoderKL`, by hub name and subfolder."""
