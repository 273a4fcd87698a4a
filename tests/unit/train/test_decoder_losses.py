"""Which losses a step of the decoder stage has, from what lambda comes, and what each source's share is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raexla.losses import gram_losses
from raexla.recipe import UserError
from tests import stages
from tests.vgg import save_vgg16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("world")
    return stages.world(root) | {"vgg": save_vgg16(root / "vgg16.safetensors")}


def first_steps(made: dict[str, str], run: Path, count: int = 1, **changes: Any) -> list[dict[str, float]]:
    """Scalars of the first steps, all losses on from the first."""
    from_start = {"critic_from_step": 0, "adversarial_from_step": 0}
    task, runtime = stages.open_stage(stages.decoder(made, run, **{**from_start, **changes}))
    return [task.legible(values) for values in stages.run_steps(task, runtime, count).scalars]


def losses(made: dict[str, str], gram_weight: float, **more: Any) -> dict[str, Any]:
    weights = {"l1": 1.0, "perceptual": 1.0, "gram": gram_weight, "adversarial": 10.0}
    return {"weights": weights, "perceptual": {"type": "lpips", "backbone": made["vgg"]}, **more}


def test_lambda_is_of_l1_and_lpips_and_not_of_the_gram_loss(made, tmp_path):
    (without,) = first_steps(made, tmp_path, losses=losses(made, 0.0))
    (with_gram,) = first_steps(made, tmp_path, losses=losses(made, 100.0))
    assert "loss/gram" not in without
    assert with_gram["adversarial_weight"] == pytest.approx(without["adversarial_weight"], rel=1e-5)
    more = with_gram["loss"] - without["loss"]
    assert with_gram["loss/gram"] > 0
    assert more == pytest.approx(100 * with_gram["loss/gram"], rel=1e-4)
    plain = first_steps(made, tmp_path, losses=losses(made, 0.0, adaptive=False))[0]
    assert plain["adversarial_weight"] == 10.0
    assert plain["loss"] == pytest.approx(plain["loss/l1"] + plain["loss/perceptual"] + 10 * plain["loss/adversarial"])


def test_gram_layers_and_normalisation_are_settable(made, tmp_path):
    chosen = {"layers": ["relu1_1", "relu3_1"], "normalise": "gatys"}
    task: Any = stages.open_stage(stages.decoder(made, tmp_path, losses=losses(made, 1.0, gram=chosen)))[0]
    real, fake = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = task.similarity(real, fake)
    maps = [task.similarity.lpips.features.maps(picture, chosen["layers"]) for picture in (fake, real)]
    expected = gram_losses(*([m[layer] for layer in chosen["layers"]] for m in maps), "gatys")
    torch.testing.assert_close(found["gram"], expected)
    with pytest.raises(UserError, match="VGG16 has no 'relu9_1'"):
        stages.open_stage(stages.decoder(made, tmp_path, losses=losses(made, 1.0, gram={"layers": ["relu9_1"]})))
    with pytest.raises(UserError, match=r"losses\.gram\.layers: 3, but features of type lpips go by names"):
        stages.resolve(stages.decoder(made, tmp_path, losses=losses(made, 1.0, gram={"layers": [3]})))


def test_gram_on_the_encoders_own_blocks(made, tmp_path):
    values = {"weights": {"gram": 1.0}, "perceptual": {"type": "encoder", "layers": [2]}, "gram": {"layers": [1]}}
    task: Any = stages.open_stage(stages.decoder(made, tmp_path, losses=values))[0]
    real, fake = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blocks = [task.codec.encoder.features(picture, [1]) for picture in (fake, real)]
    torch.testing.assert_close(task.similarity(real, fake)["gram"], gram_losses(*blocks))


def test_an_upsampling_decoder_learns_from_pictures_of_its_own_size(made, tmp_path):
    """The encoder sees 32 px, the decoder draws 48: 4 x 4 tokens resized to 6 x 6; every loss is of 48 px."""
    codec = stages.decoder(made, tmp_path)["codec"]
    codec["decoder"] = {**codec["decoder"], "grid": [6, 6]}
    changes = {"codec": codec, "transform": {"type": "squash", "size": 48}, "noise": {"tau": 0.0}}
    task: Any
    task, runtime = stages.open_stage(
        stages.decoder(made, tmp_path, critic_from_step=0, adversarial_from_step=0, **changes)
    )
    assert (task.codec.image_size, task.codec.encoder.input_size, task.codec.output_size) == (48, 32, 48)
    with task.open_loader(None) as loader:
        image = torch.from_numpy(next(loader).arrays["pixels"]).permute(0, 3, 1, 2).float() / 255
    assert image.shape == (16, 3, 48, 48)
    with torch.no_grad():
        expected = (task.codec.decode(task.codec.encode(image)) - image).abs().mean()
    first, *_, last = stages.run_steps(task, runtime, 4).scalars
    assert first["loss/l1"] == pytest.approx(float(expected), rel=1e-5)
    assert last["loss/l1"] < first["loss/l1"]
    assert np.isfinite(list(last.values())).all()
    with pytest.raises(UserError, match=r"transform\.size is 32, the codec draws 48 pixels"):
        stages.open_stage(stages.decoder(made, tmp_path, codec=codec))


def test_only_the_decoder_has_an_average(made, tmp_path):
    optim = {"decoder": {"lr": 0.001, "ema": 0.9}, "critic": {"lr": 0.001, "ema": 0.9}}
    with pytest.raises(UserError, match=r"critic\.ema is 0\.9, but only the decoder's average is ever used"):
        stages.resolve(stages.decoder(made, tmp_path, optim=optim))


def test_more_critic_updates_train_the_critic_further(made, tmp_path):
    norms = []
    for updates in (1, 3):
        values = stages.decoder(made, tmp_path, critic_updates=updates, critic_from_step=0)
        task: Any
        task, runtime = stages.open_stage(values)
        before = {name: p.detach().clone() for name, p in task.parts[1].parameters.items()}
        stages.run_steps(task, runtime, 1)
        moved = [(p - before[name]).norm() ** 2 for name, p in task.parts[1].parameters.items()]
        norms.append(float(torch.stack(moved).sum().sqrt()))
        state = next(value for name, value in task.parts[1].state().items() if name.endswith("/step"))
        assert float(state) == updates
    assert norms[1] > 1.5 * norms[0]


def two_sources(made: dict[str, str]) -> dict[str, Any]:
    """`scenes` and `captions` three to one."""
    sources = [
        {"name": "scenes", "path": made["decoder"], "kind": "image", "weight": 3},
        {"name": "captions", "path": made["pretrain"], "kind": "image", "weight": 1},
    ]
    return {"sources": sources, "order": {"streams": 4, "block": 8}}


@pytest.mark.parametrize("accumulate", [1, 4])
def test_each_source_has_its_losses(accumulate, made, tmp_path):
    """Against losses taken apart by the samples' names; the tasks' own are the means over all rows."""
    changes = {"data": two_sources(made), "noise": {"tau": 0.0}}
    changes["train"] = {"steps": 4, "global_batch_images": 16, "accumulate": accumulate}
    task: Any
    task, runtime = stages.open_stage(stages.decoder(made, tmp_path, **changes))
    with task.open_loader(None) as loader:
        batch = next(loader)
    names = np.array([uid.split("/")[0] for uid in batch.uids[""]])
    with torch.no_grad():
        image = torch.from_numpy(batch.arrays["pixels"]).permute(0, 3, 1, 2).float() / 255
        rows = task.similarity(image, task.codec.decode(task.codec.encode(image)))
    found = task.legible(stages.run_steps(task, runtime, 1).scalars[0])
    for source in ("scenes", "captions"):
        mine = torch.from_numpy(names == source)
        assert found[f"rows/{source}"] == mine.sum()
        for loss, values in rows.items():
            assert found[f"loss/{loss}/{source}"] == pytest.approx(float(values[mine].mean()), rel=1e-4)
            assert found[f"loss/{loss}"] == pytest.approx(float(values.mean()), rel=1e-4)
    assert found["rows/scenes"] + found["rows/captions"] == 16


def test_one_source_is_not_named(made, tmp_path):
    found = first_steps(made, tmp_path)[0]
    assert not any(name.startswith("rows/") or name.count("/") > 1 for name in found)
