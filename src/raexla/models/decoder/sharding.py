"""How the decoder's parameters are split over the mesh."""

from raexla.nn.sharding import ShardingTable

SHARDING: ShardingTable = [
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
