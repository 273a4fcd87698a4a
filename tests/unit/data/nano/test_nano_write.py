"""The nano data set on disk: readable by the loader, the same bytes each time, resumable."""

import json
from pathlib import Path

import pytest

from raexla import cli
from raexla.data import SourceRecipe
from raexla.data.nano.samples import sample
from raexla.data.nano.write import COUNTS, making, parse_counts, write_nano
from raexla.data.shards import ShardSet, state_of, verify
from raexla.data.source import Source
from raexla.recipe import UserError


def test_splits_read_back_as_they_were_made(tmp_path):
    counts = {"pretrain": 30, "understanding": 20, "language": 10, "words": 5}
    write_nano(tmp_path, counts, seed=3, processes=1)
    for split, kind in (("pretrain", "caption"), ("understanding", "conversation"), ("language", "conversation")):
        source = Source(SourceRecipe(name=split, path=str(tmp_path / split), kind=kind))
        assert source.shard_samples == [counts[split]]
        read, made = source.load(0, 7, seed=0, epoch=0), sample(split, 7, 3)
        if made.image is None:
            assert read.image is None
        else:
            assert (read.image == made.image).all()
        if kind == "caption":
            assert read.caption in made.captions
        else:
            texts = [turn.text.removeprefix("<image>\n") for turn in read.conversation]
            assert texts == [text for turn in made.conversation for text in turn]
    assert verify(str(tmp_path / "words"), decode=True).problems == []


@pytest.mark.slow
def test_several_processes_write_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("raexla.data.nano.write._FEW", 0)
    one, two = ({"decoder": 600}, tmp_path / "one"), ({"decoder": 600}, tmp_path / "two")
    write_nano(one[1], one[0], processes=1)
    write_nano(two[1], two[0], processes=2)
    hashes = [ShardSet(str(folder / "decoder")).index.manifest_hash for _, folder in (one, two)]
    assert hashes[0] == hashes[1]


def test_what_is_complete_is_left_alone(tmp_path):
    seen: list[int] = []
    write_nano(tmp_path, {"words": 5}, processes=1)
    tar = tmp_path / "words" / "shard-00000.tar"
    before = tar.stat().st_mtime_ns
    assert "complete already" in write_nano(tmp_path, {"words": 5}, processes=1, tick=seen.append)[0]
    assert seen == [5]
    assert tar.stat().st_mtime_ns == before
    write_nano(tmp_path, {"words": 6}, processes=1)  # another count: written anew
    assert json.loads((tmp_path / "words" / "nano.json").read_text())["count"] == 6
    tar.write_bytes(tar.read_bytes()[:-512])  # cut short: written anew
    assert state_of(making(tmp_path, "words", 6, 0)) == "begun"
    write_nano(tmp_path, {"words": 6}, processes=1)
    assert state_of(making(tmp_path, "words", 6, 0)) == "complete"


def test_refusals(tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no shards"):
        write_nano(tmp_path, {"words": 5}, processes=1)
    assert parse_counts(["pretrain=7"]) == COUNTS | {"pretrain": 7}
    for value, said in (("pretain=7", "there is no split 'pretain'"), ("words=no", "write SPLIT=NUMBER")):
        with pytest.raises(UserError, match=said):
            parse_counts([value])


def test_the_verbs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["shards", "nano", "--split", "words", "--count", "words=12", "--processes", "1"]) == 0
    assert capsys.readouterr().out.startswith("data/nano/words: 12 samples, ")
    assert cli.main(["shards", "verify", "data/nano/words", "--decode"]) == 0
    assert cli.main(["shards", "index", "data/nano/words"]) == 0
    assert cli.main(["shards", "stats", "data/nano/words", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["samples"] == 12
    assert cli.main(["shards", "peek", "data/nano/words", "--out", "a/peek.png", "--count", "4"]) == 0
    assert Path("a/peek.png").is_file()
    Path("folder").mkdir()
    for name in ("a", "b"):
        Path("folder", f"{name}.png").write_bytes(Path("a/peek.png").read_bytes())
    Path("folder/a.txt").write_text("a sheet")
    assert cli.main(["shards", "pack", "folder", "--out", "packed"]) == 0
    assert "left out, missing_caption: 1: b" in capsys.readouterr().out
    tar = Path("data/nano/words/shard-00000.tar")
    tar.write_bytes(tar.read_bytes()[:-512])
    assert cli.main(["shards", "verify", "data/nano/words"]) == 3
    assert "error: data/nano/words: 1 problems" in capsys.readouterr().err
    assert cli.main(["shards", "peek", "nowhere"]) == 2
    assert cli.main(["shards", "nano", "--split", "wrods"]) == 2
    assert "there is no split 'wrods'" in capsys.readouterr().err
