"""A text-to-image model put together: language model, DiT, codec, chat layout, time shift."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from raexla.checkpoint import read_artifact
from raexla.checkpoint.artifact import artifact_kind
from raexla.data import Chat, ChatRecipe, ChatTokenizer, Refused, collate_chat
from raexla.files import local_only
from raexla.flow.time import TimeRecipe
from raexla.models import dit as dit_package
from raexla.models import mllm as mllm_package
from raexla.models.codecs import CodecRecipe, NormalisedCodec
from raexla.models.dit import DiTRecipe, LightningDiT
from raexla.models.encoders import Encoder, EncoderRecipe, build_encoder, load_encoder
from raexla.models.mllm import MLLMRecipe, UnifiedModel, build_mllm, load_mllm, load_tokenizer
from raexla.models.pretrained import local_folder
from raexla.nn.tables import reset_tables
from raexla.recipe import ArtifactReference, Recipe, UserError
from raexla.runtime import Runtime
from raexla.runtime.sharding import Table, prefixed
from raexla.sampling.base import ImageModel, WithWeights
from raexla.sampling.classes import ClassToImage, load_class_model
from raexla.sampling.codec import (
    LATENT_FACTS,
    OpenCodec,
    as_tensors,
    beside,
    encoder_identity,
    load_weights,
    open_codec,
)

DESCRIPTION = "model.json"
NANO = "nano"
NANO_MODEL = Path("recipes/nano/artifacts/model")
#: What a model artifact carries of the language model's folder, so that it stands alone.
LANGUAGE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


class UnifiedRecipe(Recipe):
    """The two halves of the generator."""

    llm: MLLMRecipe
    dit: DiTRecipe


class TextToImageRecipe(Recipe):
    """Everything that sampling must share with training."""

    codec: CodecRecipe
    understanding: EncoderRecipe | None = None
    """The frozen encoder that reads the pictures which are asked about; None: the codec's own. A VAE's latent is too
    poor to be read, so beside one there is another encoder (two towers; 000, section 4)."""
    model: UnifiedRecipe
    chat: ChatRecipe = ChatRecipe()
    flow: TimeRecipe = TimeRecipe()


class PromptError(UserError):
    """A prompt that the model's sequence has no room for."""

    def __init__(self, prompt: str, detail: str) -> None:
        super().__init__(f"prompt too long ({detail}): {shorten(prompt, 80, placeholder=' …')!r}")


@dataclass(frozen=True, kw_only=True)
class TextToImage(ImageModel):
    """A unified model: the language model reads the prompt, its queries condition the DiT."""

    asked_for_by: ClassVar[str] = "prompt"

    recipe: TextToImageRecipe
    unified: UnifiedModel
    chat: Chat
    reader: Encoder | None = None
    """The encoder of `recipe.understanding`, if it names one."""

    @property
    def network(self) -> UnifiedModel:
        return self.unified

    @property
    def dit(self) -> DiTRecipe:
        return self.recipe.model.dit

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **reader_facts(self.recipe)}

    def place(self, runtime: Runtime) -> None:
        super().place(runtime)
        if self.reader is not None:
            runtime.place(self.reader)

    def table(self) -> Table:
        tied = self.unified.mllm.lm_head is None
        return [
            *prefixed("mllm", mllm_package.sharding_table(self.recipe.model.llm, tied=tied)),
            *prefixed("dit", dit_package.sharding_table(self.recipe.model.dit)),
        ]

    def inputs(self, requests: Sequence[str]) -> dict[str, np.ndarray]:
        """The language model's inputs of prompts.

        Raises:
            PromptError: one is too long.
        """
        rows = []
        for prompt in requests:
            try:
                rows.append(self.chat.generation_prompt(prompt, self.recipe.chat.length))
            except Refused as refused:
                raise PromptError(prompt, refused.detail) from None
        arrays = collate_chat(rows)
        return {name: arrays[name] for name in ("tokens", "image_slot", "query_start")}

    def condition(self, network: WithWeights, inputs: Mapping[str, Tensor]) -> Tensor:
        """[B, Q, Z], float32: the connector's output at the queries."""
        given = (inputs["tokens"], inputs["image_slot"], inputs["query_start"])
        made: Tensor = network.call("prompt_condition", *given).float()
        return made

    def velocity(
        self, network: WithWeights, x: Tensor, t: Tensor, condition: Tensor, drop: Tensor | None = None
    ) -> Tensor:
        made: Tensor = network.call("velocity", x, t, condition, drop).float()
        return made

    def caption(self, request: str) -> str:
        return request

    def features(self, image: Tensor) -> Tensor:
        """What the language model's projector reads of images [B, 3, H, W]: encoder tokens [B, N, C], before latent
        statistics (Scale-RAE). No gradient."""
        if self.reader is not None:
            with torch.no_grad():
                read: Tensor = self.reader(image)
            return read
        latent: Tensor = self.codec.encode(image)
        return self.codec.denormalise(latent) if isinstance(self.codec, NormalisedCodec) else latent


def reader_facts(recipe: TextToImageRecipe) -> dict[str, Any]:
    """By what an encoder that only reads is recognised; nothing where the codec's own reads."""
    return {} if recipe.understanding is None else {"understanding": encoder_identity(recipe.understanding.path)}


def open_reader(recipe: TextToImageRecipe, image_size: int, *, load: bool = True) -> Encoder | None:
    """The encoder of `recipe.understanding`, if it names one.

    Args:
        image_size: side of the pictures that it is given, the codec's.
        load: without it the structure only (possible under `torch.device("meta")`).

    Raises:
        UserError: no such encoder, or one that doesn't give a token for each image slot of a sequence.
    """
    if recipe.understanding is None:
        return None
    reader = (load_encoder if load else build_encoder)(recipe.understanding, image_size)
    tokens, slots = reader.grid[0] * reader.grid[1], recipe.model.llm.queries
    if tokens != slots:
        raise UserError(
            f"understanding: {recipe.understanding.path} gives {tokens} tokens a picture, model.llm.queries is "
            f"{slots}: understanding.input_size changes the first"
        )
    return reader


def _chat(recipe: TextToImageRecipe, folder: Path) -> Chat:
    return Chat(recipe.chat, ChatTokenizer.load(folder), recipe.model.llm.queries)


def assemble(recipe: TextToImageRecipe, seed: int) -> TextToImage:
    """A new model: pretrained encoder and language model, fresh DiT, queries, projector and connector.

    Raises:
        UserError: parts that are missing or don't fit.
    """
    opened = open_codec(recipe.codec)
    codec = opened.codec
    generator = torch.Generator().manual_seed(seed)
    dit = LightningDiT(recipe.model.dit, codec.grid, codec.channels)
    dit_package.init_weights(dit, generator)
    reader = open_reader(recipe, codec.image_size)
    read = codec.channels if reader is None else reader.channels
    tokenizer = load_tokenizer(recipe.model.llm.path)
    mllm = load_mllm(recipe.model.llm, tokenizer, read, dit.condition_channels, generator)
    shift = recipe.flow.factor(codec.grid[0] * codec.grid[1], codec.channels)
    chat = _chat(recipe, local_folder(recipe.model.llm.path, LANGUAGE_FILES))
    unified = UnifiedModel(mllm, dit)
    return TextToImage(recipe=recipe, unified=unified, opened=opened, chat=chat, shift=shift, reader=reader)


def describe(model: TextToImage) -> dict[str, bytes]:
    """The files of a model artifact beside its weights."""
    folder = local_folder(model.recipe.model.llm.path, LANGUAGE_FILES)
    files = {name: (folder / name).read_bytes() for name in LANGUAGE_FILES if (folder / name).is_file()}
    config = model.unified.mllm.config
    files["config.json"] = json.dumps(config.to_dict(), indent=1, sort_keys=True).encode()
    files[DESCRIPTION] = json.dumps(model.recipe.model_dump(mode="json"), indent=1).encode()
    return files


def find_model(name: str, where: str = "--model") -> Path:
    """The directory that a name on the command line means: `nano`, a run directory, or an artifact.

    `nano` is the model that the repository ships; it is looked for from the working directory, then from the package.

    Raises:
        UserError: there is nothing there, or a run that has not finished; says which command makes it.
    """
    path = Path(name)
    if name == NANO and not path.exists():
        roots = (Path.cwd(), Path(__file__).resolve().parents[3])
        found = next((root / NANO_MODEL for root in roots if (root / NANO_MODEL).is_dir()), None)
        if found is None:
            raise UserError(f"{where}: there is no {NANO_MODEL} here; `tools/demo.sh --long --keep` makes it")
        return found
    local_only(name, where)
    if (path / "artifact").is_dir():
        return path / "artifact"
    if (path / "recipe.yaml").is_file():
        raise UserError(f"{where}: {path} is a run without an artifact: it has not finished; `raexla train` resumes it")
    if not path.is_dir():
        raise UserError(f"{where}: {path} does not exist; give a run directory, a model artifact, or `{NANO}`")
    return path


def read_description(path: Path, codec: CodecRecipe | None = None, where: str = "--model") -> TextToImageRecipe:
    """What a model artifact says of itself, with the paths of what stands in it and next to it.

    Args:
        path: the artifact's directory. codec: replaces the codec that it names.

    Raises:
        UserError: it can't be read.
    """
    try:
        recipe = TextToImageRecipe.model_validate_json((path / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise UserError(f"{where}: {path / DESCRIPTION} can't be read: {str(error).splitlines()[0]}") from error
    llm = recipe.model.llm.model_copy(update={"path": str(path)})
    generator = recipe.model.model_copy(update={"llm": llm})
    return recipe.model_copy(update={"model": generator, "codec": codec or beside(recipe.codec, path)})


def load_image_model(name: str, asked_for_by: str, where: str = "--model") -> TextToImage | ClassToImage:
    """What a name on the command line means (see `find_model`), text- or class-conditional, on the CPU.

    Args:
        asked_for_by: what the user gave, `prompt` or `class`: a model that takes the other is refused unread.

    Raises:
        UserError: as `load_model`, or a model that is asked by something else.
    """
    path = find_model(name, where)
    kind = artifact_kind(path, where)
    if kind == "dit" and asked_for_by == "prompt":
        raise UserError(f"{where}: {path} draws numbered classes, not prompts: give --classes, for instance 0,1,2")
    if kind == "model" and asked_for_by == "class":
        raise UserError(f"{where}: {path} draws prompts, not numbered classes: give --prompt TEXT instead of --classes")
    return load_class_model(path, where=where) if asked_for_by == "class" else load_model(path, where=where)


def load_model(
    path: Path, codec: CodecRecipe | None = None, where: str = "--model", opened: OpenCodec | None = None
) -> TextToImage:
    """The model of an artifact, on the CPU, ready to sample.

    Args:
        path: the artifact's directory, or a run directory that holds `artifact/`.
        codec: replaces the codec that the artifact names, for instance to give it another decoder.
        opened: an open codec, to be shared with another model instead of opening the artifact's own.

    Raises:
        UserError: not a model, damaged, or its codec is not the one it was trained on.
    """
    path = find_model(str(path), where)
    artifact = read_artifact(ArtifactReference(path=str(path)), "model", where)
    recipe = read_description(path, opened.recipe if opened else codec, where)
    llm = recipe.model.llm
    opened = opened or open_codec(recipe.codec, f"{where}: codec")
    for fact, value in ({name: opened.facts[name] for name in LATENT_FACTS} | reader_facts(recipe)).items():
        artifact.require(fact, value, where)
    reader = open_reader(recipe, opened.codec.image_size)
    read = opened.codec.channels if reader is None else reader.channels
    with torch.device("meta"):
        dit = LightningDiT(recipe.model.dit, opened.codec.grid, opened.codec.channels)
        mllm = build_mllm(llm, load_tokenizer(str(path)).size, read, dit.condition_channels)
        unified = UnifiedModel(mllm, dit)
    unified.to_empty(device="cpu")
    reset_tables(unified)
    load_weights(unified, as_tensors(artifact.weights()), f"{where}: {path}")
    shift = recipe.flow.factor(opened.codec.grid[0] * opened.codec.grid[1], opened.codec.channels)
    artifact.require("shift", shift, where)
    return TextToImage(
        recipe=recipe,
        unified=unified.eval(),
        opened=opened,
        chat=_chat(recipe, path),
        shift=shift,
        reader=reader,
        source=path,
        digest=artifact.digest,
    )


def with_length(model: TextToImage, length: int) -> TextToImage:
    """The same model with sequences of `length` tokens.

    Raises:
        UserError: too few for the image slots and an empty caption.
    """
    chat = model.recipe.chat.model_copy(update={"length": length})
    recipe = model.recipe.model_copy(update={"chat": chat})
    return replace(model, recipe=recipe, chat=Chat(chat, model.chat.tokenizer, recipe.model.llm.queries))
