"""What MFU divides by against PyTorch's own count of a real step, forward and backward."""

from pathlib import Path
from typing import Any

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from raexla.models.flops import encoder_work
from raexla.train.decoder import DecoderTask
from raexla.train.decoder.work import Sizes, phases_of, step_work
from tests import stages
from tests.vgg import save_vgg16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("world")
    made = stages.world(root) | {"vgg": save_vgg16(root / "vgg16.safetensors")}
    made["model"] = str(stages.save_model(made, root / "start"))
    return made


def ratio(recipe: dict[str, Any]) -> float:
    """Counted / claimed FLOPs of a step; to the decoder's claim is added what its perceptual distance costs."""
    task, runtime = stages.open_stage(recipe)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        stages.run_steps(task, runtime, 1)
    claimed = task.flops_per_step()
    if isinstance(task, DecoderTask):  # features of the real image; of the drawn one, and back through them
        claimed += 2.0 * task.batch_images * 3.0 * encoder_work(task.codec.encoder).total
    return counter.get_total_flops() / claimed


# the first layers have no gradient of their input to compute, so that a whole step is a little less than three forwards
@pytest.mark.parametrize("stage", ["language", "pretrain", "finetune", "decoder"])
def test_a_step_is_what_mfu_says(stage: str, made: dict[str, str], tmp_path: Path) -> None:
    start = (made["model"],) if stage == "finetune" else ()
    found = ratio(getattr(stages, stage)(made, tmp_path, *start))
    assert 0.9 < found < 1.01, found


@pytest.mark.parametrize("features", ["encoder", "lpips"])
def test_each_phase_of_the_decoder_is_what_its_start_says(features: str, made: dict[str, str], tmp_path: Path) -> None:
    """With all that only judges; the first layers, which need no gradient of their input, are a few percent of so small
    a model."""
    weights = {"l1": 1.0, "perceptual": 1.0, "adversarial": 1.0}
    kinds: dict[str, Any] = {
        "encoder": {"type": "encoder", "layers": [2]}, "lpips": {"type": "lpips", "backbone": made["vgg"]},
    }  # fmt: skip
    starts = {"perceptual_from_step": 1, "critic_from_step": 2, "adversarial_from_step": 3}
    losses = {"weights": weights, "perceptual": kinds[features]}
    task: Any
    task, runtime = stages.open_stage(stages.decoder(made, tmp_path, losses=losses, **starts))
    claimed = step_work(task.recipe, Sizes.of(task.codec, task.decoder))
    assert tuple(claimed) == phases_of(task.recipe) == ("pixels", "reconstruction", "critic", "adversarial")
    cursor = None
    for step, (phase, work) in enumerate(claimed.items()):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            trace = stages.run_steps(task, runtime, step + 1, step, cursor)
        cursor = trace.cursors[-1]
        assert trace.phases == [phase]
        assert 0.9 < counter.get_total_flops() / (2.0 * task.batch_images * work.total) < 1.02, phase
