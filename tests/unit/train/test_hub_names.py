"""A recipe names its language model and encoder as the hub does: a run reads them from the hub's cache, and what it
makes stands alone."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raexla.models.pretrained import local_folder
from raexla.recipe import UserError
from tests import stages

REVISION = "0123456789abcdef0123456789abcdef01234567"


def into_cache(home: Path, name: str, folder: str) -> None:
    """Lay `folder` into a hub cache as a download of `name` leaves it: a revision's snapshot, and a ref to it."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / REVISION)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)


def pretrain_and_load(root: str, made: dict[str, str]) -> dict[str, Any]:
    """Two steps on hub names, exported and read again."""
    from raexla.sampling.model import load_model

    named = made | {"language_model": "maker/language", "encoder": "maker/encoder"}
    task, runtime = stages.open_stage(stages.pretrain(named, Path(root) / "run"))
    losses = stages.run_steps(task, runtime, 2).losses
    task.export(Path(root) / "artifact", {"step": 2})
    model = load_model(Path(root) / "artifact")
    files = sorted(path.name for path in (Path(root) / "artifact").iterdir())
    return {"losses": losses, "files": files, "tokens": model.chat.tokenizer.size}


def test_a_run_on_hub_names(in_process: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stages.world(tmp_path / "world")
    into_cache(tmp_path / "home", "maker/language", made["language_model"])
    into_cache(tmp_path / "home", "maker/encoder", made["encoder"])
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = in_process(pretrain_and_load, str(tmp_path), made)
    task, runtime = stages.open_stage(stages.pretrain(made, tmp_path / "local"))
    assert found["losses"] == pytest.approx(stages.run_steps(task, runtime, 2).losses, rel=1e-6)
    assert {"tokenizer.json", "config.json", "model.json"} <= set(found["files"])
    model: Any = task
    assert found["tokens"] == model.model.chat.tokenizer.size


def test_neither_folder_nor_hub_name() -> None:
    with pytest.raises(UserError, match=r"^no/such/thing: neither a folder nor a readable hub name"):
        local_folder("no/such/thing", ["config.json"])
