"""Decoder runs that meet what goes wrong at scale: corrupt pictures, a batch that gives NaN, a critic that wins.

The final state of a run that met a NaN equals, bit for bit on the eager runtime, that of a plain loop over the same
Task that never took the bad batch: same step numbers, same draws, every later batch one earlier.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raexla.checkpoint import latest
from raexla.checkpoint.files import read_json
from raexla.data.nano.samples import samples
from raexla.data.nano.write import members_of
from raexla.data.shards import ShardWriter
from raexla.obs.metrics import read_metrics
from raexla.recipe import UserError
from raexla.train.decoder import DecoderTask
from raexla.train.decoder import task as module
from raexla.train.pretrain import image_of
from raexla.train.stages import train_recipe
from tests import stages

STEPS, BAD = 9, 5
CUT, NO_PICTURE = 7, 140


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tiny world, and 150 pictures for the decoder, of which one is cut in the middle and one is no picture: few
    enough to be all read in ten batches of 16."""
    root = tmp_path_factory.mktemp("world")
    made = stages.world(root)
    with ShardWriter(str(root / "damaged"), samples_per_shard=100) as writer:
        for index, sample in enumerate(samples("decoder", 150)):
            members = members_of(sample)
            if index == CUT:
                members["png"] = members["png"][: len(members["png"]) // 2]
            elif index == NO_PICTURE:
                members["png"] = b"<html>404 Not Found</html>"
            writer.write(sample.key, members)
    return made | {"decoder": str(root / "damaged")}


def _recipe(made: dict[str, str], run: Path, **changes: Any) -> dict[str, Any]:
    """Nine steps, all three phases, saved every fourth; metrics every second, so that a culprit must be searched."""
    values = {"checkpoint": {"every_steps": 4}, "obs": {"log_every_steps": 2, "tensorboard": False}}
    return stages.decoder(made, run, **{**values, **changes})


@pytest.fixture(scope="module")
def undisturbed(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], list[Any]]:
    """State after nine steps that never took batch 5, by a plain loop; the batches that it was given."""
    task, runtime = stages.open_stage(_recipe(made, tmp_path_factory.mktemp("plain")))
    with task.open_loader(None) as loader:
        batches = [next(loader) for _ in range(STEPS + 1)]
    for step, batch in enumerate(batches[:BAD] + batches[BAD + 1 :]):
        run = runtime.compile_step(lambda b, c, s=step: task.train_step(task.phase(s), b, c), lambda: [])
        run(runtime.put(batch.arrays, 1), task.controls(step))
    return {name: value.detach().clone() for name, value in task.state().items()}, batches


@pytest.fixture
def poison(undisturbed: tuple[Any, list[Any]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`poison(5, 8)`: pictures of these batches are NaN once they are on the device."""

    def mark(*numbers: int) -> None:
        marked = {int(undisturbed[1][number].arrays["pixels"].sum(dtype=np.int64)) for number in numbers}

        def poisoned(pixels: Tensor) -> Tensor:
            image = image_of(pixels)
            return image * float("nan") if int(pixels.sum(dtype=torch.int64)) in marked else image

        monkeypatch.setattr(module, "image_of", poisoned)

    return mark


def _assert_undisturbed(run: Path, expected: dict[str, Tensor]) -> None:
    checkpoint = latest(run / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == STEPS
    found = dict(checkpoint.tensors())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.numpy(), err_msg=name)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_metrics(run) if record.get("event") == kind]


def test_corrupt_pictures_and_a_nan_batch_are_counted_named_and_left_out(made, undisturbed, poison, tmp_path, capsys):
    expected, batches = undisturbed
    poison(BAD)
    train_recipe(stages.resolve(_recipe(made, tmp_path / "run")))
    _assert_undisturbed(tmp_path / "run", expected)
    steps = [record["step"] for record in read_metrics(tmp_path / "run") if "loss" in record]
    assert steps == [2, 4, 6, 8, 9]
    (event,) = _events(tmp_path / "run", "rollback")
    uids = batches[BAD].uids[""]
    assert event["step"] == 4
    assert event["skipped_batch"] == BAD
    assert event["reason"] == "loss is nan at step 6"
    assert event["samples"] == uids
    assert [e["phase"] for e in _events(tmp_path / "run", "phase")] == ["critic", "adversarial"]
    named = _lines(tmp_path / "run" / "quarantine.jsonl")
    assert [entry["uid"] for entry in named if entry["reason"] == "non_finite_step"] == uids
    refused = {entry["uid"].rpartition("-")[2]: entry["reason"] for entry in named if entry["uid"] not in uids}
    assert refused == {f"{CUT:07d}": "truncated_image", f"{NO_PICTURE:07d}": "not_an_image"}
    count = sum(len(batch.refused) for batch in batches)
    assert count >= len(refused)
    records = [record for record in read_metrics(tmp_path / "run") if "loss" in record]
    assert records[-1]["refused"] == count
    assert records[-1]["epochs/decoder"] == pytest.approx(batches[-1].epochs["decoder"], abs=1e-6)
    assert records[-1]["epochs/decoder"] > records[0]["epochs/decoder"] > 0
    note = read_json(tmp_path / "run" / "run.json")
    assert note["refused"] == {"decoder": count}
    assert all(bool(torch.isfinite(value).all()) for value in expected.values())
    assert [entry["batch"] for entry in note["skipped_batches"]] == [BAD]
    assert "loss is nan at step 6: back to step 4, batch 5 is left out (1 of at most 3)" in capsys.readouterr().err


def test_a_crash_after_a_rollback_does_not_forget_what_is_skipped(made, undisturbed, poison, tmp_path, monkeypatch):
    poison(BAD)
    recipe = stages.resolve(_recipe(made, tmp_path / "run"))
    original, met = DecoderTask.train_step, []

    def crashing(self: Any, phase: str, batch: Any, controls: Any) -> Any:
        met.append(int(controls["step"]))
        if met.count(6) == 2:
            raise MemoryError
        return original(self, phase, batch, controls)

    monkeypatch.setattr(DecoderTask, "train_step", crashing)
    with pytest.raises(MemoryError):
        train_recipe(recipe)
    met.clear()
    train_recipe(recipe)  # from step 4, whose checkpoint was written before the NaN
    assert met == [4, 5, 6, 7, 8]
    _assert_undisturbed(tmp_path / "run", undisturbed[0])


def test_too_many_rollbacks_stop_the_run_and_the_first_step_can_go_back_too(made, poison, tmp_path):
    poison(0, 2)
    values = _recipe(made, tmp_path / "run", guards={"rollbacks": 1})
    with pytest.raises(
        UserError, match=r"^loss is nan at step 2, and guards.rollbacks allows 1 \(batches left out so far: 1\): lower"
    ):
        train_recipe(stages.resolve(values))
    assert [entry["batch"] for entry in _lines(tmp_path / "run" / "skipped.jsonl")] == [0]
    train_recipe(stages.resolve(values | {"guards": {"rollbacks": 2}}))
    assert [entry["batch"] for entry in _lines(tmp_path / "run" / "skipped.jsonl")] == [0, 2]


@pytest.mark.parametrize("logged", [1, 8])
def test_a_critic_that_wins_is_switched_off_for_good(logged, made, tmp_path):
    """Steps 7 and 8 are outside; that is read before step 8 is saved, however often metrics are written."""
    rule = {"above": 0.0, "for_steps": 2, "action": "switch_off"}  # any critic wins
    obs = {"log_every_steps": logged, "tensorboard": False}
    values = _recipe(made, tmp_path / "run", guards={"critic_accuracy": rule}, obs=obs)
    train_recipe(stages.resolve(values))
    phases = {record["step"]: record["phase"] for record in read_metrics(tmp_path / "run") if "loss" in record}
    assert phases[8] == "adversarial"
    assert phases[STEPS] == "reconstruction"
    (said,) = _events(tmp_path / "run", "guard")
    assert said["says"].endswith("above 0 for 2 steps: it has won; the adversarial loss is switched off")
    assert said["step"] == 8
    if logged > 1:
        return
    assert [phases[step] for step in (3, 4, 6, 7)] == ["reconstruction", "critic", "critic", "adversarial"]
    longer = values | {"train": {"steps": STEPS + 2, "global_batch_images": 16}}
    train_recipe(stages.resolve(longer))
    after = {record["step"]: record for record in read_metrics(tmp_path / "run") if "loss" in record}
    assert [after[step]["phase"] for step in (10, 11)] == ["reconstruction"] * 2
    assert "critic/accuracy" not in after[10]
    assert [event["step"] for event in _events(tmp_path / "run", "phase")] == [4, 7, 9]


def test_a_critic_that_wins_stops_the_run(made, tmp_path):
    rule = {"above": 0.0, "for_steps": 2, "action": "stop"}
    with pytest.raises(UserError, match=r"^the critic's accuracy is .*, above 0 for 2 steps: it has won; change optim"):
        train_recipe(stages.resolve(_recipe(made, tmp_path / "run", guards={"critic_accuracy": rule})))
