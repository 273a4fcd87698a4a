"""Every recipe of the repository loads, and its models build on `meta` with their sharding tables resolved.

Configurations are all that is read. Where a recipe names an artifact that is not there, the recipe that makes it tells
the sizes; so recipes that don't fit each other are found without training, and one that nobody makes is found too.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from raexla.models import dit as dit_package
from raexla.models import mllm as mllm_package
from raexla.models.codecs import RAECodecRecipe, build_codec
from raexla.models.critic import Critic, DinoFeaturesRecipe, EncoderFeatures, build_dino
from raexla.models.critic import sharding_table as critic_table
from raexla.models.decoder import sharding_table as decoder_table
from raexla.models.dit import LightningDiT
from raexla.models.mllm import UnifiedModel, build_mllm
from raexla.models.published import PUBLISHED
from raexla.recipe import load
from raexla.runtime.sharding import Table, prefixed, resolve
from raexla.sampling.model import UnifiedRecipe
from raexla.train.decoder import DecoderTrainingRecipe
from raexla.train.encoder import EncoderRecipe, Towers
from raexla.train.finetune import FinetuneRecipe
from raexla.train.language import LanguageRecipe
from raexla.train.pretrain import PretrainRecipe
from raexla.train.stages import STAGES
from tests.unit.models.encoders.test_released_sizes import RELEASED
from tests.unit.models.encoders.test_released_sizes import folder as released_folder

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.yaml"))
Built = list[tuple[nn.Module, Table | None]]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in recipes are relative to the repository."""
    monkeypatch.chdir(ROOT)


@lru_cache
def _load(path: Path) -> Any:
    return load(path, STAGES)


def _maker(artifact: str) -> Any:
    """The recipe whose run leaves `artifact` behind."""
    for path in FILES:
        recipe = _load(path)
        if Path(artifact) == Path(recipe.run.dir) / "artifact":
            return recipe
    raise AssertionError(f"no recipe makes {artifact}")


def _configuration(path: str, scratch: Path) -> str:
    """A folder with the `config.json` of `recipes/X/artifacts/NAME`, there or by `recipes/X/NAME.yaml`; of a hub name
    the published configuration."""
    folder = Path(path)
    if folder.name in RELEASED:
        out = scratch / folder.name
        out.mkdir(exist_ok=True)
        return released_folder(out, folder.name)
    if path in PUBLISHED:
        return path
    if (folder / "config.json").is_file():
        return path
    assert folder.parent.name == "artifacts", f"{path} is not there, and no recipe makes it"
    recipe = _load(folder.parents[1] / f"{folder.name}.yaml")
    out = scratch / folder.name
    out.mkdir(exist_ok=True)
    if isinstance(recipe, EncoderRecipe):
        config: Any = Towers(recipe.model, 8).vision.config
    else:
        assert isinstance(recipe, LanguageRecipe)
        config = _qwen2(recipe)
    (out / "config.json").write_text(json.dumps(config.to_dict()))
    return str(out)


def _qwen2(recipe: LanguageRecipe) -> Qwen2Config:
    model = recipe.model
    return Qwen2Config(
        vocab_size=model.tokenizer.vocabulary,
        hidden_size=model.width,
        intermediate_size=model.mlp,
        num_hidden_layers=model.depth,
        num_attention_heads=model.heads,
        num_key_value_heads=model.key_value_heads,
        tie_word_embeddings=True,
    )


def _codec(recipe: Any, scratch: Path) -> Any:
    """The codec on `meta`; the sizes of a decoder that is an artifact come from the recipe that makes it."""
    if not isinstance(recipe, RAECodecRecipe):
        return build_codec(recipe, load=False)
    decoder = recipe.decoder
    if recipe.weights is not None:
        maker = _maker(recipe.weights.path)
        assert isinstance(maker, DecoderTrainingRecipe)
        assert maker.codec.encoder == recipe.encoder, "the decoder is trained on another encoder"  # type: ignore[union-attr]
        decoder = maker.codec.decoder  # type: ignore[union-attr]
    encoder = recipe.encoder.model_copy(update={"path": _configuration(recipe.encoder.path, scratch)})
    return build_codec(recipe.model_copy(update={"encoder": encoder, "decoder": decoder}), load=False)


def _unified(codec: Any, recipe: UnifiedRecipe, scratch: Path) -> Built:
    llm = recipe.llm.model_copy(update={"path": _configuration(recipe.llm.path, scratch)})
    dit = LightningDiT(recipe.dit, codec.grid, codec.channels)
    mllm = build_mllm(llm, 0, codec.channels, dit.condition_channels)
    table = [
        *prefixed("mllm", mllm_package.sharding_table(llm, tied=mllm.lm_head is None)),
        *prefixed("dit", dit_package.sharding_table(recipe.dit)),
    ]
    return [(UnifiedModel(mllm, dit), table), (codec, None)]


def build(recipe: Any, scratch: Path) -> Built:
    """The modules of a training recipe, each with its sharding table (None: whole on every device)."""
    if isinstance(recipe, PretrainRecipe):
        return _unified(_codec(recipe.codec, scratch), recipe.model, scratch)
    if isinstance(recipe, FinetuneRecipe):
        start = _maker(recipe.init.path)
        return _unified(_codec(recipe.codec or start.codec, scratch), start.model, scratch)
    if isinstance(recipe, DecoderTrainingRecipe):
        codec = _codec(recipe.codec, scratch)
        built: Built = [(codec.decoder, decoder_table(codec.decoder.recipe)), (codec.encoder, None)]
        if recipe.critic is not None:
            kind = recipe.critic.features
            features: Any
            if isinstance(kind, DinoFeaturesRecipe):
                features = build_dino(kind, codec.image_size)
            else:
                features = EncoderFeatures(codec.encoder, kind.layers)
            built.append((Critic(features, recipe.critic), critic_table(recipe.critic)))
        return built
    if isinstance(recipe, EncoderRecipe):
        return [(Towers(recipe.model, 640), None)]
    assert isinstance(recipe, LanguageRecipe)
    return [(Qwen2ForCausalLM(_qwen2(recipe)), None)]


BUILT: dict[str, Built] = {}
"""Recipes that differ in data or length only share a model, which is built once."""


def _built(recipe: Any, scratch: Path) -> Built:
    sizes = recipe.model_dump_json(include={"stage", "codec", "model", "init", "critic"})
    if sizes not in BUILT:
        with torch.device("meta"):
            BUILT[sizes] = build(recipe, scratch)
    return BUILT[sizes]


def _image_size(module: nn.Module) -> int | None:
    return getattr(module, "image_size", None)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_it_loads_and_builds_on_meta(path, tmp_path):
    recipe = _load(path)
    built = _built(recipe, tmp_path)
    assert built
    for module, table in built:
        shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        assert all(p.is_meta for p in module.parameters())
        if table is not None:
            assert resolve(table, shapes).keys() == shapes.keys()
    sizes = {size for module, _ in built if isinstance(size := _image_size(module), int)}
    if sizes and hasattr(recipe, "transform"):
        assert sizes == {recipe.transform.size}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_its_batch_divides_over_its_devices(path):
    recipe = _load(path)
    slice_of = re.search(r"Hardware: .*?(\d+) chips", (ROOT / path).read_text(encoding="utf-8"))
    mesh = recipe.mesh.resolve(recipe.runtime.devices or (int(slice_of[1]) if slice_of else 1))
    parts = recipe.train.accumulate * mesh["data"] * mesh["fsdp"]
    assert recipe.train.global_batch_images % parts == 0


@pytest.mark.parametrize("path", FILES, ids=str)
def test_its_header_says_what_to_expect(path):
    """The command, the hardware, the time and what comes out (see DESIGN: recipes)."""
    head = (ROOT / path).read_text(encoding="utf-8").split("\nstage:")[0].split("\nextends:")[0]
    assert head.startswith("# ")
    assert f"raexla train {path}" in head
    assert "Hardware:" in head
    assert "Time:" in head
    assert "Expect:" in head


def test_there_are_recipes_of_every_stage():
    assert {_load(path).stage for path in FILES} == set(STAGES)


def test_no_two_recipes_share_a_run_directory():
    folders = [_load(path).run.dir for path in FILES]
    assert len(folders) == len(set(folders))
