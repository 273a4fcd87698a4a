"""The ViT decoder (RAE's GeneralDecoder).

B: batch, N = h*w: latent tokens (row-major), C: latent channels, D: decoder width, M = h'*w': drawn tokens, p: patch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.models.decoder.recipe import DecoderRecipe
from raexla.nn.attention import AttentionKernel
from raexla.nn.patches import unpatchify
from raexla.nn.positions import sincos_2d
from raexla.nn.resize import Resize, resize_matrix, resize_tokens
from raexla.nn.tables import TableModule


class DecoderAttention(nn.Module):
    """Multi-head self-attention with separate projections; `kernel` is what a runtime may swap."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=qkv_bias)
        self.key = nn.Linear(width, width, bias=qkv_bias)
        self.value = nn.Linear(width, width, bias=qkv_bias)
        self.kernel = AttentionKernel()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, M, D] -> [B, M, D]."""
        batch, tokens, width = x.shape
        shape = (batch, tokens, self.heads, width // self.heads)
        q, k, v = (linear(x).view(shape).transpose(1, 2) for linear in (self.query, self.key, self.value))
        return self.proj(self.kernel(q, k, v).transpose(1, 2).reshape(batch, tokens, width))


class DecoderBlock(nn.Module):
    """Pre-norm transformer block, exact GELU."""

    def __init__(self, width: int, heads: int, mlp: int, eps: float, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = DecoderAttention(width, heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, mlp)
        self.fc2 = nn.Linear(mlp, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, M, D] -> [B, M, D]."""
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViTDecoder(TableModule):
    """Latent tokens [B, N, C] -> image [B, 3, h' p, w' p].

    Args:
        recipe: sizes.
        grid: (h, w) of the latent.
        channels: C.
        mean, std: the encoder's pixel normalisation; the output is un-normalised by it.

    Attributes:
        image_size: (H, W) of what it draws. blocks: the stack. head: the last linear (the adaptive GAN weight's layer).
    """

    positions: Tensor

    def __init__(
        self,
        recipe: DecoderRecipe,
        grid: tuple[int, int],
        channels: int,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        width, depth, heads, mlp = recipe.shape
        self.recipe = recipe
        self.latent_grid = grid
        self.grid = recipe.grid or grid
        self.patch_size = recipe.patch_size
        self.image_size = (self.grid[0] * recipe.patch_size, self.grid[1] * recipe.patch_size)
        self.mean, self.std = tuple(mean), tuple(std)
        self.embed = nn.Linear(channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.resize = Resize(self.latent_grid, self.grid, "bilinear", antialias=False)
        self.blocks = nn.Sequential(
            *(DecoderBlock(width, heads, mlp, recipe.norm_eps, qkv_bias=recipe.qkv_bias) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width, eps=recipe.norm_eps)
        self.head = nn.Linear(width, 3 * recipe.patch_size**2)
        self.register_buffer("positions", torch.empty(1, self.grid[0] * self.grid[1], width), persistent=False)
        self.reset_tables()

    def reset_tables(self) -> None:
        """Fill the fixed positions [1, M, D] (MAE's sine-cosine table; the CLS token's own position is zero)."""
        made_for = self.recipe.position_grid or self.grid
        table = sincos_2d(made_for, self.positions.shape[-1])[None]
        if made_for != self.grid:
            matrices = (
                resize_matrix(size_in, size_out, "bicubic", antialias=False)
                for size_in, size_out in zip(made_for, self.grid, strict=True)
            )
            table = resize_tokens(table, made_for, *matrices)
        self.positions.copy_(table)

    def forward(self, latent: Tensor) -> Tensor:
        """Image [B, 3, H, W], in [0, 1] where the decoder is right: un-normalised, not clamped."""
        image = unpatchify(self.patches(latent), self.grid, self.patch_size)
        planes = zip(image.unbind(1), self.mean, self.std, strict=True)
        return torch.stack([plane * std + mean for plane, mean, std in planes], dim=1)

    def patches(self, latent: Tensor) -> Tensor:
        """Normalised pixels of every patch [B, M, p p 3], (row, column, channel) inside a patch."""
        return self.head(self.norm(self.blocks(self.embed_latent(latent)))[:, 1:])

    def embed_latent(self, latent: Tensor) -> Tensor:
        """Input of the first block [B, 1 + M, D]."""
        x = self.embed(latent)
        if self.latent_grid != self.grid:
            x = resize_tokens(x, self.latent_grid, self.resize.rows, self.resize.columns)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x + self.positions], dim=1)


def init_weights(decoder: ViTDecoder, generator: torch.Generator | None = None) -> None:
    """ViT-MAE's initialisation: matrices and the CLS token N(0, 0.02), biases 0, norms 1. CPU tensors only."""
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(decoder.cls_token, std=0.02, generator=generator)
