"""The official decoder's key names (GeneralDecoder in nyu-visionx and RAE checkpoints) against this project's.

`KEYS` maps an official key pattern to ours; `{}` stands for the block number. `decoder_pos_embed` is derived: a fixed
table with a zero row for CLS in front, checked instead of being loaded.
"""

import torch
from torch import Tensor

from raexla.models.decoder.recipe import DecoderRecipe
from raexla.models.decoder.vit import ViTDecoder
from raexla.models.official import Derived, ReleasedLayout, entries_of
from raexla.nn.positions import sincos_2d

_PAIRS: dict[str, str] = {
    "decoder_embed": "embed",
    "decoder_layers.{}.layernorm_before": "blocks.{}.norm1",
    "decoder_layers.{}.attention.attention.query": "blocks.{}.attn.query",
    "decoder_layers.{}.attention.attention.key": "blocks.{}.attn.key",
    "decoder_layers.{}.attention.attention.value": "blocks.{}.attn.value",
    "decoder_layers.{}.attention.output.dense": "blocks.{}.attn.proj",
    "decoder_layers.{}.layernorm_after": "blocks.{}.norm2",
    "decoder_layers.{}.intermediate.dense": "blocks.{}.fc1",
    "decoder_layers.{}.output.dense": "blocks.{}.fc2",
    "decoder_norm": "norm",
    "decoder_pred": "head",
}

KEYS: dict[str, str] = {
    "trainable_cls_token": "cls_token",
    **{f"{theirs}.{part}": f"{ours}.{part}" for theirs, ours in _PAIRS.items() for part in ("weight", "bias")},
}

DERIVED = "decoder_pos_embed"

_QKV_BIAS = (".query.bias", ".key.bias", ".value.bias")


def official_names(depth: int, *, qkv_bias: bool = True) -> dict[str, str]:
    """{official key: our parameter path} of a decoder with `depth` blocks, without the derived key."""
    names: dict[str, str] = {}
    for theirs, ours in KEYS.items():
        if theirs.endswith(_QKV_BIAS) and not qkv_bias:
            continue
        for block in range(depth if "{}" in theirs else 1):
            names[theirs.format(block)] = ours.format(block)
    return names


def position_table(grid: tuple[int, int], width: int) -> Tensor:
    """`decoder_pos_embed` [1, 1 + M, D] as the official files hold it: a zero row for CLS, then the table."""
    table = sincos_2d(grid, width)
    return torch.cat([table.new_zeros(1, width), table])[None]


def released_layout(recipe: DecoderRecipe, grid: tuple[int, int], channels: int) -> ReleasedLayout:
    """The official state dict (`model.pt`) of a decoder of latents of `grid` (rows, columns) and `channels`."""
    with torch.device("meta"):
        decoder = ViTDecoder(recipe, grid, channels)
    width, depth, _, _ = recipe.shape
    stored = recipe.position_grid or recipe.grid or grid
    table = Derived((1, 1 + stored[0] * stored[1], width), lambda: position_table(stored, width))
    name = f"a decoder {width} wide, {depth} deep, patch {recipe.patch_size}, of a latent with {channels} channels"
    return ReleasedLayout(name, entries_of(decoder, official_names(depth, qkv_bias=recipe.qkv_bias)), {DERIVED: table})
