"""Processes over gloo: real ones, started like torchrun starts them, some of which die."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raexla.recipe import ProcessLost, UserError
from raexla.runtime.processes import Processes


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What two processes said and how they ended, in each of the scenes of talking.py."""
    scenes = ("talk=60", "killed=600", "stopped=1")
    file = tmp_path_factory.mktemp("talking") / "said.jsonl"
    command = [sys.executable, str(Path(__file__).with_name("talking.py")), str(file), *scenes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 3 + 2 + 2, done.stdout + done.stderr
    return {"talk": lines[:3], "killed": lines[3:5], "stopped": lines[5:]}


def test_what_processes_tell_each_other(said):
    *both, end = said["talk"]
    assert end["codes"] == [0, 0]
    for one in both:
        assert one["any"] == [False, True]
        assert one["sum"] == [3.0, 3.0]
        assert one["exchange"] == [{"i": 0, "text": "é"}, {"i": 1, "text": "é" * 51}]
        assert one["kept"] == [1.0], "a sum leaves what it was given as it is"
        assert one["threads"]


@pytest.mark.parametrize(("scene", "timeout", "bound"), [("killed", "600", 200), ("stopped", "1", 200)])
def test_a_lost_process_ends_the_others_soon_and_clearly(scene, timeout, bound, said):
    """One that dies is noticed at once, whatever the timeout; one that is silent after the timeout."""
    told, end = said[scene]
    assert end["codes"] == [ProcessLost.exit_code, -9]
    assert ProcessLost.exit_code == 76
    assert end["seconds"] < bound
    assert told.startswith("process 0 of 2 lost another one while agreeing (")
    assert "resumes from the last checkpoint" in told
    assert f"waited for {timeout} s" in told


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "one of 2 processes, but MASTER_ADDR and MASTER_PORT is not set: start all of them with"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, WORLD_SIZE is 2: ranks go from 0 to WORLD_SIZE - 1"),
        ({"WORLD_SIZE": "two"}, "the environment variable WORLD_SIZE is 'two': it must be a whole number"),
    ],
)
def test_an_environment_that_describes_no_job(variables, message, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        Processes()


def test_one_process_needs_nobody():
    one = Processes(0, 1)
    assert one.exchange({"a": 1}) == [{"a": 1}]
    assert one.any(True)
    assert one.another().exchange(2) == [2]
    one.barrier()


def test_others_that_never_come(monkeypatch, tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ProcessLost, match=rf"process 1 of 2 lost another one while meeting the others at 127.0.0.1:{port}"
    ):
        Processes(timeout_seconds=1)
