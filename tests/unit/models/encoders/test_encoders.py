"""Encoders saved by transformers itself: loading by path, refusals, resizing, freezing, sharding tables."""

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
)

from raexla.models.encoders import (
    Dinov2Recipe,
    MAERecipe,
    Siglip2Recipe,
    WebSSLRecipe,
    build_encoder,
    load_encoder,
    sharding_table,
)
from raexla.recipe import UserError
from raexla.runtime.sharding import resolve

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
SIGLIP = SIZES | {"intermediate_size": 48}
DINO = SIZES | {"mlp_ratio": 2}


def saved(model, folder):
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1 + (1.0 if parameter.dim() == 1 else 0.0)
    model.eval().save_pretrained(folder)
    return model, str(folder)


def families():
    return {
        "siglip2": (Siglip2Recipe, lambda: SiglipVisionModel(SiglipVisionConfig(**SIGLIP))),
        "dinov2": (Dinov2Recipe, lambda: Dinov2Model(Dinov2Config(**DINO))),
        "registers": (Dinov2Recipe, lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**DINO))),
        "swiglu": (Dinov2Recipe, lambda: Dinov2Model(Dinov2Config(**DINO, use_swiglu_ffn=True))),
        "webssl": (WebSSLRecipe, lambda: Dinov2Model(Dinov2Config(**DINO))),
        "mae": (MAERecipe, lambda: ViTMAEModel(ViTMAEConfig(**SIGLIP))),
    }


def recipe_of(family, path, **fields):
    recipe_class = families()[family][0]
    return recipe_class(type=recipe_class.model_fields["type"].annotation.__args__[0], path=path, **fields)


@pytest.mark.parametrize("family", families())
def test_loads_by_path_and_agrees_with_transformers(family, tmp_path):
    model, path = saved(families()[family][1](), tmp_path)
    encoder = load_encoder(recipe_of(family, path))
    image = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (encoder.mean, encoder.std))
    pixels = (image - mean) / std
    noise = {"noise": torch.arange(16.0).expand(2, -1)} if family == "mae" else {}
    if family == "mae":
        model.config.mask_ratio = 0.0
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True, **noise)
    extra = {"siglip2": 0, "registers": 5}.get(family, 1)
    if family == "webssl":
        expected = output.last_hidden_state[:, extra:]
    else:
        expected = F.layer_norm(output.hidden_states[-1][:, extra:], (32,), eps=model.config.layer_norm_eps)
    torch.testing.assert_close(encoder(image), expected, rtol=1e-4, atol=1e-4)
    assert encoder(image).shape == (2, encoder.grid[0] * encoder.grid[1], encoder.channels)
    middle, last = encoder.features(image, [1, -1])
    torch.testing.assert_close(middle, output.hidden_states[1][:, extra:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last, output.hidden_states[-1][:, extra:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", families())
def test_sharding_table_matches_both_ways(family, tmp_path):
    _, path = saved(families()[family][1](), tmp_path)
    recipe = recipe_of(family, path)
    with torch.device("meta"):
        encoder = build_encoder(recipe)
    table = sharding_table(recipe, registers=encoder.has_registers, swiglu=encoder.has_swiglu)
    shapes = {name: tuple(parameter.shape) for name, parameter in encoder.named_parameters()}
    assert set(resolve(table, shapes)) == set(shapes)


def test_full_models_on_the_hub_hold_more_than_the_encoder(tmp_path):
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    both = SiglipConfig(text_config=text | {"vocab_size": 50}, vision_config=SIGLIP)
    model, path = saved(SiglipModel(both), tmp_path / "siglip")
    encoder = load_encoder(recipe_of("siglip2", path))
    image = torch.rand(1, 3, 28, 28)
    with torch.no_grad():
        hidden = model.vision_model(image * 2 - 1, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(encoder(image), F.layer_norm(hidden, (32,), eps=1e-6), rtol=1e-4, atol=1e-4)
    decoder = {f"decoder_{key}": value for key, value in SIGLIP.items() if key not in ("image_size", "patch_size")}
    mae, path = saved(ViTMAEForPreTraining(ViTMAEConfig(**SIGLIP, **decoder)), tmp_path / "mae")
    encoder = load_encoder(recipe_of("mae", path))
    assert torch.equal(encoder.model.layernorm.weight, mae.vit.layernorm.weight)


def test_refusals_name_what_was_found_and_what_is_needed(tmp_path):
    _, dino = saved(Dinov2Model(Dinov2Config(**DINO)), tmp_path / "dino")
    with pytest.raises(UserError, match=r"holds Dinov2Model .*'siglip2' needs SiglipVisionModel"):
        load_encoder(recipe_of("siglip2", dino))
    with pytest.raises(UserError, match="32 wide, the recipe asks for channels: 768"):
        load_encoder(recipe_of("dinov2", dino, channels=768))
    with pytest.raises(UserError, match="input_size 30 is no multiple of the patch size 7"):
        load_encoder(recipe_of("dinov2", dino, input_size=30))
    with pytest.raises(UserError, match=r"nowhere: no Hugging Face config"):
        load_encoder(recipe_of("dinov2", str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="block 3 was asked for"):
        load_encoder(recipe_of("dinov2", dino)).features(torch.rand(1, 3, 28, 28), [3])


def test_a_weight_that_is_not_there_is_never_random(tmp_path):
    model, path = saved(Dinov2Model(Dinov2Config(**DINO)), tmp_path)
    state = model.state_dict()
    del state["encoder.layer.1.norm1.weight"]
    model.save_pretrained(path, state_dict=state)
    with pytest.raises(UserError, match=r"encoder\.layer\.1\.norm1\.weight is missing"):
        load_encoder(recipe_of("dinov2", path))


@pytest.mark.parametrize(("family", "antialias"), [("siglip2", True), ("mae", False)])
def test_resizes_as_the_official_preprocessing_does(family, antialias, tmp_path):
    _, path = saved(families()[family][1](), tmp_path)
    encoder = load_encoder(recipe_of(family, path), image_size=64)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (encoder.mean, encoder.std))
    resized = F.interpolate(image, (28, 28), mode="bicubic", antialias=antialias)
    torch.testing.assert_close(encoder.prepare(image), (resized - mean) / std, rtol=1e-4, atol=1e-4)


def test_frozen_but_lets_gradients_through_to_the_image(tmp_path):
    _, path = saved(families()["siglip2"][1](), tmp_path)
    encoder = load_encoder(recipe_of("siglip2", path, sum_last=2)).train()
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    image = torch.rand(1, 3, 28, 28, requires_grad=True)
    encoder(image).square().mul(torch.arange(32.0)).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
