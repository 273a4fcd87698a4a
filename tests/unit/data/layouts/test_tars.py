"""What is particular to tars: odd members of webdataset's, and the official ones that name their pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from raexla.data import Refused
from raexla.data.shards import ShardSet, index
from raexla.data.shards import reader as shard_reader
from raexla.data.source import Source
from tests import official_layout
from tests.unit.data.layouts.written import write_files, write_tar

Open = Callable[..., Source]
Picture = Callable[..., bytes]


def refused(source: Source, row: int) -> str:
    """`reason: detail` of a sample that is refused."""
    with pytest.raises(Refused) as caught:
        source.load(0, row, seed=0, epoch=0)
    return str(caught.value)


def test_several_pictures_of_one_sample(tmp_path: Path, picture: Picture, open_source: Open) -> None:
    write_tar(tmp_path / "a.tar", {
        "a.0.png": picture(0), "a.1.PNG": picture(1), "a.txt": b"two of them",
        "b.seg.png": picture(2), "b.txt": b"a mask only",
        "c.png": picture(3), "c.seg.png": picture(4), "c.txt": b"a picture and its mask",
    })  # fmt: skip
    source = open_source(path=str(tmp_path))
    assert refused(source, 0) == "several_images: 0.png, 1.png; one is supported"
    assert refused(source, 1) == "missing_image: there is only txt"
    assert source.load(0, 2, seed=0, epoch=0).caption == "a picture and its mask"


def test_one_key_in_two_shards_is_two_samples_and_twice_in_one_is_said(
    tmp_path: Path, picture: Picture, open_source: Open
) -> None:
    for name in ("a", "sub/b"):
        write_tar(tmp_path / f"{name}.tar", {"x.png": picture(0), "x.txt": name.encode()})
    write_tar(tmp_path / "c.tar", [("x.png", picture(0)), ("x.txt", b"c"), ("X.TXT", b"other"), ("x.TXT", b"again")])
    said: list[str] = []
    source = open_source(path=str(tmp_path), say=said.append)
    assert [source.uid(shard, 0) for shard in range(3)] == ["s/a/x", "s/c/x", "s/sub/b/x"]
    assert [source.load(shard, 0, seed=0, epoch=0).caption for shard in range(3)] == ["a", "c", "sub/b"]
    assert any("1 members with the name of an earlier one left aside: x.TXT" in line for line in said)
    assert source.uid(1, 1) == "s/c/X"


def test_members_that_stand_apart_are_read_apart(
    tmp_path: Path, picture: Picture, open_source: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "a.tar", [("x.png", picture(0)), ("y.bin", bytes(300_000)), ("x.txt", b"far")])
    source = open_source(path=str(tmp_path))
    sizes: list[int] = []
    read = shard_reader.Store.read

    def count(store: Any, name: str, start: int = 0, end: int | None = None) -> bytes:
        data = read(store, name, start, end)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(shard_reader.Store, "read", count)
    assert source.load(0, 0, seed=0, epoch=0).caption == "far"
    assert sizes == [len(picture(0)), 3]


def test_a_sample_of_too_many_bytes_is_refused_unread(
    tmp_path: Path, picture: Picture, open_source: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_reader, "MAX_SAMPLE_BYTES", 5000)
    write_tar(tmp_path / "a.tar", {"x.png": bytes(6000), "x.txt": b"x", "y.png": picture(0), "y.txt": b"y"})
    source = open_source(path=str(tmp_path))
    assert refused(source, 0) == "image_too_large: 6001 bytes in png, txt, limit 5000"
    assert source.load(0, 1, seed=0, epoch=0).caption == "y"


def test_two_parts_of_one_remote_set_share_a_cache(tmp_path: Path, open_source: Open) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", {"x.txt": name.encode()})
    index(str(tmp_path))
    fsspec.filesystem("memory").put(str(tmp_path), "/bucket/s", recursive=True)
    cache: shard_reader.BoundedCache[bytes] = shard_reader.BoundedCache(1 << 20)
    a, b = (ShardSet("memory://bucket/s", names=[f"{name}.tar"], cache=cache) for name in "ab")
    assert (a.read(0, 0), b.read(0, 0)) == ({"txt": b"a"}, {"txt": b"b"})
    assert a.cached_sample_bytes > 0
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_official_pictures_are_found_by_their_names(tmp_path: Path, picture: Picture, open_source: Open) -> None:
    turns = official_layout.drawn("Draw a gradient")

    def plain(**more: Any) -> bytes:
        return json.dumps({"conversations": turns, "metadata": {}, **more}).encode()

    write_tar(tmp_path / "a.tar", {
        "0.json": plain(image_filename="0.png"), "0.png": picture(0),
        "1.v2.json": plain(image_filename="./1.v2.final.JPG"), "1.v2.final.JPG": picture(1, format="JPEG"),
        "2.json": plain(image_filename="deep/two.png"), "3.json": plain(image_filename="gone.png"),
        "4.json": plain(image_filename="../4.png"), "5.json": plain(image_filename="/etc/passwd"),
        "6.json": plain(image_filename=["a.png", "b.png"]), "7.json": plain(image_filename=7),
        "8.json": plain(), "8.png": picture(8), "9.json": b"[]", "notes.txt": b"not a sample",
        "deep/two.png": picture(2),
    })  # fmt: skip
    write_files(tmp_path, {"wds_manifest.json": json.dumps({"tars": ["a.tar"]})})
    source = open_source(path=str(tmp_path))
    assert source.samples == 10
    assert [source.uid(0, row) for row in (0, 1, 2)] == ["s/a/0", "s/a/1.v2", "s/a/2"]
    for row in range(3):
        sample = source.load(0, row, seed=0, epoch=0)
        assert sample.image is not None
        assert sample.caption == "Draw a gradient"
    reasons = [refused(source, row).partition(":")[0] for row in range(3, 10)]
    assert reasons == [
        "missing_image", "outside_folder", "outside_folder", "several_images", "missing_image", "missing_image",
        "bad_json",
    ]  # fmt: skip
    index(str(tmp_path))
    indexed = open_source(path=f"{tmp_path}/index.json", layout="scale_rae")
    assert (indexed.shard_samples, indexed.order_hash) == (source.shard_samples, source.order_hash)
    assert open_source(path=f"{tmp_path}/index.json").order_hash != source.order_hash  # other rows, other order


def test_what_the_official_maker_writes_is_read_whole(tmp_path: Path, picture: Picture, open_source: Open) -> None:
    samples = [(official_layout.drawn(f"Draw {number}"), picture(number, format="JPEG")) for number in range(23)]
    tars = official_layout.write_tars(tmp_path / "tars", "batch", samples, per_tar=9)
    source = open_source(path=official_layout.write_manifest(tmp_path / "wds_manifest.json", tars, 23))
    assert source.shard_samples == [9, 9, 5]
    places = [(shard, row) for shard, count in enumerate(source.shard_samples) for row in range(count)]
    found = [source.load(*place, seed=0, epoch=0) for place in places]
    assert [sample.caption for sample in found] == [f"Draw {number}" for number in range(23)]
    assert all(sample.image is not None and sample.meta["metadata"] == {"number": n} for n, sample in enumerate(found))
    members = {(shard, row): source.reader.read(shard, row, {"jpg"}) for shard, row in places}
    assert [members[place]["jpg"] for place in places] == [data for _, data in samples]
