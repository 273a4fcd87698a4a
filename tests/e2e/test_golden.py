"""The first 20 losses of every nano stage are those of tests/golden/; `python tools/make_golden.py` remakes them."""

import json
from pathlib import Path

import pytest

from tests import stages

GOLDEN = Path(__file__).parents[1] / "golden"
#: Relative. Other CPUs sum in another order; XLA, which does too, stays within 1e-4 (test_spmd_training.py).
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """All five stages' losses."""
    return stages.golden_curves(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("stage", ["encoder", "language", "decoder", "pretrain", "finetune"])
def test_the_curve_is_the_stored_one(stage, curves):
    stored = json.loads((GOLDEN / f"{stage}.json").read_text(encoding="utf-8"))
    assert len(stored) == 20
    assert curves[stage] == pytest.approx(stored, rel=TOLERANCE)


def test_every_stage_has_one(curves):
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(stages.STAGES) == set(curves)
