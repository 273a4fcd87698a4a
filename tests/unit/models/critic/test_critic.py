"""The critic: spectral norm, norms, gradients, injected encoder features, DINO files, sharding."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import SiglipVisionConfig

from raexla.models.critic import (
    AugmentRecipe,
    Critic,
    CriticRecipe,
    DinoFeaturesRecipe,
    EncoderFeatures,
    EncoderFeaturesRecipe,
    SpectralConv1d,
    augment,
    build_dino,
    init_weights,
    load_dino,
    sharding_table,
)
from raexla.models.critic.features import DINO_SIZES
from raexla.models.encoders import Siglip2Recipe, build_encoder
from raexla.recipe import UserError
from raexla.runtime.sharding import resolve

NANO = CriticRecipe(features=EncoderFeaturesRecipe(type="encoder", layers=(1, 2)))
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def nano(**fields) -> Critic:
    torch.manual_seed(0)
    config = SiglipVisionConfig(**SIZES, image_size=28, patch_size=7, vision_use_head=False)
    encoder = build_encoder(Siglip2Recipe(type="siglip2", path="x"), config=config)
    critic = Critic(EncoderFeatures(encoder, (1, 2)), NANO.model_copy(update=fields))
    init_weights(critic, torch.Generator().manual_seed(1))
    return critic


def test_the_power_iteration_finds_the_largest_singular_value():
    conv = SpectralConv1d(6, 5, 3).train()
    torch.nn.init.normal_(conv.weight, generator=torch.Generator().manual_seed(0))
    for _ in range(60):
        conv(torch.randn(1, 6, 9))
    largest = torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2)
    torch.testing.assert_close(conv.u @ conv.weight.flatten(1) @ conv.v, largest, rtol=1e-4, atol=1e-5)
    x = torch.randn(2, 6, 9)
    padded = torch.nn.functional.pad(x, (1, 1), mode="circular")
    expected = torch.nn.functional.conv1d(padded, conv.weight / largest, conv.bias)
    torch.testing.assert_close(conv.eval()(x), expected, rtol=1e-4, atol=1e-5)
    before = conv.u.clone()
    conv(x)
    assert torch.equal(conv.u, before)  # eval mode leaves the vectors alone


def test_gradient_equals_torchs_spectral_norm():
    ours = SpectralConv1d(6, 5, 3)
    theirs = torch.nn.utils.spectral_norm(torch.nn.Conv1d(6, 5, 3, padding=1, padding_mode="circular"))
    ours.load_state_dict(
        {"weight": theirs.weight_orig, "bias": theirs.bias, "u": theirs.weight_u, "v": theirs.weight_v}
    )
    x = torch.randn(2, 6, 9)
    for _ in range(2):  # real and fake in one step: the vectors move on in between
        a, b = ours(x), theirs(x)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    a.square().sum().backward()
    b.square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight_orig.grad, rtol=1e-4, atol=1e-5)


def test_logits_of_one_sample_do_not_depend_on_the_others():
    image = torch.rand(3, 3, 28, 28)
    for norm, alone in (("per_sample", True), ("batch", False)):
        critic = nano(norm=norm)
        together = critic(image)
        critic = nano(norm=norm)
        assert together.shape == (3, 3 * 16)  # three taps: the last block's twice
        assert torch.allclose(critic(image[:2]), together[:2], atol=1e-5) is alone


def test_gradients_reach_the_heads_and_the_image_but_not_the_features():
    critic = nano()
    image = torch.rand(2, 3, 28, 28, requires_grad=True)
    critic(image, torch.rand(2, 7)).square().mean().backward()
    # the loss can't see a bias that a norm takes away again
    silent = {f"heads.{i}.{part}.conv.bias" for i in range(3) for part in ("enter", "mix")}
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None
        assert name in silent or parameter.grad.abs().sum() > 0, name
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in critic.features.encoder.parameters())
    assert not any(name.startswith("features") for name in critic.state_dict())


def test_neutral_draws_change_nothing():
    image = torch.rand(2, 3, 20, 20) * 2 - 1
    torch.testing.assert_close(augment(image, torch.full((2, 7), 0.5), AugmentRecipe()), image)


def test_translation_moves_and_fills_with_zeros():
    image, draws = torch.rand(1, 3, 16, 16), torch.full((1, 7), 0.5)
    draws[0, 0] = 0.99  # two rows up
    moved = augment(image, draws, AugmentRecipe(color=False))
    assert torch.equal(moved[:, :, :14], image[:, :, 2:])
    assert torch.equal(moved[:, :, 14:], torch.zeros(1, 3, 2, 16))


@pytest.mark.parametrize("size", ["S_16", "B_16"])
def test_released_sizes(size):
    recipe = CriticRecipe(features=DinoFeaturesRecipe(type="dino", size=size, path="x"))
    with torch.device("meta"):
        critic = Critic(build_dino(recipe.features, 256), recipe)
    shapes = {name: tuple(parameter.shape) for name, parameter in critic.named_parameters()}
    assert set(resolve(sharding_table(recipe), shapes)) == set(shapes)
    trained = sum(parameter.numel() for parameter in critic.parameters() if parameter.requires_grad)
    if size == "S_16":
        assert round(trained / 1e6, 2) == 7.39


def test_encoder_features_have_only_the_heads_to_shard():
    shapes = {name: tuple(parameter.shape) for name, parameter in nano().named_parameters()}
    assert set(resolve(sharding_table(NANO), shapes)) == set(shapes)


def test_dino_files_are_checked_key_by_key(tmp_path, monkeypatch):
    monkeypatch.setitem(DINO_SIZES, "S_16", (32, 12, 2, 16))  # the same keys, quicker to fill
    path = tmp_path / "dino.safetensors"
    recipe = DinoFeaturesRecipe(type="dino", size="S_16", path=str(path))
    source = build_dino(recipe, 32)
    state = {key: value.contiguous() for key, value in source.vit.state_dict().items()}
    save_file(state | {"head.weight": torch.zeros(2)}, path)
    loaded = load_dino(recipe, 32)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(loaded(image), source(image), strict=True))
    state["extra"] = torch.zeros(1)
    state["norm.bias"] = torch.zeros(3)
    del state["blocks.7.mlp.fc1.bias"]
    save_file(state, path)
    problems = r"blocks\.7\.mlp\.fc1\.bias is missing; extra is unexpected; norm\.bias has shape \[3\], not \[32\]"
    with pytest.raises(UserError, match=problems):
        load_dino(recipe, 32)
    with pytest.raises(UserError, match="no such file"):
        load_dino(DinoFeaturesRecipe(type="dino", path=str(tmp_path / "gone.pth")), 32)
