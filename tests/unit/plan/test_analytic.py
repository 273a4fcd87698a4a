"""What the closed forms say of recipes, and the quick plan of the command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raexla.plan.analytic import count, memory
from raexla.plan.model import model_of
from raexla.plan.slices import GIB, Slice
from raexla.plan.verb import plan_recipe
from raexla.recipe import UserError, load
from raexla.train.stages import STAGES

NANO = "recipes/nano/pretrain.yaml"


def test_recomputed_blocks_and_chunked_logits_need_less():
    recipe: Any = load(NANO, STAGES, ["runtime.devices=null"])
    where = Slice.parse("v5e:2x2")
    kept = memory(count(recipe), where, {"data": 1, "fsdp": 4, "tensor": 1})
    less = load(
        NANO, STAGES, ["runtime.devices=null", "runtime.scan=true", "runtime.remat=blocks", "losses.language_chunks=4"]
    )
    scanned = memory(count(less), where, {"data": 1, "fsdp": 4, "tensor": 1})
    assert scanned.activations["DiT"] < kept.activations["DiT"] / 2
    # 4 x 96 of conversations in four parts, 12 x 8 of captions in one
    assert scanned.activations["logits"] == pytest.approx((96 + 96) / (4 * 96 + 96) * kept.activations["logits"])
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


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("encoder", [], "stage encoder: `plan` knows the stages pretrain, finetune and decoder"),
        ("pretrain", ["mesh.data=3", "mesh.fsdp=1"], "mesh"),
        ("finetune", ["init.path=runs/gone"], "init.path: runs/gone does not exist yet.*--set init.recipe="),
        ("finetune", ["init.path=runs/gone", "init.recipe=recipes/nano/decoder.yaml"], "of stage decoder: wanted"),
        ("pretrain", ["codec.encoder.path=org/model"], "org/model: no config.json there"),
    ],
)
def test_what_can_not_be_planned_is_said(recipe, options, said):
    with pytest.raises(UserError, match=said):
        plan_recipe(load(f"recipes/nano/{recipe}.yaml", STAGES, options), "x", "v5e:2x2", quick=True)


def test_a_phase_that_a_recipe_does_not_have_is_refused():
    with pytest.raises(UserError, match="phase critic: this recipe has reconstruction, adversarial"):
        count(load("recipes/nano/decoder.yaml", STAGES), "critic")


def test_a_model_that_is_finetuned_has_the_sizes_of_the_recipe_that_makes_it(tmp_path):
    """Through a chain of finetunings, with the last one's length and codec."""
    middle = tmp_path / "middle.yaml"
    nano = Path("recipes/nano").resolve()
    middle.write_text(f"extends: {nano}/finetune.yaml\ninit: {{path: runs/gone, recipe: {NANO}}}\nchat_length: 80\n")
    options = ["init.path=runs/gone", f"init.recipe={middle}", "transform.size=64"]
    recipe: Any = load("recipes/nano/finetune.yaml", STAGES, options)
    made, pretrained = model_of(recipe), model_of(load(NANO, STAGES))
    assert made.chat == pretrained.chat.model_copy(update={"length": 80})
    assert (made.codec, made.model, made.flow) == (pretrained.codec, pretrained.model, pretrained.flow)
    other = load("recipes/nano/finetune.yaml", STAGES, [*options, "codec={type: pixels, image_size: 64}"])
    assert model_of(other).codec.type == "pixels"  # type: ignore[arg-type]


def test_remat_runs_again_what_it_says():
    """All of every trained block, attention alone, or nothing; frozen ones never."""
    options = ["init.path=runs/gone", f"init.recipe={NANO}"]
    for trained, more in (("language model", []), ("DiT", ["optim.llm=null"])):
        again = {
            remat: {part.name: part.repeated_flops for part in count(_finetune([*options, *more, remat])).parts}
            for remat in ("runtime.remat=none", "runtime.remat=selective", "runtime.remat=blocks")
        }
        none, selective, blocks = again.values()
        assert not any(none.values())
        assert 0 < selective[trained] < blocks[trained]
        assert (blocks["language model"] > 0) == (not more)
        assert blocks["encoder"] == 0
    parts = {part.name: part for part in count(_finetune([*options, "runtime.remat=blocks"])).parts}
    assert 0.9 / 3 < parts["DiT"].repeated_flops / parts["DiT"].step_flops < 1 / 3


def _finetune(options: list[str]) -> Any:
    return load("recipes/nano/finetune.yaml", STAGES, options)


def test_frozen_networks_without_a_table_stand_whole_on_every_chip():
    where = Slice.parse("v5e:2x2")
    mesh = {"data": 1, "fsdp": 4, "tensor": 1}
    frozen = count(_finetune(["init.path=runs/gone", f"init.recipe={NANO}", "optim.llm=null"]))
    sizes = {part.name: part.parameters for part in frozen.parts}
    assert memory(frozen, where, mesh).frozen == pytest.approx(
        4 * (sizes["language model"] / 4 + sizes["encoder"]) / GIB
    )
    assert "logits" not in frozen.activation_bytes_per_image
    gan = count(load("recipes/nano/decoder.yaml", STAGES))
    found = memory(gan, where, mesh)
    assert found.gradients > 1.5 * found.weights  # two for the decoder: of the similarity, of the critic's verdict
    plain = memory(count(load("recipes/nano/decoder.yaml", STAGES), "reconstruction"), where, mesh)
    assert plain.gradients == pytest.approx(plain.weights)
    assert plain.total < found.total
