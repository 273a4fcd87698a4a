"""A decoder's whole run on two XLA devices: a rollback and two sources cost no compilation, a phase that begins right
after a save reads its own state, and the outcome is eager's.

The plain loop that the first run is held against never takes the batch that the run leaves out.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raexla.checkpoint import latest
from raexla.obs.metrics import read_metrics
from raexla.train.decoder import DecoderTask
from raexla.train.stages import train_recipe
from tests import stages

STEPS, BAD = 6, 3


def recipe(made: dict[str, str], run: str, **changes: Any) -> dict[str, Any]:
    """Reconstruction only, two sources, saved every second step."""
    sources = [
        {"name": "scenes", "path": made["decoder"], "kind": "image", "weight": 3},
        {"name": "captions", "path": made["pretrain"], "kind": "image", "weight": 1},
    ]
    values = stages.decoder(
        made, run, data={"sources": sources, "order": {"streams": 4, "block": 8}},
        train={"steps": STEPS, "global_batch_images": 16}, checkpoint={"every_steps": 2}, critic=None, **changes,
    )  # fmt: skip
    values["optim"] = {"decoder": values["optim"]["decoder"]}
    del values["critic_from_step"], values["adversarial_from_step"]
    return values


def run_with_a_nan(made: dict[str, str], run: str) -> dict[str, Any]:
    """The step that takes the bad batch gets NaN added to its latents, as a control of the step's program."""
    controls, encode, taken = DecoderTask.controls, DecoderTask.encode, []

    def poisoned(self: Any, step: int) -> dict[str, float]:
        taken.append(step)
        return {**controls(self, step), "poison": float("nan") if taken.count(BAD) == 1 and step == BAD else 0.0}

    def spoilt(self: Any, micro: Any, values: Any) -> Any:
        return encode(self, micro, values) + values["poison"]

    DecoderTask.controls, DecoderTask.encode = poisoned, spoilt  # type: ignore[method-assign]
    runtime = {"type": "xla", "platform": "cpu", "devices": 2}
    train_recipe(stages.resolve(recipe(made, run, runtime=runtime)))
    return {"steps": taken}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return stages.world(tmp_path_factory.mktemp("world"))


def test_a_rollback_on_two_devices(made, tmp_path: Path, in_process: Callable[..., Any]):
    done = in_process(run_with_a_nan, made, str(tmp_path / "run"))
    assert done["steps"] == [0, 1, 2, 3, 2, 3, 4, 5]
    records = list(read_metrics(tmp_path / "run"))
    logged = [record for record in records if "loss" in record]
    assert [record["step"] for record in logged] == list(range(1, STEPS + 1))
    compiled = {record["step"]: record["compilations"] for record in logged}
    assert compiled[STEPS] == compiled[3], "going back or another mixture of sources compiled something"
    assert [record["skipped_batch"] for record in records if record.get("event") == "rollback"] == [BAD]

    task, runtime = stages.open_stage(recipe(made, str(tmp_path / "plain")))
    with task.open_loader(None) as loader:
        batches = [next(loader) for _ in range(STEPS + 1)]
    expected = []
    for step, batch in enumerate(batches[:BAD] + batches[BAD + 1 :]):
        run = runtime.compile_step(lambda b, c: task.train_step("reconstruction", b, c), lambda: [])
        expected.append(task.legible(run(runtime.put(batch.arrays, 1), task.controls(step)).read()))
    for found, plain in zip(logged, expected, strict=True):
        for name, value in plain.items():
            assert found[name] == pytest.approx(value, abs=1e-4), f"step {found['step']}: {name}"
    counts = {(record["rows/scenes"], record["rows/captions"]) for record in logged}
    assert len(counts) > 1, "all batches have the same mixture: the test shows nothing"
    checkpoint = latest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    state = task.state()
    for name, value in checkpoint.tensors():
        np.testing.assert_allclose(value, state[name].detach().numpy(), rtol=0, atol=2e-4, err_msg=name)
    pieces = json.loads((checkpoint.path / "manifest.json").read_text())["tensors"]
    split = [name for name, entry in pieces.items() if len(entry["pieces"]) == 2]
    assert any(name.startswith("model/decoder.blocks") for name in split), "a restored tensor is whole on every device"
    assert any(name.endswith("exp_avg") for name in split)


def three_phases(made: dict[str, str], run: str, devices: int) -> None:
    """Saved after steps 3 and 6, where `critic` and `adversarial` begin; nothing is restored before."""
    runtime = {"type": "xla", "platform": "cpu", "devices": devices} if devices else stages.EAGER
    values = stages.decoder(made, run, runtime=runtime, checkpoint={"every_steps": 3}, guards={"rollbacks": 0})
    values["losses"]["quantise_fakes"] = False  # where a value is rounded, the last bit decides about 1/255
    train_recipe(stages.resolve(values))


@pytest.mark.slow
def test_a_phase_that_begins_right_after_a_save_is_what_eager_does(
    made, tmp_path: Path, in_process: Callable[..., Any]
):
    """The critic's state, all zeros until then, is first read by a save, and first used by a step traced after it."""
    in_process(three_phases, made, str(tmp_path / "xla"), 2, seconds=2000)
    three_phases(made, str(tmp_path / "eager"), 0)
    found, expected = (
        [record for record in read_metrics(tmp_path / name) if "loss" in record] for name in ("xla", "eager")
    )
    assert [record["phase"] for record in found] == ["reconstruction"] * 3 + ["critic"] * 3 + ["adversarial"] * 3
    timing = {"seconds", "images_per_second", "input_wait_seconds", "mfu", "compile_seconds", "compilations", "goodput"}
    for here, there in zip(found, expected, strict=True):
        assert here.keys() == there.keys()
        for name in there.keys() - timing - {"phase"}:
            assert here[name] == pytest.approx(there[name], abs=1e-4), f"step {there['step']}: {name}"
    states = []
    for name in ("xla", "eager"):
        checkpoint = latest(tmp_path / name / "checkpoints")
        assert checkpoint is not None
        states.append(dict(checkpoint.tensors()))
    assert states[0].keys() == states[1].keys()
    for name, value in states[1].items():
        np.testing.assert_allclose(states[0][name], value, rtol=0, atol=2e-4, err_msg=name)
