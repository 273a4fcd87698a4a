"""The nano benchmark: its questions, its judge, and the whole of it on a tiny random model."""

import json

import numpy as np
import pytest
from PIL import Image

from raexla import cli
from raexla.data.nano.samples import prompts
from raexla.eval.nano import prompt_set_hash
from raexla.eval.reconstruct import Reconstructor
from raexla.eval.understanding import judge, kind_of, questions
from raexla.runtime import EagerRecipe, open_runtime
from raexla.sampling.model import load_model
from tests.unit.sampling.tiny import save_model


def test_questions_have_one_answer_and_a_kind():
    asked = questions(60, seed=5)
    assert len(asked) == len({question.key for question in asked}) == 60
    assert len({question.kind for question in asked}) >= 6
    assert all(len(question.answer.split()) <= 4 for question in asked)
    assert kind_of("Describe this image.") is None
    assert kind_of("Is the ring left of the cross?") == "relation"


def test_the_judge():
    asked = questions(80, seed=5)
    truth = [question.answer for question in asked]
    right = judge(asked, [f" {answer.upper()}. " for answer in truth])
    assert right["overall"].score == 1.0
    assert 0.2 < right["overall"].chance < 0.8
    assert sum(score.count for kind, score in right.items() if kind != "overall") == 80
    half = judge(asked, [answer if i % 2 else "pardon?" for i, answer in enumerate(truth)])
    assert half["overall"].score == 0.5
    assert half["overall"].low < 0.5 < half["overall"].high
    with pytest.raises(ValueError, match="1 answers to 80 questions"):
        judge(asked, ["red"])


def test_the_prompt_set_is_named_by_what_it_asks():
    assert prompt_set_hash(prompts(3)) == prompt_set_hash(prompts(3))
    assert prompt_set_hash(prompts(3)) != prompt_set_hash(prompts(3, seed=1))


def test_reconstruction_does_not_depend_on_the_batch(tmp_path):
    model, runtime = load_model(save_model(tmp_path)), open_runtime(EagerRecipe(device="cpu"))
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    seen: list[int] = []
    whole = Reconstructor(model.codec, runtime)(images)
    assert whole.shape == images.shape
    assert whole.dtype == np.uint8
    pairs = Reconstructor(model.codec, runtime, batch_images=2)(images, seen.append)
    assert np.abs(pairs.astype(int) - whole).max() <= 1  # a value half-way between two may go either way
    assert seen == [2, 2, 1]


def test_score_writes_everything_with_its_protocol(tmp_path, capsys):
    model, out = save_model(tmp_path / "parts"), tmp_path / "score"
    command = ["score", "--model", str(model), "--out", str(out), "--prompts-per-task", "3", "--questions", "8"]
    command += ["--steps", "2", "--batch", "16", "--runtime", "eager", "--seed", "4"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "two objects" in line)
    assert "100 ±" in row
    assert "presence" in printed
    scores = json.loads((out / "scores.json").read_text())
    lines = {line["name"]: line for line in scores["scores"]}
    assert list(lines) == ["guided", "unguided", "held_out", "real", "reconstructions"]
    assert lines["real"]["tasks"]["overall"]["score"] == 1.0
    assert lines["real"]["tasks"]["overall"]["chance"] < 0.5
    assert lines["reconstructions"]["psnr_db"] > 0
    assert lines["guided"]["tasks"]["counting"]["count"] == 3
    assert set(lines["held_out"]["tasks"]) == {"colors", "color_attribution", "overall"}
    for name in ("guided", "unguided", "held_out"):
        protocol = lines[name]["protocol"]
        assert protocol["prompt_set_sha256"] == prompt_set_hash(prompts(3, held_out=name == "held_out"))
        assert protocol["samples"] == (6 if name == "held_out" else 18)
        assert (protocol["resolution"], protocol["seed"], protocol["dtype"]) == (32, 4, "float32")
        assert protocol["sampler"]["steps"] == 2
        assert protocol["guidance"]["type"] == ("none" if name == "unguided" else "cfg")
        assert protocol["model_digest"] == scores["model"]["model_digest"] == load_model(model).digest
        pictures = sorted((out / name).glob("*.png"))
        assert len(pictures) == protocol["samples"]
        assert Image.open(pictures[0]).size == (32, 32)
        assert (out / f"{name}.png").is_file()
    assert scores["understanding"]["protocol"]["samples"] == 8
    assert scores["understanding"]["tasks"]["overall"]["count"] == 8
    assert cli.main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").stat().st_size > 10_000
