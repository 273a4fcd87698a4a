"""The pixel decoder, its two ways of upsampling, and the codec's normalisation around it."""

import re
from collections.abc import Mapping

from torch import Tensor

from parity_kinds.base import Runner, planes, tokens
from parity_kinds.case import Case, Config
from raexla.models.codecs import LatentStatistics, NoiseRecipe, RAECodec
from raexla.models.decoder import DecoderRecipe, ViTDecoder
from raexla.models.decoder.official import released_layout
from raexla.models.encoders import Dinov2Recipe
from raexla.models.encoders.families import Dinov2Encoder
from raexla.recipe import UserError


def square(count: int, what: str) -> tuple[int, int]:
    """(side, side) of so many tokens."""
    side = round(count**0.5)
    if side * side != count:
        raise UserError(f"{what} has {count} tokens, which make no square grid")
    return side, side


def decoder_of(
    config: Config, weights: Mapping[str, Tensor], latent_grid: tuple[int, int], channels: int
) -> ViTDecoder:
    """A decoder from an official config (ViTMAEConfig's fields) and official weights, drawing normalised pixels."""
    config.only("num_channels", 3)
    config.only("hidden_act", "gelu")
    config.agree("hidden_size", channels)
    patch, side = config.need("patch_size"), config.need("image_size")
    if side % patch:
        raise UserError(f"the config has image_size: {side}, which is no multiple of patch_size: {patch}")
    grid = (side // patch, side // patch)
    recipe = DecoderRecipe(
        width=config.need("decoder_hidden_size"),
        depth=config.need("decoder_num_hidden_layers"),
        heads=config.need("decoder_num_attention_heads"),
        mlp=config.need("decoder_intermediate_size"),
        patch_size=patch,
        grid=grid,
        qkv_bias=config.only("qkv_bias", True, False),
        norm_eps=config.get("layer_norm_eps", 1e-12),
    )
    config.agree("num_patches", grid[0] * grid[1])
    decoder = ViTDecoder(recipe, latent_grid, channels, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    layout = released_layout(recipe, latent_grid, channels)
    layout.check(weights).refuse()
    decoder.load_state_dict(layout.read(weights))
    return decoder


class Decoder(Runner):
    """`rae_decoder_patch16`, `rae_upsample_patch32`, `rae_upsample_latent`: any patch, latent grid and drawn grid."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        _, count, channels = case.shape("input/z")
        grid = case.config.get("latent_grid", square(count, "input/z")[0])
        self.latent_grid: tuple[int, int] = (grid, grid) if isinstance(grid, int) else (grid[0], grid[1])
        if self.latent_grid[0] * self.latent_grid[1] != count:
            raise UserError(f"the config has latent_grid: {grid}, but input/z has {count} tokens")
        case.config.note("batch")
        self.decoder = decoder_of(case.config, case.part("weight"), self.latent_grid, channels)
        self.modules = [self.decoder]

    def hidden(self, layer: int) -> Tensor:
        """After block `layer` (0 is the first), CLS token included [B, 1 + M, D]."""

        def make() -> Tensor:
            if layer < 0:
                return self.decoder.embed_latent(self.inputs["z"])
            return self.decoder.blocks[layer](self.hidden(layer - 1))

        return self.once(layer, make)

    def output(self, name: str) -> Tensor | None:
        if name in ("logits", "logits_dummy_cls"):  # a CLS token that is put in front and dropped again changes nothing
            return self.once("logits", lambda: self.decoder.patches(self.inputs["z"]))
        if name == "image":
            image = self.once("image", lambda: self.decoder(self.inputs["z"]))
            return image[: self.case.shape("output/image")[0]]
        found = re.fullmatch(r"hidden_after_layer_(\d+)", name)
        if found and int(found[1]) < len(self.decoder.blocks):
            return self.hidden(int(found[1]))
        return None


class _GivenTokens(Dinov2Encoder):
    """An encoder that prepares its pixels itself, and whose tokens are given."""

    given: Tensor
    seen: Tensor

    def tokens(self, pixels: Tensor) -> Tensor:
        self.seen = pixels
        return self.given


class LatentNorm(Runner):
    """`rae_latent_norm`: RAE's encode and decode around given encoder tokens."""

    def __init__(self, case: Case) -> None:
        from transformers import Dinov2Config, Dinov2Model  # slow to import

        super().__init__(case)
        config = case.config
        _, channels, *grid = case.shape("input/latent")
        self.grid: tuple[int, int] = (grid[0], grid[1])
        image_size = case.shape("input/image01")[-1]
        config.note("image")
        size = config.need("encoder_input_size")
        if size % grid[0] or grid[0] != grid[1]:
            raise UserError(f"the config has encoder_input_size: {size}, which {grid} tokens don't divide")
        recipe = Dinov2Recipe(type="dinov2", path=case.name, input_size=size)
        shape = Dinov2Config(
            hidden_size=channels,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=size,
            patch_size=size // grid[0],
        )
        self.encoder = _GivenTokens(Dinov2Model(shape), recipe, image_size)
        self.encoder.mean = tuple(config.need("encoder_mean"))
        self.encoder.std = tuple(config.need("encoder_std"))
        weights = {key.removeprefix("decoder."): value for key, value in case.part("weight").items()}
        sizes = config.inside("decoder")
        decoder = decoder_of(sizes, weights, self.grid, channels)
        decoder.mean, decoder.std = self.encoder.mean, self.encoder.std
        statistics = LatentStatistics.from_grid(self.inputs["mean"], self.inputs["var"])
        statistics.eps = config.get("eps", LatentStatistics.eps)
        noise = NoiseRecipe(tau=config.need("noise_tau"), kind="uniform")
        self.codec = RAECodec(self.encoder, decoder, statistics, noise)
        self.modules = [self.codec]

    def encoded(self) -> Tensor:
        """Normalised latent [B, N, C] of the image."""
        self.encoder.given = self.inputs["z_tokens"]
        return self.once("normalised", lambda: self.codec.encode(self.inputs["image01"]))

    def output(self, name: str) -> Tensor | None:
        inputs = self.inputs
        if name == "normalised":
            return planes(self.encoded(), self.grid)
        if name == "encoder_pixels":
            self.encoded()
            return self.encoder.seen
        if name == "unnormalised_2d":
            self.encoded()
            return planes(self.encoder(inputs["image01"]), self.grid)
        if name == "normalised_noised":
            self.encoded()
            noised = self.codec.encode_noised(inputs["image01"], inputs["sigma_uniform"], inputs["noise"])
            return planes(noised, self.grid)
        if name in ("denormalised", "decoder_input_tokens"):
            ours = self.codec.denormalise(tokens(inputs["latent"]))
            return planes(ours, self.grid) if name == "denormalised" else ours
        if name == "decoded_image":
            return self.codec.decode(tokens(inputs["latent"]))
        return None
