"""Tokens of a grid <-> patches of p x p tokens, and pictures <-> patches. All grids are row-major.

Two orders inside a patch occur in the released models, and both are needed: what goes *in* is (C, p, p), as a
convolution's weight is; what comes *out* is (p, p, C), as `nhwpqc` of MAE's un-patchify is.
"""

from torch import Tensor, nn


def group_tokens(x: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Tokens [B, rows x columns, C] -> patches [B, rows/p x columns/p, C p p], channel first inside a patch."""
    if patch == 1:
        return x
    batch, _, channels = x.shape
    rows, columns = grid[0] // patch, grid[1] // patch
    x = x.reshape(batch, rows, patch, columns, patch, channels).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(batch, rows * columns, channels * patch * patch)


def ungroup_tokens(x: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Patches [B, rows/p x columns/p, p p C], channel last inside a patch -> tokens [B, rows x columns, C].

    `grid` is the fine one, (rows, columns). Not the inverse of `group_tokens`: the order inside a patch differs.
    """
    if patch == 1:
        return x
    batch, _, width = x.shape
    rows, columns, channels = grid[0] // patch, grid[1] // patch, width // (patch * patch)
    x = x.reshape(batch, rows, columns, patch, patch, channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, grid[0] * grid[1], channels)


def patchify(image: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> patches [B, H/p x W/p, p p C], channel last inside a patch (MAE's order)."""
    batch, channels, height, width = image.shape
    rows, columns = height // patch, width // patch
    x = image.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(batch, rows * columns, patch * patch * channels)


def unpatchify(x: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Patches [B, rows x columns, p p C], channel last inside a patch -> [B, C, rows x p, columns x p].

    The inverse of `patchify`; `grid` counts patches.
    """
    batch, _, width = x.shape
    (rows, columns), channels = grid, width // (patch * patch)
    x = x.reshape(batch, rows, columns, patch, patch, channels).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(batch, channels, rows * patch, columns * patch)


class PatchEmbed(nn.Module):
    """A linear on each patch of p x p tokens: the released models' strided convolution, without the convolution.

    `proj.weight` is [width, C p p], the convolution's weight [width, C, p, p] flattened.
    """

    def __init__(self, grid: tuple[int, int], patch: int, channels: int, width: int) -> None:
        super().__init__()
        if grid[0] % patch or grid[1] % patch:
            raise ValueError(f"a {grid[0]} x {grid[1]} grid does not divide into patches of {patch} x {patch}")
        self.grid, self.patch = grid, patch
        self.proj = nn.Linear(channels * patch * patch, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, rows x columns, C] -> [B, rows/p x columns/p, width]."""
        return self.proj(group_tokens(x, self.grid, self.patch))
