"""Fixed two-dimensional sine-cosine positions."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Order = Literal["column_first", "row_first"]
"""Which axis the first half of the channels encodes. MAE, and everything descended from it, has the column first."""


def _sincos_1d(positions: np.ndarray, channels: int) -> np.ndarray:
    """[N] -> [N, channels]: sines, then cosines, of position x 10000^(-i / (channels / 2)). float64."""
    omega = 10000.0 ** -(np.arange(channels // 2, dtype=np.float64) / (channels / 2))
    angles = positions[:, None] * omega
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(grid: tuple[int, int], channels: int, order: Order = "column_first") -> Tensor:
    """Positions [N, channels], float32 (computed in float64), of a row-major grid of (rows, columns).

    Half of the channels encode the column and half the row, in the given order.
    """
    if channels % 4:
        raise ValueError(f"2-D sine-cosine positions need channels divisible by 4, got {channels}")
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    by_row = _sincos_1d(rows.reshape(-1).astype(np.float64), channels // 2)
    by_column = _sincos_1d(columns.reshape(-1).astype(np.float64), channels // 2)
    halves = [by_column, by_row] if order == "column_first" else [by_row, by_column]
    return torch.from_numpy(np.concatenate(halves, axis=1)).float()
