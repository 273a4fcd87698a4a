"""What a run reads and writes: pictures per second, their bytes, a checkpoint's size."""

from dataclasses import dataclass

from raexla.plan.counts import Counts
from raexla.plan.latent import read_latent
from raexla.plan.model import model_of
from raexla.plan.slices import GIB
from raexla.recipe import Recipe
from raexla.train.finetune import FinetuneRecipe
from raexla.train.latents.training import latent_groups
from raexla.train.pretrain import PretrainRecipe

PICTURE_BYTES = 100e3
"""Assumed of a stored picture: a JPEG of half a megapixel at quality 90 or so."""
_ITEM = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Intake:
    """What one sample costs to read."""

    sample_bytes: float
    said: str
    """Where that comes from, for a person."""


def intake(recipe: Recipe) -> Intake:
    """Bytes of a stored sample of a recipe that can be planned: pictures by assumption, latents as they are."""
    pictures = Intake(PICTURE_BYTES, f"{PICTURE_BYTES / 1e3:.0f} kB a stored picture")
    if not isinstance(recipe, (PretrainRecipe, FinetuneRecipe)):
        return pictures
    latent = read_latent(model_of(recipe).codec, recipe.transform.size)
    ready = latent_groups(recipe.data.sources, latent.grid, latent.channels)
    if not ready:
        return pictures
    stored = latent.tokens * latent.channels * _ITEM[next(iter(ready.values())).stored]
    share = sum(source.weight for source in recipe.data.sources if source.latents is not None)
    share /= sum(source.weight for source in recipe.data.sources)
    each = share * stored + (1 - share) * PICTURE_BYTES
    said = f"{stored / 1e3:.0f} kB a stored latent"
    return Intake(each, said if share == 1 else f"{said}, {pictures.said}")


def checkpoint_gib(counts: Counts) -> float:
    """Masters, two moments and averages of what is trained."""
    numbers = sum(part.parameters * (3 + part.averaged) for part in counts.parts if part.trained)
    return 4 * numbers / GIB
