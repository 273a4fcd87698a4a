"""Multi-head self-attention with a kernel that a runtime may swap.

B: batch, H: query heads, G: key heads (G divides H), N: tokens, D: channels of a head.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from raexla.nn.norms import RMSNorm
from raexla.nn.rope import Rope2d

Attend = Callable[[Tensor, Tensor, Tensor, bool], Tensor]
"""(q, k, v, causal) -> softmax(q k^T / sqrt(D)) v. q and the result are [B, H, N, D], k and v [B, G, N, D]."""


def sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """`Attend` through PyTorch's scaled_dot_product_attention, in v's type.

    Under a lower compute type queries and keys that were turned in float32 come out wider than values; PyTorch's
    autocast puts that right on CUDA, torch_xla's doesn't.
    """
    shared = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=causal, enable_gqa=shared)


class AttentionKernel(nn.Module):
    """`Attend` as a module without parameters.

    Attributes:
        attend: PyTorch's, until a runtime puts its own there as it places the module (`runtime.place`).
        causal: a token sees itself and those before it.
    """

    attend: Attend

    def __init__(self, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.attend = sdpa

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B, H, N, D], k and v [B, G, N, D] -> [B, H, N, D]."""
        return self.attend(q, k, v, self.causal)


class Attention(nn.Module):
    """Bidirectional self-attention: q, k and v from one linear, optional RMS norm of q and k, rotary positions.

    Submodules: `qkv`, `q_norm`, `k_norm` (identities without `qk_norm`), `kernel`, `proj`.
    """

    def __init__(self, channels: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.q_norm = RMSNorm(channels // heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(channels // heads) if qk_norm else nn.Identity()
        self.kernel = AttentionKernel()
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, rope: Rope2d | None = None) -> Tensor:
        """[B, N, C] -> [B, N, C]; `rope` turns queries and keys after their norm."""
        batch, tokens, channels = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, N, D]
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rope(q), rope(k)
        return self.proj(self.kernel(q, k, v).transpose(1, 2).reshape(batch, tokens, channels))
