"""Two-dimensional rotary positions, EVA style."""

import torch
from torch import Tensor

from raexla.nn.tables import TableModule


def rope_2d(grid: tuple[int, int], head_channels: int, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [N, D] float32, for a row-major grid of (rows, columns).

    The first half of D turns with the row, the second with the column (the opposite of the fixed positions of
    `raexla.nn.positions`). Within a half, channel pairs (2i, 2i + 1) share the frequency theta^(-2i / (D / 2)).
    """
    if head_channels % 4:
        raise ValueError(f"2-D rotary positions need head channels divisible by 4, got {head_channels}")
    rows, columns = grid
    half = head_channels // 2
    frequencies = theta ** -(torch.arange(0, half, 2, dtype=torch.float32, device="cpu") / half)
    frequencies = frequencies.repeat_interleave(2)  # [D / 2]
    by_row = torch.arange(rows, dtype=torch.float32, device="cpu")[:, None] * frequencies
    by_column = torch.arange(columns, dtype=torch.float32, device="cpu")[:, None] * frequencies
    angles = torch.cat(
        [by_row[:, None].expand(rows, columns, half), by_column[None].expand(rows, columns, half)], dim=-1
    ).reshape(rows * columns, head_channels)
    return angles.cos(), angles.sin()


def rotate_pairs(x: Tensor) -> Tensor:
    """(a, b) -> (-b, a) on adjacent channel pairs of the last dim."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((-b, a), dim=-1).flatten(-2)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, H, N, D] by the tables [N, D]; float32 inside, x's dtype outside."""
    x32 = x.float()
    return (x32 * cos + rotate_pairs(x32) * sin).to(x.dtype)


class Rope2d(TableModule):
    """Holds the rotation tables of one grid as buffers `cos` and `sin` [N, D]."""

    cos: Tensor
    sin: Tensor

    def __init__(self, grid: tuple[int, int], head_channels: int) -> None:
        super().__init__()
        self.grid, self.head_channels = grid, head_channels
        tokens = grid[0] * grid[1]
        self.register_buffer("cos", torch.empty(tokens, head_channels), persistent=False)
        self.register_buffer("sin", torch.empty(tokens, head_channels), persistent=False)
        self.reset_tables()

    def reset_tables(self) -> None:
        """Fill `cos` and `sin`."""
        cos, sin = rope_2d(self.grid, self.head_channels)
        self.cos.copy_(cos)
        self.sin.copy_(sin)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate queries or keys [B, H, N, D]."""
        return apply_rope(x, self.cos, self.sin)
