"""What the kill test is made of notices what it should: a comparison that can't fail shows nothing."""

import importlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raexla.checkpoint import CheckpointRecipe, open_saver
from raexla.runtime import EagerRecipe, open_runtime

TOOLS = Path(__file__).parents[3] / "tools"
STEPS = 6


@pytest.fixture(scope="module")
def tools() -> Any:
    """The parts of the tool."""
    sys.path.insert(0, str(TOOLS))
    try:
        names = ("compare", "killing")
        return {name: importlib.import_module(f"chaos_runs.{name}") for name in names}
    finally:
        sys.path.remove(str(TOOLS))


def _uids(step: int) -> dict[str, list[str]]:
    return {"a": [f"s/{step}/{row}" for row in range(3)]}


def _run(folder: Path, **changes: Any) -> Path:
    """A run directory with what is compared; `changes` spoil it."""
    values = {"uids": _uids, "loss": lambda step: 1.0 / step, "weight": 1.0, "steps": range(1, STEPS + 1)} | changes
    folder.mkdir()
    with (folder / "consumed.jsonl").open("w") as consumed, (folder / "metrics.jsonl").open("w") as metrics:
        for step in values["steps"]:
            consumed.write(json.dumps({"step": step, "batch": step - 1, "uids": values["uids"](step)}) + "\n")
            record = {"step": step, "loss": values["loss"](step), "seconds": random.random()}
            metrics.write(json.dumps(record) + "\n")
    saver = open_saver(folder / "checkpoints", open_runtime(EagerRecipe(device="cpu")), CheckpointRecipe())
    state = {"model/w": torch.full((4,), values["weight"]), "optim/w": torch.full((4,), 100 * values["weight"])}
    saver.save(STEPS, state, {})
    saver.wait()
    saver.close()
    (folder / "artifact").mkdir()
    (folder / "artifact" / "artifact.json").write_text(json.dumps({"files": {"w": str(values["weight"])}}))
    return folder


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A run."""
    return _run(tmp_path / "one")


def _order() -> list[dict[str, Any]]:
    return [{"step": step, "uids": _uids(step)} for step in range(1, STEPS + 1)]


def test_the_same_is_the_same(tools, one, tmp_path):
    other = _run(tmp_path / "other")
    assert tools["compare"].same_samples(_order(), other, STEPS) == []
    assert tools["compare"].bit_for_bit(one, other, STEPS).wrong == []
    assert tools["compare"].within(one, other, STEPS, (one, other)).wrong == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uids": lambda step: _uids(max(step, 2))}, "step 1 consumed other samples: missing"),
        ({"uids": lambda step: {"a": _uids(step)["a"][::-1]}}, "step 1 consumed other samples: order"),
        ({"steps": (1, 2, 3, 5, 6)}, r"missing [4], twice []"),
        ({"steps": (1, 2, 3, 3, 4, 5, 6)}, r"missing [], twice [3]"),
    ],
)
def test_other_samples_are_noticed(changes, message, tools, tmp_path):
    (said, *_) = tools["compare"].same_samples(_order(), _run(tmp_path / "other", **changes), STEPS)
    assert message in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": lambda step: 1.0 / step + (step == 4) * 1e-12}, "1 records of 6 differ"),
        ({"weight": float(np.nextafter(np.float32(1), np.float32(2)))}, "2 of 2 tensors differ"),
        ({"weight": float(np.nextafter(np.float32(1), np.float32(2)))}, "the artifact's files differ"),
        ({"steps": (1, 2, 3, 4, 5)}, "has not each step from 1 to 6 once"),
    ],
)
def test_another_bit_is_noticed(changes, message, tools, one, tmp_path):
    found = tools["compare"].bit_for_bit(one, _run(tmp_path / "other", **changes), STEPS)
    assert any(message in line for line in found.wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": lambda step: 1.0 / step + 2e-4}, "loss, steps 1 to 6: 2.00e-04 apart from one, 1.00e-04 is"),
        ({"weight": 1.0003}, "parameters, step 6: 3.00e-04 apart from one, 2.00e-04 is the limit"),
    ],
)
def test_too_much_drift_is_noticed(changes, message, tools, one, tmp_path):
    """Only of parameters: the optimiser's state, which has other scales, is not held to this."""
    other = _run(tmp_path / "other", **changes)
    (said,) = tools["compare"].within(one, other, STEPS, (one, one)).wrong
    assert message in said
    small = _run(tmp_path / "small", loss=lambda step: 1.0 / step + 5e-5, weight=1.0001)
    assert tools["compare"].within(one, small, STEPS, (one, one)).wrong == []


def test_parameters_are_compared_where_both_have_saved(tools, one, tmp_path, monkeypatch):
    """Steps within which all must agree need not end at a checkpoint: the next one counts."""
    monkeypatch.setattr(tools["compare"], "EXACT_STEPS", STEPS - 2)
    found = tools["compare"].within(one, _run(tmp_path / "other", weight=1.0003), STEPS, (one, one))
    assert found.figures["parameters, step 6"] == pytest.approx(3e-4, rel=1e-3)
    assert len(found.wrong) == 1


def test_the_plan_depends_on_the_seed_and_aims_at_saves(tools):
    plan = tools["killing"].plan
    aims = plan(25, 100, random.Random(5))
    assert aims == plan(25, 100, random.Random(5)) != plan(25, 100, random.Random(6))
    assert [aim.step for aim in aims] == sorted(aim.step for aim in aims)
    counts = [sum(aim.kind == kind for aim in aims) for kind in ("save", "step", "start")]
    assert counts == [13, 8, 4]
    assert len({aim.step for aim in aims}) > 12
