"""A small family of recipe types with everything that real ones have, for the tests of the loader."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raexla.recipe import Recipe


class Rae(Recipe):
    """Encoder and decoder."""

    type: Literal["rae"]
    decoder: Path
    scale: float = 1.0


class Vae(Recipe):
    """A convolutional autoencoder."""

    type: Literal["vae"]
    name: str


Codec = Annotated[Rae | Vae, Field(discriminator="type")]


class Source(Recipe):
    """One shard list."""

    path: str
    kind: Literal["caption", "conversation"] = "caption"
    weight: float = Field(default=1.0, gt=0)


class Adam(Recipe):
    """One optimiser."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.95)


class Train(Recipe):
    """Budget."""

    steps: int = Field(gt=0)
    """Optimiser steps."""
    image_size: int | tuple[int, int] = 32
    clip: float | None = 1.0
    resume: bool = True


class Mesh(Recipe):
    """Devices along each axis."""

    data: int = 1
    fsdp: int = 1

    @model_validator(mode="after")
    def _at_most_eight(self) -> "Mesh":
        if self.data * self.fsdp > 8:
            raise ValueError(f"data x fsdp is {self.data} x {self.fsdp} = {self.data * self.fsdp}, at most 8 are there")
        return self


class Pretrain(Recipe):
    """A toy stage."""

    stage: Literal["pretrain"]
    codec: Codec
    guide: Codec | None = None
    sources: tuple[Source, ...] = ()
    optim: dict[str, Adam] = Field(default_factory=dict)
    train: Train
    mesh: Mesh = Mesh()
    note: str = ""


class Decoder(Recipe):
    """Another toy stage."""

    stage: Literal["decoder"]
    train: Train


STAGES: dict[str, type[Recipe]] = {"pretrain": Pretrain, "decoder": Decoder}

BASE = """\
stage: pretrain
codec:
  type: rae
  decoder: artifacts/decoder
  scale: 2
sources:
  - {path: a.tar, weight: 0.5}
  - {path: b.tar, kind: conversation}
optim:
  llm: {lr: 1e-4}
train:
  steps: 10
"""
