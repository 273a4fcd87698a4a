"""What every layout's reader keeps: the same samples give the same pictures, captions, turns and refusals in each."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raexla.data import DataRecipe, Refused, open_loader
from raexla.data.layouts.reader import Joined
from raexla.data.sample import Sample
from raexla.data.shards import index
from raexla.data.source import Source
from tests.unit.data.layouts.written import LAYOUTS, Files

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

Open = Callable[..., Source]
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _bomb() -> bytes:
    """A PNG whose header claims 60,000 x 60,000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


_RED = Image.new("RGB", (12, 10), "red")
_NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
_TURNED = Image.Exif()
_TURNED[0x0112] = 6
PNG = _saved(_RED, "PNG")

CAPTIONED: dict[str, tuple[Files, str]] = {
    "alpha": ({"png": _saved(_RED.convert("RGBA"), "PNG")}, ""),
    "animated": ({"gif": _saved(_RED, "GIF", save_all=True, append_images=[Image.new("RGB", (12, 10), "blue")])}, ""),
    "bitmap": ({"bmp": _saved(_RED, "BMP")}, ""),
    "cmyk": ({"jpg": _saved(_RED.convert("CMYK"), "JPEG", quality=95)}, ""),
    "deep": ({"png": _saved(Image.fromarray(np.full((10, 12), 65535, dtype=np.uint16)), "PNG")}, ""),
    "palette": ({"png": _saved(_RED.convert("P"), "PNG")}, ""),
    "turned": ({"jpg": _saved(_RED, "JPEG", exif=_TURNED, quality=95)}, ""),
    "upper": ({"JPEG": _saved(_RED, "JPEG", quality=95)}, ""),
    "web": ({"webp": _saved(_RED, "WEBP", lossless=True)}, ""),
    "bomb": ({"png": _bomb()}, "image_too_large"),
    "cut": ({"png": _saved(_NOISE, "PNG")[:1500]}, "truncated_image"),
    "empty": ({"jpg": b""}, "empty_image"),
    "html": ({"jpg": b"<html>404</html>"}, "not_an_image"),
    "blank": ({"png": PNG, "txt": b" \n"}, "empty_caption"),
    "broken": ({"png": PNG, "json": b'{"captions": ["a",'}, "bad_json"),
    "latin": ({"png": PNG, "txt": b"caf\xe9"}, "bad_utf8"),
    "mute": ({"png": PNG, "txt": b""}, "empty_caption"),
    "number": ({"png": PNG, "json": b'{"captions": [7]}'}, "bad_caption"),
    "pictureless": ({}, "missing_image"),
    "uncaptioned": ({"png": PNG, "json": b"{}"}, "missing_caption"),
}


def _captioned() -> Files:
    files: Files = {}
    for key, (members, reason) in CAPTIONED.items():
        for extension, data in members.items():
            files[f"{key}.{extension}"] = data
        if "txt" not in members and reason not in ("bad_caption", "missing_caption"):
            files[f"{key}.txt"] = f"a {key} thing".encode()
    return files


def _turns(question: str, answer: str) -> bytes:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return json.dumps({"conversations": turns}).encode()


TALKS: dict[str, tuple[Files, str]] = {
    "asked": ({"png": PNG, "json": _turns("<image>\nWhat colour?", "Red.")}, ""),
    "broken": ({"png": PNG, "json": b'{"conversations": ['}, "bad_json"),
    "drawn": ({"png": PNG, "json": _turns("Draw a thing.", "Here you go:\n<image>")}, "other_kind"),
    "gone": ({"json": _turns("<image>\nWhat colour?", "Red.")}, "missing_image"),
    "mute": ({"png": PNG, "json": b"{}"}, "missing_conversation"),
    "one-sided": ({"png": PNG, "json": b'{"conversations": [{"from": "human", "value": "x"}]}'}, "bad_conversation"),
    "told": ({"json": _turns("Why?", "Because.")}, ""),
    "two": ({"png": PNG, "json": _turns("<image><image>\nWhich?", "Both.")}, "several_images"),
    "unmarked": ({"png": PNG, "json": _turns("What colour?", "Red.")}, ""),
}


def _talks(layout: str) -> dict[str, tuple[Files, str]]:
    # a JSON alone is no sample of a folder: it may be anything
    return {key: talk for key, talk in TALKS.items() if layout != "folder" or "png" in talk[0]}


def _loaded(source: Source) -> Iterator[Sample | Refused]:
    for shard, samples in enumerate(source.shard_samples):
        for row in range(samples):
            try:
                yield source.load(shard, row, seed=0, epoch=0)
            except Refused as refusal:
                yield refusal


@every_layout
def test_captioned_pictures_of_all_modes_and_faults(layout: str, tmp_path: Path, open_source: Open) -> None:
    source = open_source(**LAYOUTS[layout](tmp_path, _captioned()), kind="caption")
    found = dict(zip(sorted(CAPTIONED), _loaded(source), strict=True))
    reasons = {key: sample.reason if isinstance(sample, Refused) else "" for key, sample in found.items()}
    assert reasons == {key: reason for key, (_, reason) in CAPTIONED.items()}
    for key, sample in found.items():
        if isinstance(sample, Sample):
            assert sample.caption == f"a {key} thing"
            assert sample.image is not None
            assert sample.image.dtype == np.uint8
            assert sample.image.shape == ((12, 10, 3) if key == "turned" else (10, 12, 3))
            wanted = (255, 255, 255) if key == "deep" else (255, 0, 0)
            assert np.abs(sample.image.astype(int) - np.array(wanted)).max() <= 4


@every_layout
def test_conversations_of_all_kinds_and_faults(layout: str, tmp_path: Path, open_source: Open) -> None:
    talks = _talks(layout)
    files = {f"{key}.{extension}": data for key, (members, _) in talks.items() for extension, data in members.items()}
    written = LAYOUTS[layout](tmp_path, files)
    found = dict(zip(sorted(talks), _loaded(open_source(**written, kind="conversation")), strict=True))
    reasons = {key: sample.reason if isinstance(sample, Refused) else "" for key, sample in found.items()}
    assert reasons == {key: reason for key, (_, reason) in talks.items()}
    unmarked = found["unmarked"]
    assert isinstance(unmarked, Sample)
    assert [turn.text for turn in unmarked.conversation] == ["<image>\nWhat colour?", "Red."]
    # what is to be drawn belongs to a source of captions, and nothing else of these does
    drawn = dict(zip(sorted(talks), _loaded(open_source(**written, kind="caption")), strict=True))
    sample = drawn.pop("drawn")
    assert isinstance(sample, Sample)
    assert sample.caption == "Draw a thing."
    assert sample.conversation[1].text == "Here you go:\n<image>"
    assert all(isinstance(other, Refused) for other in drawn.values())
    for key in {"asked", "unmarked", "told"} & set(drawn):
        assert isinstance(refusal := drawn[key], Refused)
        assert refusal.reason == "other_kind"


@every_layout
def test_a_reader_is_random_access_with_keys_and_hashes_and_can_be_pickled(
    layout: str, tmp_path: Path, open_source: Open
) -> None:
    files = {f"{name}{number}.{kind}": data for name in "az" for number in range(4) for kind, data in
             (("png", PNG), ("txt", f"{name}{number}".encode()))}  # fmt: skip
    written = LAYOUTS[layout](tmp_path, files)
    said: list[str] = []
    source = open_source(**written, say=said.append)
    places = [(shard, row) for shard, count in enumerate(source.shard_samples) for row in range(count)]
    assert len(places) == source.samples == 8
    assert len({source.uid(*place) for place in places}) == 8
    assert all(source.uid(*place).startswith("s/") for place in places)
    captions = {place: source.load(*place, seed=0, epoch=0).caption for place in places}
    assert sorted(captions.values(), key=str) == sorted({name.partition(".")[0] for name in files})
    again = open_source(**written)
    assert (again.order_hash, again.uid(*places[3])) == (source.order_hash, source.uid(*places[3]))
    other = ForkingPickler.loads(ForkingPickler.dumps(source))
    assert (other.order_hash, other.shard_samples) == (source.order_hash, source.shard_samples)
    for place in reversed(places):
        assert other.load(*place, seed=0, epoch=0).caption == captions[place]
        assert set(other.reader.read(*place, {"txt"})) <= {"txt"}
    assert all("raexla shards index" in line for line in said)
    assert bool(said) == (layout != "folder")  # without an index it says what is missed


@every_layout
def test_one_more_sample_is_another_order(layout: str, tmp_path: Path, open_source: Open) -> None:
    hashes = set()
    for count in (2, 3):
        files = {
            f"{number}.{kind}": PNG if kind == "png" else b"x" for number in range(count) for kind in ("png", "txt")
        }
        hashes.add(open_source(**LAYOUTS[layout](tmp_path / str(count), files)).order_hash)
    assert len(hashes) == 2


@every_layout
def test_the_loader_counts_refusals_by_source_and_reason(layout: str, tmp_path: Path) -> None:
    written = LAYOUTS[layout](tmp_path, _captioned())
    data = DataRecipe.model_validate(
        {
            "sources": [{"name": "web", **written}],
            "order": {"streams": 1, "piece": 4, "window": 64, "block": 16},
            "loader": {"read_ahead": 0, "max_bad_fraction": 0.9},
        }
    )
    with open_loader(
        data,
        transform=lambda sample, rng: sample.uid,
        collate=lambda group, items: {"x": np.zeros(len(items))},
        global_batch_images=9,
        seed=0,
    ) as loader:
        refused = [row for _ in range(2) for row in next(loader).refused]
    first = [row for row in refused if row.epoch == 0]
    wanted = sorted(reason for _, reason in CAPTIONED.values() if reason)
    assert sorted(row.reason for row in first) == wanted
    assert set(loader.refusals) == {("web", reason) for reason in wanted}


def test_readers_joined_read_as_one(tmp_path: Path, open_source: Open) -> None:
    parts, paths = [], []
    for number, layout in enumerate(LAYOUTS):
        files = {f"{row}.{kind}": PNG if kind == "png" else f"{layout} {row}".encode() for row in range(3)
                 for kind in ("png", "txt")}  # fmt: skip
        written = LAYOUTS[layout](tmp_path / f"part{number}", files)
        paths.append(written["path"])
        parts.append(open_source(**written))
    whole = open_source(path=paths)
    assert isinstance(whole.reader, Joined)
    assert whole.samples == sum(part.samples for part in parts) == 12
    places = [(shard, row) for shard, count in enumerate(whole.shard_samples) for row in range(count)]
    captions = [whole.load(*place, seed=0, epoch=0).caption for place in places]
    assert captions == [f"{layout} {row}" for layout in LAYOUTS for row in range(3)]
    assert len({whole.uid(*place) for place in places}) == 12
    assert whole.manifest_hash is None  # loose pictures aren't hashed
    assert open_source(path=paths[::-1]).order_hash != whole.order_hash
    index(paths[0])
    assert open_source(path=[paths[0], paths[2]]).manifest_hash is not None
