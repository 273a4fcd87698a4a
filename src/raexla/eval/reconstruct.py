"""Images through a codec and back: what is lost before any diffusion model is asked."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raexla.runtime import Runtime


def reconstruct(
    codec: Any,
    runtime: Runtime,
    images: np.ndarray,
    *,
    batch_images: int = 64,
    tick: Callable[[int], Any] = lambda count: None,
) -> np.ndarray:
    """decode(encode(image)), clipped to [0, 1].

    Args:
        codec: placed on the runtime's devices; see `raexla.models.codecs.Codec`.
        images: float [n, 3, H, W] in [0, 1] of the codec's size; n >= 1.
        batch_images: images at a time, rounded up to a multiple of the batch shards; one shape, one compilation.
        tick: called with the number of images that each batch has finished.

    Returns:
        float32 [n, 3, H, W].

    Raises:
        UserError: the codec has no decoder.
    """
    shards = runtime.batch_shards
    size = -(-min(batch_images, len(images)) // shards) * shards

    def there_and_back(image: Tensor) -> Tensor:
        with torch.no_grad():
            return codec.decode(codec.encode(image[0])).clamp(0, 1)

    compiled = runtime.compile(there_and_back)
    out = []
    for start in range(0, len(images), size):
        part = images[start : start + size].astype(np.float32)
        padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        out.append(runtime.to_host(compiled(runtime.put({"image": padded})["image"]))[: len(part)])
        tick(len(part))
    return np.concatenate(out)
