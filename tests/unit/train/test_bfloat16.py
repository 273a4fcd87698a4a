"""Matrix products in bfloat16 on XLA: what the full-size recipes ask for.

Masters, norms, softmax and losses stay in float32, so a curve follows float32's; the gap is bfloat16's rounding.
"""

from typing import Any

import numpy as np
import pytest
import torch

from tests import stages

STEPS = 8


def curve(made: dict[str, str], decoder: str, folder: str, runtime: dict[str, Any]) -> dict[str, Any]:
    """Losses of a short pretraining, and in which types its parameters and states are kept."""
    codec = {"type": "rae", "encoder": {"type": "siglip2", "path": made["encoder"]}, "weights": {"path": decoder}}
    task, opened = stages.open_stage(stages.pretrain(made, folder, codec=codec, runtime=runtime))
    trace = stages.run_steps(task, opened, STEPS)
    kept = {str(tensor.dtype) for tensor in task.state().values() if tensor.is_floating_point()}
    return {"losses": trace.losses, "kept": sorted(kept), "fallbacks": opened.counters().fallbacks}


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    made = stages.world(root)
    task, _ = stages.open_stage(stages.decoder(made, root / "run"))
    task.export(root / "decoder", {})
    return made, str(root / "decoder")


def test_pretraining_in_bfloat16_follows_float32(nano, in_process, tmp_path):
    xla = {"type": "xla", "platform": "cpu", "devices": 2, "dtype": "bfloat16"}
    found = in_process(curve, *nano, str(tmp_path / "bf16"), xla)
    exact = curve(*nano, str(tmp_path / "fp32"), stages.EAGER)
    assert found["kept"] == [str(torch.float32)]
    assert found["fallbacks"] == {}
    gap = np.abs(np.array(found["losses"]) / np.array(exact["losses"]) - 1)
    assert gap.max() < 0.02
    assert gap.max() > 1e-6, "nothing was computed in bfloat16"
    assert found["losses"][-1] < 0.95 * found["losses"][0]
