"""The convolutional decoder of VQGAN and latent diffusion (Esser et al. 2021, Rombach et al. 2022), as VA-VAE has it.

AlignTok's decoder (003, appendix A: "same as VA-VAE", about 42M parameters). Parameter names are those of the released
latent-diffusion code, so that its files load as they are.

B: batch, C: channels, h and w: rows and columns of a feature map.
"""

import math
from itertools import pairwise

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.nn.attention import AttentionKernel
from raexla.nn.sharding import ShardingTable
from raexla.recipe import Recipe


class ConvDecoderRecipe(Recipe):
    """A stack of levels, each twice the size of the one before it; VA-VAE's (f16) if nothing is given."""

    width: int = Field(default=128, gt=0)
    """Channels at full size."""
    multipliers: tuple[int, ...] = Field(default=(1, 1, 2, 2, 4), min_length=1)
    """Channels of each level in units of `width`, the full size first; n levels enlarge by 2^(n - 1)."""
    blocks: int = Field(default=2, gt=0)
    """Residual blocks of the encoder that it mirrors; a level of the decoder has one more."""
    attention_levels: tuple[int, ...] = (4,)
    """Levels with self-attention after each block, counted from 0 at full size (4 is 16 x 16 of 256 x 256)."""
    groups: int = Field(default=32, gt=0)
    """Groups of the group norms; divides the channels of every level."""

    @model_validator(mode="after")
    def _fits(self) -> "ConvDecoderRecipe":
        for multiplier in self.multipliers:
            if multiplier < 1 or self.width * multiplier % self.groups:
                raise ValueError(f"{self.groups} groups don't divide a level of {self.width} x {multiplier} channels")
        wrong = [level for level in self.attention_levels if not 0 <= level < len(self.multipliers)]
        if wrong:
            raise ValueError(
                f"attention_levels has {wrong[0]}, the levels are numbered 0 to {len(self.multipliers) - 1}"
            )
        return self

    @property
    def factor(self) -> int:
        """Side of what one latent token draws, in pixels."""
        return 1 << (len(self.multipliers) - 1)


def _norm(groups: int, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, 3 x 3 convolution, twice; a 1 x 1 convolution on the way round where the channels change."""

    def __init__(self, channels_in: int, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(groups, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2 = _norm(groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C', h, w]."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttentionBlock(nn.Module):
    """Self-attention of one head over all places, with a residual; `kernel` is what a runtime may swap."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(groups, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.kernel = AttentionKernel()
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same."""
        y = self.norm(x)
        q, k, v = (conv(y).flatten(2).transpose(1, 2)[:, None] for conv in (self.q, self.k, self.v))
        y = self.kernel(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(y)


class Upsample(nn.Module):
    """Every place repeated 2 x 2, then a 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, 2 h, 2 w]."""
        batch, channels, rows, columns = x.shape
        # by expand: XLA has no backward of nearest-neighbour interpolation without falling back to the CPU
        x = x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
        return self.conv(x.reshape(batch, channels, 2 * rows, 2 * columns))


class _Middle(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups)
        self.attn_1 = AttentionBlock(channels, groups)
        self.block_2 = ResidualBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Level(nn.Module):
    def __init__(self, channels_in: int, channels: int, blocks: int, groups: int, attention: bool, last: bool) -> None:
        super().__init__()
        widths = [channels_in] + [channels] * blocks
        self.block = nn.ModuleList(ResidualBlock(width, channels, groups) for width in widths)
        self.attn = nn.ModuleList(AttentionBlock(channels, groups) for _ in widths if attention)
        self.upsample = None if last else Upsample(channels)

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[number](x)
        return x if self.upsample is None else self.upsample(x)


class ConvDecoder(nn.Module):
    """Latent map [B, C, h, w] -> pixels [B, 3, f h, f w] in [-1, 1] up to error, f = `recipe.factor`.

    Args:
        recipe: sizes.
        channels: C.

    Attributes:
        conv_out: the last layer (the adaptive GAN weight's).
    """

    def __init__(self, recipe: ConvDecoderRecipe, channels: int) -> None:
        super().__init__()
        self.recipe, self.channels = recipe, channels
        widths = [recipe.width * multiplier for multiplier in recipe.multipliers]
        self.conv_in = nn.Conv2d(channels, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1], recipe.groups)
        self.up = nn.ModuleList(
            _Level(
                widths[min(number + 1, len(widths) - 1)],
                width,
                recipe.blocks,
                recipe.groups,
                number in recipe.attention_levels,
                number == 0,
            )
            for number, width in enumerate(widths)
        )
        self.norm_out = _norm(recipe.groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, f h, f w]."""
        x = self.mid(self.conv_in(z))
        for number in reversed(range(len(self.up))):  # the smallest level is the last
            x = self.up[number](x)
        return self.conv_out(F.silu(self.norm_out(x)))


def init_like_pytorch(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """PyTorch's own start, with an explicit generator: weights and biases of convolutions and linears uniform within
    1 / sqrt(fan in), norms 1 and 0. That is how the latent-diffusion code leaves them. CPU tensors only."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            bound = 1 / math.sqrt(part.weight[0].numel())
            nn.init.uniform_(part.weight, -bound, bound, generator=generator)
            assert part.bias is not None
            nn.init.uniform_(part.bias, -bound, bound, generator=generator)
        elif isinstance(part, nn.GroupNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def sharding_table(recipe: ConvDecoderRecipe) -> ShardingTable:
    """Convolutions along their outputs over `fsdp` (the last one along its inputs), everything small whole."""

    def conv(path: str) -> ShardingTable:
        return [(f"{path}.weight", ("fsdp", None, None, None)), (f"{path}.bias", (None,))]

    def block(path: str) -> ShardingTable:
        return [(f"{path}.{norm}.*", (None,)) for norm in ("norm1", "norm2")] + [
            row for name in ("conv1", "conv2") for row in conv(f"{path}.{name}")
        ]

    def attention(path: str) -> ShardingTable:
        return [
            (f"{path}.norm.*", (None,)),
            *(row for name in ("q", "k", "v", "proj_out") for row in conv(f"{path}.{name}")),
        ]

    levels = recipe.multipliers
    changes = any(level != following for level, following in pairwise(levels))
    return [
        *conv("conv_in"),
        *block("mid.block_1"),
        *attention("mid.attn_1"),
        *block("mid.block_2"),
        *block("up.*.block.*"),
        *(conv("up.*.block.*.nin_shortcut") if changes else []),
        *(attention("up.*.attn.*") if recipe.attention_levels else []),
        *(conv("up.*.upsample.conv") if len(levels) > 1 else []),
        ("norm_out.*", (None,)),
        ("conv_out.weight", (None, "fsdp", None, None)),
        ("conv_out.bias", (None,)),
    ]
