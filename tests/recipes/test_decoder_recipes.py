"""The recipes of the papers' decoder tables say what the tables say, number by number, and come to the same steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raexla.data import build_transform
from raexla.recipe import load
from raexla.train.decoder import DecoderTrainingRecipe
from raexla.train.stages import STAGES

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "recipes" / "decoder").glob("*.yaml"))

# rates of decoder and critic (peak, minimum), betas, warm-up epochs, first epochs of critic and adversarial, epochs,
# weights (l1, perceptual, gram, adversarial), critic
TABLE_7_LEFT = ((4e-4, 4e-5), (5e-5, 5e-6), (0.9, 0.95), (2, 1), (7, 8), 80, (1, 1, 100, 10), "S_16")
TABLE_7_RIGHT = ((2e-4, 2e-5), (2e-5, 2e-6), (0.9, 0.95), (2, 1), (10, 11), 80, (1, 1, 100, 10), "S_16")
TABLE_12 = ((2e-4, 2e-5), (2e-4, 2e-5), (0.5, 0.9), (1, 1), (6, 8), 16, (1, 1, 0, 0.75), "S_8")
# name -> table, encoder, decoder size, drawn pixels, what the shorter side is resized to
EXPECTED: dict[str, tuple[Any, str, str, int, int]] = {
    "siglip2-so400m": (TABLE_7_LEFT, "siglip2", "XL", 224, 336),
    "siglip2-so400m-imagenet": (TABLE_7_LEFT, "siglip2", "XL", 224, 336),
    "siglip2-so400m-378": (TABLE_7_LEFT, "siglip2", "XL", 378, 567),
    "webssl-l": (TABLE_7_RIGHT, "webssl", "XL", 224, 336),
    "dinov2-b-imagenet256": (TABLE_12, "dinov2", "XL", 256, 384),
    "dinov2-b-imagenet256-vit-l": (TABLE_12, "dinov2", "L", 256, 384),
    "dinov2-b-imagenet256-vit-b": (TABLE_12, "dinov2", "B", 256, 384),
    "siglip2-b-imagenet256": (TABLE_12, "siglip2", "XL", 256, 384),
    "mae-b-imagenet256": (TABLE_12, "mae", "XL", 256, 384),
    "dinov2-b-imagenet512": (TABLE_12, "dinov2", "XL", 512, 768),
}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in recipes are relative to the repository."""
    monkeypatch.chdir(ROOT)


def _load(name: str, *overrides: str) -> Any:
    recipe = load(f"recipes/decoder/{name}.yaml", STAGES, overrides)
    assert isinstance(recipe, DecoderTrainingRecipe)
    return recipe


def test_every_recipe_is_held_against_its_table():
    assert set(NAMES) == set(EXPECTED)


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_what_it_says(name):
    table, encoder, size, pixels, shorter = EXPECTED[name]
    decoder_rates, critic_rates, betas, warmups, starts, epochs, weights, critic = table
    recipe = _load(name)
    for part, rates, warmup in (
        (recipe.optim.decoder, decoder_rates, warmups[0]), (recipe.optim.critic, critic_rates, warmups[1]),
    ):  # fmt: skip
        assert (part.lr, part.schedule.min_lr) == rates
        assert part.betas == betas
        assert part.schedule.type == "cosine"
        assert part.schedule.warmup(recipe.train.total_steps, recipe.train.epoch_steps) == 2500 * warmup
        assert part.weight_decay == 0
        assert part.clip is None
    assert recipe.optim.decoder.ema == 0.9978
    assert recipe.train.global_batch_images == 512
    assert recipe.train.total_steps == {80: 200_000, 16: 40_000}[epochs]
    assert recipe.first_step("perceptual") == 0
    assert recipe.first_step("critic") == 2500 * starts[0]
    assert recipe.first_step("adversarial") == 2500 * starts[1]
    found = recipe.losses.weights
    assert (found.l1, found.perceptual, found.gram, found.adversarial) == weights
    assert recipe.losses.perceptual.type == "lpips"
    assert recipe.critic.features.size == critic
    assert recipe.codec.encoder.type == encoder
    assert recipe.codec.decoder.size == size
    assert (recipe.transform.type, recipe.transform.size, recipe.transform.resize) == ("random_crop", pixels, shorter)


def test_the_sources_are_mixed_as_table_1_counts_them():
    sources = {source.name: source.weight for source in _load("siglip2-so400m").data.sources}
    assert sources == {"web": 39.3, "synthetic": 24.7, "text": 9.0}
    assert sum(sources.values()) == pytest.approx(73.0)


def test_a_phase_can_be_entered_by_overrides():
    recipe = _load(
        "siglip2-so400m", "train.epochs=null", "train.steps=3", "train.global_batch_images=2",
        "critic_from_epoch=0", "adversarial_from_epoch=0", "transform={type: centre_crop, size: 224, resize: 256}",
    )  # fmt: skip
    assert recipe.train.total_steps == 3
    assert recipe.first_step("adversarial") == 0
    assert recipe.transform.type == "centre_crop"


@pytest.mark.parametrize("kind", ["random_crop", "centre_crop"])
def test_resize_then_crop_sees_the_shorter_side_at_384(kind):
    """A picture of 192 x 384 becomes 384 x 768; a crop of 256 then shows 128 x 128 of the original's pixels."""
    rows, columns = np.mgrid[0:192, 0:384]
    picture = np.stack([rows, columns // 2, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    change = build_transform(
        _load("dinov2-b-imagenet256", f"transform={{type: {kind}, size: 256, resize: 384}}").transform
    )
    places = set()
    for seed in range(4):
        out = change(picture, np.random.default_rng(seed)).astype(int)
        assert out.shape == (256, 256, 3)
        assert out[-1, 128, 0] - out[0, 128, 0] == pytest.approx(127.5, abs=1.5)
        assert out[128, -1, 1] - out[128, 0, 1] == pytest.approx(63.75, abs=1.5)
        places.add((out[0, 0, 0], out[0, 0, 1]))
    assert places == {(32, 64)} if kind == "centre_crop" else len(places) > 1
