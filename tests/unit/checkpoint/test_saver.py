"""Saving beside training: what the step may overwrite, what is kept, what an error and a kill leave behind."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from raexla.checkpoint import BestRecipe, CheckpointRecipe, SaveFailed, checkpoints, latest, open_saver
from raexla.checkpoint.retention import kept
from raexla.files import Store
from raexla.recipe import UserError
from tests.unit.checkpoint.worlds import assert_same, eager, small_state, zeros


def _steps(folder: Any) -> list[int]:
    return [int(place.rpartition("-")[2]) for place in checkpoints(folder)]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, no file of pieces is written."""
    opened, write = threading.Event(), Store.write

    def held(self: Store, name: str, source: Any) -> None:
        if name.startswith("pieces"):
            assert opened.wait(60)
        write(self, name, source)

    monkeypatch.setattr(Store, "write", held)
    return opened


def test_the_step_goes_on_while_the_values_of_the_save_are_written(gate, tmp_path):
    state = small_state()
    saved = {name: value.clone() for name, value in state.items()}
    saver = open_saver(tmp_path, eager(), CheckpointRecipe())
    saver.save(3, state, {"at": 3})
    for value in state.values():  # training goes on at once
        value.zero_()
    assert saver.busy
    assert latest(tmp_path) is None
    assert saver.told() == []
    gate.set()
    saver.wait()
    assert not saver.busy
    assert saver.told() == [f"saved {tmp_path}/step-00000003"]
    fresh = zeros(state)
    saver.latest().restore(fresh, eager())  # type: ignore[union-attr]
    assert_same(fresh, saved)
    assert saver.saves.count == 1
    assert saver.saves.bytes > 0
    assert saver.close() is None


def test_the_next_save_waits_and_the_wait_is_measured(gate, tmp_path):
    state = small_state()
    saver = open_saver(tmp_path, eager(), CheckpointRecipe(keep=5))
    saver.save(1, state, {})
    threading.Timer(0.2, gate.set).start()
    state["model/weight"].fill_(2.0)
    saver.save(2, state, {})
    assert saver.saves.waited_seconds > 0.1
    assert saver.saves.held_seconds < 0.1
    assert saver.close() is None
    assert _steps(tmp_path) == [1, 2]
    first = dict(latest(tmp_path).tensors())["model/weight"]  # type: ignore[union-attr]
    assert (first == 2.0).all()


def test_saving_may_hold_the_step_instead(tmp_path):
    saver = open_saver(tmp_path, eager(), CheckpointRecipe(background=False))
    saver.save(1, small_state(), {})
    assert _steps(tmp_path) == [1]
    assert not saver.busy


def test_an_error_is_raised_later_and_once_and_loses_no_other_checkpoint(tmp_path, monkeypatch):
    saver = open_saver(tmp_path, eager(), CheckpointRecipe(keep=5))
    state = small_state()
    saver.save(1, state, {})
    saver.wait()
    write = Store.write

    def full(self: Store, name: str, source: Any) -> None:
        raise OSError(28, "No space left on device", name)

    monkeypatch.setattr(Store, "write", full)
    saver.save(2, state, {})
    with pytest.raises(SaveFailed, match=r"saving step-00000002 failed while writing pieces: .*No space left"):
        saver.save(3, state, {})
    saver.wait()
    saver.save(3, state, {})
    error = saver.close()
    assert isinstance(error, SaveFailed)
    monkeypatch.setattr(Store, "write", write)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    latest(tmp_path).verify()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (CheckpointRecipe(keep=2), {7: "last 2", 8: "newest"}),
        (CheckpointRecipe(keep=1, keep_every_steps=3), {3: "every 3", 6: "every 3", 8: "newest"}),
        (
            CheckpointRecipe(keep=1, best=BestRecipe(metric="loss", keep=2)),
            {4: "best loss 1", 5: "best loss 1", 8: "newest"},
        ),
        (
            CheckpointRecipe(keep=1, best=BestRecipe(metric="loss", mode="max")),
            {2: "best loss 9", 8: "newest"},
        ),
        (CheckpointRecipe(keep=9, best=BestRecipe(metric="else")), {n: None for n in range(9)}),
    ],
)
def test_what_is_kept_and_why(recipe, expected):
    losses = {1: 3.0, 2: 9.0, 3: float("nan"), 4: 1.0, 5: 1.0, 6: 4.0}
    saved = {step: ({"loss": losses[step]} if step in losses else {}) for step in range(9)}
    found = {step: reasons for step, reasons in kept(saved, recipe).items() if reasons}
    assert found.keys() == expected.keys()
    for step, reason in expected.items():
        assert reason is None or found[step] == [reason]


def test_a_run_keeps_what_its_recipe_says(tmp_path):
    recipe = CheckpointRecipe(keep=1, keep_every_steps=4, best=BestRecipe(metric="validation/loss"))
    saver = open_saver(tmp_path, eager(), recipe)
    for step, loss in enumerate([5.0, 2.0, 3.0, None, 4.0, 6.0]):
        figures = {"loss": 1.0} if loss is None else {"loss": 1.0, "validation/loss": loss}
        saver.save(step, {"a": torch.tensor(float(step))}, {}, figures)
    assert saver.close() is None
    assert _steps(tmp_path) == [1, 4, 5]
    said = [line for line in saver.told() if not line.startswith("saved")]
    assert said == ["step 3 can't be the best: it has no validation/loss, only loss"]


def test_leftovers_are_taken_away_and_what_was_being_replaced_comes_back(tmp_path):
    saver = open_saver(tmp_path, eager(), CheckpointRecipe())
    for step in (1, 2):
        saver.save(step, small_state(step), {})
    saver.close()
    os.replace(tmp_path / "step-00000002", tmp_path / ".step-00000002.old")
    for name in (".step-00000003.tmp", ".step-00000000.gone", ".step-00000001.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pieces-00000-000.safetensors").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    again = open_saver(tmp_path, eager(), CheckpointRecipe())
    assert len(again.cleaned) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "step-00000001", "step-00000002"]
    found = again.latest()
    assert found is not None
    found.verify()
    assert found.step == 2


def test_a_damaged_newest_stops_a_resume_and_says_what_to_do(tmp_path):
    saver = open_saver(tmp_path, eager(), CheckpointRecipe())
    for step in (1, 2):
        saver.save(step, small_state(step), {})
    saver.wait()
    Path(tmp_path, "step-00000002", "manifest.json").write_text("{}")
    with pytest.raises(UserError) as raised:
        saver.latest()
    assert f"{tmp_path}/step-00000002/manifest.json: " in str(raised.value)
    assert f"`raexla ckpt rm {tmp_path}/step-00000002` the run goes on from the one before" in str(raised.value)


def test_a_kill_at_any_instant_leaves_a_whole_checkpoint(tmp_path):
    """A forked program saves again and again until it is killed; whatever is there afterwards is what it saved."""
    state = {f"model/{n}": torch.zeros(300, 100) for n in range(8)}
    saver = open_saver(tmp_path, eager(), CheckpointRecipe(keep=1))
    saver.save(0, state, {})
    saver.close()
    generator = torch.Generator().manual_seed(5)
    reached = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            _save_for_ever(tmp_path)
        began, before = time.monotonic(), len(reached) and reached[-1]
        while _steps(tmp_path)[-1:] <= [before] and time.monotonic() < began + 60:
            time.sleep(0.002)
        time.sleep(float(torch.rand((), generator=generator)) * (time.monotonic() - began))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = open_saver(tmp_path, eager(), CheckpointRecipe()).latest()
        assert found is not None
        found.verify()
        fresh = zeros(state)
        found.restore(fresh, eager())
        assert all((value == float(found.step)).all() for value in fresh.values())
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
        reached.append(found.step)
    assert reached == sorted(set(reached))


def _save_for_ever(folder: Path) -> None:
    saver = open_saver(folder, eager(), CheckpointRecipe(keep=1))
    found = saver.latest()
    step = found.step if found is not None else -1
    while True:
        step += 1
        saver.save(step, {f"model/{n}": torch.full((300, 100), float(step)) for n in range(8)}, {})


def test_memory_is_a_folder_like_any_other():
    url = "memory://runs/one/checkpoints"
    saver = open_saver(url, eager(), CheckpointRecipe(keep=2))
    for step in (1, 2, 3):
        saver.save(step, small_state(step), {"at": step})
    assert saver.close() is None
    assert _steps(url) == [2, 3]
    store = Store(url)
    store.write_bytes("step-00000009/pieces-00000-000.safetensors", b"half")
    assert latest(url).step == 3  # type: ignore[union-attr]
    assert open_saver(url, eager(), CheckpointRecipe()).cleaned == ["step-00000009"]
    fresh = zeros(small_state())
    latest(url).restore(fresh, eager())  # type: ignore[union-attr]
    assert_same(fresh, small_state(3))
    store.remove_folder("")
