"""The gated MLP."""

from torch import Tensor, nn
from torch.nn import functional as F


def swiglu_width(channels: int, ratio: float = 4.0) -> int:
    """Hidden width that keeps a gated MLP as large as a plain one of `ratio`: int(2/3 x ratio x channels), unrounded.

    5461 for 2048 channels, as in the released DiT.
    """
    return int(2 / 3 * int(channels * ratio))


class SwiGLU(nn.Module):
    """w3(SiLU(a) * b) with [a, b] = w12(x), all with bias (Shazeer 2020)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(channels, 2 * hidden)
        self.w3 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(a) * b)
