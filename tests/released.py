"""Released checkpoints made by hand: the keys and shapes of each layout as a function of its sizes, and tiny folders.

Written from the official code's module trees, apart from `raexla.formats`; at full size the tables are the lists in
fixtures/parity/keys (a test compares them).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests import tiny

Shapes = dict[str, list[int]]


def linear(shapes: Shapes, key: str, rows: int, columns: int) -> None:
    """A linear layer's two keys."""
    shapes[f"{key}.weight"], shapes[f"{key}.bias"] = [rows, columns], [rows]


def decoder(width: int, depth: int, mlp: int, patch: int, channels: int, tokens: int) -> Shapes:
    """`GeneralDecoder`."""
    shapes: Shapes = {"decoder_pos_embed": [1, tokens + 1, width], "trainable_cls_token": [1, 1, width]}
    linear(shapes, "decoder_embed", width, channels)
    for block in range(depth):
        at = f"decoder_layers.{block}"
        for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            linear(shapes, f"{at}.{name}", width, width)
        linear(shapes, f"{at}.attention.output.dense", width, width)
        linear(shapes, f"{at}.intermediate.dense", mlp, width)
        linear(shapes, f"{at}.output.dense", width, mlp)
        for name in ("layernorm_before", "layernorm_after"):
            shapes[f"{at}.{name}.weight"] = shapes[f"{at}.{name}.bias"] = [width]
    shapes["decoder_norm.weight"] = shapes["decoder_norm.bias"] = [width]
    linear(shapes, "decoder_pred", 3 * patch * patch, width)
    return shapes


def block(shapes: Shapes, at: str, width: int, condition: int) -> None:
    """A LightningDiT block."""
    hidden = int(2 / 3 * 4 * width)
    shapes[f"{at}.norm1.weight"] = shapes[f"{at}.norm2.weight"] = [width]
    linear(shapes, f"{at}.attn.qkv", 3 * width, width)
    linear(shapes, f"{at}.attn.proj", width, width)
    linear(shapes, f"{at}.mlp.w12", 2 * hidden, width)
    linear(shapes, f"{at}.mlp.w3", width, hidden)
    linear(shapes, f"{at}.adaLN_modulation.1", 6 * width, condition)


def embedder(shapes: Shapes, key: str, width: int, channels: int) -> None:
    """A 1 x 1 patch embedding."""
    shapes[f"{key}.proj.weight"], shapes[f"{key}.proj.bias"] = [width, channels, 1, 1], [width]


def final(shapes: Shapes, at: str, width: int, condition: int, channels: int) -> None:
    """The last layer."""
    shapes[f"{at}.norm_final.weight"] = [width]
    linear(shapes, f"{at}.linear", channels, width)
    linear(shapes, f"{at}.adaLN_modulation.1", 2 * width, condition)


def rope(shapes: Shapes, key: str, tokens: int, channels: int) -> None:
    """The two rotation tables."""
    shapes[f"{key}.freqs_cos"] = shapes[f"{key}.freqs_sin"] = [tokens, channels]


def dit_dh(
    width: tuple[int, int], depth: tuple[int, int], heads: tuple[int, int], channels: int, tokens: int, classes: int
) -> Shapes:
    """RAE's `DiTwDDTHead`; sizes of (backbone, head)."""
    shapes: Shapes = {"pos_embed": [1, tokens, width[0]], "t_embedder.W": [256]}
    embedder(shapes, "x_embedder", width[1], channels)
    embedder(shapes, "s_embedder", width[0], channels)
    linear(shapes, "s_projector", width[1], width[0])
    linear(shapes, "t_embedder.mlp.0", width[0], 512)
    linear(shapes, "t_embedder.mlp.2", width[0], width[0])
    shapes["y_embedder.embedding_table.weight"] = [classes + 1, width[0]]
    for number in range(sum(depth)):
        part = int(number >= depth[0])
        block(shapes, f"blocks.{number}", width[part], width[part])
    final(shapes, "final_layer", width[1], width[1], channels)
    rope(shapes, "enc_feat_rope", tokens, width[0] // heads[0])
    rope(shapes, "dec_feat_rope", tokens, width[1] // heads[1])
    return shapes


def qwen(width: int, depth: int, heads: int, kv_heads: int, mlp: int, vocabulary: int) -> Shapes:
    """`Qwen2ForCausalLM`."""
    shapes: Shapes = {"model.embed_tokens.weight": [vocabulary, width], "lm_head.weight": [vocabulary, width]}
    side = width // heads * kv_heads
    for layer in range(depth):
        at = f"model.layers.{layer}"
        linear(shapes, f"{at}.self_attn.q_proj", width, width)
        linear(shapes, f"{at}.self_attn.k_proj", side, width)
        linear(shapes, f"{at}.self_attn.v_proj", side, width)
        shapes[f"{at}.self_attn.o_proj.weight"] = [width, width]
        shapes[f"{at}.mlp.gate_proj.weight"] = shapes[f"{at}.mlp.up_proj.weight"] = [mlp, width]
        shapes[f"{at}.mlp.down_proj.weight"] = [width, mlp]
        shapes[f"{at}.input_layernorm.weight"] = shapes[f"{at}.post_attention_layernorm.weight"] = [width]
    shapes["model.norm.weight"] = [width]
    return shapes


def scale_rae(config: dict[str, Any], tokens: int) -> Shapes:
    """`ScaleRAEQwenForCausalLM` of a configuration like `scale_rae_config`'s."""
    h, d = config["hidden_size"], config["diffusion_model_hidden_size"]
    z, channels = config["diffusion_model_z_channels"], config["diffusion_model_channels"]
    shapes = qwen(
        h,
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["intermediate_size"],
        config["vocab_size"],
    )
    shapes["model.latent_queries"] = [tokens, h]
    linear(shapes, "model.mm_projector.0", h, channels)
    linear(shapes, "model.mm_projector.2", h, h)
    linear(shapes, "diff_head_projector", z, h)
    at = "diff_head.model"
    shapes[f"{at}.pos_embed"] = [1, tokens, d]
    embedder(shapes, f"{at}.x_embedder", d, channels)
    linear(shapes, f"{at}.t_embedder.mlp.0", z, 512)
    linear(shapes, f"{at}.t_embedder.mlp.2", z, z)
    shapes[f"{at}.y_embedder.dropout_embedding"] = [z]
    rope(shapes, f"{at}.feat_rope", tokens, d // config["diffusion_model_heads"])
    for number in range(config["diffusion_model_depth"]):
        block(shapes, f"{at}.dit_blocks.{number}", d, z)
    final(shapes, f"{at}.final_layer", d, z, channels)
    return shapes


def scale_rae_config(llm: dict[str, Any], dit: tuple[int, int, int, int], channels: int, tower: str) -> dict[str, Any]:
    """A released `config.json`; `dit` is (width, depth, heads, z channels); `ddt_encoder_depth` is a trap."""
    return {
        "architectures": ["ScaleRAEQwenForCausalLM"],
        "model_type": "cambrian_qwen",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
        **llm,
        "vision_loss": "diffusion-loss",
        "vision_loss_mode": "query",
        "vision_coef": 2.0,
        "diffusion_split_per_token": 256,
        "diffusion_model_hidden_size": dit[0],
        "diffusion_model_depth": dit[1],
        "diffusion_model_heads": dit[2],
        "diffusion_model_z_channels": dit[3],
        "diffusion_model_channels": channels,
        "diffusion_class_dropout_prob": 0.1,
        "diffusion_base_dim": None,
        "diffusion_norm_stats_path": None,
        "ddt_encoder_depth": 2,
        "patch_size": 2,
        "mm_vision_tower_aux_list": [tower],
        "mm_hidden_size": channels,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": True,
        "tokenizer_model_max_length": 512,
    }


QWEN_1_5B = {
    "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
    "intermediate_size": 8960, "vocab_size": 151667,
}  # fmt: skip
QWEN_7B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "vocab_size": 151667, "tie_word_embeddings": False,
}  # fmt: skip


def meta(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors without memory."""
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


# -- tiny ones with numbers --


def filled(shapes: Shapes, seed: int, tables: dict[str, Tensor]) -> dict[str, Tensor]:
    """Random weights that keep activations in bounds, `tables` in their places."""
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        if key in tables:
            state[key] = tables[key].reshape(shape)
        elif "norm" in key and key.endswith(".weight"):
            state[key] = 1 + 0.05 * torch.randn(shape, generator=draw)
        else:
            scale = 0.05 if len(shape) == 1 else int(np.prod(shape[1:])) ** -0.5
            state[key] = scale * torch.randn(shape, generator=draw)
    return state


def positions(side: int, width: int, cls: bool = False) -> Tensor:
    """MAE's fixed positions, column first, in float64; a zero row for CLS in front if asked."""
    omega = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    parts = [f(where.reshape(-1, 1) * omega) for where in (columns, rows) for f in (np.sin, np.cos)]
    table = np.concatenate(parts, axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((int(cls), width)), table])).float()


def rotations(side: int, channels: int) -> tuple[Tensor, Tensor]:
    """EVA's rotation tables, row first, pairs repeated."""
    omega = np.repeat(10000.0 ** (-np.arange(0, channels // 2, 2) / (channels // 2)), 2)
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    angles = np.concatenate([where.reshape(-1, 1) * omega for where in (rows, columns)], axis=1)
    return torch.from_numpy(np.cos(angles)).float(), torch.from_numpy(np.sin(angles)).float()


def save_decoder(folder: Path, *, config: bool = True, seed: int = 1) -> dict[str, Tensor]:
    """`config.json` and `model.pt` of a decoder for the tiny encoder (4 x 4 tokens of 24 channels, 8 pixels each)."""
    folder.mkdir(parents=True)
    state = filled(decoder(24, 2, 48, 8, 24, 16), seed, {"decoder_pos_embed": positions(4, 24, cls=True)})
    torch.save(state, folder / "model.pt")
    values = {
        "model_type": "vit_mae", "hidden_size": 768, "decoder_hidden_size": 24, "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 2, "decoder_intermediate_size": 48, "patch_size": 8, "image_size": 32,
    }  # fmt: skip
    if config:
        (folder / "config.json").write_text(json.dumps(values))
    return state


def save_statistics(file: Path, seed: int = 2) -> dict[str, Tensor]:
    """`stat.pt` of the tiny encoder's latent."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(seed)
    state = {"mean": 0.1 * torch.randn(24, 4, 4, generator=draw), "var": 0.5 + torch.rand(24, 4, 4, generator=draw)}
    torch.save(state, file)
    return state


def save_dit_dh(file: Path, seed: int = 3, *, nested: bool = True, tables: bool = True) -> dict[str, Tensor]:
    """`stage2_model.pt`: ten classes, a backbone 16 wide, a head 32 wide, on the tiny encoder's latent."""
    file.parent.mkdir(parents=True, exist_ok=True)
    made: dict[str, Tensor] = {"pos_embed": positions(4, 16)}
    for key, channels in (("enc_feat_rope", 8), ("dec_feat_rope", 16)):
        made[f"{key}.freqs_cos"], made[f"{key}.freqs_sin"] = rotations(4, channels)
    state = filled(dit_dh((16, 32), (2, 1), (2, 2), 24, 16, 10), seed, made)
    state["t_embedder.W"] = torch.randn(256, generator=torch.Generator().manual_seed(seed))
    if not tables:
        state = {key: value for key, value in state.items() if key not in made}
    raw = {key: value + 1 for key, value in state.items()}
    torch.save({"ema": state, "model": raw, "step": 7} if nested else state, file)
    return state


def save_scale_rae(folder: Path, language: Path, *, how: str = "sharded", seed: int = 4) -> dict[str, Tensor]:
    """A Scale-RAE folder on the tiny language model and encoder; `how`: sharded, safetensors, or bin."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True)
    known = json.loads((language / "config.json").read_text())
    keep = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
    )
    llm = {key: known[key] for key in keep} | {"rope_theta": 10000.0, "max_position_embeddings": 256}
    config = scale_rae_config(llm, (32, 2, 2, 40), 24, "google/siglip2-tiny") | {"tokenizer_model_max_length": 128}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((language / name).read_bytes())
    at = "diff_head.model"
    cos, sin = rotations(4, 16)
    made = {f"{at}.pos_embed": positions(4, 32), f"{at}.feat_rope.freqs_cos": cos, f"{at}.feat_rope.freqs_sin": sin}
    state = filled(scale_rae(config, 16), seed, made)
    state |= load_file(language / "model.safetensors")  # a Qwen2 as transformers itself saved it
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    if how == "safetensors":
        save_file(state, folder / "model.safetensors")
        return state
    suffix, stem = ("safetensors", "model") if how == "sharded" else ("bin", "pytorch_model")
    index: dict[str, str] = {}
    for number, keys in enumerate((sorted(state)[::2], sorted(state)[1::2]), start=1):
        name = f"{stem}-{number:05d}-of-00002.{suffix}"
        part = {key: state[key] for key in keys}
        save_file(part, folder / name) if how == "sharded" else torch.save(part, folder / name)
        index |= dict.fromkeys(keys, name)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return state


def save_encoder(folder: Path) -> Path:
    """The tiny encoder of these releases."""
    return tiny.encoder(folder)
