"""A stop at any instant: the same call goes on, does nothing twice that is complete, and ends with the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raexla.data.shards import ReshardRecipe, ShardDamaged, ShardSet, Store, index, pack, reshard, stats, verify
from raexla.data.shards.index import SEEN
from raexla.recipe import UserError
from tests.unit.data.conftest import picture_bytes

Make = Callable[..., str]
Tree = dict[str, bytes]


class Stop(BaseException):
    """What stands for a kill: nothing is cleaned up by the code that it meets."""


def tree(folder: Path) -> Tree:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != SEEN}


def pictures(folder: Path, count: int = 14) -> str:
    folder.mkdir()
    for number in range(count):
        data = picture_bytes(number)
        (folder / f"{number:02d}.png").write_bytes(data[:60] if number % 5 == 3 else data)
        if number != 7:
            (folder / f"{number:02d}.txt").write_text(f"caption {number}")
    return str(folder)


def stopping(monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> list[str]:
    """The `at`-th write from now on stops the program, before or after its file stands."""
    written: list[str] = []
    real = Store.write

    def write(store: Store, name: str, source: Any) -> None:
        if len(written) == at and not after:
            partial = Path(store.path(name) + ".partial")
            partial.parent.mkdir(exist_ok=True)
            partial.write_bytes(b"half of it")
            raise Stop
        real(store, name, source)
        written.append(name)
        if len(written) == at + 1 and after:
            raise Stop

    monkeypatch.setattr(Store, "write", write)
    return written


@pytest.mark.parametrize("verb", ["pack", "reshard"])
@pytest.mark.parametrize("after", [False, True])
def test_pack_and_reshard_stopped_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, after: bool
) -> None:
    source = pictures(tmp_path / "pictures")
    pack(source, str(tmp_path / "whole"), samples_per_shard=3)

    def run(out: Path) -> Any:
        if verb == "pack":
            return pack(source, str(out), samples_per_shard=3)
        recipe = ReshardRecipe(samples_per_shard=2, resize=4, where="caption != 'caption 4'")
        return reshard(str(tmp_path / "whole"), str(out), recipe)

    whole = tmp_path / "whole" if verb == "pack" else tmp_path / "resharded"
    run(whole)
    expected, shards = tree(whole), len(list(whole.glob("*.tar")))
    assert "left-out.jsonl" in expected
    assert not any(name.endswith((".progress", ".partial")) for name in expected)
    at = 0
    while True:
        out = tmp_path / f"out-{at}"
        with monkeypatch.context() as patch:
            stopping(patch, at, after)
            try:
                run(out)
                break
            except Stop:
                pass
        standing = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")} if out.exists() else {}
        with monkeypatch.context() as patch:
            written = stopping(patch, 1000, after)
            run(out)
        assert tree(out) == expected, at
        again = [name for name in written if name in standing]
        assert len(again) <= 1, "more than the shard that was being written was written again"
        at += 1
    assert at >= 2 * shards + 4  # shards and notes, index, what was left out, the record twice
    assert run(whole).complete_already
    assert tree(whole) == expected


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pack.__globals__, "_FEW", 0)
    monkeypatch.setitem(pack.__globals__, "_CHUNK", 3)
    source = pictures(tmp_path / "pictures")
    for processes in (1, 2):
        pack(source, str(tmp_path / str(processes)), samples_per_shard=3, processes=processes)
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


def test_index_goes_on_and_reads_only_what_changed(make_shards: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(make_shards("s", 100))
    expected = tree(folder)
    (folder / "index.json").unlink()
    read: list[str] = []
    real = index.__globals__["examine"]

    def examine(url: str, name: str, *rest: Any, **options: Any) -> Any:
        if len(read) == 4 and stop:
            raise Stop
        read.append(name)
        return real(url, name, *rest, **options)

    monkeypatch.setitem(index.__globals__, "examine", examine)
    stop = True
    with pytest.raises(Stop):
        index(str(folder))
    assert [path.name for path in folder.glob("*.progress")] == ["index-00000.progress"]
    stop = False
    made = index(str(folder))
    assert sorted(read) == sorted(f"shard-{number:05d}.tar" for number in range(6))  # each once
    assert made.examined == 2
    assert tree(folder) == expected
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert index(str(folder)).examined == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times  # not even the index anew
    os.utime(folder / "shard-00003.tar")
    assert index(str(folder)).examined == 1
    shutil.copy(folder / "shard-00000.tar", folder / "shard-00009.tar")
    made = index(str(folder))
    assert (made.examined, made.samples, len(made.shards)) == (1, 117, 7)
    assert index(str(folder), full=True).examined == 7
    (folder / "shard-00009.tar").unlink()
    assert index(str(folder)).examined == 0
    assert tree(folder) == expected


def test_index_keeps_what_it_read_beside_a_damaged_shard(make_shards: Make) -> None:
    folder = Path(make_shards("s", 60))
    tar = folder / "shard-00001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:700])
    with pytest.raises(ShardDamaged, match=r"shard-00001\.tar"):
        index(str(folder))
    tar.write_bytes(whole)
    assert index(str(folder)).examined == 1
    assert not list(folder.glob("*.progress"))


def test_verify_goes_on(make_shards: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(make_shards("s", 60))
    monkeypatch.setattr("raexla.data.shards.check.Journal.add", lambda journal, note: journal._waiting.append(note))
    real = verify.__globals__["_verify_shard"]
    seen: list[str] = []

    def look(url: str, entry: Any, *rest: Any) -> Any:
        if len(seen) == 2 and stop:
            raise Stop
        seen.append(entry.name)
        return real(url, entry, *rest)

    monkeypatch.setitem(verify.__globals__, "_verify_shard", look)
    stop = True
    with pytest.raises(Stop):
        verify(str(folder))
    stop = False
    report = verify(str(folder))
    assert (report.known, report.problems, len(seen)) == (2, [], 4)
    assert verify(str(folder)).known == 0  # a complete one begins anew
    assert not list(folder.glob("*.progress"))


def test_an_index_of_before_there_were_statistics_is_read(make_shards: Make) -> None:
    folder = Path(make_shards("s", 20))
    now = json.loads((folder / "index.json").read_text())
    assert now["shards"][0]["statistics"]["width"] == [8, 8, 136, 17]
    assert now["shards"][0]["statistics"]["caption_characters"] == [3, 4, 58, 17]
    for row in now["shards"]:
        del row["statistics"]
    (folder / "index.json").write_text(json.dumps(now))
    assert ShardSet(str(folder)).read(0, 3)["txt"] == b"s 3"
    assert verify(str(folder)).problems == []
    assert stats(str(folder))["all"] == {}
    index(str(folder))
    assert stats(str(folder))["all"]["width"] == [8, 8, 160, 20]


def test_what_is_not_ours_is_left_alone(tmp_path: Path, make_shards: Make) -> None:
    source = pictures(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"has shards, but no pack\.json .* choose another --out, or --overwrite"):
        pack(source, make_shards("s", 20))
    pack(source, str(tmp_path / "out"))
    with pytest.raises(UserError, match="made with kind caption instead of image"):
        pack(source, str(tmp_path / "out"), kind="image")
    assert pack(source, str(tmp_path / "out"), kind="image", overwrite=True).samples == 11
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty and holds no shards"):
        pack(source, str(tmp_path / "mine"), overwrite=True)
    with pytest.raises(UserError, match="lies inside"):
        pack(source, f"{source}/shards")


@pytest.mark.slow
def test_a_pack_that_is_killed_goes_on_and_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL, several times, with two workers."""
    source = pictures(tmp_path / "pictures", 3000)
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack(source, str(whole), samples_per_shard=100)
    code = textwrap.dedent(
        f"""
        from raexla.data.shards import pack
        if __name__ == "__main__":
            pack({source!r}, {str(out)!r}, samples_per_shard=100, processes=2)
        """
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    kills = 0
    for _ in range(12):
        process = subprocess.Popen([sys.executable, str(script)])
        seen = len(list(out.glob("*.tar"))) if out.exists() else 0
        while process.poll() is None and (len(list(out.glob("*.tar"))) if out.exists() else 0) < seen + 4:
            time.sleep(0.002)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 3
    assert tree(out) == tree(whole)
    deadline = time.monotonic() + 30
    while _running(str(script)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _running(str(script))


def _running(text: str) -> bool:
    """Whether a process of this machine has this in its command line, or came from one that had."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text.encode() in (path.parent / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False
