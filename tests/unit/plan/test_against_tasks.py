"""What is counted and outlined, against the Tasks of `raexla train`, opened with their weights on a tiny world."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from raexla.plan.analytic import count, phases
from raexla.train.decoder.work import Sizes, step_work
from tests import stages
from tests.harness import in_process
from tests.vgg import save_vgg16

STAGES = ("pretrain", "two towers", "finetune", "finetune the DiT", "decoder", "decoder with lpips")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Recipe values by what they plan; `model` is an artifact that is there."""
    root = tmp_path_factory.mktemp("plan")
    made = stages.world(root / "world")
    model = stages.save_model(made, root / "start")
    captions = {"sources": stages.finetune(made, root, model)["data"]["sources"][:1], "order": {"streams": 4}}
    reader = {"type": "siglip2", "path": made["encoder"]}
    vgg = {"type": "lpips", "backbone": save_vgg16(root / "vgg16.safetensors")}
    several = stages.decoder(made, root)["data"]
    several["sources"] += [{**several["sources"][0], "name": "more", "weight": 2}]
    return {
        "pretrain": stages.pretrain(made, root / "run"),
        "two towers": stages.pretrain(
            made, root / "run", codec={"type": "pixels", "image_size": 32, "patch_size": 8}, understanding=reader,
            model={
                "llm": {"path": made["language_model"], "queries": 16, "connector": "mlp"},
                "dit": {"width": 192, "depth": 1, "heads": 2, "head": {"width": 224, "depth": 1, "heads": 2}},
            },
        ),
        "finetune": stages.finetune(made, root / "run", model, chat_length=96),
        "finetune the DiT": stages.finetune(
            made, root / "run", model, data=captions, optim={"llm": None, "dit": {"lr": 0.001}}
        ),
        "decoder": stages.decoder(made, root / "run", critic_updates=2),
        "decoder with lpips": stages.decoder(
            made, root / "run", data=several,
            losses={"weights": {"l1": 1.0, "perceptual": 1.0, "gram": 1.0, "adversarial": 1.0}, "perceptual": vgg},
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_a_recipe_is_counted_as_it_is_built(name: str, recipes: dict[str, Any]) -> None:
    recipe = stages.resolve(recipes[name])
    task, _ = stages.open_stage(recipes[name])
    counts = count(recipe)
    assert counts.model_flops == pytest.approx(task.flops_per_step(), rel=1e-12)
    learned = {id(p): p.numel() for part in task.parts for p in part.parameters.values()}
    trained = sum(part.parameters for part in counts.parts if part.trained)
    assert trained == sum(learned.values())
    assert sum(part.averaged for part in counts.parts) == sum(bool(part.ema) for part in task.parts)
    assert (counts.global_batch_images, counts.steps) == (task.batch_images, task.steps)


@pytest.mark.parametrize("name", STAGES)
def test_planned_batches_have_the_shapes_of_real_ones(name: str, recipes: dict[str, Any]) -> None:
    task, _ = stages.open_stage(recipes[name])
    with task.open_loader(None) as loader:
        arrays = next(loader).arrays
    assert {name: (array.shape, array.dtype.type) for name, array in arrays.items()} == task.batch_shapes()


def test_each_phase_of_a_decoder_is_counted(recipes: dict[str, Any]) -> None:
    recipe: Any = stages.resolve(recipes["decoder"])
    task: Any = stages.open_stage(recipes["decoder"])[0]
    work = step_work(recipe, Sizes.of(task.codec, task.decoder))
    assert phases(recipe) == ("reconstruction", "critic", "adversarial")
    for phase in phases(recipe):
        counts = count(recipe, phase)
        assert counts.phase == phase
        assert counts.step_flops == pytest.approx(2.0 * task.batch_images * work[phase].total)
        assert counts.model_flops == pytest.approx(task.flops_per_step())
        assert counts.model_flops < counts.step_flops
    assert count(recipe) == count(recipe, "adversarial")


# the first layers have no gradient of their input to compute, so that a whole step is a little less than counted
@pytest.mark.parametrize("name", ["two towers", "finetune the DiT"])
def test_a_step_takes_the_flops_that_are_counted(name: str, recipes: dict[str, Any]) -> None:
    task, runtime = stages.open_stage(recipes[name])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        stages.run_steps(task, runtime, 1)
    assert 0.9 < counter.get_total_flops() / count(stages.resolve(recipes[name])).step_flops < 1.01


def trace_all(values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Trace the step of each recipe on placeholders of 4 devices."""
    from raexla.plan.abstract import AbstractRuntime
    from raexla.plan.outline import outline_task
    from raexla.plan.trace import trace_step

    found = {}
    for name, plain in values.items():
        recipe = stages.resolve({**plain, "runtime": {"type": "xla"}, "mesh": {"data": 1, "fsdp": 4}})
        counts = count(recipe)
        runtime = AbstractRuntime(4, recipe.mesh, recipe.runtime)  # type: ignore[arg-type]
        task = outline_task(recipe, runtime)
        program = trace_step(task, runtime, counts.phase)
        found[name] = {
            "flops": task.flops_per_step() / counts.model_flops,
            "unnamed": [list(held.shape) for held in program.arguments if held.name == "constant" and held.shape],
            "donated": len(program.donated),
            "learned": sum(3 * len(part.parameters) for part in task.parts),
        }
    return found


def test_steps_are_traced_without_weights_and_without_memory(recipes: dict[str, Any], tmp_path: Path) -> None:
    maker = tmp_path / "pretrain.yaml"
    maker.write_text(yaml.safe_dump(recipes["pretrain"]))
    wanted = {name: dict(recipes[name]) for name in ("finetune", "finetune the DiT", "decoder with lpips")}
    for name in ("finetune", "finetune the DiT"):
        wanted[name]["init"] = {"path": "nowhere", "recipe": str(maker)}
    vgg = wanted["decoder with lpips"]["losses"]["perceptual"]
    wanted["decoder with lpips"]["losses"]["perceptual"] = {**vgg, "backbone": "nowhere.safetensors"}
    for name, found in in_process(trace_all, wanted).items():
        assert found["flops"] == pytest.approx(1.0), name
        assert found["unnamed"] == [], name
        assert found["donated"] >= found["learned"], name
