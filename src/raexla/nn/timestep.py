"""Gaussian-Fourier features of the time, and the MLP on them."""

import math

import torch
from torch import Tensor, nn

FOURIER_SEED = 114514
"""The released DiT does not store its frequencies: they are what a CPU generator with this seed gives."""

FOURIER_FREQUENCIES = 256


def fourier_frequencies(count: int = FOURIER_FREQUENCIES, seed: int = FOURIER_SEED) -> Tensor:
    """Frequencies W [count] float32: standard normal from a CPU generator of this seed."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.normal(0.0, 1.0, (count,), generator=generator, device="cpu")


def fourier_features(t: Tensor, frequencies: Tensor) -> Tensor:
    """[sin(2 pi t W), cos(2 pi t W)]: t [B] and W [F] -> [B, 2 F], float32 (Tancik et al. 2020)."""
    angles = t.float()[:, None] * frequencies.float()[None, :] * (2 * math.pi)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimestepEmbedder(nn.Module):
    """Fourier features of t, Linear, SiLU, Linear.

    The frequencies are a persistent buffer `W`, because RAE's released models come with their own; one that was built
    on `meta` takes them from `reset_frequencies` or from a state dict.
    """

    W: Tensor

    def __init__(self, width: int, frequencies: int = FOURIER_FREQUENCIES) -> None:
        super().__init__()
        self.register_buffer("W", torch.empty(frequencies))
        self.reset_frequencies()
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def reset_frequencies(self) -> None:
        """Fill `W` by the released rule."""
        self.W.copy_(fourier_frequencies(self.W.shape[0]))

    def forward(self, t: Tensor) -> Tensor:
        """t [B] in [0, 1] -> [B, width]."""
        features = fourier_features(t, self.W)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))
