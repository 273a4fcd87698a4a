"""How a DiT's parameters are split over a mesh of `data`, `fsdp` and `tensor`.

Megatron-style: what widens (qkv, w12, modulations) is split by output on `tensor`, what narrows (proj, w3) by input;
`fsdp` splits rows (the first dim), so that gathering puts whole rows together; of w12, whose rows needn't divide, the
second. `data` holds copies.
"""

from raexla.models.dit.recipe import ClassConditioning, DiTRecipe
from raexla.nn.sharding import ShardingRow, ShardingTable

_BLOCK: ShardingTable = [
    ("norm1.weight", (None,)),
    ("norm2.weight", (None,)),
    ("attn.qkv.weight", (("tensor", "fsdp"), None)),
    ("attn.qkv.bias", ("tensor",)),
    ("attn.proj.weight", ("fsdp", "tensor")),
    ("attn.proj.bias", (None,)),
    ("mlp.w12.weight", ("tensor", "fsdp")),
    ("mlp.w12.bias", ("tensor",)),
    ("mlp.w3.weight", ("fsdp", "tensor")),
    ("mlp.w3.bias", (None,)),
    ("adaln.linear.weight", (("tensor", "fsdp"), None)),
    ("adaln.linear.bias", ("tensor",)),
]

_QK_NORM: ShardingTable = [("attn.q_norm.weight", (None,)), ("attn.k_norm.weight", (None,))]

_EMBED: ShardingTable = [("x_embedder.proj.weight", ("fsdp", None)), ("x_embedder.proj.bias", (None,))]

_ENDS: ShardingTable = [
    ("t_embedder.mlp.0.weight", (("tensor", "fsdp"), None)),
    ("t_embedder.mlp.0.bias", ("tensor",)),
    ("t_embedder.mlp.2.weight", ("fsdp", "tensor")),
    ("t_embedder.mlp.2.bias", (None,)),
    ("final_layer.norm.weight", (None,)),
    ("final_layer.linear.weight", ("fsdp", None)),
    ("final_layer.linear.bias", (None,)),
    ("final_layer.adaln.linear.weight", (("tensor", "fsdp"), None)),
    ("final_layer.adaln.linear.bias", ("tensor",)),
]

_PROJECTOR: ShardingTable = [("head.projector.weight", ("fsdp", None)), ("head.projector.bias", (None,))]

_CLASS: ShardingRow = ("y_embedder.embedding_table.weight", ("fsdp", None))

_NULL: ShardingRow = ("y_embedder.dropout_embedding", (None,))


def _under(prefix: str, rows: ShardingTable) -> ShardingTable:
    return [(prefix + pattern, axes) for pattern, axes in rows]


def sharding_table(recipe: DiTRecipe) -> ShardingTable:
    """The rows that fit what this recipe builds, no more."""
    block = _BLOCK + (_QK_NORM if recipe.qk_norm else [])
    table = _EMBED + _ENDS + _under("blocks.*.", block)
    if isinstance(recipe.conditioning, ClassConditioning):
        table = [*table, _CLASS]
    elif recipe.condition_dropout > 0:
        table = [*table, _NULL]
    if recipe.head is not None:
        table = table + _under("head.", _EMBED) + _under("head.blocks.*.", block)
        if recipe.head.width != recipe.width:
            table = table + _PROJECTOR
    return table
