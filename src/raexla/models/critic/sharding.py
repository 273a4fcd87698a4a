"""How the critic's parameters are split over the mesh. The heads are small (7.4M): `fsdp` only."""

from raexla.models.critic.recipe import CriticRecipe
from raexla.nn.sharding import ShardingTable

_HEADS: ShardingTable = [
    ("heads.*.enter.conv.weight", ("fsdp", None, None)),
    ("heads.*.enter.conv.bias", (None,)),
    ("heads.*.enter.norm.*", (None,)),
    ("heads.*.mix.conv.weight", ("fsdp", None, None)),
    ("heads.*.mix.conv.bias", (None,)),
    ("heads.*.mix.norm.*", (None,)),
    ("heads.*.out.weight", (None, None, None)),
    ("heads.*.out.bias", (None,)),
]

_DINO: ShardingTable = [
    ("features.vit.cls_token", (None, None, "fsdp")),
    ("features.vit.pos_embed", (None, None, "fsdp")),
    ("features.vit.patch_embed.proj.weight", ("fsdp", None, None, None)),
    ("features.vit.patch_embed.proj.bias", (None,)),
    ("features.vit.blocks.*.norm1.*", (None,)),
    ("features.vit.blocks.*.norm2.*", (None,)),
    ("features.vit.blocks.*.attn.qkv.weight", ("tensor", "fsdp")),
    ("features.vit.blocks.*.attn.qkv.bias", ("tensor",)),
    ("features.vit.blocks.*.attn.proj.weight", ("fsdp", "tensor")),
    ("features.vit.blocks.*.attn.proj.bias", (None,)),
    ("features.vit.blocks.*.mlp.fc1.weight", ("tensor", "fsdp")),
    ("features.vit.blocks.*.mlp.fc1.bias", ("tensor",)),
    ("features.vit.blocks.*.mlp.fc2.weight", ("fsdp", "tensor")),
    ("features.vit.blocks.*.mlp.fc2.bias", (None,)),
    ("features.vit.norm.*", (None,)),
]


def sharding_table(recipe: CriticRecipe) -> ShardingTable:
    """The table of a critic; with encoder features only the heads are its own."""
    return [*_HEADS, *(_DINO if recipe.features.type == "dino" else [])]
