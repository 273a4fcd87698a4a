"""Finetuning: a pretrained unified model on high-quality data, LLM + DiT or the DiT alone (000, section 4.2)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from raexla.checkpoint import read_artifact
from raexla.data import ImageTransformRecipe
from raexla.models.codecs import CodecRecipe
from raexla.recipe import ArtifactReference
from raexla.runtime import Runtime
from raexla.sampling.model import TextToImage, load_model, with_length
from raexla.train.base import StageRecipe
from raexla.train.pretrain import UnifiedLossRecipe, UnifiedOptimRecipe, UnifiedTask
from raexla.train.validate import TextToImageEvalRecipe


class ModelReference(ArtifactReference):
    """The model to start from."""

    recipe: str | None = None
    """The recipe that makes it, for `raexla plan`, which reads the model's sizes there as long as the artifact doesn't
    exist. Training doesn't look at it."""


class FinetuneRecipe(StageRecipe):
    """The stage `finetune`. Sizes, chat layout and time shift are those of the model that it starts from, but for the
    length."""

    stage: Literal["finetune"]
    init: ModelReference
    """The pretrained model's artifact."""
    codec: CodecRecipe | None = None
    """Replaces the codec that the model names, for instance to give it another decoder; None keeps it."""
    chat_length: Annotated[int, Field(gt=0)] | None = None
    """Tokens of a sequence, in place of the model's `chat.length`: 1024 as released, after 512 in pretraining."""
    transform: ImageTransformRecipe
    """How pictures become squares of the codec's size."""
    times_per_image: Annotated[int, Field(ge=1)] = 1
    """Noise levels that each picture is trained at in a step."""
    losses: UnifiedLossRecipe = UnifiedLossRecipe()
    optim: UnifiedOptimRecipe
    """`llm: null` tunes DiT and connector only."""
    eval: TextToImageEvalRecipe = TextToImageEvalRecipe()


class FinetuneTask(UnifiedTask):
    """The stage `finetune`.

    Args:
        model: taken instead of reading the artifact (an outline, for `raexla plan`).
    """

    def __init__(self, recipe: FinetuneRecipe, runtime: Runtime, model: TextToImage | None = None) -> None:
        if model is None:
            read_artifact(recipe.init, "model", "init")
            model = load_model(Path(recipe.init.path), recipe.codec, "init.path")
            if recipe.chat_length is not None:
                model = with_length(model, recipe.chat_length)
        super().__init__(
            recipe, runtime, model, recipe.transform, recipe.times_per_image, recipe.losses, recipe.optim, recipe.eval
        )
