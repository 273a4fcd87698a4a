"""The language model's attention: transformers' SDPA, with queries and keys in the values' type.

Rotary positions are applied in float32, so under a lower compute type queries and keys come out wider than values;
PyTorch's autocast puts that right on CUDA, torch_xla's doesn't and SDPA refuses.
"""

from functools import cache
from typing import Any

from torch import Tensor, nn

NAME = "raexla"
"""By this name a configuration asks for it (`_attn_implementation`)."""


@cache
def register() -> str:
    """Make the kernel known to transformers; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        """query [B, H, L, D], key and value [B, G, S, D] with G dividing H -> [B, L, H, D]."""
        made, _ = sdpa_attention_forward(
            module, query.to(value.dtype), key.to(value.dtype), value, attention_mask, **options
        )
        return made, None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
