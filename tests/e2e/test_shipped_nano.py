"""The model that the repository ships draws and answers right after set-up, from any directory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from raexla.cli import app
from raexla.data.nano.samples import prompts
from raexla.eval.scenes import evaluate
from raexla.runtime import EagerRecipe, open_runtime
from raexla.sampling.images import ImageSampler, SamplingRecipe
from raexla.sampling.model import find_model, load_model
from raexla.sampling.sheet import to_pixels


def test_nano_draws_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["sample", "--model", "nano", "--prompt", "a red circle", "--steps", "16", "--out", "drawn"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    picture = np.asarray(Image.open(next((tmp_path / "drawn").glob("0000-*.png"))).convert("RGB"), dtype=np.float32)
    inside = picture.max(axis=2) > 110
    assert 20 < inside.sum() < 400  # an object on a dark ground
    red, green, blue = picture[inside].mean(axis=0)
    assert red > 2 * max(green, blue)


def test_nano_draws_what_unseen_captions_ask_for() -> None:
    """A third of the benchmark's colour prompts: .96 of all of them when the model was made, chance is .04."""
    torch.manual_seed(0)
    model = load_model(find_model("nano"))
    runtime = open_runtime(EagerRecipe(type="eager", device="cpu"))
    model.place(runtime)
    sampling = SamplingRecipe.model_validate_json(
        '{"sampler": {"type": "euler", "steps": 16}, "batch_images": 33,'
        ' "guidance": {"type": "cfg", "scale": 2.0, "interval": [0.3, 1.0]}}'
    )
    chosen = [item for item in prompts(100) if item.spec["task"] == "colors"][:33]
    images = ImageSampler(model, runtime, sampling).images([item.caption for item in chosen], seed=0)
    scores = evaluate(list(to_pixels(images)), [item.spec for item in chosen])
    assert scores["colors"].score >= 0.8
