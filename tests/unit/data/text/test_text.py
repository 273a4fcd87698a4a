"""Rendered text: a pure function of seed and index, whole and readable, no missing glyphs, resumable, same bytes."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from raexla import cli
from raexla.data import SourceRecipe
from raexla.data.shards import ShardSet, verify
from raexla.data.shards.made import state_of
from raexla.data.source import Source
from raexla.data.text import Fonts, TextRecipe, find_fonts, render_text, write_text
from raexla.data.text import write as writing
from raexla.data.text.blocks import contrast, draw_masks, ink_box, lay_out, longest, luminance
from raexla.data.text.fonts import Face, FontFile, FoundFonts, bundled
from raexla.data.text.phrases import KINDS, draw_phrase
from raexla.recipe import BadDataError, UserError


@pytest.fixture(scope="module")
def own():
    """Pillow's own font alone: the same on every machine."""
    return FoundFonts((bundled(),), ())


@pytest.fixture(scope="module")
def fonts(own):
    return Fonts(own.fonts)


def digest(sample) -> str:
    return hashlib.sha256(sample.image.tobytes() + json.dumps(sample.record, sort_keys=True).encode()).hexdigest()


def test_a_sample_is_a_function_of_seed_and_index(fonts, own):
    forward = [digest(render_text(fonts, 96, 3, index)) for index in range(12)]
    backward = [digest(render_text(Fonts(own.fonts), 96, 3, index)) for index in reversed(range(12))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 12
    assert digest(render_text(fonts, 96, 4, 0)) != forward[0]


def test_every_kind_is_drawn_whole_and_stands_out(fonts):
    """Ink lies inside the picture, blocks don't touch, letters differ from what lies behind them."""
    kinds, backgrounds = set(), set()
    for index in range(60):
        sample = render_text(fonts, 128, 0, index)
        kinds.add(sample.record["kind"])
        backgrounds.add(sample.record["background"])
        assert sample.image.size == (128, 128)
        assert sample.text == " ".join(block["text"] for block in sample.record["blocks"])
        boxes = [block["box"] for block in sample.record["blocks"]]
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= 128
            assert 0 <= top < bottom <= 128
        for number, a in enumerate(boxes):
            assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes[:number])
        for block in sample.record["blocks"]:
            inside = luminance(np.asarray(sample.image.crop(block["box"])))
            assert np.ptp(inside) > 0.04, (index, block)
    assert len(kinds) >= 7
    assert len(backgrounds) >= 7


def test_phrases_have_the_proportions_that_they_claim():
    rng = np.random.default_rng(0)
    drawn = [draw_phrase(rng) for _ in range(2000)]
    for kind, (weight, _) in KINDS.items():
        assert sum(found == kind for found, _ in drawn) / 2000 == pytest.approx(weight, abs=0.03)
    assert sum(weight for weight, _ in KINDS.values()) == pytest.approx(1)
    assert len({text for kind, text in drawn if kind == "sentence"}) > 350
    assert not any(" a a" in text or " a e" in text or text.startswith("A i") for _, text in drawn)
    letters = set("".join(text for _, text in drawn))
    assert set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,!?&'\"") <= letters


def test_a_missing_glyph_is_no_glyph():
    face = Face(bundled())
    assert face.covers("Hello, world! 0123 #$%&")
    assert face.missing("Zürich €5") == ["ü"] if face.covers("€") else ["ü", "€"]
    assert not face.covers("日本")
    assert not face.covers("a\u200bb")  # a format character leaves no ink, and is not white space
    assert face.covers("a b\u00a0c")
    # the wrong way: every character has some mask, the box of a missing one included
    font = ImageFont.load_default(24)
    assert font.getmask("日").getbbox() is not None


def test_wrapping_keeps_every_character_and_turning_stays_in_the_room():
    face = Face(bundled())
    text = "The quick brown fox jumps over the lazy dog, twice."
    for angle in (0.0, 12.0, -70.0):
        layout = lay_out(text, face, (200, 200), 30, angle, 1.2, "left")
        assert " ".join(layout.lines) == text
        left, top, right, bottom = ink_box(draw_masks(layout, (0,), 2, None)[0])
        assert right - left <= 200
        assert bottom - top <= 200
    broken = lay_out("x" * 300, face, (100, 100), 20, 30.0, 1.2, "left")
    assert "".join(broken.lines) == "x" * 300
    assert broken.angle == 0
    with pytest.raises(ValueError, match="don't fit into 20 x 20"):
        lay_out("x" * 300, face, (20, 20), 20, 0.0, 1.2, "left")
    for size in (32, 64, 256):  # what `longest` promises, in the widest letters
        lay_out(" ".join(["WWWWW"] * 999)[: longest(size)], face, (0.87 * size, 0.87 * size), 20, 0.0, 1.5, "left")


def test_the_perspective_moves_corners_inward():
    face = Face(bundled())
    layout = lay_out("HHHHH", face, (300, 300), 60, 0.0, 1.2, "left")
    flat = ink_box(draw_masks(layout, (0,), 1, None)[0])
    seen = ink_box(draw_masks(layout, (0,), 1, np.full((4, 2), 0.1))[0])
    assert seen[0] > flat[0]
    assert seen[2] < flat[2]
    still = ink_box(draw_masks(layout, (0,), 1, np.zeros((4, 2)))[0])
    assert np.abs(np.subtract(still, flat)).max() <= 1


def test_contrast_is_wcags():
    black, white = np.zeros((1, 3)), np.full((1, 3), 255)
    assert contrast((255, 255, 255), black) == pytest.approx(21)
    assert contrast((118, 118, 118), white) == pytest.approx(4.54, abs=0.01)  # WCAG's usual example, #767676
    assert contrast((128, 128, 128), np.concatenate([black, white])) == 1.0


def test_fonts_are_found_tried_and_named(tmp_path):
    found = find_fonts()
    assert found.fonts
    assert any(font.path is None for font in found.fonts)
    Path(tmp_path, "bad.ttf").write_bytes(b"no font")
    with pytest.raises(UserError, match=r"no usable font .* below .*bad\.ttf"):
        find_fonts([str(tmp_path)])
    with pytest.raises(UserError, match="there is no such folder"):
        find_fonts([str(tmp_path / "none")])
    named = next((font for font in found.fonts if font.path is not None), None)
    if named is not None:  # a machine without fonts has Pillow's own
        for name in ("a", "b/deep"):
            (tmp_path / name).mkdir(parents=True)
            shutil.copy(str(named.path), tmp_path / name / Path(str(named.path)).name)
        again = find_fonts([str(tmp_path)])
        assert [font.sha256 for font in again.fonts if font.path] == [named.sha256]  # two copies are one font
        assert again.left_out[0][0].endswith("bad.ttf")


def test_a_font_that_lacks_a_character_is_not_chosen(own):
    class Lacking(Face):
        def _has(self, character: str) -> bool:
            return character not in "aeiou" and super()._has(character)

    fonts = Fonts(own.fonts)
    lacking = Lacking(FontFile(None, "Lacking", "", "0"))
    fonts._families["Lacking"] = [lacking]
    chosen = {fonts.draw("table", np.random.default_rng(seed)).file.family for seed in range(20)}
    assert chosen == {own.fonts[0].family}
    assert {fonts.draw("xyz", np.random.default_rng(seed)).file.family for seed in range(20)} == {"Lacking", *chosen}
    assert fonts.draw("日", np.random.default_rng(0)) is None


def test_shards_are_the_same_whoever_writes_them_and_go_on_after_a_stop(tmp_path, own, monkeypatch):
    recipe = TextRecipe(count=50, size=32, samples_per_shard=20)
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    said = write_text(whole, recipe, own, processes=1)
    assert said[0].startswith(f"{whole}: 50 samples in 3 shards, ")
    assert verify(whole, decode=True).problems == []
    source = Source(SourceRecipe(name="text", path=whole))
    sample = render_text(Fonts(own.fonts), 32, 0, 23)
    assert source.load(1, 3, seed=0, epoch=0).caption == sample.text
    assert np.array_equal(source.load(1, 3, seed=0, epoch=0).image, np.asarray(sample.image))

    made: list[int] = []

    def stops(recipe, fonts, start, count):
        made.append(start)
        if start >= 40:
            raise KeyboardInterrupt
        return real(recipe, fonts, start, count)

    real = writing._make
    one = writing.making(cut, recipe, own.fonts)
    monkeypatch.setattr(writing.Making, "__init__", _chunks_of(20, writing.Making.__init__))
    monkeypatch.setattr(writing, "_make", stops)
    with pytest.raises(KeyboardInterrupt):
        write_text(cut, recipe, own, processes=1)
    tars = ["shard-00000.tar", "shard-00001.tar"]
    notes = ["making-00000.progress", "making-00001.progress"]
    assert sorted(path.name for path in Path(cut).iterdir()) == [*notes, *tars, "text.json"]
    assert state_of(one) == "begun"
    shard = Path(cut, "shard-00000.tar").stat().st_mtime_ns
    monkeypatch.setattr(writing, "_make", real)
    ticks: list[int] = []
    write_text(cut, recipe, own, processes=1, tick=ticks.append)
    assert ticks == [40, 10]
    assert Path(cut, "shard-00000.tar").stat().st_mtime_ns == shard
    assert ShardSet(cut).index.manifest_hash == ShardSet(whole).index.manifest_hash
    assert "complete already" in write_text(cut, recipe, own)[0]

    with pytest.raises(UserError, match=r"made with seed 0 instead of 1; choose another --out, or --overwrite"):
        write_text(cut, recipe.model_copy(update={"seed": 1}), own)
    other = FoundFonts((FontFile(None, "x", "y", "0" * 64),), ())
    with pytest.raises(UserError, match="made with other fonts;"):
        write_text(cut, recipe, other)
    write_text(cut, recipe.model_copy(update={"seed": 1, "count": 5}), own, overwrite=True)
    assert [path.name for path in sorted(Path(cut).glob("*.tar"))] == ["shard-00000.tar"]
    assert ShardSet(cut).samples == 5


def _chunks_of(size, init):
    def changed(self, *arguments, **named):
        init(self, *arguments, **{**named, "chunk": size})

    return changed


@pytest.mark.slow
def test_several_processes_write_the_same_bytes(tmp_path):
    recipe = TextRecipe(count=230, size=32, samples_per_shard=100)
    for processes in (1, 2):
        write_text(str(tmp_path / str(processes)), recipe, find_fonts(), processes=processes)
    one, two = (ShardSet(str(tmp_path / name)).index.manifest_hash for name in ("1", "2"))
    assert one == two


def test_own_lines_all_come_once_in_each_round(tmp_path, own):
    lines = [f"line number {number}" for number in range(19)]
    Path(tmp_path, "lines.txt").write_text(
        "\n".join([*lines[:5], "", "  ", *lines[5:], "日本"]) + "\n", encoding="utf-8"
    )
    recipe = TextRecipe(count=38, size=64, texts=str(tmp_path / "lines.txt"), jpeg_quality=90)
    said = write_text(str(tmp_path / "out"), recipe, own, processes=1)
    assert said[-1] == (
        f"lines left out: {tmp_path}/lines.txt:22: no font has all of its characters; the best one lacks '日本'"
    )
    shards = ShardSet(str(tmp_path / "out"))
    captions = [shards.read(0, row)["txt"].decode() for row in range(38)]
    assert sorted(captions[:19]) == sorted(captions[19:]) == sorted(lines)
    assert captions[:19] != lines
    assert captions[:19] != captions[19:]
    assert Image.open(io.BytesIO(shards.read(0, 0)["jpg"])).format == "JPEG"
    assert json.loads(shards.read(0, 0)["json"])["kind"] == "line"


def test_errors_and_the_verb(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cjk.txt").write_text("日本\nhello\n", encoding="utf-8")
    Path("long.txt").write_text("word " * 999)
    Path("latin.txt").write_bytes("é".encode("latin-1"))
    Path("blank.txt").write_text("\n \n")
    small = FoundFonts((bundled(),), ())
    with pytest.raises(BadDataError, match=r"1 of 2 lines can't be drawn.*\n  cjk\.txt:1: no font has all"):
        write_text("out", TextRecipe(count=2, texts="cjk.txt"), small)
    with pytest.raises(BadDataError, match=r"4994 characters, \d+ fit into 256 pixels"):
        write_text("out", TextRecipe(count=2, texts="long.txt"), small)
    with pytest.raises(UserError, match=r"isn't UTF-8: byte 0"):
        write_text("out", TextRecipe(count=2, texts="latin.txt"), small)
    with pytest.raises(UserError, match=r"blank\.txt holds no text"):
        write_text("out", TextRecipe(count=2, texts="blank.txt"), small)
    with pytest.raises(UserError, match=r"none\.txt can't be read: No such file"):
        write_text("out", TextRecipe(count=2, texts="none.txt"), small)
    assert not Path("out").exists()
    arguments = ["shards", "text", "--out", "made", "--count", "6", "--size", "64", "--processes", "1"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert said.out.startswith("made: 6 samples in 1 shards, ")
    assert "made/text.json tells all" in said.out
    assert "rendered text 6/6" in said.err
    assert cli.main(["shards", "peek", "made", "--out", "peek.png"]) == 0
    assert cli.main([*arguments, "--seed", "1"]) == 2
    assert "made: has shards that were made with seed 0 instead of 1" in capsys.readouterr().err
