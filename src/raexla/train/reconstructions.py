"""Validation of codecs in training: PSNR, SSIM and L1 on held-out pictures, and a sheet of pairs to look at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raexla.data import SourceRecipe, image_rows, open_pass
from raexla.eval.metrics import psnr, ssim
from raexla.recipe import Recipe
from raexla.sampling.sheet import save_sheet
from raexla.train.pretrain import image_of

if TYPE_CHECKING:
    from raexla.train.decoder import DecoderTask


class ReconstructionEvalRecipe(Recipe):
    """What happens every `every_steps` steps, and after the last one."""

    every_steps: Annotated[int, Field(ge=1)] | None = None
    """None never evaluates."""
    source: SourceRecipe | None = None
    """Held-out pictures."""
    images: Annotated[int, Field(ge=1)] = 256
    """How many of them."""
    shown: Annotated[int, Field(ge=0)] = 16
    """Pairs of original and reconstruction in the sheet."""


class ReconstructionValidation:
    """Runs the evaluation of a `DecoderTask`, with the moving average where there is one and without noise."""

    def __init__(self, task: "DecoderTask", recipe: ReconstructionEvalRecipe) -> None:
        self._task, self._recipe = task, recipe
        self._compiled = task.runtime.compile(self._reconstruct)

    def _reconstruct(self, pixels: Tensor) -> Tensor:
        task = self._task
        with torch.no_grad():
            latent = task.codec.denormalise(task.codec.encode(image_of(pixels[0])))
            return torch.func.functional_call(task.decoder, task.parts[0].weights(), (latent,)).clamp(0, 1)

    def run(self, step: int, samples: Path) -> dict[str, float]:
        """`validation/psnr` in dB, `validation/ssim`, `validation/l1`; pairs go to `samples/step-XXXXXXXX.png`."""
        task, recipe = self._task, self._recipe
        if recipe.source is None:
            return {}
        change, collate = image_rows(task.recipe.transform)
        originals, results = [], []
        batches = open_pass(
            recipe.source,
            transform=change,
            collate=collate,
            global_batch_images=task.batch_images,
            process_index=task.runtime.process_index,
            process_count=task.runtime.process_count,
            limit=recipe.images,
        )
        for batch in batches:
            good = batch.arrays["mask"] > 0
            placed = task.runtime.put({"pixels": batch.arrays["pixels"]})
            results.append(task.runtime.to_host(self._compiled(placed["pixels"]))[good])
            originals.append(batch.arrays["pixels"][good])
        real = np.concatenate(originals).transpose(0, 3, 1, 2).astype(np.float32) / 255.0
        fake = np.concatenate(results)
        if task.runtime.process_index == 0 and recipe.shown:
            pairs = np.stack([real[: recipe.shown], fake[: recipe.shown]], axis=1).reshape(-1, *real.shape[1:])
            save_sheet(
                samples / f"step-{step:08d}.png", pairs, ["original", "reconstruction"] * min(recipe.shown, len(real))
            )
        return {
            "validation/psnr": float(np.mean(psnr(fake, real))),
            "validation/ssim": float(np.mean(ssim(fake, real))),
            "validation/l1": float(np.abs(fake - real).mean()),
        }
