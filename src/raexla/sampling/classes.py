"""A class-conditional model put together: DiT, codec, time shift (001, sections 4 and 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import ValidationError, model_validator
from torch import Tensor

from raexla.checkpoint import read_artifact
from raexla.flow.time import TimeRecipe
from raexla.models import dit as dit_package
from raexla.models.codecs import CodecRecipe
from raexla.models.dit import DiTRecipe, LightningDiT
from raexla.models.dit.recipe import ClassConditioning
from raexla.nn.tables import reset_tables
from raexla.recipe import ArtifactReference, Recipe, UserError
from raexla.runtime.sharding import Table
from raexla.sampling.base import ImageModel, WithWeights
from raexla.sampling.codec import LATENT_FACTS, OpenCodec, as_tensors, beside, load_weights, open_codec

CLASS_DESCRIPTION = "dit.json"


class ClassToImageRecipe(Recipe):
    """`dit.json` of an artifact of kind `dit`: everything that sampling must share with training."""

    dit: DiTRecipe
    codec: CodecRecipe
    flow: TimeRecipe = TimeRecipe()
    num_classes: int
    """Classes, without the null class that guidance uses; its number is `num_classes`."""

    @model_validator(mode="after")
    def _has_classes(self) -> "ClassToImageRecipe":
        conditioning = self.dit.conditioning
        if not isinstance(conditioning, ClassConditioning):
            raise ValueError(f"dit.conditioning is {conditioning.type}, a class-conditional model has type class")
        if conditioning.num_classes != self.num_classes:
            raise ValueError(
                f"num_classes is {self.num_classes}, but dit.conditioning has {conditioning.num_classes} classes"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class ClassToImage(ImageModel):
    """A DiT that draws pictures of numbered classes."""

    asked_for_by: ClassVar[str] = "class"

    recipe: ClassToImageRecipe
    model: LightningDiT

    @property
    def network(self) -> LightningDiT:
        return self.model

    @property
    def dit(self) -> DiTRecipe:
        return self.recipe.dit

    def table(self) -> Table:
        return dit_package.sharding_table(self.recipe.dit)

    def inputs(self, requests: Sequence[int]) -> dict[str, np.ndarray]:
        """Labels int32 [n].

        Raises:
            UserError: a number that is no class of the model.
        """
        count = self.recipe.num_classes
        wrong = sorted({number for number in requests if not 0 <= number < count})
        if wrong:
            named = ", ".join(map(str, wrong[:5])) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            noun = "is no class" if len(wrong) == 1 else "are no classes"
            raise UserError(f"--classes: {named} {noun} of this model: it has {count}, numbered 0 to {count - 1}")
        return {"label": np.asarray(requests, dtype=np.int32)}

    def condition(self, network: WithWeights, inputs: Mapping[str, Tensor]) -> Tensor:
        """The labels [B] themselves: the DiT embeds them."""
        del network
        return inputs["label"]

    def velocity(
        self, network: WithWeights, x: Tensor, t: Tensor, condition: Tensor, drop: Tensor | None = None
    ) -> Tensor:
        made: Tensor = network.call("forward", x, t, condition, drop).float()
        return made

    def caption(self, request: int) -> str:
        return f"class {request}"


def load_class_model(
    path: Path, codec: CodecRecipe | None = None, where: str = "--model", opened: OpenCodec | None = None
) -> ClassToImage:
    """The model of an artifact of kind `dit`, on the CPU, ready to sample.

    Args:
        path: the artifact's directory.
        codec: replaces the codec that the artifact names, for instance to give it another decoder.
        opened: an open codec, to be shared with another model instead of opening the artifact's own.

    Raises:
        UserError: not such an artifact, damaged, or its codec is not the one it was trained on.
    """
    artifact = read_artifact(ArtifactReference(path=str(path)), "dit", where)
    file = path / CLASS_DESCRIPTION
    try:
        recipe = ClassToImageRecipe.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        said = "; ".join(str(entry["msg"]) for entry in error.errors()) if isinstance(error, ValidationError) else error
        raise UserError(f"{where}: {file} can't be read: {said}") from error
    recipe = recipe.model_copy(update={"codec": opened.recipe if opened else codec or beside(recipe.codec, path)})
    opened = opened or open_codec(recipe.codec, f"{where}: codec")
    for fact in LATENT_FACTS:
        artifact.require(fact, opened.facts[fact], where)
    shift = recipe.flow.factor(opened.codec.grid[0] * opened.codec.grid[1], opened.codec.channels)
    artifact.require("shift", shift, where)
    with torch.device("meta"):
        model = LightningDiT(recipe.dit, opened.codec.grid, opened.codec.channels)
    model.to_empty(device="cpu")
    reset_tables(model)
    load_weights(model, as_tensors(artifact.weights()), f"{where}: {path}")
    return ClassToImage(
        recipe=recipe, model=model.eval(), opened=opened, shift=shift, source=path, digest=artifact.digest
    )
