"""`reshard`: what comes through is what was asked for, untouched bytes are the same, the rest is named."""

import io
import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from raexla.data.shards import ReshardRecipe, ShardSet, ShardWriter, reshard, verify
from raexla.recipe import UserError
from tests.unit.data.conftest import picture_bytes

Rows = dict[str, dict[str, bytes]]


def write(folder: str, count: int = 20) -> Rows:
    """Pictures of growing width; every seventh is cut, one has none, one has no similarity."""
    written = {}
    with ShardWriter(folder, samples_per_shard=6) as writer:
        for number in range(count):
            format = ("PNG", "JPEG")[number % 2]
            data = picture_bytes(number, (10 + number, 12), format)
            record: dict[str, Any] = {"similarity": number / 20}
            if number == 3:
                del record["similarity"]
            members = {
                ("png", "jpg")[number % 2]: data[: len(data) // 2] if number % 7 == 5 else data,
                "txt": f"caption {number}".encode(),
                "json": json.dumps(record).encode(),
                "seg.png": b"another",
            }
            if number == 4:
                del members["png"]
            writer.write(f"k{number:02d}", members)
            written[f"k{number:02d}"] = members
    return written


def read(folder: str) -> Rows:
    shards = ShardSet(folder)
    rows = [(shard, row) for shard, entry in enumerate(shards.index.shards) for row in range(entry.samples)]
    return {shards.key(*place).rpartition("/")[2]: shards.read(*place) for place in rows}


def size(members: dict[str, bytes]) -> tuple[int, int]:
    return Image.open(io.BytesIO(next(members[name] for name in ("jpg", "png") if name in members))).size


def test_other_shard_sizes_copy_every_byte(tmp_path: Path) -> None:
    rows = write(str(tmp_path / "in"))
    report = reshard(str(tmp_path / "in"), str(tmp_path / "out"), ReshardRecipe(samples_per_shard=7))
    assert [entry.samples for entry in report.index.shards] == [7, 7, 6]
    assert read(str(tmp_path / "out")) == rows
    parent = ShardSet(str(tmp_path / "in")).index.manifest_hash
    record = json.loads((tmp_path / "out" / "reshard.json").read_text())
    assert record["parent"]["manifest_hash"] == parent
    assert record["manifest_hash"] == report.index.manifest_hash
    assert verify(str(tmp_path / "out")).problems == []
    small = reshard(str(tmp_path / "in"), str(tmp_path / "small"), ReshardRecipe(bytes_per_shard=4096))
    assert len(small.index.shards) > 5
    assert all(entry.bytes <= 10240 for entry in small.index.shards)
    assert read(str(tmp_path / "small")) == rows


def test_resizing(tmp_path: Path) -> None:
    rows = write(str(tmp_path / "in"))
    source = str(tmp_path / "in")
    bad = {f"k{number:02d}" for number in range(20) if number % 7 == 5}
    squash = read_of(source, tmp_path / "squash", resize=8, how="squash")
    assert set(squash) == set(rows) - bad
    assert {size(members) for key, members in squash.items() if key != "k04"} == {(8, 8)}
    assert squash["k04"] == rows["k04"]  # no picture: as it was
    assert all(squash[key]["seg.png"] == b"another" and squash[key]["json"] == rows[key]["json"] for key in squash)
    assert {name for name in squash["k00"]} == {"png", "txt", "json", "seg.png"}
    shorter = read_of(source, tmp_path / "shorter", resize=12)
    assert shorter["k00"] == rows["k00"]  # 10 x 12 is not enlarged
    assert size(shorter["k16"]) == (26, 12)
    assert shorter["k16"]["png"] == rows["k16"]["png"]
    assert size(read_of(source, tmp_path / "s6", resize=6)["k16"]) == (13, 6)
    crop = read_of(source, tmp_path / "crop", resize=6, how="crop", jpeg=90)
    assert {size(members) for key, members in crop.items() if key != "k04"} == {(6, 6)}
    assert all("jpg" in members and "png" not in members for key, members in crop.items() if key != "k04")
    middle = np.asarray(Image.open(io.BytesIO(rows["k16"]["png"])).resize((13, 6), Image.Resampling.BICUBIC))[:, 3:9]
    again = np.asarray(Image.open(io.BytesIO(crop["k16"]["jpg"])))
    assert np.abs(middle.astype(int) - again).mean() < 25  # JPEG of a steep gradient
    png = read_of(source, tmp_path / "png", png=True)
    assert png["k02"]["png"] == rows["k02"]["png"]
    assert np.array_equal(Image.open(io.BytesIO(png["k01"]["png"])), Image.open(io.BytesIO(rows["k01"]["jpg"])))


def read_of(source: str, out: Path, **options: Any) -> Rows:
    reshard(source, str(out), ReshardRecipe(**options))
    assert (out / "left-out.jsonl").exists()
    return read(str(out))


def test_a_condition_names_what_it_leaves_out(tmp_path: Path) -> None:
    rows = write(str(tmp_path / "in"))
    recipe = ReshardRecipe(where="width >= 12 and similarity > 0.28")
    report = reshard(str(tmp_path / "in"), str(tmp_path / "out"), recipe)
    kept = read(str(tmp_path / "out"))
    # k05 and k19 are JPEGs that are cut within their headers; the PNG k12 still tells its size; k04 has no picture
    wanted = {key for number, key in enumerate(rows) if number >= 6 and key != "k19"}
    assert set(kept) == wanted
    assert all(kept[key] == rows[key] for key in kept)
    named = [json.loads(line) for line in (tmp_path / "out" / "left-out.jsonl").read_text().splitlines()]
    reasons = {row["name"].rpartition("/")[2]: row["reason"] for row in named}
    assert {reasons.pop("k05"), reasons.pop("k19")} <= {"truncated_image", "undecodable_image", "not_an_image"}
    assert reasons == {
        "k00": "where",
        "k01": "where",
        "k02": "where",
        "k03": "where_undecided",
        "k04": "where_undecided",
    }
    assert report.lines()[-3:-1] == [
        "left out, where: 3: shard-00000/k00, shard-00000/k01, shard-00000/k02",
        "left out, where_undecided: 2: shard-00000/k03, shard-00000/k04",
    ]
    with pytest.raises(UserError, match=r"none of 20 can be used: 20 where_undecided; first: .*a missing field"):
        reshard(str(tmp_path / "in"), str(tmp_path / "none"), ReshardRecipe(where="aesthetic > 5"))
    assert not list((tmp_path / "none").glob("*"))


def test_lists_and_subsets(tmp_path: Path) -> None:
    source = str(tmp_path / "in")
    write(source)
    (tmp_path / "keep.txt").write_text("k01\n\nshard-00002/k12\nshard-00000/k13\nnothing\n")
    (tmp_path / "quarantine.jsonl").write_text(json.dumps({"uid": "s/shard-00000/k01", "reason": "x"}) + "\n")
    keep, drop = str(tmp_path / "keep.txt"), str(tmp_path / "quarantine.jsonl")
    assert set(run(source, tmp_path / "a", keep=keep)) == {"k01", "k12"}
    assert set(run(source, tmp_path / "b", keep=keep, drop=drop)) == {"k12"}
    assert len(run(source, tmp_path / "c", drop=drop)) == 19
    assert list(run(source, tmp_path / "d", every=6)) == ["k00", "k06", "k12", "k18"]
    assert list(run(source, tmp_path / "e", every=3, limit=3, where="width > 10")) == ["k03", "k06", "k09"]
    (tmp_path / "keep.txt").write_text("k02\n")
    with pytest.raises(UserError, match="has shards that were made with other lists"):
        run(source, tmp_path / "a", keep=keep)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="names no sample"):
        run(source, tmp_path / "f", keep=str(tmp_path / "empty.txt"))
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(UserError, match=r"bad.jsonl:1: no object with a uid"):
        run(source, tmp_path / "f", drop=str(tmp_path / "bad.jsonl"))


def run(source: str, out: Path, **options: Any) -> Rows:
    reshard(source, str(out), ReshardRecipe(**options))
    return read(str(out))


def test_keys_that_meet_in_a_shard_are_told_apart(tmp_path: Path) -> None:
    for number in range(2):
        with ShardWriter(tmp_path / "in", prefix=f"part{number}", kept=[]) as writer:
            writer.write("a", {"txt": b"%d" % number})
            writer.write("b", {"txt": b"x"})
        if number == 0:
            (tmp_path / "in" / "part0-00000.tar").rename(tmp_path / "part0-00000.tar")
    (tmp_path / "part0-00000.tar").rename(tmp_path / "in" / "part0-00000.tar")
    from raexla.data.shards import index

    index(str(tmp_path / "in"))
    report = reshard(str(tmp_path / "in"), str(tmp_path / "out"), ReshardRecipe())
    assert {key: row["txt"] for key, row in read(str(tmp_path / "out")).items()} == {
        "a": b"0", "b": b"x", "a-2": b"1", "b-2": b"x",
    }  # fmt: skip
    assert "another key: 2: a, b" in report.lines()


def test_urls(tmp_path: Path) -> None:
    rows = write("memory://reshard/in")
    report = reshard("memory://reshard/in", "memory://reshard/out", ReshardRecipe(samples_per_shard=7, limit=9))
    assert report.samples == 9
    assert read("memory://reshard/out") == {key: rows[key] for key in list(rows)[:9]}
    assert not [name for name in fsspec.filesystem("memory").ls("/reshard/out", False) if name.endswith(".progress")]
    fsspec.filesystem("memory").rm("/reshard", recursive=True)


def test_places_that_would_destroy_something(tmp_path: Path) -> None:
    source = str(tmp_path / "in")
    write(source)
    for out in (source, f"{source}/out", str(tmp_path)):
        with pytest.raises(UserError, match=r"lies inside .*, or holds it"):
            reshard(source, out, ReshardRecipe(), overwrite=True)
    (tmp_path / "in" / "index.json").unlink()
    with pytest.raises(UserError, match=r"raexla shards index .* first"):
        reshard(source, str(tmp_path / "out"), ReshardRecipe())
