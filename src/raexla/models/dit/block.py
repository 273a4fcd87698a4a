"""The transformer block and the last layer."""

from torch import Tensor, nn

from raexla.nn.attention import Attention
from raexla.nn.modulate import AdaLN, modulate
from raexla.nn.norms import RMSNorm
from raexla.nn.rope import Rope2d
from raexla.nn.swiglu import SwiGLU, swiglu_width


class Block(nn.Module):
    """Attention and SwiGLU, each RMS-normed, modulated and gated by the condition (paper 000, app. B)."""

    def __init__(self, width: int, heads: int, condition_channels: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attn = Attention(width, heads, qk_norm=qk_norm)
        self.norm2 = RMSNorm(width)
        self.mlp = SwiGLU(width, swiglu_width(width))
        self.adaln = AdaLN(condition_channels, width, parts=6)

    def forward(self, x: Tensor, condition: Tensor, rope: Rope2d) -> Tensor:
        """x [B, N, C], condition [B, N or 1, Z] -> [B, N, C]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaln(condition)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1), rope)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Norm, shift and scale by the condition, linear."""

    def __init__(self, width: int, condition_channels: int, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.linear = nn.Linear(width, channels)
        self.adaln = AdaLN(condition_channels, width, parts=2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [B, N, C], condition [B, N or 1, Z] -> [B, N, channels]."""
        shift, scale = self.adaln(condition)
        return self.linear(modulate(self.norm(x), shift, scale))
