"""How many parameters the papers' models have, built on `meta`."""

from typing import Any

import pytest
import torch
from transformers import Qwen2Config, SiglipVisionConfig

from raexla.models.critic import Critic, CriticRecipe, DinoFeaturesRecipe, build_dino
from raexla.models.decoder import DecoderRecipe, ViTDecoder
from raexla.models.dit import SIZES, WIDE_HEAD_2688, DiTRecipe, LightningDiT
from raexla.models.encoders import Siglip2Recipe, build_encoder
from raexla.models.mllm import MLLMRecipe, build_mllm
from tests.unit.models.published import CHANNELS, GRID, count, dinov2_base, dit_dh_xl

QWEN_TOKENS = 151_665
"""Ids of Qwen2.5's tokenizer; the two image tokens come after them and fit into its table."""


def dit(channels: int, **values: Any) -> LightningDiT:
    with torch.device("meta"):
        return LightningDiT(DiTRecipe.model_validate(values), GRID, channels)


def by_hand(width: int, depth: int, channels: int, classes: int) -> int:
    """A plain class-conditional LightningDiT, layer by layer."""
    mlp = int(8 / 3 * width)
    block = 2 * width  # two norms
    block += 3 * width * width + 3 * width + width * width + width  # attention
    block += 2 * mlp * width + 2 * mlp + width * mlp + width  # SwiGLU
    block += 6 * width * width + 6 * width  # modulation
    ends = channels * width + width  # patch embedding
    ends += 512 * width + width + width * width + width  # time
    ends += (classes + 1) * width  # classes and the null class
    ends += width + 2 * width * width + 2 * width + width * channels + channels  # last layer
    return depth * block + ends


# paper 000, Table 10, on 256 x 1152 latents, with condition dropout; the text calls "3.3B" 3.1B
@pytest.mark.parametrize(
    ("size", "billions"), [("0.5B", 0.481), ("2.4B", 2.435), ("3.3B", 3.08), ("5.5B", 5.475), ("9.8B", 9.73)]
)
def test_text_to_image_dit(size: str, billions: float) -> None:
    assert count(dit(1152, size=size)) / 1e9 == pytest.approx(billions, abs=0.0025)


# paper 001, Table 13 on DINOv2-B; the paper prints no counts but DiT-XL's and DiT-DH-XL's
@pytest.mark.parametrize(
    ("size", "millions"),
    [
        ("S", 33.6),
        ("B", 131.7),
        ("L", 459.7),
        ("XL", 677.0),
        ("XXL", 953.3),
        ("H", 1371.6),
        ("G", 3040.2),
        ("T", 5234.1),
    ],
)
def test_class_conditional_dit(size: Any, millions: float) -> None:
    made = count(dit(CHANNELS, size=size, conditioning={"type": "class"}, allow_narrow=True))
    assert made == by_hand(SIZES[size].width, SIZES[size].depth, CHANNELS, 1000)
    assert made / 1e6 == pytest.approx(millions, abs=0.05)


def test_dit_xl_on_dinov2_small() -> None:
    """676M in Table 8 of paper 001."""
    assert round(count(dit(384, size="XL", conditioning={"type": "class"})) / 1e6) == 676


def test_dit_dh() -> None:
    """838.7M and 196.5M with the fixed positions and frequencies, which the released counts include."""
    for size, millions in (("XL", 838.7), ("S", 196.5)):
        model = dit(CHANNELS, size=size, conditioning={"type": "class"}, head={"wiring": "rae"})
        fixed = model.positions.table.numel() + model.t_embedder.W.numel()
        assert (count(model) + fixed) / 1e6 == pytest.approx(millions, abs=0.06)
    assert dit_dh_xl().head == model.recipe.head


def test_wide_head_on_the_text_to_image_backbone() -> None:
    """0.28B more, 2688 wide (paper 000, sec. 5)."""
    head = {"wiring": "scale_rae", **WIDE_HEAD_2688._asdict()}
    added = count(dit(1152, size="2.4B", head=head)) - count(dit(1152, size="2.4B"))
    assert added / 1e6 == pytest.approx(275.6, abs=0.1)


def test_decoder() -> None:
    """415.6M at SigLIP-2's patch 14, with the frozen positions; with DINOv2-B 501M, upsampling 503M (Table 18)."""
    with torch.device("meta"):
        decoders = [
            ViTDecoder(DecoderRecipe(size="XL", patch_size=patch), GRID, channels)
            for patch, channels in ((14, 1152), (16, CHANNELS), (32, CHANNELS))
        ]
    positions = (GRID[0] * GRID[1] + 1) * 1152
    siglip, dino, twice = (count(decoder) + positions for decoder in decoders)
    assert siglip == 415_587_532
    encoder = count(dinov2_base(224, 256))
    assert (encoder + dino) / 1e6 == pytest.approx(501, rel=0.005)  # its position table is made for 518 px, not for 224
    assert (encoder + twice) / 1e6 == pytest.approx(503, rel=0.005)


def test_critic_heads() -> None:
    """7.39M (ViT-S, five heads)."""
    for size in ("S_16", "S_8"):
        recipe = CriticRecipe(features=DinoFeaturesRecipe.model_validate({"type": "dino", "size": size, "path": "x"}))
        with torch.device("meta"):
            critic = Critic(build_dino(DinoFeaturesRecipe.model_validate(recipe.features.model_dump()), 256), recipe)
        assert round(count(critic.heads) / 1e6, 2) == 7.39


def test_siglip2() -> None:
    """The tower of SigLIP-2 So400M/14 without its pooling head, which is not used."""
    config = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        vision_use_head=False,
    )
    with torch.device("meta"):
        encoder = build_encoder(Siglip2Recipe(type="siglip2", path="x"), config=config)
    assert encoder.grid == GRID
    assert count(encoder) / 1e6 == pytest.approx(412.4, abs=0.1)


QWEN: dict[str, dict[str, Any]] = {
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
}


# Qwen2.5's cards: 1.54B (1.31B without embeddings) and 7.61B (6.53B without)
@pytest.mark.parametrize(("size", "all_of_it", "inner"), [("1.5B", 1.54, 1.31), ("7B", 7.61, 6.53)])
def test_mllm(size: str, all_of_it: float, inner: float) -> None:
    config = Qwen2Config(**QWEN[size])
    with torch.device("meta"):
        mllm = build_mllm(MLLMRecipe(path="x"), QWEN_TOKENS + 2, 1152, 2048, config)
    named = {name: parameter.numel() for name, parameter in mllm.named_parameters()}
    language = {name: n for name, n in named.items() if name.startswith(("llm.", "lm_head."))}
    without_embeddings = sum(n for name, n in language.items() if name.startswith(("llm.layers.", "llm.norm.")))
    assert sum(language.values()) / 1e9 == pytest.approx(all_of_it, abs=0.01)
    assert without_embeddings / 1e9 == pytest.approx(inner, abs=0.01)
    assert named["llm.embed_tokens.weight"] == QWEN[size]["vocab_size"] * mllm.width  # no row added, none cut away
    assert ("lm_head.weight" in named) is (size == "7B")
    h = mllm.width
    assert named["queries"] == 256 * h
    assert sum(n for name, n in named.items() if name.startswith("projector.")) == 1152 * h + h + h * h + h
    assert sum(n for name, n in named.items() if name.startswith("connector.")) == h * 2048 + 2048
