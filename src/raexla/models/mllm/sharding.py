"""How the language model's parameters are split over the mesh (Megatron-style over `tensor`, the rest over `fsdp`)."""

from raexla.models.mllm.recipe import MLLMRecipe
from raexla.nn.sharding import ShardingTable

_LAYER = "llm.layers.*"

_LLM: ShardingTable = [
    ("llm.embed_tokens.weight", (("tensor", "fsdp"), None)),
    (f"{_LAYER}.self_attn.q_proj.weight", (("tensor", "fsdp"), None)),
    (f"{_LAYER}.self_attn.q_proj.bias", ("tensor",)),
    (f"{_LAYER}.self_attn.k_proj.weight", (("tensor", "fsdp"), None)),
    (f"{_LAYER}.self_attn.k_proj.bias", ("tensor",)),
    (f"{_LAYER}.self_attn.v_proj.weight", (("tensor", "fsdp"), None)),
    (f"{_LAYER}.self_attn.v_proj.bias", ("tensor",)),
    (f"{_LAYER}.self_attn.o_proj.weight", ("fsdp", "tensor")),
    (f"{_LAYER}.mlp.gate_proj.weight", (("tensor", "fsdp"), None)),
    (f"{_LAYER}.mlp.up_proj.weight", (("tensor", "fsdp"), None)),
    (f"{_LAYER}.mlp.down_proj.weight", ("fsdp", "tensor")),
    (f"{_LAYER}.input_layernorm.weight", (None,)),
    (f"{_LAYER}.post_attention_layernorm.weight", (None,)),
    ("llm.norm.weight", (None,)),
    ("queries", ("fsdp", None)),
    ("projector.0.weight", (("tensor", "fsdp"), None)),
    ("projector.0.bias", ("tensor",)),
    ("projector.2.weight", ("fsdp", "tensor")),
    ("projector.2.bias", (None,)),
]
_OUTPUT: ShardingTable = [("lm_head.weight", (("tensor", "fsdp"), None))]
_CONNECTORS: dict[str, ShardingTable] = {
    "linear": [("connector.weight", ("fsdp", None)), ("connector.bias", (None,))],
    "mlp": [
        ("connector.0.weight", (("tensor", "fsdp"), None)),
        ("connector.0.bias", ("tensor",)),
        ("connector.2.weight", ("fsdp", "tensor")),
        ("connector.2.bias", (None,)),
    ],
}


def sharding_table(recipe: MLLMRecipe, *, tied: bool) -> ShardingTable:
    """The table of an MLLM; `tied` is the language model's `tie_word_embeddings`."""
    return [*_LLM, *([] if tied else _OUTPUT), *_CONNECTORS[recipe.connector]]
