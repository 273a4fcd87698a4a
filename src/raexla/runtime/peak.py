"""Peak FLOP/s, the denominator of MFU."""

import time

import torch

from raexla.recipe import UserError

#: bf16 FLOP/s of one chip, from Google's system architecture pages (cloud.google.com/tpu/docs/v4, v5e, v5p, v6e).
TPU_BF16_FLOPS = {"v4": 275e12, "v5litepod": 197e12, "v5e": 197e12, "v5p": 459e12, "v6e": 918e12}


def tpu_peak(accelerator: str, chips: int) -> tuple[float, str]:
    """Peak of a slice, from its accelerator type such as `v5p-128`.

    Raises:
        UserError: a generation that is not in the table.
    """
    generation = accelerator.split("-")[0].lower()
    if generation not in TPU_BF16_FLOPS:
        raise UserError(f"no peak FLOP/s known for TPU {accelerator}; known: {', '.join(TPU_BF16_FLOPS)}")
    return TPU_BF16_FLOPS[generation] * chips, f"{chips} x {generation} bf16, published"


def measured_peak(device: torch.device) -> tuple[float, str]:
    """Best of a few float32 matrix products of 1024 on a device that has no published figure."""
    size = 1024
    a = torch.ones(size, size, device=device)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best, "measured, float32 matmul 1024"
