"""AutoGuidance and CFG through the whole sampler: their formula, their effect, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from raexla import cli
from raexla.checkpoint import write_artifact
from raexla.flow import guidance
from raexla.flow.guidance import AutoGuidanceRecipe, CFGRecipe
from raexla.flow.samplers import EulerRecipe, released_grid, shifted_grid
from raexla.recipe import UserError
from raexla.runtime import EagerRecipe, open_runtime
from raexla.sampling.classes import load_class_model
from raexla.sampling.draw import sampling_recipe, summary
from raexla.sampling.images import ImageSampler, SamplingRecipe
from raexla.sampling.model import load_model
from raexla.sampling.weak import load_weak, open_weak
from tests.unit.sampling.tiny import save_class_model, save_model
from tests.unit.sampling.weak_on_xla import PROMPTS, autoguided, guided_on_xla

STEPS, SCALE, INTERVAL = 4, 2.5, (0.5, 0.9)  # the shifted grid of 4 steps: t = 1, 0.857, 0.667, 0.4
# another size, patch, number of queries, prompt layout and length than the strong model's
WEAK = {"length": 200, "system": "x", "queries": 4, "seed": 9}
WEAK_DIT = {"depth": 1, "patch_size": 2, "allow_narrow": True, "condition_dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("strong"))


@pytest.fixture(scope="module")
def weak_folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("weak"), **WEAK, dit=WEAK_DIT)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def weak(model, weak_folder):
    return load_weak(str(weak_folder), model)


@pytest.fixture(scope="module")
def runtime():
    return open_runtime(EagerRecipe(device="cpu"))


def recipe(weak_folder: Path | None, **fields) -> SamplingRecipe:
    fields = {"scale": SCALE, "interval": INTERVAL} | fields
    chosen = CFGRecipe(**fields) if weak_folder is None else AutoGuidanceRecipe(**fields, weak=str(weak_folder))
    return SamplingRecipe(sampler=EulerRecipe(steps=STEPS), guidance=chosen, batch_images=len(PROMPTS))


@torch.no_grad()
def by_hand(model, weak, noise: Tensor, channels: int) -> Tensor:
    """Euler with v = u + s (c - u) inside the interval and c outside; `weak` None: u is the model without condition."""

    def condition(of) -> Tensor:
        arrays = {name: torch.from_numpy(value) for name, value in of.inputs(PROMPTS).items()}
        return of.unified.prompt_condition(arrays["tokens"], arrays["image_slot"], arrays["query_start"])

    x, strong = noise, condition(model)
    other = None if weak is None else condition(weak)
    guided_steps = 0
    for t, t_next in shifted_grid(STEPS, model.shift).tolist():
        times = torch.full((len(x),), t)
        v = c = model.unified.velocity(x, times, strong)
        if INTERVAL[0] <= t <= INTERVAL[1]:
            null = torch.ones(len(x), dtype=torch.bool)
            u = (
                model.unified.velocity(x, times, strong, null)
                if weak is None
                else weak.unified.velocity(x, times, other)
            )
            v = torch.cat([(u + SCALE * (c - u))[..., :channels], c[..., channels:]], dim=-1)
            guided_steps += 1
        x = x + (t_next - t) * v
    assert 0 < guided_steps < STEPS  # the interval leaves some out
    return x


def check(model, weak, weak_folder, runtime, channels: int | None) -> None:
    sampler = ImageSampler(model, runtime, recipe(weak_folder, channels=channels), weak=weak)
    rows = torch.arange(len(PROMPTS), dtype=torch.int32)[None]
    noise = sampler._noise_of(rows, torch.tensor(0, dtype=torch.int32), 5)
    wanted = by_hand(model, weak, noise, model.codec.channels if channels is None else channels)
    torch.testing.assert_close(sampler.latents(PROMPTS, seed=5), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["cfg", "autoguidance"])
@pytest.mark.parametrize("channels", [None, 3])
def test_guided_latents_are_the_formula(model, weak, weak_folder, runtime, kind, channels):
    given = (None, None) if kind == "cfg" else (weak, weak_folder)
    check(model, *given, runtime, channels)


@pytest.mark.parametrize("kind", ["cfg", "autoguidance"])
def test_the_released_inverted_interval_fails_that_test(model, weak, weak_folder, runtime, kind, monkeypatch):
    monkeypatch.setattr(guidance, "inside_interval", lambda t, interval: (t < interval[0]) | (t > interval[1]))
    given = (None, None) if kind == "cfg" else (weak, weak_folder)
    with pytest.raises(AssertionError):
        check(model, *given, runtime, None)


def test_each_guidance_changes_the_pictures(model, weak_folder, runtime):
    none = ImageSampler(model, runtime, SamplingRecipe(sampler=EulerRecipe(steps=STEPS), batch_images=2))
    plain = none.images(PROMPTS, seed=5)
    pictures = {}
    for kind, path in (("cfg", None), ("autoguidance", weak_folder)):
        asked = recipe(path, interval=(0.0, 1.0))
        sampler = ImageSampler(model, runtime, asked, weak=open_weak(asked, model, runtime))
        pictures[kind] = sampler.images(PROMPTS, seed=5)
        assert np.abs(pictures[kind] - plain).max() > 0.02
    assert np.abs(pictures["cfg"] - pictures["autoguidance"]).max() > 0.02


def test_scale_1_opens_no_weak_model(model, runtime):
    asked = recipe(Path("nowhere"), scale=1.0)
    assert open_weak(asked, model, runtime) is None
    ImageSampler(model, runtime, asked).images(PROMPTS[:1], seed=5)


def test_sample_guides_by_a_weaker_model(folder, weak_folder, model, weak, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["sample", "--model", str(folder), "--prompt", "a ring", "--steps", "3", "--runtime", "eager"]
    command += ["--guidance", "1.5", "--guidance-channels", "3", "--out", "guided", "--weak", str(weak_folder)]
    assert cli.main(command) == 0
    said = "1 pictures (euler, 3 steps, autoguidance 1.5, first 3 channels, seed 0); contact sheet: guided/sheet.png\n"
    assert capsys.readouterr().out == said
    manifest = json.loads(Path("guided/manifest.json").read_text())
    chosen = {"type": "autoguidance", "scale": 1.5, "interval": [0.0, 1.0], "channels": 3, "weak": str(weak_folder)}
    assert manifest["sampling"]["guidance"] == chosen
    assert (manifest["model_digest"], manifest["weak_digest"]) == (model.digest, weak.digest)


def test_the_released_grids_can_be_asked_for(model, runtime):
    asked = sampling_recipe("euler", 50, 1.0, (0.0, 1.0), 2, grid="scale_rae")
    assert summary(asked) == "euler, 50 steps on the scale_rae grid, no guidance"
    sampler = ImageSampler(model, runtime, asked)
    assert torch.equal(sampler.grid, released_grid("scale_rae", 50, model.shift))
    assert len(sampler.grid) == 49


def test_a_class_model_guides_a_class_model(runtime, tmp_path):
    strong = load_class_model(save_class_model(tmp_path / "strong"))
    asked = recipe(save_class_model(tmp_path / "weak", seed=9), interval=(0.0, 1.0))
    sampler = ImageSampler(strong, runtime, asked, weak=open_weak(asked, strong, runtime))
    plain = ImageSampler(strong, runtime, SamplingRecipe(sampler=EulerRecipe(steps=STEPS), batch_images=2))
    assert np.abs(sampler.images([0, 3], seed=5) - plain.images([0, 3], seed=5)).max() > 0.02
    other = save_class_model(tmp_path / "other", classes=7)
    with pytest.raises(UserError, match="classes has 7 classes, the model that it should guide has 5"):
        load_weak(str(other), strong)


def test_xla_gives_the_same_and_compiles_once(in_process, folder, weak_folder, model, weak, runtime):
    pictures, compilations, fallbacks = in_process(guided_on_xla, str(folder), str(weak_folder))
    expected = ImageSampler(model, runtime, autoguided(str(weak_folder)), weak=weak).images(PROMPTS, seed=5)
    np.testing.assert_allclose(np.array(pictures), expected, atol=1e-4)
    assert (compilations, fallbacks) == (0, {})


def test_what_does_not_fit_is_refused(folder, weak_folder, model, runtime, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classes = save_class_model(tmp_path / "classes")
    other = tmp_path / "other"
    write_artifact(other, "model", {}, {**model.facts(), "channels": 48, "encoder": "f" * 64}, {})
    short = save_model(tmp_path / "short", length=90, seed=8)
    encoder = model.opened.facts["encoder"][:12]
    sample = ["sample", "--model", str(folder), "--steps", "2", "--runtime", "eager", "--prompt", "a ring"]
    cases = [
        (["--weak", "nowhere"], "--weak: nowhere does not exist; give a run directory"),
        (
            ["--weak", str(folder)],
            f"--weak: {folder} is the model that it should guide: give one that was trained less",
        ),
        (
            ["--weak", str(other)],
            f"--weak: {other} was trained on another latent than the model that it should guide: "
            f"encoder ffffffffffff, not {encoder}; channels 48, not 24. AutoGuidance needs two models on one codec",
        ),
        (["--weak", str(folder.parent / "decoder")], "is an artifact of kind decoder, a model is needed"),
        (["--weak", str(classes)], "draws numbered classes, the model that it should guide draws prompts"),
        (["--weak", str(weak_folder), "--guidance", "1"], "--weak: the scale --guidance 1 is no guidance"),
        (["--weak", str(short), "--prompt", "long " * 14], "prompt too long ("),
        (["--grid", "rae", "--sampler", "heun"], "--grid rae is one of the euler sampler's, --sampler is heun"),
        (["--grid", "rae"], "--grid rae needs at least 3 steps, --steps is 2"),
        (["--guidance-channels", "25"], "guidance.channels is 25, the latent has 24 channels"),
    ]
    capsys.readouterr()  # of making the models
    for arguments, line in cases:
        assert cli.main([*sample, *arguments]) == 2, arguments
        err = capsys.readouterr().err
        assert err.startswith("error: "), err
        assert line in err
        assert err.count("\n") == 1
    assert not (tmp_path / "samples").exists()
    with pytest.raises(UserError, match="autoguidance, which needs the weaker model's artifact"):
        ImageSampler(model, runtime, recipe(weak_folder))
