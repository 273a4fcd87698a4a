"""A text-to-image model put together: language model, DiT, codec, chat layout, time shift."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from raexla.checkpoint import read_artifact
from raexla.data import Chat, ChatRecipe, ChatTokenizer
from raexla.flow.time import TimeRecipe
from raexla.models import dit as dit_package
from raexla.models import mllm as mllm_package
from raexla.models.codecs import CodecRecipe, RAECodec, RAECodecRecipe
from raexla.models.dit import DiTRecipe, LightningDiT
from raexla.models.mllm import MLLMRecipe, UnifiedModel, build_mllm, load_mllm, load_tokenizer
from raexla.nn.tables import reset_tables
from raexla.recipe import ArtifactReference, Recipe, UserError
from raexla.runtime import Runtime
from raexla.runtime.sharding import Table, prefixed
from raexla.sampling.codec import OpenCodec, as_tensors, open_codec

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
    model: UnifiedRecipe
    chat: ChatRecipe = ChatRecipe()
    flow: TimeRecipe = TimeRecipe()


@dataclass(frozen=True)
class TextToImage:
    """A model on the CPU, or placed on a runtime's devices."""

    recipe: TextToImageRecipe
    unified: UnifiedModel
    opened: OpenCodec
    chat: Chat
    shift: float
    """The factor a of the dimension-dependent time shift (000, section 3.2)."""
    source: Path | None = None
    """The artifact it came from."""
    digest: str = ""

    @property
    def codec(self) -> Any:
        """The codec (see `raexla.models.codecs.Codec`)."""
        return self.opened.codec

    def table(self) -> Table:
        """Sharding table of `unified`."""
        tied = self.unified.mllm.lm_head is None
        return [
            *prefixed("mllm", mllm_package.sharding_table(self.recipe.model.llm, tied=tied)),
            *prefixed("dit", dit_package.sharding_table(self.recipe.model.dit)),
        ]

    def place(self, runtime: Runtime) -> None:
        """Move the generator (by its table) and the frozen codec (whole) to the devices."""
        runtime.place(self.unified, self.table())
        runtime.place(self.opened.codec)

    def features(self, image: Tensor) -> Tensor:
        """What the language model's projector reads of images [B, 3, H, W]: encoder tokens [B, N, C], before latent
        statistics (Scale-RAE). No gradient."""
        latent: Tensor = self.codec.encode(image)
        return self.codec.denormalise(latent) if isinstance(self.codec, RAECodec) else latent

    def facts(self) -> dict[str, Any]:
        """What an artifact of this model was made for."""
        return {**self.opened.facts, "shift": self.shift}


def _chat(recipe: TextToImageRecipe, folder: str) -> Chat:
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
    tokenizer = load_tokenizer(recipe.model.llm.path)
    mllm = load_mllm(recipe.model.llm, tokenizer, codec.channels, dit.condition_channels, generator)
    shift = recipe.flow.factor(codec.grid[0] * codec.grid[1], codec.channels)
    return TextToImage(recipe, UnifiedModel(mllm, dit), opened, _chat(recipe, recipe.model.llm.path), shift)


def describe(model: TextToImage) -> dict[str, bytes]:
    """The files of a model artifact beside its weights."""
    folder = Path(model.recipe.model.llm.path)
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
    if (path / "artifact").is_dir():
        return path / "artifact"
    if (path / "recipe.yaml").is_file():
        raise UserError(f"{where}: {path} is a run without an artifact: it has not finished; `raexla train` resumes it")
    if not path.is_dir():
        raise UserError(f"{where}: {path} does not exist; give a run directory, a model artifact, or `{NANO}`")
    return path


def beside(recipe: CodecRecipe, folder: Path) -> CodecRecipe:
    """The codec's recipe with parts that stand next to a model's artifact taken from there.

    Shipped artifacts are neighbours (`encoder/`, `statistics/`, `decoder/`, `model/`) and work from any directory;
    their hashes are checked all the same. Everything else keeps its path.
    """
    if not isinstance(recipe, RAECodecRecipe):
        return recipe
    changes: dict[str, Any] = {}
    if (encoder := folder.parent / "encoder").is_dir():
        changes["encoder"] = recipe.encoder.model_copy(update={"path": str(encoder)})
    for part, kind in (("weights", "decoder"), ("statistics", "statistics")):
        reference = getattr(recipe, part)
        if reference is not None and (neighbour := folder.parent / kind).is_dir():
            changes[part] = reference.model_copy(update={"path": str(neighbour)})
    return recipe.model_copy(update=changes)


def load_model(path: Path, codec: CodecRecipe | None = None, where: str = "--model") -> TextToImage:
    """The model of an artifact, on the CPU, ready to sample.

    Args:
        path: the artifact's directory, or a run directory that holds `artifact/`.
        codec: replaces the codec that the artifact names, for instance to give it another decoder.

    Raises:
        UserError: not a model, damaged, or its codec is not the one it was trained on.
    """
    path = find_model(str(path), where)
    artifact = read_artifact(ArtifactReference(path=str(path)), "model", where)
    try:
        recipe = TextToImageRecipe.model_validate_json((path / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise UserError(f"{where}: {path / DESCRIPTION} can't be read: {str(error).splitlines()[0]}") from error
    llm = recipe.model.llm.model_copy(update={"path": str(path)})
    recipe = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"llm": llm}),
            "codec": codec or beside(recipe.codec, path),
        }
    )
    opened = open_codec(recipe.codec, f"{where}: codec")
    for fact in ("encoder", "grid", "channels", "statistics"):
        artifact.require(fact, opened.facts[fact], where)
    with torch.device("meta"):
        dit = LightningDiT(recipe.model.dit, opened.codec.grid, opened.codec.channels)
        mllm = build_mllm(llm, load_tokenizer(str(path)).size, opened.codec.channels, dit.condition_channels)
        unified = UnifiedModel(mllm, dit)
    unified.to_empty(device="cpu")
    reset_tables(unified)
    missing, unexpected = unified.load_state_dict(as_tensors(artifact.weights()), strict=False)
    if missing or unexpected:
        raise UserError(f"{where}: {path} lacks {missing[:5]} and has no place for {unexpected[:5]}")
    unified.requires_grad_(False)
    shift = recipe.flow.factor(opened.codec.grid[0] * opened.codec.grid[1], opened.codec.channels)
    artifact.require("shift", shift, where)
    return TextToImage(recipe, unified.eval(), opened, _chat(recipe, str(path)), shift, path, artifact.digest)


class WithWeights(nn.Module):
    """Calls a module's methods with other weights than its own (a moving average), without touching it."""

    def __init__(self, module: nn.Module, weights: Mapping[str, Tensor] | None) -> None:
        super().__init__()
        self.module = module
        self._weights = {f"module.{name}": value for name, value in (weights or {}).items()}

    def forward(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Used by `call`."""
        return getattr(self.module, method)(*args, **kwargs)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """`module.method(*args)` with the given weights."""
        if not self._weights:
            return self(method, *args, **kwargs)
        return torch.func.functional_call(self, self._weights, (method, *args), kwargs)
