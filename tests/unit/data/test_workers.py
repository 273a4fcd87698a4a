"""Worker processes give what one process gives, hold a bounded number of batches, and never leave anybody waiting."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raexla.data import Batch, TooMuchBadData
from raexla.data.workers import AHEAD, WorkerDied
from raexla.recipe import UserError
from tests.unit.data import elastic
from tests.unit.data.elastic import opened, recipe

Make = Callable[..., str]


def plain(batch: Batch) -> list[Any]:
    """All of a batch but how long it took."""
    arrays = {name: array.tolist() for name, array in batch.arrays.items()}
    return [arrays, batch.cursor, batch.uids, batch.epochs, [row.as_dict() for row in batch.refused]]


@pytest.fixture
def folders(make_shards: Make) -> dict[str, tuple[str, float]]:
    return {"web": (make_shards("web", 100, bad={5, 50}), 3.0), "art": (make_shards("art", 60, bad={3}), 1.0)}


def test_batches_cursors_and_refusals_are_those_of_one_process(folders: dict[str, tuple[str, float]]) -> None:
    with opened(recipe(folders)) as loader:
        whole = [plain(next(loader)) for _ in range(24)]
    assert sum(len(batch[4]) for batch in whole) >= 3
    for options in ({"workers": 1}, {"workers": 3, "threads": 2, "read_ahead": 0}):
        with opened(recipe(folders, **options)) as loader:
            assert [plain(next(loader)) for _ in range(13)] == whole[:13]
    with opened(recipe(folders, workers=3), cursor=whole[6][1]) as loader:
        assert [plain(next(loader)) for _ in range(6)] == whole[7:13]


def test_rows_come_from_their_workers_in_the_order_of_the_streams(folders: dict[str, tuple[str, float]]) -> None:
    with opened(recipe(folders, workers=3), elastic.told) as loader:
        made = next(loader).arrays["generation/draw"].tolist()
        pids = [worker.pid for worker in loader.maker.workers]
    assert made == [float(pid) for pid, rows in zip(pids, (4, 6, 6), strict=True) for _ in range(rows)]
    assert os.getpid() not in pids
    with opened(recipe(folders, workers=20)) as loader:  # no more than streams
        assert len(loader.maker.workers) == 8


def test_workers_stop_when_nobody_fetches(make_shards: Make, tmp_path: Path) -> None:
    data = recipe({"web": (make_shards("web", 64), 1.0)}, workers=1, read_ahead=1)
    with opened(data, elastic.Noted(str(tmp_path / "seen"))) as loader:
        next(loader)
        ready = (1 + 1 + AHEAD) * elastic.ROWS  # consumed, held, in the worker's memory
        until(lambda: os.path.getsize(tmp_path / "seen") >= ready)
        time.sleep(0.3)
        assert ready <= os.path.getsize(tmp_path / "seen") <= ready + elastic.ROWS  # and the one being made


def test_a_killed_worker_is_an_error_that_names_it(folders: dict[str, tuple[str, float]]) -> None:
    with opened(recipe(folders, workers=2)) as loader:
        next(loader)
        killed = loader.maker.workers[1].pid
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=rf"data worker 1 \(pid {killed}, streams 4\.\.7\) was killed by SIGKILL"):
            list(loader)


def test_errors_of_workers_arrive_as_themselves(folders: dict[str, tuple[str, float]]) -> None:
    data = recipe(folders, workers=2)
    with opened(data, elastic.storage_fails) as loader, pytest.raises(UserError, match=r"^the disk is gone$"):
        next(loader)
    with opened(data, elastic.has_a_bug) as loader, pytest.raises(RuntimeError, match=r"data worker 0 (.|\n)*no such"):
        next(loader)
    with (
        opened(data, elastic.refuse_all) as loader,
        pytest.raises(TooMuchBadData, match=r"source (art|web): \d+ of the") as caught,
    ):
        next(loader)
    assert {row.reason for row in caught.value.refused} == {"text_too_long"}


def test_closing_ends_workers_at_once_and_signals_do_not(folders: dict[str, tuple[str, float]]) -> None:
    loader = opened(recipe(folders, workers=2))
    next(loader)
    pids = [worker.pid for worker in loader.maker.workers]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    for _ in range(6):
        next(loader)
    loader.close()
    assert not any(alive(pid) for pid in pids)
    stuck = opened(recipe(folders, workers=1), elastic.sleeps)
    stuck._coming.append(stuck._thread.submit(stuck.maker.next))  # type: ignore[union-attr]
    began = time.monotonic()
    stuck.close()
    assert time.monotonic() - began < 30


SCRIPT = """
import sys, time
sys.path.insert(0, {root!r})
from tests.unit.data import elastic
if __name__ == "__main__":
    loader = elastic.opened(elastic.recipe({folders!r}, workers=2))
    next(loader)
    print(*[worker.pid for worker in loader.maker.workers], flush=True)
    {then}
"""


@pytest.mark.parametrize("end", ["killed", "left open"])
def test_workers_end_with_their_parent(folders: dict[str, tuple[str, float]], tmp_path: Path, end: str) -> None:
    script, root = tmp_path / "run.py", str(Path(__file__).parents[3])
    script.write_text(SCRIPT.format(root=root, folders=folders, then="time.sleep(600)" if end == "killed" else "pass"))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        if end == "killed":
            parent.kill()
        assert parent.wait(60) == (-signal.SIGKILL if end == "killed" else 0)
        until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)
