"""DINO's weights as they are published: timm's hub folders and DINO's own .pth files, against timm's own network."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.models.critic import DinoFeaturesRecipe, build_dino, load_dino
from raexla.models.critic.features import DINO_SIZES

TIMM = {"S_16": "vit_small_patch16_224.dino", "S_8": "vit_small_patch8_224.dino", "B_16": "vit_base_patch16_224.dino"}


@pytest.mark.parametrize("size", sorted(TIMM))
def test_timms_dino_has_the_same_keys_and_shapes(size: str) -> None:
    with torch.device("meta"):
        theirs: Any = timm.create_model(TIMM[size], pretrained=False)
        ours = build_dino(DinoFeaturesRecipe.model_validate({"type": "dino", "size": size, "path": "x"}), 256)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.vit.state_dict().items()} == shapes
    assert ours.taps == 5


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Any:
    """timm's ViT-S/16 made narrow, with random weights and the tanh GELU of the released critic."""
    monkeypatch.setitem(DINO_SIZES, "S_16", (32, 12, 2, 16))
    gelu = partial(nn.GELU, approximate="tanh")
    model: Any = timm.create_model(TIMM["S_16"], pretrained=False, embed_dim=32, num_heads=2, act_layer=gelu)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15 + (parameter.dim() == 1) * 0.5)
    return model.eval()


def saved(network: Any, kind: str, folder: Path) -> str:
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    if kind == "timm folder":
        save_file(state, folder / "model.safetensors")
        return str(folder)
    torch.save(state, folder / "dino_deitsmall16_pretrain.pth")
    return str(folder / "dino_deitsmall16_pretrain.pth")


@pytest.mark.parametrize("kind", ["timm folder", "DINO's own file"])
@torch.no_grad()
def test_features_are_timms_blocks(network: Any, kind: str, tmp_path: Path) -> None:
    recipe = DinoFeaturesRecipe(type="dino", size="S_16", path=saved(network, kind, tmp_path))
    features = load_dino(recipe, 64)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    large = F.interpolate(image, (224, 224), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    after: list[Tensor] = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, given, result: after.append(result[:, 1:]))
    network.forward_features(((large + 1) / 2 - mean) / std)
    assert len(after) == 12
    for tap, number in zip(features(image), (12, 3, 6, 9, 12), strict=True):
        torch.testing.assert_close(tap, after[number - 1], rtol=1e-4, atol=1e-4)
