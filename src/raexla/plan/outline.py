"""Tasks without weights: what `raexla train` would open, on `meta`, from configurations alone."""

from types import SimpleNamespace
from typing import Any, cast

import torch

from raexla.data import Chat
from raexla.losses import build_lpips
from raexla.models.codecs import LatentStatistics, NormalisedCodec, RAECodec, RAECodecRecipe, build_codec
from raexla.models.critic import DinoFeaturesRecipe, build_dino
from raexla.models.dit import LightningDiT
from raexla.models.mllm import UnifiedModel, build_mllm
from raexla.plan.analytic import phases
from raexla.plan.model import model_of
from raexla.runtime import Runtime
from raexla.sampling.codec import OpenCodec
from raexla.sampling.model import TextToImage, TextToImageRecipe, open_reader
from raexla.train.base import StageRecipe
from raexla.train.decoder import DecoderTask, DecoderTrainingRecipe
from raexla.train.decoder.networks import Networks, check_codec, make_critic
from raexla.train.decoder.recipe import LpipsRecipe
from raexla.train.finetune import FinetuneRecipe, FinetuneTask
from raexla.train.pretrain import PretrainRecipe, PretrainTask
from raexla.train.reconstructions import ReconstructionEvalRecipe
from raexla.train.task import Task


def outline_model(recipe: TextToImageRecipe, image_size: int | None = None) -> TextToImage:
    """The model of a recipe on `meta`. It has no decoder (training never decodes) and no tokenizer.

    Args:
        image_size: side of the pictures that go in, which a decoder decides that may not be there yet.
    """
    with torch.device("meta"):
        codec_recipe = recipe.codec
        if isinstance(codec_recipe, RAECodecRecipe):
            given = codec_recipe.image_size or image_size
            codec_recipe = codec_recipe.model_copy(update={"decoder": None, "weights": None, "image_size": given})
        codec: Any = build_codec(codec_recipe, load=False)
        if isinstance(codec, NormalisedCodec) and getattr(recipe.codec, "statistics", None) is not None:
            codec.set_statistics(_statistics(codec.channels))
        dit = LightningDiT(recipe.model.dit, codec.grid, codec.channels)
        reader = open_reader(recipe, codec.image_size, load=False)
        read = codec.channels if reader is None else reader.channels
        # A folder's tokenizer may have more tokens than its table has rows; of published ones none has.
        mllm = build_mllm(recipe.model.llm, 0, read, dit.condition_channels)
        unified = UnifiedModel(mllm, dit)
    unified.requires_grad_(True)
    return TextToImage(
        recipe=recipe,
        unified=unified,
        opened=OpenCodec(codec, recipe.codec, {}),
        chat=cast(Chat, SimpleNamespace(recipe=recipe.chat)),
        shift=recipe.flow.factor(codec.grid[0] * codec.grid[1], codec.channels),
        reader=reader,
    )


def outline_networks(recipe: DecoderTrainingRecipe) -> Networks:
    """The networks of a decoder's training on `meta`."""
    codec_recipe = check_codec(recipe)
    with torch.device("meta"):
        codec = build_codec(codec_recipe, load=False)
        assert isinstance(codec, RAECodec)
        if codec_recipe.statistics is not None:
            codec.set_statistics(_statistics(codec.channels))
        lpips = build_lpips() if isinstance(recipe.losses.perceptual, LpipsRecipe) else None
        critic = None
        if recipe.critic is not None:
            kind = recipe.critic.features
            dino = build_dino(kind, codec.image_size) if isinstance(kind, DinoFeaturesRecipe) else None
            critic = make_critic(recipe.critic, codec, dino)
    return Networks(OpenCodec(codec, codec_recipe, {}), lpips, critic)


def _statistics(channels: int) -> LatentStatistics:
    return LatentStatistics(torch.empty(1, channels), torch.empty(1, channels))


def outline_task(recipe: StageRecipe, runtime: Runtime) -> Task:
    """The Task of a recipe, opened without reading a weight.

    Raises:
        UserError: a stage that can't be planned.
    """
    phases(recipe)  # refuses other stages
    if isinstance(recipe, DecoderTrainingRecipe):
        # Neither what is evaluated nor where the last layer starts changes a step.
        bare = recipe.model_copy(update={"eval": ReconstructionEvalRecipe(), "start": None})
        return DecoderTask(bare, runtime, outline_networks(recipe))
    assert isinstance(recipe, (PretrainRecipe, FinetuneRecipe))
    model = outline_model(model_of(recipe), recipe.transform.size)
    return (
        PretrainTask(recipe, runtime, model)
        if isinstance(recipe, PretrainRecipe)
        else FinetuneTask(recipe, runtime, model)
    )
