"""The compute of the papers' tables: what they print, by which convention, and what raexla counts in full.

`python -m tests.unit.models.published` prints the tables of docs/models.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Dinov2WithRegistersConfig

from raexla.models.decoder import DecoderRecipe
from raexla.models.dit import DiTRecipe
from raexla.models.encoders import Dinov2Recipe, Encoder, build_encoder
from raexla.models.flops import Work, decoder_work, dit_work, encoder_work, vae_work

GRID, CHANNELS = (16, 16), 768  # DINOv2-B: 224 px in, 16 x 16 tokens
TWICE = (32, 32)
CLASS = {"type": "class", "num_classes": 1000}


def dinov2_base(side: int, image_size: int) -> Encoder:
    """DINOv2-B with registers on `meta`, seeing images of `image_size` at `side` pixels."""
    config = Dinov2WithRegistersConfig(image_size=518, patch_size=14, num_register_tokens=4)
    recipe = Dinov2Recipe(type="dinov2", path="dinov2-with-registers-base", input_size=side)
    with torch.device("meta"):
        return build_encoder(recipe, image_size=image_size, config=config)


def dit_dh_xl() -> DiTRecipe:
    """DiT-DH-XL: XL backbone, 2 x 2048 head."""
    return DiTRecipe.model_validate({"size": "XL", "conditioning": CLASS, "head": {"wiring": "rae"}})


def dit_xl() -> DiTRecipe:
    """DiT-XL on SD-VAE latents, patch 2."""
    return DiTRecipe.model_validate({"size": "XL", "conditioning": CLASS, "patch_size": 2})


def autoencoder(side: int, image: int, grid: tuple[int, int], patch: int) -> Work:
    """DINOv2-B and the XL decoder."""
    encoding = encoder_work(dinov2_base(side, image))
    decoding = decoder_work(DecoderRecipe(size="XL", patch_size=patch), grid, CHANNELS)
    return Work(
        {f"encoder.{part}": n for part, n in encoding.items()} | {f"decoder.{part}": n for part, n in decoding.items()}
    )


def sd_vae(image: int) -> Work:
    """Stable Diffusion's VAE; the papers count it without the two 1 x 1 convolutions around the latent."""
    return vae_work((128, 256, 512, 512), 2, 4, image, quantised=False)


def head_only(width: int, depth: int) -> Work:
    """The blocks of a head and its embedding, as Table 15 counts heads."""
    head = {"wiring": "rae", "width": width, "depth": depth, "heads": 16}
    recipe = DiTRecipe.model_validate({"size": "XL", "conditioning": CLASS, "head": head})
    return dit_work(recipe, GRID, CHANNELS).under("head.")


@dataclass(frozen=True)
class Row:
    """A number of paper 001, in billions of multiply-adds, and what reproduces it."""

    table: str
    name: str
    published: float
    work: Work
    left_out: tuple[str, ...]
    """Parts that the table does not count."""

    @property
    def by_convention(self) -> float:
        return self.work.without(*self.left_out).total / 1e9

    @property
    def full(self) -> float:
        return self.work.total / 1e9

    def markdown(self) -> str:
        parts = {part: self.work[part] - self.work.without(*self.left_out).get(part, 0) for part in self.work}
        difference = ", ".join(f"{part} {n / 1e9:.2f}" for part, n in parts.items() if n >= 5e6)
        off = 100 * (self.by_convention / self.published - 1)
        figures = f"{self.published:.2f} | {self.by_convention:.2f} ({off:+.1f}%) | {self.full:.2f}"
        return f"| {self.table} | {self.name} | {figures} | {difference or 'nothing'} |"


ATTENTION = ("attention", "resize", "positions")
MODULATION = ("head.modulation", "final.modulation")


def rows() -> Iterator[Row]:
    """Every row of Tables 1, 15 and 18 whose network is built here."""
    for size, published in (("B", 22.2), ("L", 78.1), ("XL", 106.7)):
        work = decoder_work(DecoderRecipe.model_validate({"size": size}), GRID, CHANNELS)
        yield Row("1", f"decoder ViT-{size}, 256 px", published, work, ATTENTION)
    yield Row("1", "SD-VAE, its decoder, 256 px", 310.4, sd_vae(256).under("decoder."), ATTENTION)
    for depth, width, published in ((6, 1152, 25.65), (4, 2048, 53.14), (2, 2048, 26.78)):
        yield Row("15", f"head, {depth} x {width}", published, head_only(width, depth), ("projector", "modulation"))
    for name, published, work in (
        ("SD-VAE, 256 px", 445.87, sd_vae(256)),
        ("SD-VAE, 512 px", 1783.49, sd_vae(512)),
        ("DINOv2-B and decoder XL, 256 px", 129.02, autoencoder(224, 256, GRID, 16)),
        ("DINOv2-B and decoder XL, 512 px", 513.57, autoencoder(448, 512, TWICE, 16)),
        ("the same, 256 px drawn at 512 (patch 32)", 129.70, autoencoder(224, 256, GRID, 32)),
    ):
        yield Row("18", name, published, work, ATTENTION)
    for name, published, recipe, grid, channels, left_out in (
        ("DiT-XL on SD-VAE, patch 2, 256 px", 118.64, dit_xl(), (32, 32), 4, ()),
        ("DiT-XL on SD-VAE, patch 2, 512 px", 524.60, dit_xl(), (64, 64), 4, ()),
        ("DiT-DH-XL, 256 px", 145.03, dit_dh_xl(), GRID, CHANNELS, MODULATION),
        ("DiT-DH-XL, 512 px", 638.83, dit_dh_xl(), TWICE, CHANNELS, MODULATION),
    ):
        yield Row("18", name, published, dit_work(recipe, grid, channels), left_out)


def flops_table() -> list[str]:
    """The lines of the table in docs/models.md."""
    return [row.markdown() for row in rows()]


def main() -> None:
    """Print the tables."""
    print("\n".join(flops_table()))


def count(module: Any) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    main()
