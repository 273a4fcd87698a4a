"""rFID of decoder training's validation (`eval.features`)."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from raexla.data import SourceRecipe
from raexla.data.source import Source
from raexla.recipe import UserError, load_text
from raexla.runtime import EagerRecipe, open_runtime
from raexla.train.decoder import DecoderTask
from raexla.train.stages import STAGES
from tests import stages


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return stages.world(tmp_path_factory.mktemp("world"))


def task_of(made, run, features):
    source = {"name": "held_out", "path": made["decoder"], "kind": "image"}
    wanted = {"source": source, "images": 60, "shown": 0, "features": features}
    recipe = load_text(stages.json.dumps(stages.decoder(made, run, eval=wanted)), STAGES)
    return source, DecoderTask(recipe, open_runtime(EagerRecipe(device="cpu")))


def test_it_is_the_frechet_distance_of_mean_tokens(made, tmp_path):
    source, task = task_of(made, tmp_path, made["encoder"])
    found = task.evaluate(0, tmp_path)["validation/rfid"]
    reader = Source(SourceRecipe.model_validate(source))
    originals = np.stack([reader.load(0, row, seed=0, epoch=0).image for row in range(60)])
    image = torch.from_numpy(originals).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        task.decoder.load_state_dict(dict(task.parts[0].weights()), strict=False)
        again = torch.round(task.codec.decode(task.codec.encode(image)).clamp(0, 1) * 255) / 255
        first, second = (task.codec.encoder(x).mean(1).double().numpy() for x in (image, again))
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = sqrtm(one @ two).real
    distance = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(one + two - 2 * root)
    assert found == pytest.approx(distance, rel=1e-3)
    assert found > 1e-4  # an untrained decoder's


def test_a_wrong_path_is_an_error_that_names_the_key(made, tmp_path):
    with pytest.raises(UserError, match=r"eval\.features: .*nowhere is neither a file of Inception weights"):
        task_of(made, tmp_path, str(tmp_path / "nowhere"))
