"""How the decoder's parameters are split over the mesh."""

from raexla.models.decoder.recipe import DecoderRecipe
from raexla.nn.sharding import ShardingTable

_ALL: ShardingTable = [
    ("cls_token", (None, None, "fsdp")),
    ("embed.weight", ("fsdp", None)),
    ("embed.bias", (None,)),
    ("blocks.*.norm1.*", (None,)),
    ("blocks.*.norm2.*", (None,)),
    ("blocks.*.attn.query.weight", ("tensor", "fsdp")),
    ("blocks.*.attn.query.bias", ("tensor",)),
    ("blocks.*.attn.key.weight", ("tensor", "fsdp")),
    ("blocks.*.attn.key.bias", ("tensor",)),
    ("blocks.*.attn.value.weight", ("tensor", "fsdp")),
    ("blocks.*.attn.value.bias", ("tensor",)),
    ("blocks.*.attn.proj.weight", ("fsdp", "tensor")),
    ("blocks.*.attn.proj.bias", (None,)),
    ("blocks.*.fc1.weight", ("tensor", "fsdp")),
    ("blocks.*.fc1.bias", ("tensor",)),
    ("blocks.*.fc2.weight", ("fsdp", "tensor")),
    ("blocks.*.fc2.bias", (None,)),
    ("norm.*", (None,)),
    ("head.weight", (None, "fsdp")),
    ("head.bias", (None,)),
]

_QKV_BIAS = {f"blocks.*.attn.{name}.bias" for name in ("query", "key", "value")}


def sharding_table(recipe: DecoderRecipe) -> ShardingTable:
    """The rows of what this recipe builds."""
    return [row for row in _ALL if recipe.qkv_bias or row[0] not in _QKV_BIAS]
