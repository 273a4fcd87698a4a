"""Mean and variance of a latent, and what the codecs that have them share."""

import torch
from torch import Tensor, nn

from raexla.recipe import UserError


class LatentStatistics(nn.Module):
    """Mean and variance of the latent, per token and channel [N, C] or per channel [1, C]; frozen buffers.

    normalise: (z - mean) / sqrt(var + 1e-5); `denormalise` is its inverse.
    """

    eps = 1e-5
    mean: Tensor
    var: Tensor

    def __init__(self, mean: Tensor, var: Tensor) -> None:
        super().__init__()
        if mean.shape != var.shape or mean.dim() != 2:
            raise ValueError(f"statistics are [N, C] or [1, C], got mean {list(mean.shape)}, var {list(var.shape)}")
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("var", var.float().clone())

    @classmethod
    def from_grid(cls, mean: Tensor, var: Tensor) -> "LatentStatistics":
        """From the released `stat.pt` layout: mean and var [C, h, w] (or [C])."""
        mean, var = (t.reshape(t.shape[0], -1).transpose(0, 1) for t in (mean, var))
        return cls(mean, var)

    def normalise(self, latent: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return (latent - self.mean) / torch.sqrt(self.var + self.eps)

    def denormalise(self, latent: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return latent * torch.sqrt(self.var + self.eps) + self.mean


class NormalisedCodec(nn.Module):
    """A codec whose latent is normalised by statistics, if there are any."""

    statistics: LatentStatistics | None
    grid: tuple[int, int]
    channels: int

    def set_statistics(self, statistics: LatentStatistics | None) -> None:
        """Take statistics into use.

        Raises:
            UserError: they are of another latent, both shapes named.
        """
        tokens = self.grid[0] * self.grid[1]
        if statistics is not None and tuple(statistics.mean.shape) not in {(tokens, self.channels), (1, self.channels)}:
            raise UserError(
                f"the latent statistics are for {list(statistics.mean.shape)} (tokens, channels), "
                f"the encoder gives [{tokens}, {self.channels}]: compute them again with `raexla stats`"
            )
        self.statistics = statistics

    def normalise(self, tokens: Tensor) -> Tensor:
        """What the encoder gives -> latent."""
        return tokens if self.statistics is None else self.statistics.normalise(tokens)

    def denormalise(self, latent: Tensor) -> Tensor:
        """Latent -> what the encoder gives (which is also what the MLLM's projector reads)."""
        return latent if self.statistics is None else self.statistics.denormalise(latent)
