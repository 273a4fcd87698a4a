"""`tools/fuzz_shards.py`: damaged and hostile shards do no harm; and the tool sees it when one does."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[4] / "tools"


def the_tool() -> Any:
    """The module `tools/fuzz_shards.py`."""
    if str(TOOLS) not in sys.path:
        sys.path.insert(0, str(TOOLS))
    return importlib.import_module("fuzz_shards")


@pytest.fixture(scope="module")
def tool() -> Any:
    return the_tool()


def hundred() -> dict[str, Any]:
    """What a hundred shards bring to light."""
    found = the_tool().fuzz(1, range(100))
    return {"violations": found.violations, "outcomes": dict(found.outcomes)}


def test_a_hundred_shards(in_process: Callable[..., Any]) -> None:
    """In a fresh process: the tool takes every file and connection that it didn't ask for as harm, and threads that
    other tests left behind have some."""
    found = in_process(hundred)
    assert found["violations"] == []
    assert found["outcomes"]["verify: told apart"] > 30
    assert found["outcomes"]["read: reads"] > 20
    assert found["outcomes"]["read: refused (FileDamaged)"] > 20
    assert found["outcomes"]["pack: packs"] > 20


def test_the_tool_sees_what_it_looks_for(tool: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def spoilt(where: str, what: Any, kind: str = "names") -> str:
        with monkeypatch.context() as patch:
            patch.setattr(where, what)
            return "\n".join(tool.fuzz(0, [0], only=kind, seconds=1.0).violations)

    def crash(*arguments: Any, **options: Any) -> None:
        raise KeyError("x")

    def say_nothing(*arguments: Any) -> None:
        return None

    def hang(*arguments: Any, **options: Any) -> None:
        while True:
            pass

    def stray(*arguments: Any, **options: Any) -> Any:
        (tmp_path / "outside").write_text("x")
        raise tool.UserError("x")

    assert "look: KeyError: 'x'" in spoilt("fuzz_shards.peek", crash)
    assert "look: more than 1.0 s of processor time" in spoilt("fuzz_shards.peek", hang)
    assert f"look: open {tmp_path / 'outside'}" in spoilt("fuzz_shards.peek", stray)
    assert "are taken or counted as left out" in spoilt(
        "raexla.data.shards.made.MadeReport.note", say_nothing, "pictures"
    )
    assert "verify says []" in "\n".join(_damaged(tool, monkeypatch))


def _damaged(tool: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    with monkeypatch.context() as patch:
        patch.setattr("raexla.data.shards.check._verify_shard", lambda *arguments: [])
        return tool.fuzz(0, [0], only="bits").violations


@pytest.mark.slow
def test_two_thousand_shards(tool: Any) -> None:
    assert tool.fuzz(0, range(2000)).violations == []
