"""Several real processes, one of them with a full disk, one killed: each writes its share, all agree or nothing is
there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raexla.checkpoint import Checkpoint, checkpoints


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[dict[str, Any]]], Path]:
    """What each process of each job of several.py said, and their folder."""
    folder = tmp_path_factory.mktemp("several")
    command = [sys.executable, str(Path(__file__).with_name("several.py")), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    said: dict[str, list[dict[str, Any]]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            value = json.loads(line)
            said.setdefault(value["job"], []).append(value)
    return {name: sorted(values, key=lambda v: v["rank"]) for name, values in said.items()}, folder


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_process_writes_its_share(count, jobs):
    said, folder = jobs
    processes = said[f"save-{count}"]
    assert [p["rank"] for p in processes] == list(range(count))
    assert {p["step"] for p in processes} == {2}
    assert {p["error"] for p in processes} == {"None"}
    shares = [p["bytes"] for p in processes]
    assert max(shares) < 1.15 * min(shares)
    checkpoint = Checkpoint.open(folder / f"by-{count}" / "step-00000002")
    checkpoint.verify()
    assert sorted(checkpoint.manifest["files"]) == [f"pieces-{n:05d}-000.safetensors" for n in range(count)]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_processes_restores_what_any_number_saved(count, jobs):
    processes = jobs[0][f"restore-{count}"]
    assert len(processes) == count
    assert all(p["same"] == [True, True, True] for p in processes)


def test_a_full_disk_of_one_process_is_told_to_all_and_the_next_save_succeeds(jobs):
    both = jobs[0]["full-2"]
    assert [p["step"] for p in both] == [3, 3]
    for process in both:
        (said,) = process["said"]
        assert "saving step-00000003 failed while writing pieces on process 1 of 2: " in said
        assert "No space left on device; the checkpoints before are as they were" in said


def test_a_process_that_is_killed_while_it_writes_ends_the_save(jobs):
    said, folder = jobs
    (first,) = said["killed-2"]
    assert first["lost"].startswith("process 0 of 2 lost another one")
    assert "step-00000004" not in " ".join(checkpoints(folder / "by-2"))
    for place in checkpoints(folder / "by-2")[:2]:
        Checkpoint.open(place).verify()


def test_damage_that_one_process_finds_is_told_to_all_and_leftovers_are_gone(jobs):
    said, folder = jobs
    both = said["damaged-2"]
    assert len(both) == 2
    assert all("step-00000003/manifest.json: " in process["said"] for process in both)
    assert not list((folder / "by-2").glob(".*"))
