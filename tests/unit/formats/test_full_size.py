"""Every released key list at full size, on `meta`, through the code that imports files."""

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from raexla.formats.importing import KINDS, Import, ImportOptions
from raexla.formats.source import Released
from raexla.models.dit import DiTRecipe
from raexla.models.official import KeyReport
from raexla.recipe import UserError
from tests import released, tiny

KEYS = Path(__file__).parents[2] / "fixtures" / "parity" / "keys"
SIGLIP2 = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "patch_size": 14, "image_size": 224,
}  # fmt: skip
WEBSSL = {
    "model_type": "dinov2", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14,
    "image_size": 224,
}  # fmt: skip
DINOV2 = {
    "model_type": "dinov2_with_registers", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "patch_size": 14, "image_size": 518,
}  # fmt: skip
XL = {
    "model_type": "vit_mae", "decoder_hidden_size": 1152, "decoder_num_hidden_layers": 28,
    "decoder_num_attention_heads": 16, "decoder_intermediate_size": 4096, "layer_norm_eps": 1e-12, "image_size": 224,
}  # fmt: skip
T2I_1_5B = released.scale_rae_config(released.QWEN_1_5B, (2048, 32, 32, 2048), 1152, "google/siglip2-so400m")
T2I_7B = released.scale_rae_config(released.QWEN_7B, (4096, 32, 32, 4096), 1152, "google/siglip2-so400m")
T2I_WEBSSL = released.scale_rae_config(released.QWEN_1_5B, (2048, 32, 32, 2048), 1024, "facebook/webssl-dino300m")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations of the three encoders, and a tokenizer; no weights."""
    root = tmp_path_factory.mktemp("full")
    for name, config in (("siglip2", SIGLIP2), ("webssl", WEBSSL), ("dinov2", DINOV2)):
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(config))
    tiny.language(root / "language")
    return root


def listed(name: str) -> dict[str, Tensor]:
    return released.meta(json.loads((KEYS / f"{name}.json").read_text()))


def opened(world: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None) -> Released:
    return Released(world / "language", tensors, (), config, None)


def planned(
    world: Path, kind: str, tensors: dict[str, Tensor], config: dict[str, Any] | None, encoder: str, **options: Any
) -> tuple[Import, KeyReport]:
    ambiguous = "webssl" if encoder == "webssl" else None
    chosen = ImportOptions(encoder=str(world / encoder), encoder_type=ambiguous, **options)
    made = KINDS[kind](opened(world, tensors, config), chosen)
    assert made.layout is not None
    return made, made.layout.check(made.state)


CASES: list[tuple[str, str, dict[str, Any] | None, str, dict[str, Any]]] = [
    ("Scale-RAE-Qwen1.5B_DiT2.4B", "model", T2I_1_5B, "siglip2", {}),
    ("siglip2_decoder", "decoder", XL | {"patch_size": 14}, "siglip2", {}),
    ("webssl300m_decoder", "decoder", XL | {"patch_size": 14}, "webssl", {}),
    ("RAE_decoder_ViTXL_DINOv2-B", "decoder", None, "dinov2", {"size": "XL"}),
    ("DiTDH-S", "dit", None, "dinov2", {"statistics": "none"}),
    ("DiTDH-XL", "dit", None, "dinov2", {"statistics": "none"}),
]
IDS = [case[0] for case in CASES]


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def case(request: pytest.FixtureRequest, world: Path) -> tuple[str, Import, KeyReport]:
    """A list's name, the import of a file with its keys, and the report on them."""
    name, kind, config, encoder, options = request.param
    return name, *planned(world, kind, listed(name), config, encoder, **options)


def test_nothing_is_missing_and_nothing_unexpected(case: tuple[str, Import, KeyReport]) -> None:
    name, made, report = case
    assert report.problems() == []
    assert report.entries + len(report.unchecked_tables) == len(listed(name))
    assert made.facts["grid"] == [16, 16]
    assert made.facts["channels"] == (
        1152 if "Qwen" in name or "siglip2" in name else 1024 if "webssl" in name else 768
    )


def without(state: dict[str, Tensor], key: str) -> list[str]:
    del state[key]
    return [f"missing: {key}"]


def renamed(state: dict[str, Tensor], key: str) -> list[str]:
    state[f"{key}_"] = state.pop(key)
    return [f"missing: {key}", f"unexpected: {key}_"]


def reshaped(state: dict[str, Tensor], key: str) -> list[str]:
    was = list(state[key].shape)
    state[key] = state[key][:-1]
    return [f"wrong shape: {key}: {[was[0] - 1, *was[1:]]}, expected {was}"]


CHANGED = {
    "Scale-RAE-Qwen1.5B_DiT2.4B": "diff_head.model.dit_blocks.31.adaLN_modulation.1.weight",
    "siglip2_decoder": "decoder_layers.27.attention.attention.value.bias",
    "webssl300m_decoder": "trainable_cls_token",
    "RAE_decoder_ViTXL_DINOv2-B": "decoder_layers.0.intermediate.dense.weight",
    "DiTDH-S": "blocks.13.attn.qkv.weight",
    "DiTDH-XL": "t_embedder.W",
}


@pytest.mark.parametrize("change", [without, renamed, reshaped])
def test_what_does_not_fit_is_named(
    change: Callable[[dict[str, Tensor], str], list[str]], case: tuple[str, Import, KeyReport]
) -> None:
    name, made, _ = case
    tensors = listed(name)
    wanted = change(tensors, CHANGED[name])
    assert made.layout is not None
    report = made.layout.check(tensors)
    assert report.problems() == wanted
    with pytest.raises(UserError) as error:
        report.refuse()
    first, *lines = str(error.value).splitlines()
    assert [line.strip() for line in lines] == wanted
    missing = sum(line.startswith("missing") for line in wanted)
    assert f"{missing} missing, {sum(line.startswith('unexpected') for line in wanted)} unexpected" in first


def test_the_tables_made_by_hand_are_the_lists() -> None:
    by_hand = {
        "Scale-RAE-Qwen1.5B_DiT2.4B": released.scale_rae(T2I_1_5B, 256),
        "siglip2_decoder": released.decoder(1152, 28, 4096, 14, 1152, 256),
        "webssl300m_decoder": released.decoder(1152, 28, 4096, 14, 1024, 256),
        "RAE_decoder_ViTXL_DINOv2-B": released.decoder(1152, 28, 4096, 16, 768, 256),
        "DiTDH-S": released.dit_dh((384, 2048), (12, 2), (6, 16), 768, 256, 1000),
        "DiTDH-XL": released.dit_dh((1152, 2048), (28, 2), (16, 16), 768, 256, 1000),
    }
    assert by_hand.keys() == set(IDS) == {path.stem for path in KEYS.glob("*.json")}
    for name, shapes in by_hand.items():
        assert shapes == json.loads((KEYS / f"{name}.json").read_text())


def test_the_7b_model_by_the_same_code(world: Path) -> None:
    made, report = planned(world, "model", released.meta(released.scale_rae(T2I_7B, 256)), T2I_7B, "siglip2")
    assert report.problems() == []
    assert report.absent_tables == []  # not tied: lm_head carries weights of its own
    assert made.layout is not None
    dit = sum(prod(entry.shape) for key, entry in made.layout.entries.items() if key.startswith("diff_head.model."))
    assert round(dit / 1e9, 2) == 9.73
    assert made.facts["shift"] == pytest.approx(8.48528, abs=1e-5)


def test_the_webssl_model_by_the_same_code(world: Path) -> None:
    made, report = planned(world, "model", released.meta(released.scale_rae(T2I_WEBSSL, 256)), T2I_WEBSSL, "webssl")
    assert report.problems() == []
    assert made.facts["channels"] == 1024
    assert made.facts["shift"] == pytest.approx(8.0)


def test_sizes_of_a_class_conditional_dit_are_read_from_its_shapes(world: Path) -> None:
    made, _ = planned(world, "dit", listed("DiTDH-XL"), None, "dinov2", statistics="none")
    recipe = DiTRecipe.model_validate(json.loads(made.extra["dit.json"])["dit"])
    head = recipe.head
    assert head is not None
    assert (recipe.width, recipe.depth, recipe.heads) == (1152, 28, 16)
    assert (head.wiring, head.width, head.depth, head.heads) == ("rae", 2048, 2, 16)
    assert made.facts["shift"] == pytest.approx(6.9282, abs=1e-4)
    assert any("encoder input 224 pixels (16 x 16 tokens of patch 14)" in line for line in made.lines)


def test_heads_that_the_file_cannot_tell_are_asked_for(world: Path) -> None:
    tensors = {key: value for key, value in listed("DiTDH-S").items() if "rope" not in key}
    with pytest.raises(UserError, match=r"enc_feat_rope\.freqs_cos is not in the file.*say --heads"):
        planned(world, "dit", tensors, None, "dinov2", statistics="none")
    with pytest.raises(UserError, match="say --head-heads"):
        planned(world, "dit", tensors, None, "dinov2", statistics="none", heads=6)
    made, report = planned(world, "dit", tensors, None, "dinov2", statistics="none", heads=6, head_heads=16)
    assert report.problems() == []
    assert len(report.absent_tables) == 4
    assert json.loads(made.extra["dit.json"])["dit"]["head"]["heads"] == 16
