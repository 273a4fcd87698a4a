"""A run whose directory is a URL leaves there what a run on disk leaves, and goes on from what it finds there."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raexla import cli
from raexla.checkpoint import Checkpoint
from raexla.files import Store
from raexla.obs.metrics import read_metrics
from raexla.recipe import UserError
from raexla.train.directory import RunDirectory
from raexla.train.encoder import EncoderTask
from raexla.train.stages import train_recipe
from tests import stages, tiny
from tests.remote.proxy import FaultyProxy

STEPS = 4
TIMED = ("seconds", "images_per_second", "input_wait_seconds", "mfu", "compile_seconds", "goodput")
URL = "gs://bucket/runs/one"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the smallest stage needs."""
    root = tmp_path_factory.mktemp("world")
    stages.write_nano(root / "data", {"decoder": 64}, processes=1)
    return {"decoder": str(root / "data" / "decoder"), "language_model": str(tiny.language(root / "language_model"))}


def _recipe(made: dict[str, str], run: Path | str, **changes: Any) -> dict[str, Any]:
    train = {"steps": STEPS, "global_batch_images": 16}
    return stages.encoder(made, run, train=train, checkpoint={"every_steps": 2, "keep": 2}, **changes)


@pytest.fixture(scope="module")
def whole(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on disk that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_recipe(stages.resolve(_recipe(made, folder)))
    return folder


@pytest.fixture
def run(gcs: Callable[[str], None]) -> Iterator[Store]:
    """The directory, empty at first."""
    store = Store(URL)
    store.remove_folder("")
    yield store
    store.remove_folder("")


def _values(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in TIMED} for record in read_metrics(run)]


def _fetched(run: Store, folder: Path) -> Path:
    """The run's files on disk."""
    for name in run.names():
        run.download(name, folder / name)
    return folder


def _assert_same(whole: Path, run: Store, folder: Path) -> None:
    found = _fetched(run, folder)
    assert _values(found) == _values(whole)
    assert [value["step"] for value in _values(found)] == list(range(1, STEPS + 1))
    expected, there = (json.loads((at / "artifact" / "artifact.json").read_text()) for at in (whole, found))
    assert there["digest"] == expected["digest"]
    for name in there["files"]:
        assert (found / "artifact" / name).read_bytes() == (whole / "artifact" / name).read_bytes()
    first, second = (Checkpoint.open(f"{at}/checkpoints/step-{STEPS:08d}") for at in (whole, URL))
    second.verify()
    assert first.meta["cursor"] == second.meta["cursor"]
    tensors = dict(second.tensors())
    assert all((value == tensors[name]).all() for name, value in first.tensors())
    names = {path.relative_to(whole).parts[0] for path in whole.rglob("*") if path.is_file()}
    assert {path.relative_to(found).parts[0] for path in found.rglob("*") if path.is_file()} == names


class _Killed(BaseException):
    """What SIGKILL is to the tests that can't have one."""


def _killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that gets to this step is gone at once: nothing is saved, nothing pushed."""
    original = EncoderTask.train_step

    def dying(self: Any, phase: str, batch: Any, controls: Any) -> Any:
        if int(controls["step"]) == step - 1:
            raise _Killed
        return original(self, phase, batch, controls)

    monkeypatch.setattr(EncoderTask, "train_step", dying)
    monkeypatch.setattr(RunDirectory, "close", lambda self, failed: None)


def test_a_run_on_a_url_is_the_run_on_disk(made, whole, run, tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(_recipe(made, tmp_path / "unused")))
    assert cli.main(["train", str(file), "--out", URL]) == 0
    said = capsys.readouterr().err
    assert f"saved {URL}/checkpoints/step-{STEPS:08d}" in said
    assert f"artifact {URL}/artifact" in said
    _assert_same(whole, run, tmp_path / "fetched")
    change = ["--out", URL, "--set", "optim.encoder.lr=0.004", "--set", "train.steps=1"]
    assert cli.main(["train", str(file), *change]) == 2
    assert f"error: {URL} holds a run of another recipe (differs in optim.encoder.lr)" in capsys.readouterr().err
    assert cli.main(["train", str(file), *change, "--fresh"]) == 0
    assert [value["step"] for value in _values(_fetched(run, tmp_path / "fresh"))] == [1]


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_killed_and_gone_on_with_from_nothing_but_the_url(step, made, whole, run, tmp_path, monkeypatch):
    recipe = stages.resolve(_recipe(made, URL))
    with monkeypatch.context() as patch:
        _killed_at(step, patch)
        with pytest.raises(_Killed):
            train_recipe(recipe)
    left = [value["step"] for value in _values(_fetched(run, tmp_path / "left"))]
    assert left == list(range(1, step - 1))  # pushed before the checkpoint of step 2: nothing is missing
    run.write_bytes("metrics.jsonl", run.read("metrics.jsonl") + b'{"step": 3, "loss": 0}\n{"step": 9, "lo')
    train_recipe(recipe)
    _assert_same(whole, run, tmp_path / "fetched")


def test_a_run_that_fails_still_says_why(made, run, tmp_path, monkeypatch):
    """What was refused, and the last metrics, get to the URL although nothing is saved."""

    def failing(self: Any, phase: str, batch: Any, controls: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(EncoderTask, "train_step", failing)
    with pytest.raises(MemoryError):
        train_recipe(stages.resolve(_recipe(made, URL)))
    assert "failed" in run.read("heartbeat/process-00000.json").decode()


@pytest.mark.slow
def test_faults_on_the_way_change_nothing(made, whole, run, faulty: Callable[..., FaultyProxy], tmp_path):
    proxy = faulty(rate=0.05, seed=8)
    train_recipe(stages.resolve(_recipe(made, URL)))
    assert sum(proxy.done.values()) >= 3
    proxy.rate = 0.0
    _assert_same(whole, run, tmp_path / "fetched")


def test_a_folder_that_is_no_run_is_left_alone(made, run):
    run.write_bytes("precious.txt", b"x")
    for fresh in (False, True):
        with pytest.raises(UserError, match=rf"run.dir {URL} is not empty and holds no run"):
            train_recipe(stages.resolve(_recipe(made, URL)), fresh=fresh)
    assert run.names() == ["precious.txt"]
