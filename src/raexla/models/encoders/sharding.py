"""How the encoders' parameters are split over the mesh: `fsdp` along the width, `tensor` over heads and hidden units.

The parameter paths are those of the Hugging Face classes inside `Encoder` (prefix `model.`).
"""

from raexla.models.encoders.recipe import EncoderRecipe
from raexla.nn.sharding import ShardingTable

_NORM_PARTS = ("weight", "bias")


def _norm(path: str) -> ShardingTable:
    return [(f"{path}.{part}", (None,)) for part in _NORM_PARTS]


def _column(path: str) -> ShardingTable:
    """A linear whose outputs are split over `tensor`."""
    return [(f"{path}.weight", ("tensor", "fsdp")), (f"{path}.bias", ("tensor",))]


def _row(path: str) -> ShardingTable:
    """A linear whose inputs are split over `tensor`."""
    return [(f"{path}.weight", ("fsdp", "tensor")), (f"{path}.bias", (None,))]


def _patches(path: str) -> ShardingTable:
    return [(f"{path}.weight", ("fsdp", None, None, None)), (f"{path}.bias", (None,))]


_SIGLIP: ShardingTable = [
    *_patches("model.embeddings.patch_embedding"),
    ("model.embeddings.position_embedding.weight", (None, "fsdp")),
    *_norm("model.encoder.layers.*.layer_norm1"),
    *_norm("model.encoder.layers.*.layer_norm2"),
    *_column("model.encoder.layers.*.self_attn.q_proj"),
    *_column("model.encoder.layers.*.self_attn.k_proj"),
    *_column("model.encoder.layers.*.self_attn.v_proj"),
    *_row("model.encoder.layers.*.self_attn.out_proj"),
    *_column("model.encoder.layers.*.mlp.fc1"),
    *_row("model.encoder.layers.*.mlp.fc2"),
    *_norm("model.post_layernorm"),
]

_CLASS_TOKEN: ShardingTable = [
    *_patches("model.embeddings.patch_embeddings.projection"),
    ("model.embeddings.cls_token", (None, None, "fsdp")),
    ("model.embeddings.position_embeddings", (None, None, "fsdp")),
    *_norm("model.layernorm"),
]


def _attention(block: str) -> ShardingTable:
    columns = [row for part in ("q_proj", "k_proj", "v_proj") for row in _column(f"{block}.attention.{part}")]
    return [*columns, *_row(f"{block}.attention.o_proj")]


_DINOV2_BLOCK = "model.encoder.layer.*"
_DINOV2: ShardingTable = [
    *_CLASS_TOKEN,
    ("model.embeddings.mask_token", (None, "fsdp")),
    *_norm(f"{_DINOV2_BLOCK}.norm1"),
    *_norm(f"{_DINOV2_BLOCK}.norm2"),
    *_attention(_DINOV2_BLOCK),
    (f"{_DINOV2_BLOCK}.layer_scale1.lambda1", (None,)),
    (f"{_DINOV2_BLOCK}.layer_scale2.lambda1", (None,)),
]
_DINOV2_MLP: ShardingTable = [*_column(f"{_DINOV2_BLOCK}.mlp.fc1"), *_row(f"{_DINOV2_BLOCK}.mlp.fc2")]
_DINOV2_SWIGLU: ShardingTable = [
    *_column(f"{_DINOV2_BLOCK}.mlp.gate_proj"),
    *_column(f"{_DINOV2_BLOCK}.mlp.up_proj"),
    *_row(f"{_DINOV2_BLOCK}.mlp.down_proj"),
]
_REGISTERS: ShardingTable = [("model.embeddings.register_tokens", (None, None, "fsdp"))]

_MAE_BLOCK = "model.layers.*"
_MAE: ShardingTable = [
    *_CLASS_TOKEN,
    *_norm(f"{_MAE_BLOCK}.layernorm_before"),
    *_norm(f"{_MAE_BLOCK}.layernorm_after"),
    *_attention(_MAE_BLOCK),
    *_column(f"{_MAE_BLOCK}.mlp.fc1"),
    *_row(f"{_MAE_BLOCK}.mlp.fc2"),
]


def sharding_table(recipe: EncoderRecipe, *, registers: bool = False, swiglu: bool = False) -> ShardingTable:
    """The table of one encoder.

    Args:
        recipe: says which family it is.
        registers: a DINOv2 with register tokens (`Encoder.has_registers`).
        swiglu: a DINOv2 with SwiGLU blocks, as the giant one (`Encoder.has_swiglu`).
    """
    if recipe.type == "siglip2":
        return list(_SIGLIP)
    if recipe.type == "mae":
        return list(_MAE)
    return [*_DINOV2, *(_DINOV2_SWIGLU if swiglu else _DINOV2_MLP), *(_REGISTERS if registers else [])]
