"""The ViT decoder and the codec's normalisation against RAE's modules."""

import pytest
import torch
from torch import nn

from raexla.models.codecs import LatentStatistics, NoiseRecipe, RAECodec
from raexla.models.decoder import DecoderRecipe, ViTDecoder
from raexla.models.decoder.official import DERIVED, official_names, position_table
from raexla.models.encoders import Encoder

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def decoder_of(config: dict, weights: dict, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)) -> ViTDecoder:
    recipe = DecoderRecipe(
        width=config["decoder_hidden_size"],
        depth=config["decoder_num_hidden_layers"],
        heads=config["decoder_num_attention_heads"],
        mlp=config["decoder_intermediate_size"],
        patch_size=config["patch_size"],
        norm_eps=config["layer_norm_eps"],
    )
    decoder = ViTDecoder(recipe, (4, 4), config["hidden_size"], mean, std)
    names = official_names(config["decoder_num_hidden_layers"])
    assert set(weights) == {*names, DERIVED}
    decoder.load_state_dict({ours: weights[theirs] for theirs, ours in names.items()})
    return decoder


def test_decoder(official):
    case = official("rae_decoder_patch16")
    decoder = decoder_of(case.config, case.weights)
    z = case.inputs["z"]
    torch.testing.assert_close(position_table(decoder.grid, 64), case.weights[DERIVED], rtol=0, atol=1e-6)
    case.check("hidden_after_layer_0", decoder.blocks[0](decoder.embed_latent(z)))
    case.check("logits", decoder.patches(z))
    case.check("image", decoder(z))


class _Stub(Encoder):
    """An encoder whose tokens are given; only its pixels are its own."""

    def __init__(self, tokens: torch.Tensor) -> None:
        nn.Module.__init__(self)
        self.given, self.grid, self.channels, self.image_size = tokens, (4, 4), 48, 64

    def train(self, mode: bool = True):
        return self

    def forward(self, image):
        return self.given


@pytest.mark.parametrize("kind", ["uniform", "half_normal"])
def test_latent_normalisation(official, kind):
    case = official("rae_latent_norm")
    decoder = decoder_of(
        case.config["decoder"] | {"hidden_size": 48},
        {key.removeprefix("decoder."): value for key, value in case.weights.items()},
        *IMAGENET,
    )
    statistics = LatentStatistics.from_grid(case.inputs["mean"], case.inputs["var"])
    noise = NoiseRecipe(tau=case.config["noise_tau"], kind=kind)
    codec = RAECodec(_Stub(case.inputs["z_tokens"]), decoder, statistics, noise)

    def planes(tokens):
        return tokens.transpose(1, 2).unflatten(2, (4, 4))

    image, latent = case.inputs["image01"], case.inputs["latent"].flatten(2).transpose(1, 2)
    case.check("normalised", planes(codec.encode(image)))
    # a negative draw is folded by |.| for the half-normal law
    draw = case.inputs["sigma_uniform"] * (-1 if kind == "half_normal" else 1)
    case.check("normalised_noised", planes(codec.encode_noised(image, draw, case.inputs["noise"])))
    case.check("decoder_input_tokens", codec.denormalise(latent))
    case.check("denormalised", planes(codec.denormalise(latent)))
    case.check("decoded_image", codec.decode(latent))
