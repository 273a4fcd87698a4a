"""A run that was stopped and gone on with is the run that was not; the command line says how it ended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from raexla import cli
from raexla.checkpoint import latest
from raexla.obs.metrics import read_metrics
from raexla.recipe import StopRequested
from raexla.train.pretrain import PretrainTask
from raexla.train.stages import train_recipe
from tests import stages

STEPS = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tiny nano world."""
    return stages.world(tmp_path_factory.mktemp("world"))


def _recipe(made: dict[str, str], run: Path, **changes: Any) -> dict[str, Any]:
    train = {"steps": STEPS, "global_batch_images": 24}
    return stages.pretrain(made, run, train=train, checkpoint={"every_steps": 2, "keep": 2}, **changes)


def _losses(run: Path) -> list[tuple[int, dict[str, Any]]]:
    """Step and what does not depend on the clock."""
    timed = ("seconds", "images_per_second", "input_wait_seconds", "mfu", "compile_seconds", "goodput")
    return [
        (record["step"], {name: value for name, value in record.items() if name not in timed})
        for record in read_metrics(run)
    ]


def _assert_same(one: Path, other: Path) -> None:
    assert _losses(one) == _losses(other)
    assert [step for step, _ in _losses(other)] == list(range(1, STEPS + 1))
    for kind in ("artifact/model.safetensors",):
        expected, found = load_file(one / kind), load_file(other / kind)
        assert expected.keys() == found.keys()
        assert all((expected[name] == found[name]).all() for name in expected)
    first, second = (latest(run / "checkpoints") for run in (one, other))
    assert first is not None
    assert second is not None
    assert first.step == second.step == STEPS
    assert first.meta["cursor"] == second.meta["cursor"]
    tensors = dict(second.tensors())
    assert all((value == tensors[name]).all() for name, value in first.tensors())


@pytest.fixture(scope="module")
def whole(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_recipe(stages.resolve(_recipe(made, folder)))
    return folder


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_stopped_and_resumed_is_uninterrupted(stop_after, made, whole, tmp_path, monkeypatch):
    """A signal in the middle of a step: the step is finished and saved, whatever `every_steps` says."""
    recipe = stages.resolve(_recipe(made, tmp_path / "run"))
    original = PretrainTask.train_step

    def signalled(self: Any, phase: str, batch: Any, controls: Any) -> Any:
        if int(controls["step"]) == stop_after - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, phase, batch, controls)

    monkeypatch.setattr(PretrainTask, "train_step", signalled)
    with pytest.raises(StopRequested, match=f"stopped as asked at step {stop_after} of {STEPS}"):
        train_recipe(recipe)
    assert not (tmp_path / "run" / "artifact").exists()
    monkeypatch.undo()
    train_recipe(recipe)
    _assert_same(whole, tmp_path / "run")


def test_a_crash_goes_back_to_the_last_checkpoint_and_cuts_the_metrics(made, whole, tmp_path, monkeypatch):
    recipe = stages.resolve(_recipe(made, tmp_path / "run"))
    original = PretrainTask.train_step

    def crashing(self: Any, phase: str, batch: Any, controls: Any) -> Any:
        if int(controls["step"]) == 5:
            raise MemoryError
        return original(self, phase, batch, controls)

    monkeypatch.setattr(PretrainTask, "train_step", crashing)
    with pytest.raises(MemoryError):
        train_recipe(recipe)
    monkeypatch.undo()
    (tmp_path / "run" / "metrics.jsonl").open("a").write('{"step": 9, "lo')  # the machine went down in a line
    train_recipe(recipe)
    _assert_same(whole, tmp_path / "run")


def test_a_finished_run_is_left_as_it_is(whole, made):
    before = _losses(whole)
    train_recipe(stages.resolve(_recipe(made, whole)))
    assert _losses(whole) == before


def _write(path: Path, values: dict[str, Any]) -> str:
    path.write_text(json.dumps(values))
    return str(path)


def test_sigterm_ends_with_75_and_the_same_command_resumes(made, tmp_path, capsys):
    values = _recipe(made, tmp_path / "run") | {"train": {"steps": 100000, "global_batch_images": 24}}
    file = _write(tmp_path / "recipe.yaml", values)
    with subprocess.Popen(
        [sys.executable, "-m", "raexla", "train", file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 240
        while len(list(read_metrics(tmp_path / "run"))) < 3:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.terminate()
        _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    checkpoint = latest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert f"stopped as asked at step {checkpoint.step} of 100000; the same command resumes" in said.splitlines()[-1]
    last = checkpoint.step + 2
    assert cli.main(["train", file, "--set", f"train.steps={last}"]) == 0  # the length of a run may change
    assert [step for step, _ in _losses(tmp_path / "run")] == list(range(1, last + 1))
    assert f"(step {checkpoint.step})" in capsys.readouterr().err


def test_another_recipe_in_the_same_directory_is_refused_and_fresh_starts_over(made, tmp_path, capsys):
    file = _write(tmp_path / "recipe.yaml", _recipe(made, tmp_path / "run"))
    assert cli.main(["train", file, "--set", "train.steps=2"]) == 0
    capsys.readouterr()
    change = ["--set", "optim.dit.lr=0.004", "--set", "train.steps=1"]
    assert cli.main(["train", file, *change]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {tmp_path}/run holds a run of another recipe (differs in optim.dit.lr)")
    assert "--fresh" in said
    assert len(_losses(tmp_path / "run")) == 2
    assert cli.main(["train", file, *change, "--fresh"]) == 0
    assert [step for step, _ in _losses(tmp_path / "run")] == [1]


def test_out_names_the_directory(made, tmp_path):
    file = _write(tmp_path / "recipe.yaml", _recipe(made, tmp_path / "run"))
    assert cli.main(["train", file, "--set", "train.steps=1", "--out", str(tmp_path / "elsewhere")]) == 0
    assert not (tmp_path / "run").exists()
    assert {p.name for p in (tmp_path / "elsewhere").iterdir()} >= {
        "recipe.yaml",
        "metrics.jsonl",
        "run.json",
        "checkpoints",
        "artifact",
    }
