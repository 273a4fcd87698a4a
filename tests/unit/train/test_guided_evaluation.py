"""AutoGuidance from a training recipe: the pictures of the evaluation are guided by a weaker model."""

from pathlib import Path
from typing import Any

import pytest

from raexla.recipe import UserError
from tests import stages


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The world, a decoder for the pictures, and a model that was trained for two steps."""
    root = tmp_path_factory.mktemp("world")
    made = stages.world(root)
    task, _ = stages.open_stage(stages.decoder(made, root / "run"))
    task.export(root / "decoder", {})
    return {**made, "decoder_artifact": str(root / "decoder"), "model": str(stages.save_model(made, root / "start"))}


def task_of(made: dict[str, str], run: Path, guidance: dict[str, Any]) -> Any:
    encoder = {"type": "siglip2", "path": made["encoder"]}
    codec = {"type": "rae", "encoder": encoder, "weights": {"path": made["decoder_artifact"]}}
    sampling = {"sampler": {"type": "euler", "steps": 2}, "guidance": guidance, "batch_images": 2}
    evaluation = {"prompts": ["a red circle", "two blue squares"], "sampling": sampling}
    return stages.open_stage(stages.pretrain(made, run, codec=codec, eval=evaluation))[0]


def test_an_evaluation_is_guided_by_the_recipes_weaker_model(made, tmp_path):
    sheets = []
    for number, guidance in enumerate(
        ({"type": "none"}, {"type": "autoguidance", "scale": 8.0, "weak": made["model"]}),
    ):
        samples = tmp_path / str(number)
        samples.mkdir()
        task_of(made, tmp_path / "run", guidance).evaluate(3, samples)
        sheets.append((samples / "step-00000003.png").read_bytes())
    assert sheets[0] != sheets[1]


def test_a_weaker_model_that_is_missing_is_refused_before_the_first_step(made, tmp_path):
    with pytest.raises(UserError, match=r"eval\.sampling\.guidance\.weak: nowhere does not exist"):
        task_of(made, tmp_path / "run", {"type": "autoguidance", "scale": 2.0, "weak": "nowhere"})
