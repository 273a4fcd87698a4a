"""What the critic looks at: frozen patch features, from DINO or from the codec's own encoder."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raexla.models.critic.recipe import DinoFeaturesRecipe
from raexla.models.encoders import Encoder
from raexla.nn.resize import Resize
from raexla.nn.weights import read_tensors, weights_file
from raexla.recipe import UserError

DINO_SIZES: dict[str, tuple[int, int, int, int]] = {
    "S_16": (384, 12, 6, 16),
    "S_8": (384, 12, 6, 8),
    "B_16": (768, 12, 12, 16),
}  # width, depth, heads, patch (facts C)
DINO_INPUT = 224
DINO_BLOCKS = (3, 6, 9, 12)
"""The tapped ones, counted from 1 (facts C)."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeatureNetwork(Protocol):
    """Frozen features of an image."""

    channels: int
    """C of every tap."""
    taps: int
    """Number of tensors that a call returns."""

    def __call__(self, image: Tensor) -> list[Tensor]:
        """`image` [B, 3, H, W] in [-1, 1] -> `taps` tensors [B, N, C]."""
        ...


class EncoderFeatures:
    """Blocks of a frozen encoder that belongs to someone else (its parameters are not registered here)."""

    def __init__(self, encoder: Encoder, layers: Sequence[int]) -> None:
        self.encoder = encoder
        self.layers = (layers[-1], *layers)
        self.channels = encoder.channels
        self.taps = len(self.layers)

    def __call__(self, image: Tensor) -> list[Tensor]:
        """See `FeatureNetwork`."""
        return self.encoder.features((image + 1.0) / 2.0, self.layers)


class DinoFeatures(nn.Module):
    """Patch tokens after some blocks of a frozen DINO ViT (timm's `VisionTransformer`), without a final norm.

    The images are resized to 224 px bilinearly and normalised here. The first tap is the last block's once more, as in
    the released critic, where the first and the last head see the same tensor. GELU is the tanh form, as released.

    Args:
        width, depth, heads, patch: the ViT's sizes.
        blocks: numbers of the tapped blocks, counted from 1, in order; the official key depths plus one.
        image_size: side of the images that come in.
        input_size: side that the network sees. mlp_ratio: width of its MLPs over its own.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        blocks: Sequence[int],
        image_size: int,
        *,
        input_size: int = DINO_INPUT,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer  # slow to import

        self.vit: Any = VisionTransformer(
            img_size=input_size,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            num_classes=0,
            act_layer=partial(nn.GELU, approximate="tanh"),
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        self.blocks = (depth, *blocks)
        self.channels, self.taps = width, len(self.blocks)
        self.resize = Resize((image_size, image_size), (input_size, input_size), "bilinear", antialias=False)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "DinoFeatures":
        """Stays in eval mode whatever is asked: the features are frozen."""
        del mode
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """See `FeatureNetwork`."""
        planes = zip(self.resize(image).unbind(1), _MEAN, _STD, strict=True)
        pixels = torch.stack([((plane + 1.0) / 2.0 - mean) / std for plane, mean, std in planes], dim=1)
        hidden = self.vit._pos_embed(self.vit.patch_embed(pixels))
        outputs: dict[int, Tensor] = {}
        for number, block in enumerate(self.vit.blocks, start=1):
            hidden = outputs[number] = block(hidden)
        return [outputs[number][:, 1:] for number in self.blocks]


def build_dino(recipe: DinoFeaturesRecipe, image_size: int) -> DinoFeatures:
    """The structure (possible under `torch.device("meta")`)."""
    width, depth, heads, patch = DINO_SIZES[recipe.size]
    return DinoFeatures(width, depth, heads, patch, DINO_BLOCKS, image_size)


def load_dino(recipe: DinoFeaturesRecipe, image_size: int) -> DinoFeatures:
    """DINO with its weights.

    Raises:
        UserError: no such file, or it isn't this ViT; missing, unexpected and mis-shaped keys are named.
    """
    features = build_dino(recipe, image_size)
    state = read_tensors(weights_file(recipe.path), f"the weights of DINO ViT-{recipe.size}")
    load_dino_state(features, state, recipe.path)
    return features


def load_dino_state(features: DinoFeatures, state: dict[str, Tensor], name: str) -> None:
    """Load DINO's own keys (`cls_token`, `blocks.0.attn.qkv.weight`, ...); a head and pixel scales are left out.

    Raises:
        UserError: a key is missing, unexpected or mis-shaped.
    """
    state = {key: value for key, value in state.items() if not key.startswith(("head.", "x_scale", "x_shift"))}
    wanted = features.vit.state_dict()
    problems = [f"{key} is missing" for key in wanted if key not in state]
    problems += [f"{key} is unexpected" for key in state if key not in wanted]
    problems += [
        f"{key} has shape {list(state[key].shape)}, not {list(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise UserError(f"{name}: not the weights of this DINO ViT: {shown}")
    features.vit.load_state_dict(state)
