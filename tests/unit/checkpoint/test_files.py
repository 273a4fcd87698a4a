"""Directories that are whole or absent, and damaged JSON."""

from pathlib import Path

import pytest

from raexla.checkpoint.files import directory_when_complete, read_json
from raexla.recipe import UserError


def test_damaged_json_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 1, "ste')
    with pytest.raises(UserError, match=r"manifest\.json is damaged: not JSON"):
        read_json(tmp_path / "manifest.json")


def test_a_directory_is_replaced_even_if_a_kill_left_the_old_one_aside(tmp_path: Path) -> None:
    for name in ("result", ".result.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("old")
    with directory_when_complete(tmp_path / "result") as folder:
        (folder / "new").write_text("new")
    assert [p.name for p in (tmp_path / "result").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def fail_inside(path: Path) -> None:
    with directory_when_complete(path) as folder:
        (folder / "new").write_text("new")
        raise RuntimeError("stop")


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "old").write_text("old")
    with pytest.raises(RuntimeError, match="stop"):
        fail_inside(tmp_path / "result")
    assert [p.name for p in (tmp_path / "result").iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["result"]
