"""Validation of decoder training: the moving average's reconstructions, measured as `raexla reconstruct` does."""

import numpy as np
import pytest
import torch
from PIL import Image

from raexla.data import SourceRecipe
from raexla.data.source import Source
from raexla.eval.reconstruct import measure
from raexla.recipe import UserError, load_text
from raexla.runtime import EagerRecipe, open_runtime
from raexla.train.decoder import DecoderTask
from raexla.train.stages import STAGES
from tests import stages


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return stages.world(tmp_path_factory.mktemp("world"))


def task_of(made, run, **changes):
    recipe = load_text(stages.json.dumps(stages.decoder(made, run, **changes)), STAGES)
    return DecoderTask(recipe, open_runtime(EagerRecipe(device="cpu")))


def test_it_measures_the_moving_average_in_8_bits(made, tmp_path):
    source = {"name": "held_out", "path": made["decoder"], "kind": "image"}
    task = task_of(made, tmp_path, eval={"source": source, "images": 20, "shown": 5})  # 16 a batch: the last is ragged
    for value in task.parts[0].weights().values():
        value.data += 0.01 * torch.randn_like(value)  # the average is not the trained weights
    (tmp_path / "samples").mkdir()
    found = task.evaluate(7, tmp_path / "samples")
    reader = Source(SourceRecipe.model_validate(source))
    originals = np.stack([reader.load(0, row, seed=0, epoch=0).image for row in range(20)])
    image = torch.from_numpy(originals).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        task.decoder.load_state_dict(dict(task.parts[0].weights()), strict=False)
        again = task.codec.decode(task.codec.encode(image)).clamp(0, 1)
    pixels = torch.round(again * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    expected = measure(originals, pixels)
    assert found["validation/psnr"] == pytest.approx(expected["psnr"].mean(), abs=0.02)
    assert found["validation/ssim"] == pytest.approx(expected["ssim"].mean(), abs=1e-3)
    l1 = np.abs(originals / 255.0 - pixels / 255.0).mean()
    assert found["validation/l1"] == pytest.approx(l1, rel=1e-3)
    assert Image.open(tmp_path / "samples/step-00000007.png").width > 400


def test_sizes_that_do_not_fit_are_refused(made, tmp_path):
    codec = stages.decoder(made, tmp_path)["codec"]
    with pytest.raises(UserError, match=r"codec\.image_size is 16, but the decoder draws 32 pixels: leave it out"):
        task_of(made, tmp_path, codec={**codec, "image_size": 16})
    with pytest.raises(UserError, match=r"transform\.size is 64, the codec draws 32 pixels"):
        task_of(made, tmp_path, transform={"type": "squash", "size": 64})
