"""Adaptive layer norm: shift, scale and gate from a condition (Peebles and Xie 2023)."""

from torch import Tensor, nn
from torch.nn import functional as F


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift; shift and scale are [B, N, C], or [B, 1, C] for one condition per sample."""
    return x * (1 + scale) + shift


class AdaLN(nn.Module):
    """Linear(SiLU(condition)) cut into `parts` tensors of `channels`."""

    def __init__(self, condition_channels: int, channels: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(condition_channels, parts * channels)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """[B, N or 1, Z] -> `parts` x [B, N or 1, C]."""
        return self.linear(F.silu(condition)).chunk(self.parts, dim=-1)
