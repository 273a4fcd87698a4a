"""The closed forms against PyTorch's own counter, and against the papers' tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Dinov2Config,
    Dinov2WithRegistersConfig,
    Qwen2Config,
    SiglipVisionConfig,
    ViTMAEConfig,
)

from raexla.models.decoder import DecoderRecipe, ViTDecoder
from raexla.models.dit import DiTRecipe, LightningDiT
from raexla.models.encoders import Dinov2Recipe, Encoder, MAERecipe, Siglip2Recipe, WebSSLRecipe, build_encoder
from raexla.models.flops import Work, bridge_work, decoder_work, dit_work, encoder_work, llm_work, vae_work
from raexla.models.mllm import MLLMRecipe, build_mllm
from tests.unit.models.published import CHANNELS, GRID, MODULATION, Row, dit_dh_xl, flops_table, rows

DOCS = Path(__file__).parents[3] / "docs" / "models.md"


def counted(call: Callable[[], Any]) -> int:
    """Multiply-adds of a call by PyTorch's counter, with attention as the two products that it is."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        call()
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2


HEAD = {"width": 48, "depth": 2, "heads": 3}
DITS: dict[str, dict[str, Any]] = {
    "per token": {},
    "per token, own condition width, norm": {"condition_channels": 20, "qk_norm": True},
    "class": {"conditioning": {"type": "class", "num_classes": 7}},
    "patch 2": {"patch_size": 2},
    "rae head": {"conditioning": {"type": "class", "num_classes": 7}, "head": {"wiring": "rae", **HEAD}},
    "scale_rae head": {"condition_channels": 20, "head": {"wiring": "scale_rae", **HEAD}},
    "classic head": {"head": {"wiring": "classic", "width": 32, "depth": 1, "heads": 2}},
}


def velocity_of(recipe: DiTRecipe, grid: tuple[int, int], channels: int) -> Callable[[], Tensor]:
    """One sample through the DiT, on `meta`: the counter needs shapes only."""
    with torch.device("meta"):
        model = LightningDiT(recipe, grid, channels)
        x, t = torch.empty(1, grid[0] * grid[1], channels), torch.empty(1)
        if recipe.conditioning.type == "class":
            return lambda: model(x, t, torch.zeros(1, dtype=torch.long, device="meta"))
        condition = torch.empty(1, model.condition_tokens, model.condition_channels)
    return lambda: model(x, t, condition)


@pytest.mark.parametrize("kind", sorted(DITS))
def test_dit(kind: str) -> None:
    recipe = DiTRecipe.model_validate({"width": 32, "depth": 3, "heads": 2} | DITS[kind])
    assert dit_work(recipe, (4, 6), 6).total == counted(velocity_of(recipe, (4, 6), 6))


def test_the_whole_dit_dh_xl() -> None:
    assert dit_work(dit_dh_xl(), GRID, CHANNELS).total == counted(velocity_of(dit_dh_xl(), GRID, CHANNELS))


@pytest.mark.parametrize("grid", [None, (5, 7)])
def test_decoder(grid: tuple[int, int] | None) -> None:
    recipe = DecoderRecipe(width=32, depth=2, heads=4, mlp=40, patch_size=6, grid=grid)
    with torch.device("meta"):
        decoder, latent = ViTDecoder(recipe, (3, 4), 20), torch.empty(1, 12, 20)
    assert decoder_work(recipe, (3, 4), 20).total == counted(lambda: decoder(latent))


SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
ENCODERS: dict[str, tuple[Any, Any]] = {
    "siglip2": (Siglip2Recipe, SiglipVisionConfig(**SIZES, intermediate_size=40, vision_use_head=False)),
    "dinov2": (Dinov2Recipe, Dinov2WithRegistersConfig(**SIZES, num_register_tokens=3)),
    "giant": (Dinov2Recipe, Dinov2Config(**SIZES, use_swiglu_ffn=True)),
    "webssl": (WebSSLRecipe, Dinov2Config(**SIZES, mlp_ratio=3)),
    "mae": (MAERecipe, ViTMAEConfig(**SIZES, intermediate_size=40, mask_ratio=0.0)),
}


@pytest.mark.parametrize("kind", sorted(ENCODERS))
@pytest.mark.parametrize(("input_size", "image_size"), [(None, None), (40, 56)])
def test_encoder(kind: str, input_size: int | None, image_size: int | None) -> None:
    recipe_type, config = ENCODERS[kind]
    recipe = recipe_type(type=recipe_type.model_fields["type"].annotation.__args__[0], path="x", input_size=input_size)
    with torch.device("meta"):
        encoder: Encoder = build_encoder(recipe, image_size, config)
        image = torch.empty(1, 3, encoder.image_size, encoder.image_size)
    assert encoder_work(encoder).total == counted(lambda: encoder(image))


@pytest.mark.parametrize("connector", ["linear", "mlp"])
def test_mllm(connector: str) -> None:
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=connector == "linear",
    )
    recipe = MLLMRecipe.model_validate({"path": "x", "queries": 4, "connector": connector})
    with torch.device("meta"):
        mllm = build_mllm(recipe, 52, 24, 40, config)
        tokens, features = torch.zeros(1, 9, dtype=torch.long), torch.empty(1, 6, 24)
        slot, start = torch.zeros(1, 9, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    work = llm_work(config, 9)
    assert work.total == counted(lambda: mllm.logits(mllm(tokens)))
    more = bridge_work(recipe, 32, 6, 24, 40)
    picked = 9 * 6 * 32  # features are put at their slots by a product with zeros and ones: no work of the model
    assert work.total + more["projector"] + picked == counted(lambda: mllm.logits(mllm(tokens, slot, features)))
    hidden = torch.empty(1, 9, 32, device="meta")
    picked = 4 * 9 * 32  # and the queries' hidden states found
    assert more["connector"] + picked == counted(lambda: mllm.condition(hidden, start))


@pytest.mark.parametrize("quantised", [True, False])
def test_vae(quantised: bool) -> None:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae: Any = AutoencoderKL(
            block_out_channels=(8, 16, 16),
            layers_per_block=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            use_quant_conv=quantised,
            use_post_quant_conv=quantised,
        )
        image, latent = torch.empty(1, 3, 32, 32), torch.empty(1, 4, 8, 8)
    work = vae_work((8, 16, 16), 2, 4, 32, quantised=quantised)
    assert work.under("encoder.").total == counted(lambda: vae.encode(image))
    assert work.under("decoder.").total == counted(lambda: vae.decode(latent))


def test_parts_can_be_left_out_under_any_prefix() -> None:
    work = Work({"blocks": 1, "attention": 2, "head.attention": 4, "head.modulation": 8, "final.modulation": 16})
    assert work.total == 31
    assert work.without("attention") == {"blocks": 1, "head.modulation": 8, "final.modulation": 16}
    assert work.without("head.modulation").total == 23
    assert work.under("head.") == {"attention": 4, "modulation": 8}


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: f"{row.table}: {row.name}")
def test_published_by_the_tables_own_convention(row: Row) -> None:
    """Paper 001; its GFLOPs are multiply-adds."""
    assert row.by_convention == pytest.approx(row.published, rel=0.03)


def test_a_wrong_convention_would_be_seen() -> None:
    """What a table leaves out is no rounding error, and a count of multiplications and additions is twice as large."""
    table = {row.name: row for row in rows()}
    for name in ("decoder ViT-XL, 256 px", "DINOv2-B and decoder XL, 512 px", "DiT-DH-XL, 256 px", "DiT-DH-XL, 512 px"):
        row = table[name]
        assert row.full / row.published > 1.03
        assert 2 * row.by_convention / row.published > 1.9
    assert table["DiT-DH-XL, 512 px"].work.without("attention", *MODULATION).total / 1e9 < 0.97 * 638.83


def test_the_page_shows_what_is_computed() -> None:
    page = DOCS.read_text(encoding="utf-8")
    for line in flops_table():
        assert line in page
