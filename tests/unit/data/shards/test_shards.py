"""Writer, index, reader, verify: what is written is read, and whatever was changed is found."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import webdataset
from PIL import Image

from raexla.data.shards import (
    BoundedCache,
    Retry,
    ShardDamaged,
    ShardSet,
    ShardUnavailable,
    ShardWriter,
    index,
    peek,
    stats,
    verify,
)
from raexla.data.shards.tar import MemberTable, make_table, split_name
from raexla.recipe import UserError

Make = Callable[..., str]


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def test_the_same_samples_give_the_same_bytes(make_shards: Make) -> None:
    one, other = make_shards("one/s", 40), make_shards("other/s", 40)
    names = sorted(os.listdir(one))
    assert names == ["index.json", "index.members", *(f"shard-0000{number}.tar" for number in range(3))]
    for name in names:
        assert Path(one, name).read_bytes() == Path(other, name).read_bytes()


def test_webdataset_reads_ours(make_shards: Make) -> None:
    folder = make_shards("s", 5)
    rows = list(webdataset.WebDataset(f"{folder}/shard-00000.tar", shardshuffle=False))
    assert [row["__key__"] for row in rows] == [f"{number:06d}" for number in range(5)]
    assert rows[3]["txt"] == b"s 3"


def test_index_is_what_the_writer_wrote_and_can_be_done_without(make_shards: Make) -> None:
    folder = make_shards("s", 40)
    written = Path(folder, "index.json").read_bytes()
    said: list[str] = []
    assert index(folder).manifest_hash == json.loads(written)["manifest_hash"]
    assert Path(folder, "index.json").read_bytes() == written
    with_index = ShardSet(folder, say=said.append)
    assert said == []
    os.remove(Path(folder, "index.json"))
    without = ShardSet(folder, say=said.append)
    assert "no index.json" in said[0]
    assert "raexla shards index" in said[0]
    assert without.index.order_hash == with_index.index.order_hash
    assert without.index.manifest_hash is None
    assert without.read(2, 3) == with_index.read(2, 3)


def test_reader_gives_members_by_extension(make_shards: Make) -> None:
    shards = ShardSet(make_shards("s", 20))
    assert shards.read(1, 2)["txt"] == b"s 19"
    assert set(shards.read(1, 2)) == {"png", "txt"}
    assert set(shards.read(1, 2, {"txt", "json"})) == {"txt"}
    assert shards.key(1, 2) == "shard-00001/000019"


def test_keys_that_would_not_read_back_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s") as writer:
        writer.write("a/b", {"txt": b"x"})
        for key, extension in [("a.b", "txt"), ("/a", "txt"), ("", "txt"), ("a", "TXT"), ("a", "")]:
            with pytest.raises(ValueError, match="would not read back"):
                writer.write(key, {extension: b"x"})
        with pytest.raises(ValueError, match="a second sample"):
            writer.write("a/b", {"txt": b"x"})
        writer.write("long/" * 60 + "name", {"seg.png": b"y"})
    shards = ShardSet(str(tmp_path / "s"))
    assert shards.read(0, 0) == {"txt": b"x"}
    assert shards.read(0, 1) == {"seg.png": b"y"}
    assert index(str(tmp_path / "s")).order_hash == shards.index.order_hash


def test_a_failed_writer_leaves_whole_shards_and_no_index(tmp_path: Path) -> None:
    def fail() -> None:
        with ShardWriter(tmp_path / "s", samples_per_shard=2) as writer:
            for number in range(5):
                writer.write(str(number), {"txt": b"x"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert sorted(os.listdir(tmp_path / "s")) == ["shard-00000.tar", "shard-00001.tar"]
    with pytest.raises(UserError, match="has 2 shard files already"):
        ShardWriter(tmp_path / "s")
    with ShardWriter(tmp_path / "s", overwrite=True) as writer:
        writer.write("0", {"txt": b"x"})
    assert sorted(os.listdir(tmp_path / "s")) == ["index.json", "index.members", "shard-00000.tar"]


def test_an_empty_shard_is_kept_and_named(tmp_path: Path, make_shards: Make) -> None:
    folder = Path(make_shards("s", 20))
    tar(folder / "shard-00009.tar", [])
    said: list[str] = []
    made = index(str(folder), say=said.append)
    assert [entry.samples for entry in made.shards] == [17, 3, 0]
    assert said == [f"{folder}/shard-00009.tar: an empty shard: 0 samples"]
    assert stats(str(folder))["empty_shards"] == ["shard-00009.tar"]
    with ShardWriter(tmp_path / "none"):
        pass
    assert ShardSet(str(tmp_path / "none")).samples == 0


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda data: b"", "0 bytes"),
        (lambda data: data[: len(data) // 2], "truncated or damaged"),
        (lambda data: data[:2048], "truncated or damaged"),
        (lambda data: data[:1024] + b"\xff" * 512 + data[1536:], "truncated or damaged"),
        (lambda data: b"not a tar at all" * 64, "truncated or damaged"),
    ],
)
def test_a_damaged_shard_is_named_by_index_verify_and_reader(
    make_shards: Make, cut: Callable[[bytes], bytes], message: str
) -> None:
    folder = Path(make_shards("s", 40))
    path = folder / "shard-00001.tar"
    path.write_bytes(cut(path.read_bytes()))
    before = (folder / "index.json").read_bytes()
    with pytest.raises(ShardDamaged, match=message) as caught:
        index(str(folder))
    assert "shard-00001.tar" in str(caught.value)
    assert (folder / "index.json").read_bytes() == before
    assert any(line.startswith("shard-00001.tar") for line in verify(str(folder)).problems)
    if path.stat().st_size != json.loads(before)["shards"][1]["bytes"]:
        with pytest.raises(ShardDamaged, match=r"shard-00001\.tar: \d+ bytes, its index says"):
            ShardSet(str(folder)).read(1, 0)


def test_verify_finds_changed_added_and_missing_shards(make_shards: Make) -> None:
    folder = Path(make_shards("s", 40))
    assert verify(str(folder), decode=True).problems == []
    path = folder / "shard-00000.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1  # inside the first picture
    path.write_bytes(data)
    (folder / "shard-00002.tar").rename(folder / "shard-00007.tar")
    problems = verify(str(folder)).problems
    assert len(problems) == 3
    assert problems[0] == "shard-00002.tar: in the index, not in the folder"
    assert problems[1] == "shard-00007.tar: in the folder, not in the index"
    assert problems[2].startswith("shard-00000.tar: SHA-256")


def test_verify_decodes_on_request(make_shards: Make) -> None:
    folder = make_shards("s", 4, bad={2})
    assert verify(folder).problems == []
    (problem,) = verify(folder, decode=True).problems
    assert problem.startswith("shard-00000/000002.png: truncated_image")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("index.json", lambda data: data[:-40], "JSONDecodeError"),
        ("index.json", lambda data: data.replace(b'"version": 1', b'"version": 9'), "version 9"),
        ("index.json", lambda data: data.replace(b'"samples": 17', b'"samples": 16'), "it was edited"),
        ("index.members", lambda data: data[:-9] + bytes(9), "raexla shards index"),
        ("index.members", lambda data: data[:30], "cut short"),
    ],
)
def test_a_damaged_index_is_an_error(
    make_shards: Make, name: str, change: Callable[[bytes], bytes], message: str
) -> None:
    folder = make_shards("s", 20)
    path = Path(folder, name)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        ShardSet(folder).read(1, 0)


def test_odd_tars(tmp_path: Path) -> None:
    members = [("./a.txt", b"A"), ("b.txt", b"B"), ("a.cls", b"1"), ("b.txt", b"B2"), (".hidden", b""), ("README", b"")]
    tar(tmp_path / "odd.tar", members)
    said: list[str] = []
    shards = ShardSet(str(tmp_path), say=said.append)
    assert shards.samples == 2
    assert shards.read(0, 0) == {"txt": b"A", "cls": b"1"}
    assert shards.read(0, 1) == {"txt": b"B"}
    assert "1 samples whose members are not adjacent" in said[1]
    assert "1 members with the name of an earlier one left aside: b.txt" in said[2]


def test_tables_and_names() -> None:
    assert split_name("a/b.c/d.seg.PNG") == ("a/b.c/d", "seg.png")
    assert split_name("a/.hidden") is None
    assert split_name("README") is None
    table = make_table([("ü\udc80.png", 512, 3), ("ü\udc80.txt", 1536, 0), ("b.txt", 2560, 7)])
    again = MemberTable.unpack(table.pack())
    assert again.keys == table.keys
    assert again.digest() == table.digest()
    assert again.members(0) == {"png": (512, 3), "txt": (1536, 0)}
    assert again.span(0, 2) == (512, 2567)


def test_remote_shards_are_read_in_bounded_pieces(make_shards: Make) -> None:
    folder = make_shards("s", 40)
    remote = fsspec.filesystem("memory")
    remote.put(folder, "/bucket/s", recursive=True)
    cache: BoundedCache[bytes] = BoundedCache(1 << 17)
    shards, local = ShardSet("memory://bucket/s", piece=8, cache=cache), ShardSet(folder)
    for shard, entry in enumerate(local.index.shards):
        for row in range(entry.samples):
            assert shards.read(shard, row) == local.read(shard, row)
            assert cache.held <= cache.limit
    assert cache.held > 0
    with ShardWriter("memory://bucket/made") as writer:
        writer.write("x", {"txt": b"x"})
    assert verify("memory://bucket/made").problems == []
    remote.rm("/bucket", recursive=True)


def test_transport_errors_are_retried_then_raised() -> None:
    slept: list[float] = []
    retry = Retry(attempts=4, first_seconds=1.0, longest_seconds=3.0, sleep=slept.append)
    failures = [ConnectionResetError("reset"), TimeoutError(), OSError("503")]

    def work() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert retry.call("gs://b/x.tar", work) == "done"
    assert len(slept) == 3
    assert all(0 <= seconds <= 3 for seconds in slept)
    failures += [OSError("503")] * 4
    with pytest.raises(ShardUnavailable, match=r"gs://b/x.tar: still failing after 4 attempts .* 503"):
        retry.call("gs://b/x.tar", work)


def test_missing_things_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        ShardSet(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no shard"):
        index(str(tmp_path))
    with pytest.raises(UserError, match="Protocol not known"):
        ShardSet("nosuch://x")


def test_peek_draws_every_sample_and_names_bad_ones(make_shards: Make) -> None:
    sheet = peek(make_shards("s", 10, bad={3}), count=20, columns=4, cell=96)
    assert isinstance(sheet, Image.Image)
    assert sheet.width == 2 * 20 + 4 * 96 + 3 * 12
    colours = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert (250, 236, 236) in colours
