"""Tasks without weights: what `raexla train` would open, on `meta`, from configurations alone."""

from types import SimpleNamespace
from typing import Any, cast

import torch

from raexla.data import Chat
from raexla.models.codecs import LatentStatistics, RAECodecRecipe, build_codec
from raexla.models.dit import LightningDiT
from raexla.models.mllm import UnifiedModel, build_mllm
from raexla.recipe import UserError
from raexla.runtime import Runtime
from raexla.sampling.codec import OpenCodec
from raexla.sampling.model import TextToImage, TextToImageRecipe
from raexla.train.base import StageRecipe
from raexla.train.pretrain import PretrainRecipe, PretrainTask
from raexla.train.task import Task


def outline_model(recipe: TextToImageRecipe) -> TextToImage:
    """The model of a recipe on `meta`. It has no decoder (training never decodes) and no tokenizer."""
    with torch.device("meta"):
        codec_recipe = recipe.codec
        statistics = None
        if isinstance(codec_recipe, RAECodecRecipe):
            codec_recipe = codec_recipe.model_copy(update={"decoder": None, "weights": None})
        codec: Any = build_codec(codec_recipe, load=False)
        if getattr(recipe.codec, "statistics", None) is not None:
            empty = torch.empty(codec.channels)
            statistics = LatentStatistics(empty, empty)
            codec = build_codec(codec_recipe, load=False, statistics=statistics)
        dit = LightningDiT(recipe.model.dit, codec.grid, codec.channels)
        # A folder's tokenizer may have more tokens than its table has rows; of published ones none has.
        mllm = build_mllm(recipe.model.llm, 0, codec.channels, dit.condition_channels)
        unified = UnifiedModel(mllm, dit)
    unified.requires_grad_(True)
    codec.requires_grad_(False)
    return TextToImage(
        recipe=recipe,
        unified=unified,
        opened=OpenCodec(codec, recipe.codec, {}),
        chat=cast(Chat, SimpleNamespace(recipe=recipe.chat)),
        shift=recipe.flow.factor(codec.grid[0] * codec.grid[1], codec.channels),
    )


def outline_task(recipe: StageRecipe, runtime: Runtime) -> Task:
    """The Task of a recipe, opened without reading a weight.

    Raises:
        UserError: a stage that can't be planned.
    """
    if isinstance(recipe, PretrainRecipe):
        shared = {name: getattr(recipe, name) for name in TextToImageRecipe.model_fields}
        return PretrainTask(recipe, runtime, outline_model(TextToImageRecipe(**shared)))
    raise UserError(f"stage {recipe.stage}: `plan` knows pretrain so far")
