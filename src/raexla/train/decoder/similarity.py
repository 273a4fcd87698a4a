"""How far a reconstruction is from its original: L1, perceptual distance and Gram loss, of each picture."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from raexla.losses import LPIPS, feature_distances, gram_losses, l1_distances
from raexla.losses.perceptual import VGG_LAYERS
from raexla.models.encoders import Encoder
from raexla.train.decoder.recipe import DecoderLossRecipe, EncoderDistanceRecipe

Layer = TypeVar("Layer", str, int)


class Similarity:
    """The losses that compare two pictures, by LPIPS's network or by blocks of the encoder."""

    def __init__(self, recipe: DecoderLossRecipe, encoder: Encoder, lpips: LPIPS | None) -> None:
        self._recipe, self._encoder, self.lpips = recipe, encoder, lpips
        if lpips is not None:
            lpips.features.check(self._vgg_layers())

    def __call__(self, image: Tensor, fake: Tensor, features: bool = True) -> dict[str, Tensor]:
        """`l1` and, with `features`, `perceptual` and `gram` (where they are asked for), each [B].

        Args:
            image: the originals [B, 3, H, W] in [0, 1]. fake: the reconstructions; gradients flow to them.
        """
        values = {"l1": l1_distances(fake, image)}
        kind = self._recipe.perceptual
        if kind is None or not features:
            return values
        if self.lpips is not None:
            return {**values, **self._vgg(image, fake)}
        assert isinstance(kind, EncoderDistanceRecipe)
        return {**values, **self._blocks(kind.layers, image, fake)}

    def balanced(self, means: dict[str, Tensor]) -> Tensor:
        """w_l1 L1 + w_perceptual perceptual: what lambda balances the adversarial loss against."""
        weights = self._recipe.weights
        plain = weights.l1 * means["l1"]
        return plain + weights.perceptual * means["perceptual"] if "perceptual" in means else plain

    def total(self, means: dict[str, Tensor]) -> Tensor:
        """All of it, the Gram loss included."""
        plain = self.balanced(means)
        return plain + self._recipe.weights.gram * means["gram"] if "gram" in means else plain

    def _vgg_layers(self) -> tuple[str, ...]:
        """The Gram loss's layers."""
        return tuple(str(layer) for layer in self._recipe.gram.layers or VGG_LAYERS)

    def _vgg(self, image: Tensor, fake: Tensor) -> dict[str, Tensor]:
        assert self.lpips is not None
        styled = self._vgg_layers() if self._recipe.weights.gram else ()
        with torch.no_grad():
            reals = self.lpips.features.maps(image, (*VGG_LAYERS, *styled))
        fakes = self.lpips.features.maps(fake, (*VGG_LAYERS, *styled))
        values = {"perceptual": self.lpips.distance(_of(fakes, VGG_LAYERS), _of(reals, VGG_LAYERS))}
        if styled:
            values["gram"] = gram_losses(_of(fakes, styled), _of(reals, styled), self._recipe.gram.normalise)
        return values

    def _blocks(self, layers: tuple[int, ...], image: Tensor, fake: Tensor) -> dict[str, Tensor]:
        styled = tuple(int(layer) for layer in self._recipe.gram.layers or layers) if self._recipe.weights.gram else ()
        wanted = sorted({*layers, *styled})
        with torch.no_grad():
            reals = dict(zip(wanted, self._encoder.features(image, wanted), strict=True))
        fakes = dict(zip(wanted, self._encoder.features(fake, wanted), strict=True))
        values = {"perceptual": feature_distances(_of(fakes, layers), _of(reals, layers))}
        if styled:
            values["gram"] = gram_losses(_of(fakes, styled), _of(reals, styled), self._recipe.gram.normalise)
        return values


def _of(maps: Mapping[Layer, Tensor], layers: Sequence[Layer]) -> list[Tensor]:
    return [maps[layer] for layer in layers]
