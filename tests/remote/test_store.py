"""`Store` on a GCS emulator and an S3 server: what is written is read, and faults on the way change nothing."""

import os
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raexla.files import FileDamaged, FileMissing, FileUnavailable, Store
from tests.remote.conftest import QUICK
from tests.remote.proxy import KINDS, FaultyProxy

SIZES = (0, 1, 300, 70_000)


@pytest.fixture(params=["gs", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A folder of either kind, emptied afterwards."""
    request.getfixturevalue("gcs" if request.param == "gs" else "s3")
    made = Store(f"{request.param}://bucket/store")
    yield made
    made.remove_folder("")


def test_what_is_written_is_read(store: Store, tmp_path: Path) -> None:
    files = {f"a/{size}.bin": random.Random(size).randbytes(size) for size in SIZES} | {
        "b": b"b\r",
        "c.json": b"{}\n",
        "d": b"\n--==0==\n",
    }
    for name, data in files.items():
        store.write_bytes(name, data)
    assert store.names() == sorted(files)
    assert store.names("a") == sorted(f"{size}.bin" for size in SIZES)
    assert store.children() == ["a", "b", "c.json", "d"]
    assert store.children("nowhere") == store.names("nowhere") == []
    assert (store.is_folder(), store.is_folder("a"), store.is_folder("b")) == (True, True, False)
    assert (store.exists(), store.exists("a"), store.exists("b"), store.exists("e")) == (True, True, True, False)
    for name, data in files.items():
        assert store.size(name) == len(data)
        assert store.read(name) == data
        with store.open(name) as file:
            assert file.read() == data
    data = files["a/70000.bin"]
    assert store.read("a/70000.bin", 60_000, 70_000) == data[60_000:]
    with store.open("a/70000.bin") as file:
        file.seek(-100, os.SEEK_END)
        assert file.read(200) == data[-100:]
        file.seek(7)
        assert file.read(10) == data[7:17]
    store.download("a/70000.bin", tmp_path / "x" / "copy")
    store.upload(tmp_path / "x" / "copy", "again")
    buffer = bytearray(1000)
    pickle.loads(pickle.dumps(store)).read_into("again", 500, memoryview(buffer))
    assert buffer == data[500:1500]
    store.remove("b")
    store.remove("b")
    store.remove_folder("a")
    assert store.names() == ["again", "c.json", "d"]


def test_what_is_not_there_is_said_at_once(store: Store) -> None:
    store.write_bytes("short", b"12345")
    with pytest.raises(FileMissing, match=r"store/none: there is no such file$"):
        store.read("none")
    with pytest.raises(FileDamaged, match="2 of the 6 bytes from 3 on"):
        store.read("short", 3, 9)
    nowhere = Store(store.url.replace("bucket", "no-such-bucket"), QUICK())
    assert not nowhere.exists("x")
    with pytest.raises(FileUnavailable, match="there is no such"):
        nowhere.write_bytes("x", b"x")


def test_new_files_are_seen(store: Store) -> None:
    """A listing, or the lack of a file, is not remembered."""
    other = Store(store.url)
    store.write_bytes("a", b"1")
    assert (store.names(), store.exists("b"), store.size("a")) == (["a"], False, 1)
    other.write_bytes("b", b"2")
    other.write_bytes("a", b"22")
    assert (store.names(), store.exists("b"), store.size("a"), store.read("a")) == (["a", "b"], True, 2, b"22")


def test_a_large_file_is_streamed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raexla.files.store.BLOCK_BYTES", 6 << 20)  # S3's parts have 5 MiB at least
    data = random.Random(1).randbytes(13_000_001)
    store.write_bytes("large", data)
    assert store.size("large") == len(data)
    assert store.read("large") == data
    assert store.children() == ["large"]


def test_a_stopped_upload_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first block is there when the source fails: no file may show."""
    monkeypatch.setattr("raexla.files.store.BLOCK_BYTES", 6 << 20)
    (tmp_path / "file").write_bytes(bytes(13_000_000))

    class Failing:
        def __init__(self) -> None:
            self.file = (tmp_path / "file").open("rb")
            self.seek = self.file.seek

        def read(self, count: int) -> bytes:
            if self.file.tell() > 10_000_000:
                raise MemoryError
            return self.file.read(count)

    with pytest.raises(MemoryError):
        store.write("file", Failing())  # type: ignore[arg-type]
    assert not store.exists("file")


def test_after_a_fork_the_child_has_its_own_connection(store: Store) -> None:
    store.write_bytes("a", b"parent")
    assert store.read("a") == b"parent"
    child = os.fork()
    if child == 0:  # a child that fails must not run the rest of the tests
        code = 1
        try:
            store.write_bytes("b", store.read("a") + b" and child")
            code = 0
        finally:
            os._exit(code)
    assert store.read("a") == b"parent"
    assert os.waitpid(child, 0)[1] == 0
    assert store.read("b") == b"parent and child"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_is_got_over(faulty: Callable[..., FaultyProxy], kind: str) -> None:
    """Every third request goes wrong in one way; what is read and written is the same."""
    proxy = faulty(rate=0.33 if kind != "stall" else 0.1, seed=3, kinds=(kind,))
    store = Store(f"gs://bucket/{kind.replace(' ', '-')}")
    data = random.Random(4).randbytes(5000)
    for number in range(6):
        store.write_bytes(f"f/{number}", data[: 1000 * number])
    assert store.names() == [f"f/{number}" for number in range(6)]
    for number in range(6):
        assert store.read(f"f/{number}") == data[: 1000 * number]
        assert store.read("f/5", 100 * number, 4000) == data[100 * number : 4000]
        assert store.exists(f"f/{number}")
        assert not store.exists(f"g/{number}")
    store.remove_folder("f")
    assert store.names() == []
    assert sum(proxy.done.values()) >= 3


def test_large_uploads_get_over_faults(faulty: Callable[..., FaultyProxy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raexla.files.store.BLOCK_BYTES", 1 << 18)
    proxy = faulty(rate=0.1, seed=2)
    store = Store("gs://bucket/large")
    data = random.Random(4).randbytes(3_000_001)
    for name in "ab":
        store.write_bytes(name, data)
        assert store.read(name) == data
    assert sum(proxy.done.values()) >= 3


def test_storage_that_stays_away_is_named(faulty: Callable[..., FaultyProxy]) -> None:
    faulty(rate=1.0, kinds=("reset",))
    store = Store("gs://bucket/away-store", QUICK(attempts=2))
    for look in (store.names, store.exists, lambda: store.read("x", 0, 9), lambda: store.write_bytes("x", b"x")):
        with pytest.raises(FileUnavailable, match=r"gs://bucket/away-store.*: still failing after 2 attempts in"):
            look()
