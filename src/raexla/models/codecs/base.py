"""The contract that every codec keeps."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Codec(Protocol):
    """Image <-> latent. B: batch, N = h*w: tokens (row-major), C: channels."""

    grid: tuple[int, int]
    """(h, w) of the latent."""
    channels: int
    """C."""
    image_size: int
    """Side in pixels of the square images that go in."""
    output_size: int
    """Side in pixels of those that come out; larger than `image_size` where the decoder upsamples."""

    def encode(self, image: Tensor) -> Tensor:
        """Latent [B, N, C] of `image` [B, 3, image_size, image_size] in [0, 1]; no gradient, no randomness."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Image [B, 3, output_size, output_size], in [0, 1] up to error (not clamped), of `latent` [B, N, C].

        With gradients to the latent, and to the decoder's parameters where these are trained.
        """
        ...
