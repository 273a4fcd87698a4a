"""Tasks without weights: what `raexla train` would open, on `meta`, from configurations alone."""

from types import SimpleNamespace
from typing import Any, cast

import torch

from raexla.data import Chat
from raexla.models.codecs import LatentStatistics, RAECodecRecipe, build_codec
from raexla.models.dit import LightningDiT
from raexla.models.mllm import UnifiedModel, build_mllm
from raexla.plan.analytic import phases
from raexla.plan.model import model_of
from raexla.runtime import Runtime
from raexla.sampling.codec import OpenCodec
from raexla.sampling.model import TextToImage, TextToImageRecipe, open_reader
from raexla.train.base import StageRecipe
from raexla.train.finetune import FinetuneRecipe, FinetuneTask
from raexla.train.pretrain import PretrainRecipe, PretrainTask
from raexla.train.task import Task


def outline_model(recipe: TextToImageRecipe, image_size: int | None = None) -> TextToImage:
    """The model of a recipe on `meta`. It has no decoder (training never decodes) and no tokenizer.

    Args:
        image_size: side of the pictures that go in, which a decoder decides that may not be there yet.
    """
    with torch.device("meta"):
        codec_recipe = recipe.codec
        statistics = None
        if isinstance(codec_recipe, RAECodecRecipe):
            given = codec_recipe.image_size or image_size
            codec_recipe = codec_recipe.model_copy(update={"decoder": None, "weights": None, "image_size": given})
        codec: Any = build_codec(codec_recipe, load=False)
        if getattr(recipe.codec, "statistics", None) is not None:
            empty = torch.empty(codec.channels)
            statistics = LatentStatistics(empty, empty)
            codec = build_codec(codec_recipe, load=False, statistics=statistics)
        dit = LightningDiT(recipe.model.dit, codec.grid, codec.channels)
        reader = open_reader(recipe, codec.image_size, load=False)
        read = codec.channels if reader is None else reader.channels
        # A folder's tokenizer may have more tokens than its table has rows; of published ones none has.
        mllm = build_mllm(recipe.model.llm, 0, read, dit.condition_channels)
        unified = UnifiedModel(mllm, dit)
    unified.requires_grad_(True)
    codec.requires_grad_(False)
    return TextToImage(
        recipe=recipe,
        unified=unified,
        opened=OpenCodec(codec, recipe.codec, {}),
        chat=cast(Chat, SimpleNamespace(recipe=recipe.chat)),
        shift=recipe.flow.factor(codec.grid[0] * codec.grid[1], codec.channels),
        reader=reader,
    )


def outline_task(recipe: StageRecipe, runtime: Runtime) -> Task:
    """The Task of a recipe, opened without reading a weight.

    Raises:
        UserError: a stage that can't be planned.
    """
    phases(recipe)  # refuses other stages
    if isinstance(recipe, PretrainRecipe):
        return PretrainTask(recipe, runtime, outline_model(model_of(recipe), recipe.transform.size))
    assert isinstance(recipe, FinetuneRecipe)
    return FinetuneTask(recipe, runtime, outline_model(model_of(recipe), recipe.transform.size))
