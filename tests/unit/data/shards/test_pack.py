"""`pack` reads the folders that people have, and names what it can't use."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from raexla.data import DataRecipe, open_loader
from raexla.data.shards import ShardSet, ShardWriter, pack
from raexla.recipe import UserError

Picture = Callable[..., bytes]


def write(folder: Path, files: dict[str, bytes | str]) -> str:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(folder)


def contents(folder: str) -> dict[str, dict[str, bytes]]:
    shards = ShardSet(folder)
    return {
        shards.key(number, row): shards.read(number, row)
        for number, entry in enumerate(shards.index.shards)
        for row in range(entry.samples)
    }


def left_out(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "left-out.jsonl").read_text().splitlines()]


def test_loose_pictures_with_captions(tmp_path: Path, picture: Picture) -> None:
    folder = write(
        tmp_path / "in",
        {
            "a.png": picture(1),
            "a.txt": "a thing\n",
            "sub/b.v2.JPG": picture(2, format="JPEG"),
            "sub/b.v2.txt": "another",
            "c.bmp": picture(3, format="BMP"),
            "c.txt": "from a bitmap",
            "alone.png": picture(4),
            "words.txt": "a caption without a picture",
            "cut.png": picture(5, size=(64, 64))[:90],
            "cut.txt": "x",
            "blank.png": picture(6),
            "blank.txt": " \n",
            "latin.png": picture(7),
            "latin.txt": "caf\xe9".encode("latin-1"),
            "twice.png": picture(8),
            "twice.jpg": picture(8, format="JPEG"),
            "twice.txt": "x",
            "notes.pdf": b"",
            ".DS_Store.png": b"",
        },
    )
    report = pack(folder, str(tmp_path / "out"))
    assert report.samples == 3
    assert {(row["name"], row["reason"]) for row in left_out(tmp_path / "out")} == {
        ("alone.png", "missing_caption"),
        ("words.txt", "missing_image"),
        ("cut.png", "truncated_image"),
        ("blank.png", "empty_caption"),
        ("latin.png", "bad_utf8"),
        ("twice.jpg", "duplicate_key"),
    }
    assert any("left out, missing_caption: 1: alone.png" in line for line in report.lines())
    found = contents(str(tmp_path / "out"))
    assert set(found) == {"shard-00000/a", "shard-00000/c", "shard-00000/sub/b_v2"}
    assert found["shard-00000/a"] == {"png": picture(1), "txt": b"a thing\n"}
    assert set(found["shard-00000/sub/b_v2"]) == {"jpg", "txt"}
    assert set(found["shard-00000/c"]) == {"png", "txt"}
    assert pack(folder, str(tmp_path / "again")).index.manifest_hash == report.index.manifest_hash


def test_img2dataset_as_files_and_as_tars(tmp_path: Path, picture: Picture) -> None:
    names = [f"0000{shard}/0000{shard}{number:04d}" for shard in range(2) for number in range(3)]
    files: dict[str, bytes | str] = {"00000_stats.json": "{}", "00000.parquet": b""}
    for number, name in enumerate(names):
        files[f"{name}.jpg"] = picture(number, format="JPEG")
        files[f"{name}.txt"] = f"caption {number}"
        files[f"{name}.json"] = json.dumps({"caption": f"caption {number}", "status": "success"})
    files["00001/000010002.json"] = "{broken"
    folder = write(tmp_path / "files", files)
    report = pack(folder, str(tmp_path / "out"), samples_per_shard=2)
    assert (report.samples, report.counts) == (5, {"bad_json": 1})
    assert [entry.samples for entry in report.index.shards] == [2, 2, 1]
    assert report.index.schema == {"jpg": 5, "json": 5, "txt": 5}
    with ShardWriter(tmp_path / "tars", prefix="0000") as writer:
        for number, name in enumerate(names):
            writer.write(
                name.replace("/", "-"),
                {
                    key: bytes(files[f"{name}.{key}"], "utf-8") if key != "jpg" else picture(number, format="JPEG")
                    for key in ("jpg", "txt", "json")
                },
            )
    again = pack(str(tmp_path / "tars"), str(tmp_path / "out2"))
    assert (again.samples, again.counts) == (5, {"bad_json": 1})
    assert [row["txt"] for row in contents(str(tmp_path / "out2")).values()] == [
        row["txt"] for row in contents(str(tmp_path / "out")).values()
    ]


def test_metadata_jsonl(tmp_path: Path, picture: Picture) -> None:
    rows = [
        {"file_name": "a.png", "text": "a thing", "license": "CC0"},
        {"file_name": "deep/b.png", "captions": ["one", "two", "one"]},
        {"file_name": "gone.png", "caption": "no such file"},
        {"file_name": "../secret.png", "caption": "outside"},
        {"file_name": "c.png"},
        {"prompt": "no file name"},
        {"file_name": "a.png", "text": "again"},
    ]
    lines = "\n".join([*(json.dumps(row) for row in rows), "{", ""])
    pictures = {name: picture(number) for number, name in enumerate(["a.png", "deep/b.png", "c.png", "unnamed.png"])}
    write(tmp_path, {"secret.png": picture(9)})
    folder = write(
        tmp_path / "in", {"train/metadata.jsonl": lines, **{f"train/{name}": pictures[name] for name in pictures}}
    )
    report = pack(folder, str(tmp_path / "out"))
    assert report.samples == 2
    assert report.counts == {
        "bad_json": 1,
        "duplicate_key": 1,
        "missing_caption": 2,
        "missing_image": 2,
        "outside_folder": 1,
    }
    found = contents(str(tmp_path / "out"))
    assert found["shard-00000/train/a"]["txt"] == b"a thing"
    assert json.loads(found["shard-00000/train/a"]["json"]) == {"license": "CC0"}
    assert json.loads(found["shard-00000/train/deep/b"]["json"]) == {"captions": ["one", "two"]}


def test_one_of_several_captions_is_chosen_by_seed_uid_and_epoch(tmp_path: Path, picture: Picture) -> None:
    with ShardWriter(tmp_path / "s") as writer:
        for number in range(8):
            captions = [f"{number}-{choice}" for choice in range(4)]
            data = {
                "png": picture(number),
                "txt": captions[0].encode(),
                "json": json.dumps({"captions": captions}).encode(),
            }
            writer.write(f"{number}", data)
    data = DataRecipe.model_validate(
        {"sources": ({"name": "s", "path": str(tmp_path / "s")},), "order": {"streams": 1}, "loader": {"read_ahead": 0}}
    )

    def captions(seed: int) -> list[dict[str, str]]:
        seen: list[dict[str, str]] = []
        with open_loader(
            data,
            transform=lambda sample, rng: (sample.uid, sample.caption),
            collate=lambda group, items: seen.append(dict(items)) or {},
            global_batch_images=8,
            seed=seed,
        ) as loader:
            for _ in range(6):
                next(loader)
        return seen

    epochs = captions(0)
    assert epochs == captions(0)
    assert epochs != captions(1)
    assert len({tuple(sorted(epoch.items())) for epoch in epochs}) == 6
    assert all(caption.startswith(uid[-1]) for epoch in epochs for uid, caption in epoch.items())
    assert len({caption for epoch in epochs for caption in epoch.values()}) > 16


def test_kinds(tmp_path: Path, picture: Picture) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A thing."}]
    folder = write(
        tmp_path / "in",
        {
            "a.png": picture(1),
            "b.png": picture(2),
            "b.json": json.dumps({"conversations": turns}),
            "c.png": picture(3),
            "c.json": json.dumps({"conversations": turns[:1]}),
        },
    )
    assert pack(folder, str(tmp_path / "images"), kind="image").samples == 3
    talks = pack(folder, str(tmp_path / "talks"), kind="conversation")
    assert (talks.samples, talks.counts) == (1, {"bad_conversation": 1, "missing_conversation": 1})


def test_nothing_to_pack_is_one_line(tmp_path: Path, picture: Picture) -> None:
    empty = write(tmp_path / "empty", {"readme.md": ""})
    with pytest.raises(UserError, match="nothing to pack in its 1 files"):
        pack(empty, str(tmp_path / "out"))
    with pytest.raises(UserError, match="there is no such folder"):
        pack(str(tmp_path / "nowhere"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    useless = write(tmp_path / "useless", {"a.png": picture(1)})
    with pytest.raises(UserError, match=r"none of 1 can be used: .*missing_caption.* first: a\.png"):
        pack(useless, str(tmp_path / "out"))
