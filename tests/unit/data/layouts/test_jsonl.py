"""Lists: any row is read without the file in memory; pictures come from below a root and from nowhere else."""

import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raexla import cli
from raexla.data import Refused
from raexla.data.layouts import index_lines
from raexla.data.layouts.jsonl import JsonLines
from raexla.data.layouts.lines import STRIDE, LineIndex, scan_lines
from raexla.data.shards.store import Store
from raexla.data.source import Source
from raexla.files import FileDamaged
from raexla.recipe import UserError
from tests.unit.data.layouts.written import write_files

Open = Callable[..., Source]
Picture = Callable[..., bytes]

LLAVA = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A gradient."}]
BLIP = [{"from": "human", "value": "Draw a gradient"}, {"from": "gpt", "value": "<image>"}]


def rows(reader: JsonLines) -> list[bytes]:
    """The lines of all rows."""
    return [reader.read(0, row, {"json"})["json"] for row in range(reader.shard_samples[0])]


@given(
    lines=st.lists(
        st.sampled_from([b'{"a": 1}', b"{}", b'{"b": "\xc3\xa9\\n"}', b"x", b"", b"\r", b"  "]), max_size=90
    ),
    ending=st.sampled_from([b"\n", b"\r\n"]),
    closed=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_lines_are_found_whatever_the_chunks(lines: list[bytes], ending: bytes, closed: bool) -> None:
    data = ending.join(lines) + (ending if closed else b"")
    wanted = [line for line in data.split(b"\n") if line.strip(b"\r")]

    class Dribble(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            return super().read(7)

    found = scan_lines(Dribble(data))
    assert (found.rows, found.file_bytes) == (len(wanted), len(data))
    assert found.starts.tolist() == scan_lines(io.BytesIO(data)).starts.tolist()
    for block in range(-(-found.rows // STRIDE)):
        text = data[found.starts[block] : found.starts[block + 1]]
        assert [line for line in text.split(b"\n") if line.strip(b"\r")] == wanted[block * STRIDE :][:STRIDE]
    again = LineIndex.unpack(found.pack())
    assert (again.rows, again.file_bytes, again.sha256, again.starts.tolist()) == (
        found.rows, found.file_bytes, found.sha256, found.starts.tolist()
    )  # fmt: skip


def test_a_large_list_takes_little_memory(tmp_path: Path) -> None:
    line = json.dumps({"image": "a.jpg", "text": "x" * 400}) + "\n"
    with (tmp_path / "big.jsonl").open("w") as file:
        for _ in range(600):
            file.write(line * 100)
    size = (tmp_path / "big.jsonl").stat().st_size
    tracemalloc.start()
    reader = JsonLines(str(tmp_path), ["big.jsonl"])
    scanned = tracemalloc.get_traced_memory()
    for row in (59_999, 0, 31_234):
        assert reader.read(0, row, {"txt"}) == {"txt": b"x" * 400}
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.shard_samples == [60_000]
    assert size > 25_000_000
    assert scanned[0] < 200_000
    assert held < 300_000
    assert peak < 16_000_000


def test_llava_and_blip3o_rows(tmp_path: Path, picture: Picture, open_source: Open) -> None:
    plain: list[dict[str, Any]] = [
        {"id": "1", "image": "coco/1.jpg", "conversations": LLAVA},
        {"id": "2", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
        {"id": "3", "image": ["coco/1.jpg"], "conversations": LLAVA},
        {"id": "4", "image": ["coco/1.jpg", "coco/2.jpg"], "conversations": LLAVA},
        {"id": "5", "video": "v.mp4", "conversations": LLAVA},
        {"id": "6", "image": "coco/gone.jpg", "conversations": LLAVA},
        {"id": "7", "image": "../secret.jpg", "conversations": LLAVA},
        {"id": "8", "image": f"{tmp_path}/secret.jpg", "conversations": LLAVA},
        {"id": "9", "image": f"{tmp_path}/in/coco/1.jpg", "conversations": LLAVA},
        {"id": "10", "image": "coco", "conversations": LLAVA},
        {"id": "11", "image": "coco/1.jpg", "conversations": BLIP},
    ]
    text = "\n".join(json.dumps(row) for row in plain)
    write_files(tmp_path, {"in/list.jsonl": text, "in/coco/1.jpg": picture(format="JPEG"), "secret.jpg": picture()})
    source = open_source(path=f"{tmp_path}/in/list.jsonl", kind="conversation")
    reasons = []
    for row in range(source.samples):
        try:
            sample = source.load(0, row, seed=0, epoch=0)
            reasons.append("image" if sample.image is not None else "text")
            assert sample.uid == f"s/list/{row}"
        except Refused as refusal:
            reasons.append(refusal.reason)
    assert reasons == [
        "image", "text", "image", "several_images", "unsupported_media", "missing_image", "outside_folder",
        "outside_folder", "image", "missing_image", "other_kind",
    ]  # fmt: skip
    drawn = open_source(path=f"{tmp_path}/in/list.jsonl").load(0, 10, seed=0, epoch=0)
    assert (drawn.caption, drawn.conversation[1].text) == ("Draw a gradient", "<image>")


def test_pictures_from_another_root(tmp_path: Path, picture: Picture, open_source: Open) -> None:
    write_files(tmp_path, {
        "lists/sub/a.jsonl": json.dumps({"image": "x/1.jpg", "caption": "one"}),
        "pictures/x/1.jpg": picture(1, format="JPEG"),
        "lists/sub/metadata.jsonl": json.dumps({"file_name": "2.png", "text": "two"}),
        "lists/sub/2.png": picture(2),
    })  # fmt: skip
    a = open_source(path=f"{tmp_path}/lists/sub/a.jsonl", images=f"{tmp_path}/pictures")
    assert a.load(0, 0, seed=0, epoch=0).caption == "one"
    beside = open_source(path=f"{tmp_path}/lists", only=["*/metadata.jsonl"])
    assert beside.uid(0, 0) == "s/sub/metadata/0"
    assert beside.load(0, 0, seed=0, epoch=0).caption == "two"
    fsspec.filesystem("memory").put(f"{tmp_path}/pictures", "/bucket/pictures", recursive=True)
    remote = open_source(path=f"{tmp_path}/lists/sub/a.jsonl", images="memory://bucket/pictures")
    assert np.array_equal(remote.load(0, 0, seed=0, epoch=0).image, a.load(0, 0, seed=0, epoch=0).image)
    fsspec.filesystem("memory").rm("/bucket", recursive=True)
    gone = open_source(path=f"{tmp_path}/lists/sub/a.jsonl", images=f"{tmp_path}/nowhere")
    with pytest.raises(Refused, match="missing_image: there is no "):
        gone.load(0, 0, seed=0, epoch=0)


def test_a_row_of_text_needs_no_picture(tmp_path: Path, open_source: Open) -> None:
    write_files(tmp_path, {"t.jsonl": '\ufeff{"text": "first"}\r\n\r\n{"text": "second", "image": "gone.jpg"}'})
    source = open_source(path=f"{tmp_path}/t.jsonl", kind="text")
    assert [source.load(0, row, seed=0, epoch=0).caption for row in range(source.samples)] == ["first", "second"]


def test_the_index_of_lines(tmp_path: Path, open_source: Open, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"text": str(number)}) for number in range(100)]
    write_files(tmp_path, {"a.jsonl": "\n".join(lines), "b.jsonl": lines[0]})
    said: list[str] = []
    without = open_source(path=f"{tmp_path}/a.jsonl", kind="text", say=said.append)
    assert "a.jsonl: no a.jsonl.lines: reading the whole file to find its rows, at every start; `raexla" in said[0]
    made: list[str] = []
    index_lines(str(tmp_path), say=made.append)
    assert f"{tmp_path}/a.jsonl: 100 rows, " in made[0]
    said.clear()
    source = open_source(path=f"{tmp_path}/a.jsonl", kind="text", say=said.append)
    assert said == []
    assert (source.order_hash, source.manifest_hash) == (without.order_hash, without.manifest_hash)
    assert source.load(0, 77, seed=0, epoch=0).caption == "77"
    data = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(data + b"\n{}")
    with pytest.raises(FileDamaged, match=r"a\.jsonl: 1\d+ bytes, its \.lines says 1\d+: .* makes a new one"):
        open_source(path=f"{tmp_path}/a.jsonl")
    (tmp_path / "a.jsonl").write_bytes(data.replace(b'{"text": "40"}', b'{"text":\n"40"}'))
    with pytest.raises(FileDamaged, match=r"33 rows from byte \d+ on where 32 were"):
        open_source(path=f"{tmp_path}/a.jsonl", kind="text").load(0, 40, seed=0, epoch=0)
    for damaged in (b"", b"{", b'{"format": 1}', b"[]"):
        (tmp_path / "a.jsonl.lines").write_bytes(damaged)
        with pytest.raises(FileDamaged, match=r"a\.jsonl\.lines: .*raexla shards index"):
            open_source(path=f"{tmp_path}/a.jsonl")
    assert cli.main(["shards", "index", f"{tmp_path}/a.jsonl"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/a.jsonl: 101 rows, ")
    assert open_source(path=f"{tmp_path}/a.jsonl").samples == 101


def test_a_list_that_is_gone_stops(tmp_path: Path, open_source: Open) -> None:
    with pytest.raises(UserError, match=r"1 of the 1 files that are named aren't there: a\.jsonl"):
        open_source(path=f"{tmp_path}/a.jsonl")
    assert Store(str(tmp_path)).names() == []
