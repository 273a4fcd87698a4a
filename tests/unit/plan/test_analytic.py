"""The closed forms against what is built, and the quick plan of the command line."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from raexla.models.encoders import Siglip2Recipe, build_encoder
from raexla.models.encoders.recipe import Dinov2Recipe, MAERecipe, WebSSLRecipe
from raexla.models.mllm import MLLMRecipe, build_mllm
from raexla.models.published import PUBLISHED
from raexla.plan.analytic import count, memory
from raexla.plan.sizes import language_parameters, read_sizes, vision_parameters
from raexla.plan.slices import GIB, Slice
from raexla.plan.verb import plan_recipe
from raexla.recipe import UserError, load
from raexla.train.stages import STAGES

ENCODERS: dict[str, Any] = {
    "siglip": Siglip2Recipe,
    "dinov2_with_registers": Dinov2Recipe,
    "dinov2": WebSSLRecipe,
    "vit_mae": MAERecipe,
}
TYPES = {"siglip": "siglip2", "dinov2_with_registers": "dinov2", "dinov2": "webssl", "vit_mae": "mae"}
NANO = "recipes/nano/pretrain.yaml"


@pytest.mark.parametrize("name", [name for name, config in PUBLISHED.items() if config["model_type"] == "qwen2"])
def test_language_models_have_the_parameters_that_are_counted(name):
    with torch.device("meta"):
        built = build_mllm(MLLMRecipe(path=name), 0, 8, 8)
    wanted = sum(p.numel() for key, p in built.named_parameters() if key.startswith(("llm.", "lm_head.")))
    assert sum(language_parameters(read_sizes(name)).values()) == wanted


@pytest.mark.parametrize("name", [name for name, config in PUBLISHED.items() if config["model_type"] != "qwen2"])
def test_encoders_have_the_parameters_that_are_counted(name):
    kind = PUBLISHED[name]["model_type"]
    with torch.device("meta"):
        built = build_encoder(ENCODERS[kind](type=TYPES[kind], path=name))
    assert vision_parameters(read_sizes(name)) == sum(p.numel() for p in built.parameters())


def test_the_nano_recipe_is_counted_as_it_is_built():
    """Parameters and FLOPs are those that `raexla train` reports of the same recipe."""
    from raexla.plan.outline import outline_model
    from raexla.sampling.model import TextToImageRecipe

    recipe: Any = load(NANO, STAGES)
    counts = count(recipe)
    parts = {part.name: part for part in counts.parts}
    model = outline_model(TextToImageRecipe(**{name: getattr(recipe, name) for name in TextToImageRecipe.model_fields}))
    named = dict(model.unified.named_parameters())
    dit = sum(p.numel() for name, p in named.items() if name.startswith(("dit.", "mllm.connector.")))
    assert parts["DiT"].parameters == dit
    assert parts["language model"].parameters == sum(p.numel() for p in named.values()) - dit
    assert parts["DiT"].averaged
    assert not parts["encoder"].trained


def test_recomputed_blocks_and_chunked_logits_need_less():
    recipe: Any = load(NANO, STAGES, ["runtime.devices=null"])
    where = Slice.parse("v5e:2x2")
    kept = memory(count(recipe), where, {"data": 1, "fsdp": 4, "tensor": 1})
    less = load(NANO, STAGES, ["runtime.devices=null", "runtime.scan=true", "runtime.remat=blocks", "losses.language_chunks=4"])
    scanned = memory(count(less), where, {"data": 1, "fsdp": 4, "tensor": 1})
    assert scanned.activations["DiT"] < kept.activations["DiT"] / 2
    assert scanned.activations["logits"] < 0.3 * kept.activations["logits"]  # captions' few logits are one part
    trained = sum(part.parameters for part in count(recipe).parts if part.trained)
    assert kept.weights == pytest.approx(trained * 4 / 4 / GIB)
    assert kept.optimiser == pytest.approx(2 * kept.weights)


def test_a_quick_plan_imports_neither_torch_xla_nor_transformers():
    program = (
        "import sys; from raexla.cli import main; "
        f"code = main(['plan', {NANO!r}, '--topology', 'v5e:2x2', '--quick', '--json', '--set', 'mesh.data=1', "
        "'--set', 'mesh.fsdp=null']); "
        "print([n for n in ('torch_xla', 'transformers') if n in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.strip().splitlines()[-1] == "[]"
    found = json.loads(ran.stdout)
    assert found["fits"] is True
    assert found["chips"] == 4
    assert found["compiler"] is None
    assert {"peak_hbm_gib", "mfu", "step_seconds", "images_per_second_per_chip"} <= set(found)
    assert 0 < found["mfu"] < 1


def test_what_can_not_be_planned_is_said():
    recipe = load("recipes/nano/decoder.yaml", STAGES)
    with pytest.raises(UserError, match="stage decoder"):
        plan_recipe(recipe, "x", "v5e:2x2", quick=True)
    pretrain = load(NANO, STAGES, ["mesh.data=3", "mesh.fsdp=1"])
    with pytest.raises(UserError, match="mesh"):
        plan_recipe(pretrain, "x", "v5e:2x2", quick=True)
