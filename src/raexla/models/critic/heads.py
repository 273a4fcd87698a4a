"""The trained part of the critic.

B: batch, C: feature channels, N: tokens.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.models.critic.augment import augment
from raexla.models.critic.features import FeatureNetwork
from raexla.models.critic.recipe import CriticRecipe


class SpectralConv1d(nn.Module):
    """Circular 1-D convolution whose weight is divided by its largest singular value (Miyato et al. 2018).

    One power iteration a forward pass in training mode, none in eval mode; the vectors `u` and `v` are buffers and are
    saved. PyTorch's own form runs `vdot`, which XLA leaves to the host; this one is products and sums only.
    """

    u: Tensor
    v: Tensor

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.zeros(channels_out, channels_in, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.register_buffer("u", torch.full((channels_out,), channels_out**-0.5))
        self.register_buffer("v", torch.full((channels_in * kernel,), (channels_in * kernel) ** -0.5))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C', N]."""
        matrix = self.weight.flatten(1)
        if self.training:
            with torch.no_grad():
                v = _normalise(matrix.T @ self.u[:, None])
                u = _normalise(matrix @ v)
                self.u.copy_(u[:, 0])
                self.v.copy_(v[:, 0])
        u, v = self.u.clone(), self.v.clone()  # what is saved for the backward pass must outlive the next update
        sigma = (u * (matrix @ v[:, None])[:, 0]).sum()
        side = self.kernel // 2
        if side:
            x = torch.cat([x[..., -side:], x, x[..., :side]], dim=-1)
        return F.conv1d(x, self.weight / sigma, self.bias)


class SampleNorm(nn.Module):
    """Normalises each channel over the tokens of one sample, with affine (the released "batch norm local")."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N], computed in float32."""
        wide = x.float()
        mean = wide.mean(-1, keepdim=True)
        variance = (wide - mean).square().mean(-1, keepdim=True)
        wide = (wide - mean) * torch.rsqrt(variance + self.eps)
        return (wide * self.weight[:, None] + self.bias[:, None]).to(x.dtype)


class HeadLayer(nn.Module):
    """Convolution, norm, leaky ReLU."""

    def __init__(self, channels: int, kernel: int, norm: str) -> None:
        super().__init__()
        self.conv = SpectralConv1d(channels, channels, kernel)
        self.norm = SampleNorm(channels) if norm == "per_sample" else nn.BatchNorm1d(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N]."""
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)


class CriticHead(nn.Module):
    """Features [B, N, C] -> logits [B, N]: a pointwise layer, a residual circular one, a pointwise output."""

    def __init__(self, channels: int, kernel: int, norm: str) -> None:
        super().__init__()
        self.enter = HeadLayer(channels, 1, norm)
        self.mix = HeadLayer(channels, kernel, norm)
        self.out = SpectralConv1d(channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, N, C] -> [B, N]."""
        x = self.enter(features.transpose(1, 2))
        x = (self.mix(x) + x) / math.sqrt(2.0)
        return self.out(x)[:, 0]


class Critic(nn.Module):
    """Image -> logits.

    Args:
        features: the frozen feature network; if it is an `nn.Module` its parameters are part of this module.
        recipe: heads and augmentation.

    In the generator's step call it in eval mode (`critic.eval()`): no power iteration, as released.
    """

    def __init__(self, features: FeatureNetwork, recipe: CriticRecipe) -> None:
        super().__init__()
        if recipe.kernel % 2 == 0:
            raise ValueError(f"the critic's kernel must be odd, got {recipe.kernel}")
        self.recipe = recipe
        self.features = features
        self.heads = nn.ModuleList(
            CriticHead(features.channels, recipe.kernel, recipe.norm) for _ in range(features.taps)
        )

    def forward(self, image: Tensor, draws: Tensor | None = None) -> Tensor:
        """Logits [B, taps * N], head after head.

        Args:
            image: [B, 3, H, W] in [0, 1].
            draws: [B, 7] uniform draws for the augmentation; no augmentation if None.
        """
        image = image * 2.0 - 1.0
        if draws is not None:
            image = augment(image, draws, self.recipe.augment)
        return self.logits(self.features(image))

    def logits(self, features: list[Tensor]) -> Tensor:
        """Logits [B, taps * N] of features [B, N, C], one tensor a head."""
        return torch.cat([head(tap) for head, tap in zip(self.heads, features, strict=True)], dim=1)


def init_weights(critic: Critic, generator: torch.Generator | None = None) -> None:
    """PyTorch's law for convolutions, random unit vectors for the power iterations. CPU tensors only."""
    for module in critic.heads.modules():
        if isinstance(module, SpectralConv1d):
            bound = 1.0 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
            for vector in (module.u, module.v):
                vector.copy_(_normalise(torch.randn(vector.shape, generator=generator)))


def _normalise(vector: Tensor, eps: float = 1e-12) -> Tensor:
    return vector / torch.sqrt(vector.square().sum()).clamp_min(eps)
