"""Attention of transformers' models through a kernel that a runtime may swap.

Without a mask it goes through the attention layer's `kernel`, causal where the model is. With one (padding on the left,
decoding with a cache) it is transformers' SDPA, with queries and keys in the values' type: rotary positions are applied
in float32, so under a lower compute type these come out wider, and torch_xla's autocast doesn't mind.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from raexla.nn.attention import AttentionKernel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "raexla"
"""By this name a configuration asks for it (`_attn_implementation`)."""


def use_kernels(model: "PreTrainedModel") -> None:
    """Let a transformers model compute its attention as this page says."""
    model.set_attn_implementation(_register())
    for module in model.modules():
        if hasattr(module, "is_causal"):  # every layer that calls transformers' attention interface
            module.kernel = AttentionKernel(causal=bool(module.is_causal))


@cache
def _register() -> str:
    """Make the attention known to transformers; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        """query [B, H, L, D], key and value [B, G, S, D] with G dividing H -> [B, L, H, D]."""
        if attention_mask is None and not options.get("dropout"):
            kernel: Any = module.kernel
            return kernel(query, key, value).transpose(1, 2), None
        made, _ = sdpa_attention_forward(
            module, query.to(value.dtype), key.to(value.dtype), value, attention_mask, **options
        )
        return made, None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
