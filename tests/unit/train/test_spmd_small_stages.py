"""The stages that nano runs eager (`encoder`, `language`) and finetuning, on XLA devices: eager's losses, no
compilation after the second step, no fallback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import stages

STEPS = 5
TOLERANCE = 1e-4


def _values(stage: str, made: dict[str, str], folder: str, runtime: dict[str, Any]) -> dict[str, Any]:
    if stage == "finetune":
        return stages.finetune(made, folder, made["model"], runtime=runtime)
    return getattr(stages, stage)(made, folder, runtime=runtime)


def run_stages(names: list[str], made: dict[str, str], folder: str, devices: int) -> dict[str, Any]:
    """Losses, compilations and fallbacks of a few steps of each stage; devices 0 is eager."""
    runtime = {"type": "xla", "platform": "cpu", "devices": devices} if devices else stages.EAGER
    out = {}
    for name in names:
        task, opened = stages.open_stage(_values(name, made, f"{folder}/{name}", runtime))
        trace = stages.run_steps(task, opened, STEPS)
        out[name] = {
            "losses": trace.losses,
            "compilations": trace.compilations,
            "fallbacks": opened.counters().fallbacks,
        }
    return out


STAGES = ["encoder", "language", "finetune"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, in_process: Callable[..., Any]) -> dict[int, dict[str, Any]]:
    root = tmp_path_factory.mktemp("small")
    made = stages.world(root)
    task, _ = stages.open_stage(stages.pretrain(made, root / "pretrain"))
    task.export(Path(root / "model"), {})
    made["model"] = str(root / "model")
    return {
        0: run_stages(STAGES, made, str(root / "eager"), 0),
        4: in_process(run_stages, STAGES, made, str(root / "xla"), 4),
    }


@pytest.mark.parametrize("stage", STAGES)
def test_four_devices_have_the_losses_of_eager_and_compile_once(stage, runs):
    expected, found = runs[0][stage], runs[4][stage]
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=TOLERANCE)
    assert found["compilations"][1] > 0
    assert found["compilations"][-1] == found["compilations"][1]
    assert found["fallbacks"] == {}
