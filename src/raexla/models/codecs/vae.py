"""VAE latents through diffusers' `AutoencoderKL` (FLUX, SD), the paper's baseline."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raexla.models.codecs.recipe import VAECodecRecipe
from raexla.models.published import PUBLISHED_VAES
from raexla.recipe import UserError


class VAECodec(nn.Module):
    """Latent [B, N, C p p] = (z - shift) * scale of the VAE's posterior, p x p latent pixels to a token.

    The VAE is frozen. Facts A5: FLUX at 256 px gives 16 x 32 x 32, hence 256 tokens of 64 channels.
    """

    def __init__(self, vae: nn.Module, recipe: VAECodecRecipe) -> None:
        super().__init__()
        config: Any = vae.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        cell = factor * recipe.pack
        if recipe.image_size % cell:
            raise UserError(
                f"image_size {recipe.image_size} is no multiple of {cell} (VAE factor {factor} x pack {recipe.pack})"
            )
        side = recipe.image_size // cell
        self.vae: Any = vae
        self.pack = recipe.pack
        self.shift = float(config.shift_factor or 0.0)
        self.scale = float(config.scaling_factor)
        self.image_size = self.output_size = recipe.image_size
        self.grid = (side, side)
        self.channels = config.latent_channels * recipe.pack**2
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "VAECodec":
        """Stays in eval mode whatever is asked: the VAE is frozen."""
        del mode
        return super().train(False)

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latent [B, N, C p p]; no gradient.

        Args:
            image: [B, 3, H, W] in [0, 1].
            noise: standard normal draws [B, C, h p, w p] to sample the posterior; its mean if not given.
        """
        with torch.no_grad():
            posterior = self.vae.encode(image * 2.0 - 1.0).latent_dist
            z = posterior.mean if noise is None else posterior.mean + posterior.std * noise
            return self._pack((z - self.shift) * self.scale)

    def decode(self, latent: Tensor) -> Tensor:
        """Image [B, 3, H, W] of `latent` [B, N, C p p]; not clamped."""
        return (self.vae.decode(self._unpack(latent) / self.scale + self.shift).sample + 1.0) / 2.0

    def _pack(self, z: Tensor) -> Tensor:
        batch, channels, height, width = z.shape
        p = self.pack
        z = z.reshape(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        return z.reshape(batch, -1, channels * p * p)

    def _unpack(self, latent: Tensor) -> Tensor:
        p, (rows, columns) = self.pack, self.grid
        channels = self.channels // (p * p)
        z = latent.reshape(-1, rows, columns, channels, p, p).permute(0, 3, 1, 4, 2, 5)
        return z.reshape(-1, channels, rows * p, columns * p)


def build_vae(recipe: VAECodecRecipe, *, load: bool = True) -> VAECodec:
    """The codec of a folder or hub name; without `load` its structure only (possible under `torch.device("meta")`), for
    which the hub isn't asked where the configuration is known (`raexla.models.published`).

    Raises:
        UserError: no `AutoencoderKL` there, or its weights can't be read.
    """
    from diffusers import AutoencoderKL  # heavy, and only this codec needs it

    place = {} if recipe.subfolder is None else {"subfolder": recipe.subfolder}
    where = recipe.place
    try:
        known = PUBLISHED_VAES.get(where) if not load and not Path(where).is_dir() else None
        config: Any = AutoencoderKL.load_config(recipe.path, **place) if known is None else dict(known)
        if config.get("_class_name") != "AutoencoderKL":
            raise UserError(f"{where}: holds {config.get('_class_name')}, codec type 'vae' needs AutoencoderKL")
        if not load:
            return VAECodec(AutoencoderKL.from_config(config), recipe)
        return VAECodec(AutoencoderKL.from_pretrained(recipe.path, torch_dtype=torch.float32, **place), recipe)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: no AutoencoderKL can be read there ({str(error).splitlines()[0]})") from error
