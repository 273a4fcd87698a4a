"""From a codec recipe to a codec."""

from raexla.models.codecs.aligntok import Adapter, AlignTokCodec
from raexla.models.codecs.convolutional import ConvDecoder
from raexla.models.codecs.pixels import PixelsCodec
from raexla.models.codecs.rae import RAECodec
from raexla.models.codecs.recipe import AlignTokCodecRecipe, CodecRecipe, NoiseRecipe, RAECodecRecipe
from raexla.models.codecs.statistics import LatentStatistics
from raexla.models.codecs.vae import VAECodec, build_vae
from raexla.models.decoder import ViTDecoder
from raexla.models.encoders import build_encoder, load_encoder, read_encoder_config
from raexla.recipe import UserError


def build_codec(
    recipe: CodecRecipe,
    *,
    load: bool = True,
    statistics: LatentStatistics | None = None,
    noise: NoiseRecipe | None = None,
) -> RAECodec | VAECodec | AlignTokCodec | PixelsCodec:
    """The codec of a recipe.

    Args:
        recipe: the codec's recipe. Its artifact references (`weights`, `statistics`) are not followed here: whoever
            reads artifacts loads the decoder's weights into `.decoder` and passes `statistics`.
        load: read the pretrained encoder or VAE; without it the structure only (possible under `meta`).
        statistics: latent statistics (rae and aligntok only).
        noise: the law of decoder-training noise (rae only).

    Raises:
        UserError: parts that don't fit each other.
    """
    if recipe.type == "pixels":
        return PixelsCodec(recipe)
    if recipe.type == "vae":
        return build_vae(recipe, load=load)
    if recipe.type == "aligntok":
        return _build_aligntok(recipe, load, statistics)
    return _build_rae(recipe, load, statistics, noise)


def _build_rae(
    recipe: RAECodecRecipe, load: bool, statistics: LatentStatistics | None, noise: NoiseRecipe | None
) -> RAECodec:
    config = read_encoder_config(recipe.encoder)
    input_size = recipe.encoder.input_size or config.image_size
    side = input_size // config.patch_size
    decoded = None if recipe.decoder is None else (recipe.decoder.grid or (side, side))
    drawn = None if recipe.decoder is None or decoded is None else decoded[0] * recipe.decoder.patch_size
    image_size = recipe.image_size or drawn or input_size
    if drawn is not None and drawn < image_size:
        raise UserError(
            f"codec.image_size is {image_size}, but the decoder draws {drawn} pixels "
            f"({decoded} tokens x patch {recipe.decoder.patch_size if recipe.decoder else 0}): leave image_size out"
        )
    encoder = load_encoder(recipe.encoder, image_size) if load else build_encoder(recipe.encoder, image_size, config)
    decoder = None
    if recipe.decoder is not None:
        decoder = ViTDecoder(recipe.decoder, encoder.grid, encoder.channels, encoder.mean, encoder.std)
    return RAECodec(encoder, decoder, statistics, noise)


def _build_aligntok(recipe: AlignTokCodecRecipe, load: bool, statistics: LatentStatistics | None) -> AlignTokCodec:
    config = read_encoder_config(recipe.encoder)
    side = (recipe.encoder.input_size or config.image_size) // config.patch_size
    drawn = side * recipe.decoder.factor
    encoder = load_encoder(recipe.encoder, drawn) if load else build_encoder(recipe.encoder, drawn, config)
    adapter = Adapter(encoder.channels, recipe.hidden or encoder.channels, recipe.channels)
    return AlignTokCodec(encoder, adapter, ConvDecoder(recipe.decoder, recipe.channels), statistics)
