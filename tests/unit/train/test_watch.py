"""Heartbeats that are whole at any instant, and stacks of a step that hangs."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raexla.train.stop import StopRequest
from raexla.train.watch import ABORTED, STEP, Watch, WatchRecipe, listening


def _until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _recipe(**values: object) -> WatchRecipe:
    return WatchRecipe(**{"heartbeat_seconds": 1.0, **values})  # type: ignore[arg-type]


def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is a hundredth of one."""
    monkeypatch.setattr(threading.Event, "wait", _shortened(threading.Event.wait))


def _shortened(wait: Callable[..., bool]) -> Callable[..., bool]:
    return lambda self, timeout=None: wait(self, timeout and timeout / 100)


def test_the_heartbeat_says_who_and_where(tmp_path):
    watch = Watch(tmp_path, _recipe(), 1, 4, 100)
    watch.begin()
    file = tmp_path / "heartbeat" / "process-00001.json"
    _until(file.is_file)
    assert json.loads(file.read_text())["phase"] == "start"
    watch.at(7)
    watch.close("stopped")
    beat = json.loads(file.read_text())
    assert abs(beat.pop("time") - time.time()) < 30
    assert abs(beat.pop("since") - time.time()) < 30
    assert beat.pop("host")
    expected = {"process": 1, "processes": 4, "pid": os.getpid(), "step": 7, "steps": 100, "phase": "stopped"}
    assert beat == expected
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_heartbeat_is_whole_whenever_it_is_read(tmp_path, monkeypatch):
    _quick(monkeypatch)
    watch = Watch(tmp_path, _recipe(), 0, 1, 9)
    watch.begin()
    file = tmp_path / "heartbeat" / "process-00000.json"
    _until(file.is_file)
    seen = set()
    for step in range(300):
        watch.at(step)
        seen.add(json.loads(file.read_text())["step"])
        time.sleep(0.001)
    watch.close("done")
    assert len(seen) > 5


def test_beats_of_a_former_start_with_more_processes_go_and_the_others_can_be_told_of(tmp_path):
    folder = tmp_path / "heartbeat"
    folder.mkdir()
    beat = {"host": "b", "pid": 12, "step": 3, "phase": "save"}
    for number, age in ((1, 5.0), (2, 50.0), (3, 1.0)):
        text = json.dumps(beat | {"process": number, "time": time.time() - age})
        (folder / f"process-{number:05d}.json").write_text(text)
    watch = Watch(tmp_path, _recipe(), 0, 3, 9)
    watch.begin()
    said = watch.others()
    watch.close("failed")
    assert sorted(path.name for path in folder.iterdir()) == [f"process-{n:05d}.json" for n in range(3)]
    assert said.startswith("process 2 (pid 12 on b) was last heard of 50.")
    assert "s ago: save at step 3; process 1 (pid 12 on b) was last heard of 5." in said


def test_a_step_that_hangs_leaves_the_stacks_of_all_threads(tmp_path, monkeypatch, capfd):
    _quick(monkeypatch)
    watch = Watch(tmp_path, _recipe(slow_floor_seconds=0.05, slow_factor=5.0), 0, 1, 9)
    watch.begin()
    held = threading.Event()

    def a_thread_that_waits() -> None:
        held.wait(100 * 60)

    waiting = threading.Thread(target=a_thread_that_waits)
    waiting.start()
    stacks = tmp_path / "stacks" / "process-00000.txt"
    watch.at(4, "compile")
    time.sleep(0.2)
    with watch.during("evaluate"):
        time.sleep(0.2)
    assert not stacks.exists(), "compiling and evaluating take what they take"
    watch.at(5)

    def a_step_that_hangs() -> None:
        _until(lambda: stacks.exists() and "a_thread_that_waits" in stacks.read_text())

    a_step_that_hangs()
    watch.at(6)
    watch.close("done")
    held.set()
    waiting.join()
    text = stacks.read_text()
    assert "a_step_that_hangs" in text
    assert text.count("step 6 has taken") == 1, "once a step"
    said = capfd.readouterr().err
    assert f"the stacks of all threads are in {stacks}" in said
    assert "warning: process 0: step 6 has taken" in said


def test_the_limit_is_a_multiple_of_the_median_and_at_least_the_floor(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = Watch(tmp_path, _recipe(slow_floor_seconds=10.0, slow_factor=20.0), 0, 1, 9)
    assert watch.limit_seconds == 10.0
    for step, seconds in enumerate((0.1, 0.2, 100.0)):  # one straggler moves the median little
        watch.at(step, STEP)
        now[0] += seconds
    watch.at(3, STEP)
    assert watch.limit_seconds == 10.0
    for step in range(4, 12):
        now[0] += 2.0
        watch.at(step, STEP)
    assert watch.limit_seconds == pytest.approx(40.0)
    now[0] += 1e6
    watch.at(12, "save")
    with watch.during("evaluate"):
        now[0] += 1e6
    watch.at(12, STEP)
    assert watch.limit_seconds == pytest.approx(40.0)


def test_a_program_that_hangs_is_ended_if_the_recipe_says_so(tmp_path, monkeypatch, capfd):
    _quick(monkeypatch)
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    watch = Watch(tmp_path, _recipe(slow_floor_seconds=0.05, abort=True), 0, 1, 9)
    watch.begin()
    watch.at(2)
    _until(lambda: bool(codes))
    watch.close("failed")
    assert codes == [ABORTED] == [77]
    assert "ending this program with exit code 77 (watch.abort)" in capfd.readouterr().err
    assert "step 3 has taken" in (tmp_path / "stacks" / "process-00000.txt").read_text()


def test_a_notice_asks_the_run_to_stop(monkeypatch, tmp_path: Path):
    from raexla.train import watch

    tellers = []

    class Notice:
        def __init__(self, tell: Callable[[str], None]) -> None:
            tellers.append(tell)

        def close(self) -> None:
            tellers.clear()

    monkeypatch.setattr(watch, "MaintenanceNotice", Notice)
    monkeypatch.setattr(watch, "on_google", lambda: False)
    with StopRequest() as stop:
        for recipe in (_recipe(maintenance_notice="never"), _recipe(maintenance_notice="auto")):
            with listening(recipe, stop):
                assert not tellers
        monkeypatch.setattr(watch, "on_google", lambda: True)
        with listening(_recipe(maintenance_notice="auto"), stop):
            tellers[0]("because this machine is being preempted")
            tellers[0]("for another reason")
        assert not tellers
        assert stop.reason == "because this machine is being preempted"
