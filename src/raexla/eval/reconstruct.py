"""Pictures through a codec and back: what is lost before any diffusion model is asked.

The one way in which that is done: for the verb `reconstruct`, for the ceiling of the nano benchmark, and for the
validation of decoder training. S: side of what goes in, S': side of what comes out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raexla.eval.metrics import psnr, ssim
from raexla.runtime import Runtime

QUANTISATION = "clamped to [0, 1], rounded to 8 bits"


class Reconstructor:
    """decode(encode(image)) in batches of one shape, compiled once.

    Args:
        codec: placed on the runtime's devices; see `raexla.models.codecs.Codec`.
        batch_images: images at a time, rounded up to a multiple of the batch shards.
        decode: replaces `codec.decode` (to take a moving average's weights, say).
    """

    def __init__(
        self,
        codec: Any,
        runtime: Runtime,
        batch_images: int = 64,
        decode: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.codec, self.runtime = codec, runtime
        shards = runtime.batch_shards
        self.batch = -(-batch_images // shards) * shards
        self._decode = decode or codec.decode
        self._compiled = runtime.compile(self._there_and_back)

    def _there_and_back(self, pixels: Tensor) -> Tensor:
        image = pixels[0].permute(0, 3, 1, 2).float() / 255.0
        with torch.no_grad(), self.runtime.autocast():
            again = self._decode(self.codec.encode(image)).float()
        return torch.round(again.clamp(0, 1) * 255.0).to(torch.uint8).permute(0, 2, 3, 1)

    def one_batch(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [n, S, S, 3] -> uint8 [n, S', S', 3]; each n is a compilation of its own.

        Raises:
            UserError: the codec has no decoder.
        """
        return self.runtime.to_host(self._compiled(self.runtime.put({"pixels": pixels})["pixels"]))

    def __call__(self, pixels: np.ndarray, tick: Callable[[int], Any] = lambda count: None) -> np.ndarray:
        """uint8 [n, S, S, 3] -> uint8 [n, S', S', 3], n >= 1 of any number; the last batch is filled up.

        Args:
            tick: called with the number of images that each batch has finished.

        Raises:
            UserError: the codec has no decoder.
        """
        out = []
        for start in range(0, len(pixels), self.batch):
            part = pixels[start : start + self.batch]
            padded = np.concatenate([part, np.repeat(part[-1:], self.batch - len(part), axis=0)])
            out.append(self.one_batch(padded)[: len(part)])
            tick(len(part))
        return np.concatenate(out)


@dataclass(frozen=True)
class Measure:
    """A number for each pair of pictures."""

    name: str
    unit: str
    digits: int
    """Decimals that are shown to people."""
    definition: str
    """Its part of the protocol."""
    of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(original, reconstruction), both float [n, 3, S', S'] in [0, 1] -> [n]."""


PSNR = Measure(
    "psnr", "dB", 2, "10 log10(1 / MSE) over an image's pixels and channels; equal images are left out", psnr
)
SSIM = Measure(
    "ssim",
    "",
    4,
    "Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, K = (0.01, 0.03), mean over channels and over places where "
    "the window lies inside the image",
    ssim,
)
MEASURES = (PSNR, SSIM)
"""What every reconstruction is measured by."""


def measure(
    originals: np.ndarray, reconstructions: np.ndarray, measures: Sequence[Measure] = MEASURES
) -> dict[str, np.ndarray]:
    """Each measure's values [n] of uint8 pictures [n, S', S', 3], by name."""
    first, second = (np.moveaxis(pixels, -1, 1) / 255.0 for pixels in (originals, reconstructions))
    return {item.name: item.of(first, second) for item in measures}


@dataclass(frozen=True)
class Mean:
    """A mean over images with its 95% interval (Student's t); infinite values (PSNR of equal images) are counted
    apart. Without two finite values there is no interval, without one no mean."""

    mean: float | None
    low: float | None
    high: float | None
    count: int
    equal: int


def mean_of(values: Sequence[float] | np.ndarray) -> Mean:
    """The mean of one measure over images."""
    from scipy.stats import t as student  # a second to import, and recipes need this module too

    array = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    equal = len(array) - len(finite)
    if len(finite) == 0:
        return Mean(None, None, None, 0, equal)
    mean = float(finite.mean())
    if len(finite) == 1:
        return Mean(mean, None, None, 1, equal)
    half = float(student.ppf(0.975, len(finite) - 1) * finite.std(ddof=1) / np.sqrt(len(finite)))
    return Mean(mean, mean - half, mean + half, len(finite), equal)
