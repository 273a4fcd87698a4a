"""The two nano stages that make an encoder and a language model: what they start from, and what they hand on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from raexla.data import ChatTokenizer
from raexla.data.nano.rows import patch_classes
from raexla.data.nano.scenes import COLORS, SHAPES
from raexla.models.encoders import Siglip2Recipe, load_encoder
from raexla.models.mllm import MLLMRecipe, load_mllm, load_tokenizer
from raexla.nn.patches import patchify
from raexla.train.pretrain import image_of
from tests import stages


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tiny nano world."""
    return stages.world(tmp_path_factory.mktemp("world"))


def _class(shape: str, color: str) -> int:
    return 1 + list(SHAPES).index(shape) * len(COLORS) + list(COLORS).index(color)


def test_patch_classes_of_a_known_scene():
    shape, other = list(SHAPES)[:2]
    color, second = list(COLORS)[1:3]
    objects = [
        {"shape": shape, "color": color, "center": [8.0, 8.0], "radius": 5},
        {"shape": other, "color": second, "center": [28.0, 28.0], "radius": 3},
    ]
    one, two = _class(shape, color), _class(other, second)
    found = patch_classes({"objects": objects}, 32, 8)
    assert found.dtype == np.int32
    # centres of patches at 4, 12, 20, 28: the first object reaches 7.5 from (8, 8), the second 5.5 from (28, 28)
    assert found.reshape(4, 4).tolist() == [[one, one, 0, 0], [one, one, 0, 0], [0, 0, 0, 0], [0, 0, 0, two]]


def test_x_is_the_column_and_y_the_row():
    shape, color = next(iter(SHAPES)), next(iter(COLORS))
    found = patch_classes({"objects": [{"shape": shape, "color": color, "center": [28, 4], "radius": 3}]}, 32, 8)
    assert np.argwhere(found.reshape(4, 4)).tolist() == [[0, 3]]


def test_nothing_is_known_of_other_pictures():
    assert not patch_classes({}, 32, 8).any()


def test_the_shards_tell_the_classes(made, tmp_path):
    """The scene records come through shards and loader: most pictures have an object, none a class out of range."""
    task, _ = stages.open_stage(stages.encoder(made, tmp_path))
    with task.open_loader(None) as loader:
        classes = next(loader).arrays["classes"]
    assert classes.shape == (32, 16)
    assert (classes.max(1) > 0).mean() > 0.7
    assert classes.max() <= len(SHAPES) * len(COLORS)


def test_the_patch_embedding_starts_whitened(made, tmp_path):
    """Uncorrelated, centred outputs of one size (0.5) wherever the patches vary by more than the floor of 0.02."""
    task: Any = stages.open_stage(stages.encoder(made, tmp_path))[0]
    with task.open_loader(None) as loader:  # the pictures that the start was fitted on
        pixels = np.concatenate([next(loader).arrays["pixels"] for _ in range(1024 // 32)])
    embedding = task.towers.vision.get_submodule("embeddings.patch_embedding")
    with torch.no_grad():
        image = image_of(torch.from_numpy(pixels)) * 2 - 1
        out = embedding(image).flatten(2).transpose(1, 2).flatten(0, 1).double()
    covariance = torch.cov(out.T, correction=0)
    assert out.mean(0).abs().max() < 1e-3
    rows = patchify(image.double(), 8).flatten(0, 1)
    deviation = torch.linalg.eigvalsh(torch.cov(rows.T, correction=0)).flip(0)[:24].clamp(min=0).sqrt()
    torch.testing.assert_close(covariance.diagonal().sqrt(), 0.5 * deviation / (deviation + 0.02), atol=2e-3, rtol=0)
    assert covariance.diagonal().sqrt()[0] > 0.45
    off = covariance - torch.diag(covariance.diagonal())
    assert off.abs().max() < 1e-3


def test_the_exported_encoder_has_the_trained_tokens(made, tmp_path):
    task: Any
    task, runtime = stages.open_stage(stages.encoder(made, tmp_path / "run"))
    stages.run_steps(task, runtime, 2)
    task.export(tmp_path / "artifact", {"step": 2})
    encoder = load_encoder(Siglip2Recipe(type="siglip2", path=str(tmp_path / "artifact"), channels=24))
    assert (encoder.grid, encoder.channels, encoder.image_size) == ((4, 4), 24, 32)
    image = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = task.towers.vision(pixel_values=image * 2 - 1, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(encoder(image), F.layer_norm(hidden, (24,), eps=1e-6), atol=1e-5, rtol=1e-5)


def test_the_exported_encoder_serves_the_next_stages(made, tmp_path):
    task, _ = stages.open_stage(stages.encoder(made, tmp_path / "run"))
    task.export(tmp_path / "artifact", {})
    other = made | {"encoder": str(tmp_path / "artifact")}
    decoder, runtime = stages.open_stage(stages.decoder(other, tmp_path / "decoder"))
    assert np.isfinite(stages.run_steps(decoder, runtime, 2).losses).all()


@pytest.fixture(scope="module")
def language(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A language Task after two steps, and its artifact."""
    folder = tmp_path_factory.mktemp("language")
    task, runtime = stages.open_stage(stages.language(made, folder / "run"))
    stages.run_steps(task, runtime, 2)
    task.export(folder / "artifact", {})
    return task, folder / "artifact"


def test_the_exported_language_model_has_the_trained_hidden_states(language):
    task, path = language
    tokenizer = load_tokenizer(str(path))
    mllm = load_mllm(MLLMRecipe(path=str(path), queries=16), tokenizer, 24, 32, torch.Generator().manual_seed(0))
    tokens = torch.randint(5, 300, (2, 20), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    with torch.no_grad():
        expected = task.body(input_ids=tokens.long(), use_cache=False).last_hidden_state
        hidden = mllm(tokens)
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)
        logits = expected @ task.body.embed_tokens.weight.T
        torch.testing.assert_close(mllm.logits(hidden)[..., : logits.shape[-1]], logits, atol=1e-5, rtol=1e-5)


def test_the_exported_tokenizer_gives_the_same_ids(language):
    task, path = language
    exported = ChatTokenizer.load(str(path))
    assert exported.size == task.tokenizer.get_vocab_size() == task.chat.tokenizer.size
    for text in ("a red circle left of two blue squares", "Généré, 12 ✓", "two\n\nlines"):
        ids = tuple(task.tokenizer.encode(text).ids)
        assert exported.encode(text) == task.chat.tokenizer.encode(text) == ids
    for mark in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<im_start>", "<im_end>"):
        assert exported.tokenizer.token_to_id(mark) == task.tokenizer.token_to_id(mark) is not None
        assert exported.encode(mark) == task.chat.tokenizer.encode(mark)
        assert len(exported.encode(mark)) > 1, "a mark that a text spells out is text"


def test_every_word_of_the_captions_is_one_token(language):
    """With the small vocabulary of this test the frequent ones are."""
    task, _ = language
    words = [" red", " circle", " blue", " square"]
    assert sum(len(task.tokenizer.encode(word).ids) == 1 for word in words) >= 3


def test_the_exported_language_model_serves_pretraining(language, made, tmp_path):
    other = made | {"language_model": str(language[1])}
    task, runtime = stages.open_stage(stages.pretrain(other, tmp_path))
    assert np.isfinite(stages.run_steps(task, runtime, 2).losses).all()
