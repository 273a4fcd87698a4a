"""Differentiable resizing as two matrix products with fixed weights.

XLA has no bicubic or antialiased interpolation and no backward of the bilinear one; separable resampling is linear,
so rows and columns each take one small matrix. Agrees with `torch.nn.functional.interpolate(align_corners=False)`.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raexla.nn.tables import TableModule

Filter = Literal["bilinear", "bicubic"]


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.clip(1.0 - np.abs(x), 0.0, None)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (Keys 1981)."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resize_matrix(size_in: int, size_out: int, filter: Filter = "bilinear", *, antialias: bool = True) -> Tensor:
    """Weights [size_out, size_in], float32, of one-dimensional resampling.

    With `antialias` the filter widens when shrinking, weights beyond the edge are dropped and the rest renormalised,
    and the cubic has a = -0.5 (as PIL and PyTorch); without it the edge repeats and the cubic has a = -0.75.
    """
    scale = np.float32(size_in / size_out)  # positions in float32, as PyTorch computes them
    centres = (np.arange(size_out, dtype=np.float32) + np.float32(0.5)) * scale
    radius = 1.0 if filter == "bilinear" else 2.0
    weights = np.zeros((size_out, size_in))
    if antialias:
        stretch = max(float(scale), 1.0)
        for row, centre in enumerate(centres.astype(np.float64)):
            first = max(int(centre - radius * stretch + 0.5), 0)
            last = min(int(centre + radius * stretch + 0.5), size_in)
            distance = (np.arange(first, last) - centre + 0.5) / stretch
            taps = _triangle(distance) if filter == "bilinear" else _cubic(distance, -0.5)
            weights[row, first:last] = taps / taps.sum()
    else:
        for row, centre in enumerate(centres):
            # bilinear clamps the position at the first pixel; bicubic extrapolates from the repeated edge
            position = centre - np.float32(0.5)
            position = float(max(position, np.float32(0)) if filter == "bilinear" else position)
            base = int(np.floor(position))
            for tap in range(base - int(radius) + 1, base + int(radius) + 1):
                distance = np.asarray(position - tap)
                value = _triangle(distance) if filter == "bilinear" else _cubic(distance, -0.75)
                weights[row, min(max(tap, 0), size_in - 1)] += float(value)
    return torch.from_numpy(weights).float()


def resize(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resample [B, C, H, W] by the matrices rows [H', H] and columns [W', W] -> [B, C, H', W']."""
    return torch.matmul(rows.to(image.dtype), torch.matmul(image, columns.to(image.dtype).transpose(0, 1)))


def resize_tokens(tokens: Tensor, grid: tuple[int, int], rows: Tensor, columns: Tensor) -> Tensor:
    """Resample row-major tokens [B, h w, C] by the matrices [h', h] and [w', w] -> [B, h' w', C]."""
    batch, _, channels = tokens.shape
    x = tokens.reshape(batch, grid[0], grid[1], channels).permute(0, 3, 1, 2)
    return resize(x, rows, columns).permute(0, 2, 3, 1).reshape(batch, rows.shape[0] * columns.shape[0], channels)


class Resize(TableModule):
    """Resizes pictures of one size to another, with the matrices as buffers. No-op when the sizes agree."""

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        size_in: tuple[int, int],
        size_out: tuple[int, int],
        filter: Filter = "bilinear",
        *,
        antialias: bool = True,
    ) -> None:
        super().__init__()
        self.size_in, self.size_out = size_in, size_out
        self.filter: Filter = filter
        self.antialias = antialias
        self.register_buffer("rows", torch.empty(size_out[0], size_in[0]), persistent=False)
        self.register_buffer("columns", torch.empty(size_out[1], size_in[1]), persistent=False)
        self.reset_tables()

    def reset_tables(self) -> None:
        """Fill `rows` and `columns`."""
        self.rows.copy_(resize_matrix(self.size_in[0], self.size_out[0], self.filter, antialias=self.antialias))
        self.columns.copy_(resize_matrix(self.size_in[1], self.size_out[1], self.filter, antialias=self.antialias))

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] of `size_in` -> [B, C, H', W'] of `size_out`."""
        if self.size_in == self.size_out:
            return image
        if tuple(image.shape[-2:]) != self.size_in:
            raise ValueError(f"built to resize pictures of {self.size_in}, got {tuple(image.shape[-2:])}")
        return resize(image, self.rows, self.columns)
