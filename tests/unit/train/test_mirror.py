"""The working copy of a directory that lies on a URL: what is pushed, in which order, and what is fetched."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raexla.files import FileUnavailable, Store
from raexla.train.mirror import Mirror

URL = "memory://runs/one"


@pytest.fixture
def store() -> Iterator[Store]:
    """The directory, empty at first."""
    store = Store(URL)
    yield store
    store.remove_folder("")


def _write(mirror: Mirror, name: str, text: str) -> None:
    path = mirror.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_only_what_changed_is_pushed(store, monkeypatch):
    mirror, sent = Mirror(URL, whole=True), []
    original = Store.upload
    monkeypatch.setattr(Store, "upload", lambda self, path, name: (sent.append(name), original(self, path, name)))
    for name in ("recipe.yaml", "events/a", "heartbeat/.b.json.tmp", "metrics.jsonl.partial", ".hidden/c"):
        _write(mirror, name, name)
    mirror.push()
    assert sorted(sent) == store.names() == ["events/a", "recipe.yaml"]
    sent.clear()
    _write(mirror, "events/a", "more than before")
    (mirror.path / "recipe.yaml").unlink()
    mirror.push()
    assert sent == store.names() == ["events/a"]
    assert store.read("events/a") == b"more than before"
    path = mirror.path
    assert mirror.close(failed=False) is None
    assert not path.exists()


def test_only_the_files_of_the_top_are_fetched(store):
    store.write_bytes("metrics.jsonl", b"1")
    store.write_bytes("checkpoints/step-1/pieces", b"2")
    mirror = Mirror(URL, whole=True)
    mirror.pull()
    assert [path.name for path in mirror.path.iterdir()] == ["metrics.jsonl"]
    mirror.push()
    assert store.names() == ["checkpoints/step-1/pieces", "metrics.jsonl"]
    mirror.clear()
    assert store.names() == []


def test_other_processes_push_only_what_is_theirs(store):
    mirror = Mirror(URL, whole=False)
    _write(mirror, "metrics.jsonl", "not mine")
    _write(mirror, "heartbeat/process-00001.json", "{}")
    mirror.push()
    assert store.names() == ["heartbeat/process-00001.json"]


def test_an_artifact_is_there_whole_or_not_at_all(store, monkeypatch):
    """Its manifest goes first away and comes last."""
    mirror = Mirror(URL, whole=True)
    for text in ("one", "another"):
        for name in ("artifact/artifact.json", "artifact/model.safetensors"):
            _write(mirror, name, text)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "upload", _lost)
            with pytest.raises(FileUnavailable, match="lost"):
                mirror.push()
            assert not store.exists("artifact/artifact.json")
        mirror.push()
        assert {store.read(name) for name in store.names()} == {text.encode()}
        assert len(store.names()) == 2


def test_a_run_that_has_failed_is_only_told(store, monkeypatch):
    mirror = Mirror(URL, whole=True)
    _write(mirror, "metrics.jsonl", "1")
    monkeypatch.setattr(Store, "upload", _lost)
    assert mirror.close(failed=True) == "the last lines of this run did not get through: lost"


def _lost(self: Store, path: Path, name: str) -> None:
    raise FileUnavailable("lost")
