"""Asked to stop at awkward moments: each time everything is kept, and the resumed run is the one that nobody asked."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from raexla.checkpoint import Saver, latest
from raexla.obs import CONSUMED
from raexla.obs.metrics import read_metrics
from raexla.recipe import StopRequested
from raexla.train.pretrain import PretrainTask
from raexla.train.stages import train_recipe
from raexla.train.validate import TextToImageValidation
from tests import stages

STEPS = 4
TIMED = ("seconds", "images_per_second", "input_wait_seconds", "mfu", "compile_seconds", "goodput")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tiny nano world."""
    return stages.world(tmp_path_factory.mktemp("world"))


def _recipe(made: dict[str, str], run: Path) -> Any:
    held_out = [
        {"name": "captions", "path": made["finetune"], "kind": "caption", "weight": 2},
        {"name": "questions", "path": made["understanding"], "kind": "conversation", "weight": 1},
    ]
    values = stages.pretrain(
        made,
        run,
        train={"steps": STEPS, "global_batch_images": 24},
        checkpoint={"every_steps": 2},
        eval={"every_steps": 3, "sources": held_out, "batches": 2},
        obs={"log_every_steps": 1, "tensorboard": False, "record_uids": True},
    )
    return stages.resolve(values)


def _records(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in TIMED} for record in read_metrics(run)]


@pytest.fixture(scope="module")
def whole(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_recipe(_recipe(made, folder))
    evaluated = [record["step"] for record in _records(folder) if "validation/loss" in record]
    assert evaluated == [0, 3, 4]
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`asked(owner, name, number)`: SIGTERM at the beginning of call `number` of a method."""

    def arrange(owner: type, name: str, number: int, times: int = 1) -> None:
        original, calls = getattr(owner, name), []

        def called(self: Any, *arguments: Any, **named: Any) -> Any:
            calls.append(name)
            for _ in range(times if len(calls) == number else 0):
                signal.raise_signal(signal.SIGTERM)
            return original(self, *arguments, **named)

        monkeypatch.setattr(owner, name, called)

    return arrange


def _assert_same(whole: Path, run: Path) -> None:
    assert _records(run) == _records(whole)
    assert (run / CONSUMED).read_bytes() == (whole / CONSUMED).read_bytes()
    for kind in ("artifact/model.safetensors",):
        expected, found = load_file(whole / kind), load_file(run / kind)
        assert expected.keys() == found.keys()
        assert all((expected[name] == found[name]).all() for name in expected)


@pytest.mark.parametrize(
    ("owner", "name", "number", "step", "owed"),
    [  # the slow ones are no slower than the others, but come near one of them
        pytest.param(PretrainTask, "open_loader", 1, 0, True, id="before the first step"),
        pytest.param(TextToImageValidation, "run", 1, 0, True, id="in the first evaluation", marks=pytest.mark.slow),
        pytest.param(TextToImageValidation, "run", 2, 3, True, id="in an evaluation"),
        pytest.param(
            PretrainTask, "train_step", 3, 3, True, id="in a step that an evaluation follows", marks=pytest.mark.slow
        ),
        pytest.param(Saver, "save", 2, 2, False, id="in a save"),
        pytest.param(PretrainTask, "train_step", STEPS, STEPS, True, id="in the last step"),
        pytest.param(
            PretrainTask, "export", 1, None, False, id="while the artifact is written", marks=pytest.mark.slow
        ),
    ],
)
def test_asked_to_stop(owner, name, number, step, owed, made, whole, asked, tmp_path, monkeypatch):
    recipe = _recipe(made, tmp_path / "run")
    asked(owner, name, number)
    if step is None:  # the end is near: it is gone to
        train_recipe(recipe)
    else:
        with pytest.raises(
            StopRequested, match=f"^stopped as asked at step {step} of {STEPS}; the same command resumes"
        ):
            train_recipe(recipe)
        kept = latest(tmp_path / "run" / "checkpoints")
        assert kept is not None
        assert kept.step == step
        assert kept.meta["evaluation_owed"] is owed
        assert not (tmp_path / "run" / "artifact").exists()
        monkeypatch.undo()
        train_recipe(recipe)
    _assert_same(whole, tmp_path / "run")


def test_asked_twice_and_killed_after_the_evaluation_was_made_up_for(made, whole, asked, tmp_path, monkeypatch):
    """The second SIGTERM changes nothing; what was made up for stands in the metrics once."""
    recipe = _recipe(made, tmp_path / "run")
    asked(PretrainTask, "train_step", 3, times=2)
    with pytest.raises(StopRequested):
        train_recipe(recipe)
    monkeypatch.undo()
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(PretrainTask, "train_step", _killed)
            with pytest.raises(MemoryError):
                train_recipe(recipe)
        assert [r["step"] for r in _records(tmp_path / "run") if "validation/loss" in r] == [0, 3]
    train_recipe(recipe)
    _assert_same(whole, tmp_path / "run")


def _killed(*arguments: Any) -> Any:
    raise MemoryError


def test_the_machine_says_why(made, tmp_path, monkeypatch):
    from raexla.train.stop import StopRequest

    original = PretrainTask.train_step
    with StopRequest() as stop:

        def noticed(self: Any, *arguments: Any) -> Any:
            stop.ask("because this machine is being preempted")
            return original(self, *arguments)

        monkeypatch.setattr(PretrainTask, "train_step", noticed)
        with pytest.raises(StopRequested, match=r"^stopped because this machine is being preempted at step 1 of 4"):
            train_recipe(_recipe(made, tmp_path / "run"), stop=stop)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert os.listdir(tmp_path / "run" / "heartbeat") == ["process-00000.json"]
