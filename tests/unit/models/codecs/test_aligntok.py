"""AlignTok's codec: the paper's sizes, the decoder against diffusers' own, what learns in which stage."""

import re

import pytest
import torch
from diffusers.models.autoencoders.vae import Decoder

from raexla.models.codecs import AlignTokCodec, AlignTokCodecRecipe, ConvDecoder, ConvDecoderRecipe, build_codec
from raexla.models.codecs.aligntok import Adapter, init_weights, sharding_table
from raexla.models.codecs.convolutional import init_like_pytorch
from raexla.models.encoders import Dinov2Recipe
from raexla.recipe import UserError
from raexla.runtime.sharding import resolve
from tests.unit.models.codecs.makers import CONVOLUTIONAL, build, save_dino

_NAMES = (  # diffusers' names -> ours
    (r"^mid_block\.resnets\.0\.", "mid.block_1."),
    (r"^mid_block\.resnets\.1\.", "mid.block_2."),
    (r"^mid_block\.attentions\.0\.", "mid.attn_1."),
    (r"^up_blocks\.(\d+)\.resnets\.(\d+)\.", r"up.\1.block.\2."),
    (r"^up_blocks\.(\d+)\.attentions\.(\d+)\.", r"up.\1.attn.\2."),
    (r"^up_blocks\.(\d+)\.upsamplers\.0\.", r"up.\1.upsample."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"^conv_norm_out\.", "norm_out."),
)


def renamed(state, levels):
    """diffusers' state dict under latent-diffusion's names, its linears as 1 x 1 convolutions."""
    out = {}
    for name, value in state.items():
        for pattern, ours in _NAMES:
            name = re.sub(pattern, ours, name)
        name = re.sub(r"^up\.(\d+)\.", lambda found: f"up.{levels - 1 - int(found[1])}.", name)
        linear = re.search(r"\.(q|k|v|proj_out)\.weight$", name)
        out[name] = value[:, :, None, None] if linear else value
    return out


@pytest.mark.parametrize("blocks", [1, 2])
def test_decoder_equals_diffusers(blocks):
    torch.manual_seed(0)
    theirs = Decoder(
        in_channels=6,
        out_channels=3,
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16, 16),
        layers_per_block=blocks,
        norm_num_groups=4,
    ).eval()
    for parameter in theirs.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    recipe = ConvDecoderRecipe(width=8, multipliers=(1, 2, 2), blocks=blocks, attention_levels=(2,), groups=4)
    ours = ConvDecoder(recipe, 6)
    ours.load_state_dict(renamed(theirs.state_dict(), 3))
    z = torch.randn(2, 6, 4, 4)
    expected = theirs(z)
    limit = 1e-4 * float(expected.detach().square().mean().sqrt()) + 1e-6
    assert float((ours(z) - expected).detach().abs().max()) < limit
    without = ConvDecoder(recipe.model_copy(update={"attention_levels": ()}), 6)
    without.load_state_dict({k: v for k, v in ours.state_dict().items() if ".attn." not in k})
    assert float((without(z) - expected).detach().abs().max()) > 100 * limit  # the test sees attention left out


def test_sizes_of_the_paper():
    recipe = ConvDecoderRecipe()
    with torch.device("meta"):
        decoder, adapter = ConvDecoder(recipe, 32), Adapter(1024, 1024, 32)
        latent = torch.empty(1, 32, 16, 16)
    count = sum(parameter.numel() for parameter in decoder.parameters())
    assert count == 41_417_603  # 003, appendix A: about 42M
    assert recipe.factor == 16
    assert decoder(latent).shape == (1, 3, 256, 256)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 1_082_400
    assert adapter(torch.empty(1, 256, 1024, device="meta")).shape == (1, 256, 32)


def test_stages_train_what_the_paper_says(tmp_path):
    codec = build("aligntok", tmp_path)
    assert isinstance(codec, AlignTokCodec)
    image = torch.rand(2, 3, 16, 16)

    def learning():
        for parameter in codec.parameters():
            parameter.grad = None
        codec.decode(codec.normalise(codec.code(image))).square().mean().backward()
        return {
            name for name, value in codec.named_parameters() if value.grad is not None and value.grad.abs().max() > 0
        }

    first = learning()  # stage 1: adapter and decoder
    assert first == {name for name, _ in codec.named_parameters() if not name.startswith("encoder.")}
    codec.tune_encoder(True)  # stage 2: all of it
    idle = {name for name, _ in codec.named_parameters()} - learning()
    # the CLS token's own output is dropped but it is attended to; keys' biases shift all scores alike
    unused = ("mask_token", "layernorm.weight", "layernorm.bias", "k_proj.bias", "attention.key.bias")
    assert {name for name in idle if not name.endswith(unused)} == set()
    codec.tune_encoder(False)  # stage 3 updates the decoder only; the latent is left as it is
    latent = codec.encode(image)
    codec.decode(latent).square().mean().backward()
    assert not latent.requires_grad
    assert learning() == first


def test_code_is_the_adapter_of_the_encoder(tmp_path):
    codec = build("aligntok", tmp_path)
    image = torch.rand(1, 3, 16, 16)
    tokens = codec.encoder(image)
    first, second = codec.adapter.fc1, codec.adapter.fc2
    hidden = torch.nn.functional.gelu(tokens @ first.weight.T + first.bias)
    torch.testing.assert_close(codec.code(image), hidden @ second.weight.T + second.bias, rtol=1e-4, atol=1e-5)
    token = codec.code(image)[0, 6]  # row 1, column 2 of 4 x 4
    latent = torch.zeros(1, 16, 8)
    latent[0, 6] = token
    grid = torch.zeros(1, 8, 4, 4)
    grid[0, :, 1, 2] = token
    expected = (codec.decoder(grid) + 1) / 2
    torch.testing.assert_close(codec.decode(codec.normalise(latent)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("attention", [(), (2,), (0, 2)])
def test_sharding_table_names_every_parameter(tmp_path, attention):
    recipe = AlignTokCodecRecipe(
        type="aligntok",
        encoder=Dinov2Recipe(type="dinov2", path=save_dino(tmp_path)),
        decoder=CONVOLUTIONAL.model_copy(update={"attention_levels": attention}),
    )
    codec = build_codec(recipe, load=False)
    resolve(sharding_table(codec), {name: tuple(value.shape) for name, value in codec.named_parameters()})


def test_initialisation_is_pytorchs_and_seeded(tmp_path):
    codec = build("aligntok", tmp_path)
    encoder = {name: value.clone() for name, value in codec.encoder.state_dict().items()}
    init_weights(codec, torch.Generator().manual_seed(3))
    first = codec.decoder.conv_in.weight.detach().clone()
    bound = 1 / (8 * 9) ** 0.5
    assert 0.9 * bound < float(first.abs().max()) <= bound
    torch.manual_seed(99)
    init_weights(codec, torch.Generator().manual_seed(3))
    assert torch.equal(first, codec.decoder.conv_in.weight)
    assert all(torch.equal(value, codec.encoder.state_dict()[name]) for name, value in encoder.items())
    assert float(codec.decoder.norm_out.weight.min()) == 1.0
    reference = torch.nn.Conv2d(8, 16, 3)  # the law of PyTorch's own start, by its spread
    ours = torch.nn.Conv2d(8, 16, 3)
    init_like_pytorch(ours, torch.Generator().manual_seed(0))
    assert float(ours.weight.std()) == pytest.approx(float(reference.weight.std()), rel=0.1)


def test_parts_that_do_not_fit_are_refused(tmp_path):
    codec = build("aligntok", tmp_path)
    with pytest.raises(UserError, match=r"the adapter leads from 24 to 8 channels, .* the decoder takes 4"):
        AlignTokCodec(codec.encoder, codec.adapter, ConvDecoder(CONVOLUTIONAL, 4))
    with pytest.raises(ValueError, match="32 groups don't divide a level of 24 x 1 channels"):
        ConvDecoderRecipe(width=24)
    with pytest.raises(ValueError, match="attention_levels has 5, the levels are numbered 0 to 4"):
        ConvDecoderRecipe(attention_levels=(5,))
