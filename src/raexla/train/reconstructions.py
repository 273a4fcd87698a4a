"""Validation of codecs in training: PSNR, SSIM, L1, rFID on held-out pictures, and a sheet of pairs to look at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from raexla.data import SourceRecipe, image_rows, open_pass
from raexla.eval.comparison import Pair, save_comparison
from raexla.eval.features import open_features
from raexla.eval.frechet import frechet_distance
from raexla.eval.moments import Covariance
from raexla.eval.reconstruct import Reconstructor, measure
from raexla.recipe import Recipe

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
    features: str | None = None
    """Adds rFID on these features: torch-fidelity's Inception weights (a file), or an encoder's folder, whose distances
    are only to be compared with their like. Its value depends on `images`."""
    shown: Annotated[int, Field(ge=0)] = 16
    """Pairs of original and reconstruction in the sheet."""


class ReconstructionValidation:
    """Runs the evaluation of a `DecoderTask`, with the moving average where there is one and without noise."""

    def __init__(self, task: "DecoderTask", recipe: ReconstructionEvalRecipe) -> None:
        self._task, self._recipe = task, recipe
        self._reconstruct = Reconstructor(task.codec, task.runtime, task.batch_images, self._decode)
        self._features = None
        if recipe.source is not None and recipe.features is not None:
            size = task.codec.output_size
            self._features = open_features(recipe.features, size, task.runtime, task.batch_images, "eval.features")

    def _decode(self, latent: Tensor) -> Tensor:
        task = self._task
        tokens = task.codec.denormalise(latent)
        drawn: Tensor = functional_call(task.decoder, task.parts[0].weights(), (tokens,))
        return drawn

    def run(self, step: int, samples: Path) -> dict[str, float]:
        """`validation/psnr` in dB, `validation/ssim`, `validation/l1` and, with features, `validation/rfid`, all of
        8-bit pictures; pairs go to `samples/step-XXXXXXXX.png`."""
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
            task.tick()
            good = batch.arrays["mask"] > 0
            results.append(self._reconstruct.one_batch(batch.arrays["pixels"])[good])
            originals.append(batch.arrays["pixels"][good])
        real, fake = np.concatenate(originals), np.concatenate(results)
        found = measure(real, fake)
        if task.runtime.process_index == 0 and recipe.shown:
            notes = [f"PSNR {psnr:.2f} dB   SSIM {ssim:.4f}" for psnr, ssim in zip(*found.values(), strict=True)]
            pairs = [Pair(*row) for row in zip(real, fake, notes, strict=True)][: recipe.shown]
            save_comparison(samples / f"step-{step:08d}.png", pairs)
        means = {
            **{f"validation/{name}": float(np.mean(values)) for name, values in found.items()},
            "validation/l1": float(np.abs(real / 255.0 - fake / 255.0).mean()),
        }
        if self._features is not None and len(real) > 1:
            means["validation/rfid"] = frechet_distance(*(Covariance.of(self._features.of(p)) for p in (real, fake)))
        return means
