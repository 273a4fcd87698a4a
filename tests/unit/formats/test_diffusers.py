"""`AutoencoderRAE`: diffusers itself loads what was written, and draws what our codec draws."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, ViTMAEConfig, ViTMAEModel

from raexla.formats import ExportOptions, ImportOptions, export_artifact, import_released
from raexla.recipe import UserError
from raexla.sampling.codec import open_codec
from raexla.sampling.named_codec import find_codec
from tests import released, tiny

SIDE = 16  # tokens
DECODER = {
    "model_type": "vit_mae", "decoder_hidden_size": 24, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2, "decoder_intermediate_size": 48, "patch_size": 16, "image_size": 16 * SIDE,
}  # fmt: skip


def encoder(kind: str, folder: Path, **changes: Any) -> Path:
    """An encoder 64 wide with one head, everything else as diffusers builds it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, **changes}
    if kind == "dinov2":
        config: Any = Dinov2WithRegistersConfig(patch_size=14, image_size=518, **sizes)
        model: Any = Dinov2WithRegistersModel(config)
    else:
        model = ViTMAEModel(ViTMAEConfig(patch_size=16, image_size=224, **sizes))
    with torch.no_grad():  # the final norm's affine is not used: neither must be sensitive to it
        model.layernorm.weight.mul_(3.0)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def imported(place: Path, kind: str, **changes: Any) -> Path:
    """A decoder's artifact with statistics."""
    path = str(encoder(kind, place / "vit", **changes))
    tokens = SIDE * SIDE
    tables = {"decoder_pos_embed": released.positions(SIDE, 24, cls=True)}
    (place / "released").mkdir()
    torch.save(released.filled(released.decoder(24, 1, 48, 16, 64, tokens), 1, tables), place / "released" / "model.pt")
    (place / "released" / "config.json").write_text(json.dumps(DECODER))
    draw = torch.Generator().manual_seed(2)
    shape = (64, SIDE, SIDE)
    stat = {"mean": torch.randn(shape, generator=draw), "var": 0.1 + torch.rand(shape, generator=draw)}
    torch.save(stat, place / "stat.pt")
    import_released(place / "stat.pt", place / "norms", ImportOptions(encoder=path))
    options = ImportOptions(encoder=path, statistics=str(place / "norms"))
    import_released(place / "released", place / "artifact", options)
    return place / "artifact"


@pytest.mark.parametrize("kind", ["dinov2", "mae"])
def test_diffusers_loads_it_and_does_the_same(kind: str, tmp_path: Path) -> None:
    from diffusers import AutoencoderRAE

    artifact = imported(tmp_path, kind)
    lines = export_artifact(artifact, tmp_path / "out", "diffusers", ExportOptions())
    assert "the same picture through both" in lines[1]
    loaded: Any = AutoencoderRAE.from_pretrained(tmp_path / "out").eval()
    codec: Any = open_codec(find_codec(str(artifact))).codec
    image = torch.rand(2, 3, 16 * SIDE, 16 * SIDE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        latent = codec.encode(image)
        theirs = loaded.encode(image).latent
        drawn = loaded.decode(theirs).sample
        ours = codec.decode(latent)
    torch.testing.assert_close(theirs.flatten(2).transpose(1, 2), latent, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn, ours, rtol=1e-4, atol=1e-4)
    assert "AutoencoderRAE.from_pretrained" in (tmp_path / "out" / "README.md").read_text()


def test_an_encoder_that_diffusers_would_build_otherwise(tmp_path: Path) -> None:
    """Same shapes, another epsilon: no key tells, the numbers do."""
    artifact = imported(tmp_path, "dinov2", layer_norm_eps=0.5)
    with pytest.raises(UserError, match="is not the same function: of one picture its latents differ by"):
        export_artifact(artifact, tmp_path / "out", "diffusers", ExportOptions())
    assert not (tmp_path / "out").exists()
    other = str(encoder("dinov2", tmp_path / "other"))
    with pytest.raises(UserError, match="was made for encoder"):
        export_artifact(artifact, tmp_path / "out", "diffusers", ExportOptions(encoder=other))


def test_encoders_that_it_has_no_arguments_for(tmp_path: Path) -> None:
    artifact = imported(tmp_path, "dinov2", mlp_ratio=2)
    with pytest.raises(UserError, match=r"wrong shape: encoder\.encoder\.layer\.0\.mlp\.fc1\.weight"):
        export_artifact(artifact, tmp_path / "out", "diffusers", ExportOptions())
    siglip = str(tiny.encoder(tmp_path / "siglip"))
    released.save_decoder(tmp_path / "siglip2_decoder")
    import_released(tmp_path / "siglip2_decoder", tmp_path / "decoder", ImportOptions(encoder=siglip))
    with pytest.raises(UserError, match=r"has no encoder heads of 12 channels \(only 64\)"):
        export_artifact(tmp_path / "decoder", tmp_path / "out", "diffusers", ExportOptions())
