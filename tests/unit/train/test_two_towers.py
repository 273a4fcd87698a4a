"""Pictures are drawn in one latent and read by another encoder: FLUX's VAE and SigLIP-2 (000, section 4)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from raexla.models.encoders import Siglip2Recipe, load_encoder
from raexla.recipe import UserError
from raexla.sampling.model import load_model
from tests import stages, tiny
from tests.unit.models.codecs.makers import save_vae


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("world")
    return stages.world(root) | {"vae": save_vae(root / "pipeline", flux=True)}


def two_towers(made: dict[str, str], run: Path, **changes: Any) -> dict[str, Any]:
    """16 tokens of 64 channels are drawn, 16 of 24 are read."""
    return stages.pretrain(
        made, run, **{
            "codec": {"type": "vae", "path": made["vae"], "subfolder": "vae", "image_size": 32, "pack": 4},
            "understanding": {"type": "siglip2", "path": made["encoder"], "channels": 24},
            "model": {
                "llm": {"path": made["language_model"], "queries": 16},
                "dit": {"width": 104, "depth": 1, "heads": 2, "condition_channels": 32},
            },
            **changes,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def artifact(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    task, runtime = stages.open_stage(two_towers(made, root / "run"))
    trace = stages.run_steps(task, runtime, 2)
    assert all(values["loss/language"] > 0 and values["loss/diffusion"] > 0 for values in trace.scalars)
    task.export(root / "artifact", {"step": 2})
    return root / "artifact"


def test_the_projector_reads_the_encoder_and_the_dit_draws_the_latent(artifact: Path, made: dict[str, str]) -> None:
    model = load_model(artifact)
    assert model.unified.mllm.projector[0].in_features == 24
    assert (model.codec.grid, model.codec.channels) == ((4, 4), 64)
    assert model.facts()["understanding"] != model.facts()["encoder"]
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    alone = load_encoder(Siglip2Recipe(type="siglip2", path=made["encoder"]), 32)
    assert torch.equal(model.features(image), alone(image))


def test_the_encoder_is_frozen_and_no_part_of_the_artifact(artifact: Path) -> None:
    model = load_model(artifact)
    assert model.reader is not None
    assert not any(p.requires_grad for p in model.reader.parameters())
    assert not any("reader" in name for name in model.unified.state_dict())


def test_the_encoder_sees_its_own_size_of_the_codecs_pictures(made: dict[str, str], tmp_path: Path) -> None:
    """As SigLIP-2 sees 224 pixels of the VAE's 256."""
    codec = {"type": "vae", "path": made["vae"], "subfolder": "vae", "image_size": 40, "pack": 5}
    task, runtime = stages.open_stage(two_towers(made, tmp_path, codec=codec, transform={"type": "squash", "size": 40}))
    assert stages.run_steps(task, runtime, 1).losses[0] > 0
    model: Any = task
    assert model.model.features(torch.rand(1, 3, 40, 40)).shape == (1, 16, 24)


def test_mfu_counts_each_encoder_for_its_own_pictures(made: dict[str, str], tmp_path: Path) -> None:
    task, runtime = stages.open_stage(two_towers(made, tmp_path))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        stages.run_steps(task, runtime, 1)
    assert 0.9 < counter.get_total_flops() / task.flops_per_step() < 1.01


def test_an_encoder_with_other_tokens_is_refused(made: dict[str, str], tmp_path: Path) -> None:
    reader = {"type": "siglip2", "path": made["encoder"], "input_size": 40}
    with pytest.raises(UserError, match=r"understanding: .* gives 25 tokens a picture, model.llm.queries is 16"):
        stages.open_stage(two_towers(made, tmp_path, understanding=reader))


def test_a_model_does_not_load_with_another_encoder_in_the_place_of_its_own(
    artifact: Path, made: dict[str, str]
) -> None:
    folder = Path(made["encoder"])
    kept = (folder / "model.safetensors").read_bytes()
    try:
        tiny.encoder(folder, seed=1)
        with pytest.raises(UserError, match="was made for understanding"):
            load_model(artifact)
    finally:
        (folder / "model.safetensors").write_bytes(kept)


def test_finetuning_goes_on_with_both_towers_at_another_length(
    artifact: Path, made: dict[str, str], tmp_path: Path
) -> None:
    task: Any
    task, runtime = stages.open_stage(stages.finetune(made, tmp_path, artifact, chat_length=160))
    assert task.model.reader is not None
    assert task.batch_shapes()["generation/tokens"][0][1] == task.batch_shapes()["understanding/tokens"][0][1] == 160
    with task.open_loader(None) as loader:
        assert next(loader).arrays["understanding/tokens"].shape[1] == 160
    assert stages.run_steps(task, runtime, 1).losses[0] > 0
    task.export(tmp_path / "tuned", {"step": 1})
    assert load_model(tmp_path / "tuned").recipe.chat.length == 160


def test_a_length_without_room_for_the_queries_is_refused(artifact: Path, made: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"16 image slots takes \d+ tokens, length is 20"):
        stages.open_stage(stages.finetune(made, tmp_path, artifact, chat_length=20))
