"""Pictures of classes: the same sampler, guided towards the class and away from the null class or a weaker model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from raexla import cli
from raexla.checkpoint import write_artifact
from raexla.checkpoint.files import read_json
from raexla.flow.guidance import AutoGuidanceRecipe
from raexla.flow.samplers import EulerRecipe
from raexla.recipe import UserError
from raexla.runtime import Draws, EagerRecipe, open_runtime
from raexla.sampling.classes import CLASS_DESCRIPTION, load_class_model
from raexla.sampling.draw import read_classes, sampling_recipe
from raexla.sampling.images import ImageSampler, SamplingRecipe
from tests.unit.sampling.on_xla import CLASSES
from tests.unit.sampling.tiny import save_class_model, save_model

ALL = (0.0, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_class_model(tmp_path_factory.mktemp("classes"))


@pytest.fixture(scope="module")
def model(folder):
    return load_class_model(folder)


@pytest.fixture(scope="module")
def runtime():
    return open_runtime(EagerRecipe(device="cpu"))


def images(model, runtime, classes=CLASSES, seed=5, steps=4, guidance=1.0, interval=ALL, batch=2, weak=None):
    recipe = sampling_recipe("euler", steps, guidance, interval, batch)
    if weak is not None:
        guided = AutoGuidanceRecipe(scale=guidance, interval=interval, weak="weak")
        recipe = SamplingRecipe(sampler=recipe.sampler, guidance=guided, batch_images=batch)
    return ImageSampler(model, runtime, recipe, weak=weak).images(classes, seed)


def test_a_picture_depends_on_seed_row_and_class_alone(model, runtime):
    first = images(model, runtime)
    assert first.shape == (3, 3, 32, 32)
    for batch in (1, 3, 16):
        np.testing.assert_allclose(images(model, runtime, batch=batch), first, atol=1e-5)
    assert np.abs(images(model, runtime, seed=6) - first).max() > 0.05
    same = images(model, runtime, classes=[0, 0, 0])
    np.testing.assert_allclose(same[0], first[0], atol=1e-5)
    assert np.abs(same[1] - first[1]).max() > 1e-3  # the same noise, another class
    assert np.abs(same[0] - same[1]).max() > 0.05  # the same class, another noise


def one_step(model, runtime, guidance, weak=None):
    """Latents [3, N, C] of one Euler step from t = 1 to 0, and the noise that they started from."""
    recipe = SamplingRecipe(sampler=EulerRecipe(steps=1), guidance=guidance, batch_images=3)
    sampler = ImageSampler(model, runtime, recipe, weak=weak)
    noise = Draws(5, 0, torch.arange(3, dtype=torch.int32)).normal("sample", (16, 24))
    return sampler.latents(CLASSES, seed=5), noise


@pytest.mark.parametrize("channels", [None, 3])
def test_guidance_is_the_formula_on_class_and_null_class(model, runtime, channels):
    guidance = sampling_recipe("euler", 1, 3.0, ALL, 3).guidance.model_copy(update={"channels": channels})
    found, noise = one_step(model, runtime, guidance)
    ones = torch.ones(3)
    with torch.no_grad():
        with_class = model.model(noise, ones, torch.tensor(CLASSES))
        without = model.model(noise, ones, torch.full((3,), 5))  # the null class is the number after the last
    guided = without + 3.0 * (with_class - without)
    if channels is not None:
        guided = torch.cat([guided[..., :channels], with_class[..., channels:]], dim=-1)
    torch.testing.assert_close(found, noise - guided, rtol=1e-4, atol=1e-4)
    assert float((with_class - without).abs().max()) > 0.05


def test_autoguidance_is_the_formula_on_a_weaker_model(model, runtime, tmp_path):
    weak = load_class_model(save_class_model(tmp_path, seed=9))
    found, noise = one_step(model, runtime, AutoGuidanceRecipe(scale=2.0, weak="weak"), weak)
    ones, labels = torch.ones(3), torch.tensor(CLASSES)
    with torch.no_grad():
        strong, weaker = model.model(noise, ones, labels), weak.model(noise, ones, labels)
    torch.testing.assert_close(found, noise - (weaker + 2.0 * (strong - weaker)), rtol=1e-4, atol=1e-4)
    plain = images(model, runtime)
    assert np.abs(images(model, runtime, guidance=2.0, weak=weak) - plain).max() > 1e-2
    outside = images(model, runtime, guidance=2.0, weak=weak, interval=(0.0, 0.01))
    np.testing.assert_allclose(outside, plain, atol=1e-6)


def test_guidance_acts_inside_its_interval(model, runtime):
    plain = images(model, runtime)
    assert np.abs(images(model, runtime, guidance=4.0) - plain).max() > 1e-2
    np.testing.assert_allclose(images(model, runtime, guidance=4.0, interval=(0.0, 0.01)), plain, atol=1e-6)


def test_a_model_without_null_class_takes_no_guidance(tmp_path, runtime):
    model = load_class_model(save_class_model(tmp_path, condition_dropout=0.0))
    assert images(model, runtime).shape == (3, 3, 32, 32)
    with pytest.raises(UserError, match="was trained without condition dropout"):
        images(model, runtime, guidance=2.0)


def test_sample_writes_classes_and_their_record(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["sample", "--model", str(folder), "--classes", "3, 0-1", "--per-class", "2", "--steps", "2"]
    assert cli.main([*command, "--runtime", "eager", "--guidance", "1.5", "--out", "drawn"]) == 0
    assert capsys.readouterr().out == "6 pictures (euler, 2 steps, cfg 1.5, seed 0); contact sheet: drawn/sheet.png\n"
    manifest = json.loads(Path("drawn/manifest.json").read_text())
    assert [(entry["file"], entry["class"]) for entry in manifest["images"]] == [
        (f"{row:04d}-class-{number}.png", number) for row, number in enumerate([3, 3, 0, 0, 1, 1])
    ]
    assert manifest["per_class"] == 2
    assert manifest["model_digest"] == load_class_model(folder).digest


def test_bad_input_is_one_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, numbers = str(save_model(tmp_path / "text")), str(folder)
    cases = [
        (
            numbers,
            ["--prompt", "a ring"],
            "classes draws numbered classes, not prompts: give --classes, for instance 0",
        ),
        (
            text,
            ["--classes", "1"],
            "model draws prompts, not numbered classes: give --prompt TEXT instead of --classes",
        ),
        (numbers, ["--classes", "4,5,17"], "--classes: 5, 17 are no classes of this model: it has 5, numbered 0 to 4"),
        (numbers, ["--classes", "5"], "--classes: 5 is no class of this model: it has 5, numbered 0 to 4"),
        (numbers, ["--classes", "cat"], "--classes: 'cat' is no class: give numbers and ranges, for instance 3,5,7"),
        (numbers, ["--classes", "3,"], "--classes: '' is no class"),
        (numbers, ["--classes", "7-3"], "--classes: '7-3' is no class"),
        (numbers, ["--classes", "1", "--prompt", "a"], "--prompt and --classes: a model takes one of them, give one"),
        (text, [], "no prompt: give --prompt TEXT (may be repeated), --prompts FILE, or --classes for a class model"),
        (str(folder.parent / "decoder"), ["--classes", "1"], "is an artifact of kind decoder, a dit is needed"),
    ]
    capsys.readouterr()  # what saving the models says
    for name, options, line in cases:
        assert cli.main(["sample", "--runtime", "eager", "--steps", "1", "--model", name, *options]) == 2, options
        err = capsys.readouterr().err
        assert err.startswith("error: "), err
        assert line in err
        assert err.count("\n") == 1
    question = ["understand", "--model", numbers, "--image", "x.png", "--question", "?"]
    assert cli.main(question) == 2
    assert "is an artifact of kind dit, a model is needed" in capsys.readouterr().err
    assert not Path("samples").exists()


def test_an_artifact_that_contradicts_itself_is_refused(folder, tmp_path):
    root = tmp_path / "copy"
    made = save_class_model(root)
    manifest, description = read_json(made / "artifact.json"), read_json(made / CLASS_DESCRIPTION)
    weights = {name: value.numpy() for name, value in load_class_model(folder).model.state_dict().items()}

    def rewritten(changes, state=weights, facts=()):
        extra = {CLASS_DESCRIPTION: json.dumps({**description, **changes}).encode()}
        write_artifact(made, "dit", state, {**manifest["facts"], **dict(facts)}, {}, extra)
        return load_class_model(made)

    assert rewritten({}).recipe.num_classes == 5
    with pytest.raises(UserError, match=r"num_classes is 7, but dit\.conditioning has 5 classes"):
        rewritten({"num_classes": 7})
    with pytest.raises(UserError, match=r"was made for shift 3\.0, but this recipe has 2\.0"):
        rewritten({}, facts={"shift": 3.0})
    short = {name: value for name, value in weights.items() if name != "final_layer.linear.bias"}
    with pytest.raises(UserError, match=r"it lacks final_layer\.linear\.bias; has no place for other"):
        rewritten({}, {**short, "other": np.zeros(1, dtype=np.float32)})
    with pytest.raises(UserError, match=r"it has final_layer\.linear\.bias \[7\] instead of \[24\]"):
        rewritten({}, {**weights, "final_layer.linear.bias": np.zeros(7, dtype=np.float32)})


def test_numbers_and_ranges():
    assert read_classes("3,5, 7") == [3, 5, 7]
    assert read_classes("0-3,17") == [0, 1, 2, 3, 17]
