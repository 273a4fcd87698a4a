"""Pictures of prompts: the same twice, whatever the batch; guided; with their record; refusals in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raexla import cli
from raexla.checkpoint.files import sha256
from raexla.recipe import UserError
from raexla.runtime import EagerRecipe, open_runtime
from raexla.sampling.classes import load_class_model
from raexla.sampling.codec import open_codec
from raexla.sampling.draw import read_prompts, sampling_recipe, slug
from raexla.sampling.images import ImageSampler
from raexla.sampling.model import PromptError, find_model, load_model
from tests.unit.sampling.on_xla import CLASSES, PROMPTS, pictures_on_xla
from tests.unit.sampling.tiny import save_class_model, save_model

ALL = (0.0, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("draw"))


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def runtime():
    return open_runtime(EagerRecipe(device="cpu"))


def images(model, runtime, prompts=PROMPTS, seed=5, sampler="euler", steps=4, guidance=1.0, interval=ALL, batch=2):
    recipe = sampling_recipe(sampler, steps, guidance, interval, batch)
    return ImageSampler(model, runtime, recipe).images(prompts, seed)


def test_a_picture_depends_on_seed_row_and_prompt_alone(model, runtime):
    first = images(model, runtime)
    assert first.shape == (3, 3, 32, 32)
    assert first.min() >= 0
    assert first.max() <= 1
    assert np.array_equal(first, images(model, runtime))
    for batch in (1, 3, 16):
        np.testing.assert_allclose(images(model, runtime, batch=batch), first, atol=1e-5)
    assert np.abs(images(model, runtime, seed=6) - first).max() > 0.05
    same = images(model, runtime, prompts=[PROMPTS[0]] * 3)
    assert np.abs(same[0] - same[1]).max() > 0.05  # another row, another noise
    np.testing.assert_allclose(same[0], first[0], atol=1e-5)
    assert np.abs(same[1] - first[1]).max() > 1e-3  # the same noise, another prompt


def test_guidance_acts_inside_its_interval(model, runtime):
    plain, guided = images(model, runtime), images(model, runtime, guidance=4.0)
    assert np.abs(plain - guided).max() > 1e-2
    np.testing.assert_allclose(images(model, runtime, guidance=4.0, interval=(0.0, 0.01)), plain, atol=1e-6)
    half = images(model, runtime, guidance=4.0, interval=(0.0, 0.7))
    assert np.abs(half - plain).max() > 1e-3
    assert np.abs(half - guided).max() > 1e-3


@pytest.mark.parametrize("sampler", ["heun", "sde"])
def test_other_samplers_do_not_depend_on_the_batch(model, runtime, sampler):
    one = images(model, runtime, sampler=sampler, guidance=2.0, batch=1)
    np.testing.assert_allclose(images(model, runtime, sampler=sampler, guidance=2.0, batch=3), one, atol=1e-5)
    assert np.abs(one - images(model, runtime, guidance=2.0)).max() > 1e-3


def test_xla_gives_the_same_and_compiles_once(in_process, folder, model, runtime, tmp_path):
    classes = save_class_model(tmp_path)  # one process for both kinds of models: starting it is what takes time
    pictures, of_classes, compilations, fallbacks = in_process(pictures_on_xla, str(folder), str(classes))
    guided = {"guidance": 3.0, "interval": (0.1, 0.9)}
    np.testing.assert_allclose(np.array(pictures), images(model, runtime, **guided), atol=1e-4)
    expected = images(load_class_model(classes), runtime, CLASSES, **guided)
    np.testing.assert_allclose(np.array(of_classes), expected, atol=1e-4)
    assert (compilations, fallbacks) == (0, {})


def test_guidance_needs_condition_dropout(tmp_path, runtime):
    with pytest.raises(UserError, match="was trained without condition dropout"):
        images(load_model(save_model(tmp_path, dropout=0.0)), runtime, guidance=2.0)


def test_a_prompt_without_room_is_named(model, runtime):
    with pytest.raises(PromptError, match=r"prompt too long \(\d+ tokens with 16 image slots, length is 160\): 'very"):
        images(model, runtime, prompts=["very " * 60])


def test_sample_writes_pictures_and_their_record(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("# a comment\na blue ring\n\n  two Red/odd crosses!  \n")
    command = ["sample", "--model", str(folder), "--prompt", "a red circle", "--prompts", "prompts.txt", "--per-prompt"]
    command += ["2", "--steps", "3", "--seed", "9", "--batch", "4", "--runtime", "eager", "--guidance", "3"]
    assert cli.main([*command, "--out", "one"]) == 0
    assert capsys.readouterr().out == "6 pictures (euler, 3 steps, cfg 3, seed 9); contact sheet: one/sheet.png\n"
    assert cli.main([*command, "--out", "two", "--batch", "1"]) == 0
    manifest = json.loads(Path("one/manifest.json").read_text())
    files = [image["file"] for image in manifest["images"]]
    assert files[0] == "0000-a-red-circle.png"
    assert files[5] == "0005-two-red-odd-crosses.png"
    assert sorted(p.name for p in Path("one").iterdir()) == sorted([*files, "sheet.png", "manifest.json"])
    for image in manifest["images"]:
        assert sha256(Path("one") / image["file"]) == image["sha256"]
        first, second = (np.asarray(Image.open(Path(out) / image["file"]), dtype=int) for out in ("one", "two"))
        assert first.shape == (32, 32, 3)
        assert np.abs(first - second).max() <= 1
    assert [image["row"] for image in manifest["images"]] == list(range(6))
    assert manifest["model_digest"] == load_model(folder).digest
    assert manifest["seed"] == 9
    assert manifest["sampling"]["sampler"] == {"type": "euler", "steps": 3, "grid": "shifted"}
    assert manifest["sampling"]["guidance"]["scale"] == 3
    assert manifest["time_shift"] == 2.0
    assert {"raexla", "torch", "python"} <= set(manifest["versions"])
    assert Image.open("one/sheet.png").width > 600
    assert cli.main([*command, "--out", "one"]) == 0  # a former result is replaced


def test_understand_answers(folder, tmp_path, capsys):
    Image.new("CMYK", (40, 20), (10, 200, 30, 0)).save(tmp_path / "a.jpg")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "b.png")
    command = ["understand", "--model", str(folder), "--question", "Why?", "--max-tokens", "4", "--runtime", "eager"]
    command += ["--image", str(tmp_path / "a.jpg"), "--image", str(tmp_path / "b.png")]
    assert cli.main([*command, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [(a["image"], a["question"]) for a in answers] == [(str(tmp_path / n), "Why?") for n in ("a.jpg", "b.png")]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'a.jpg'}: Why? {answers[0]['answer'][:1]}")


def test_bad_input_is_one_line_and_exit_code_2(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("stage: pretrain\n")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    model, decoder = str(folder), str(folder.parent / "decoder")
    sample, prompt = ["sample", "--runtime", "eager", "--steps", "2", "--model"], ["--prompt", "a ring"]
    cases = [
        ([*sample, "nowhere", *prompt], "nowhere does not exist; give a run directory, a model artifact, or `nano`"),
        ([*sample, "run", *prompt], "run is a run without an artifact: it has not finished"),
        ([*sample, decoder, *prompt], "is an artifact of kind decoder, a model is needed"),
        ([*sample, model, "--prompt", "long " * 90], "prompt too long ("),
        ([*sample, model], "no prompt: give --prompt TEXT"),
        ([*sample, model, "--prompts", "empty.txt"], "empty.txt has no prompt in it"),
        ([*sample, model, "--prompts", "none.txt"], "none.txt can't be read"),
        ([*sample, model, *prompt, "--sampler", "eulr"], "there is no 'eulr'; choose one of euler, heun, sde"),
        ([*sample, model, *prompt, "--guidance-interval", "0.8", "0.2"], "the interval LOW < HIGH"),
        ([*sample, model, *prompt, "--out", "run"], "run is not empty and holds no manifest.json"),
        (
            ["understand", "--model", model, "--image", "no.png", "--question", "?"],
            "no.png can't be read: No such file",
        ),
        (["understand", "--model", model, "--image", "text.png", "--question", "?"], "text.png: not_an_image"),
        (["report", "nowhere"], "nowhere: there is no such folder"),
        (["report", "empty"], "empty: nothing to report"),
        (["score", "--model", model, "--out", "run"], "run is not empty and holds no scores.json"),
    ]
    (tmp_path / "empty").mkdir()
    for arguments, line in cases:
        assert cli.main(arguments) == 2, arguments
        err = capsys.readouterr().err
        assert err.startswith("error: "), err
        assert line in err
        assert err.count("\n") == 1
    assert not (tmp_path / "samples").exists()


def test_nano_without_its_artifact_names_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("raexla.sampling.model.NANO_MODEL", Path("recipes/none/model"))
    with pytest.raises(UserError, match=r"`tools/demo.sh --long --keep` makes it"):
        find_model("nano")
    (tmp_path / "recipes/none/model").mkdir(parents=True)
    assert find_model("nano") == tmp_path / "recipes/none/model"


def test_a_moved_model_finds_its_neighbours_and_refuses_others(tmp_path, monkeypatch):
    made = save_model(tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    moved = load_model(tmp_path / "moved" / "model")
    assert moved.digest
    assert not made.exists()
    config = tmp_path / "moved" / "encoder" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UserError, match="was made for encoder"):
        open_codec(moved.recipe.codec)


def test_small_things(tmp_path):
    assert slug("A Red/Circle -- left of…") == "a-red-circle-left-of"
    assert slug("赤い丸") == "prompt"
    (tmp_path / "p.txt").write_text("b\n#c\na\n")
    assert read_prompts(tmp_path / "p.txt") == ["b", "a"]
