"""The contract that every codec keeps, on all of them; the same on XLA, without falling back to the CPU."""

import numpy as np
import pytest
import torch

from raexla.models.codecs import Codec
from tests.unit.models.codecs.makers import KINDS, ON_XLA, build
from tests.unit.models.codecs.on_xla import codecs_on_xla, decoder_gradient, image_for

EXPECTED = {  # grid, channels, in, out
    "rae": ((4, 4), 32, 28, 28),
    "rae_doubled": ((4, 4), 32, 28, 56),
    "rae_resized": ((4, 4), 32, 28, 35),
    "vae_flux": ((8, 8), 16, 32, 32),
    "vae_sd": ((8, 8), 16, 32, 32),
    "aligntok": ((4, 4), 8, 16, 16),
    "pixels": ((4, 4), 192, 32, 32),
}


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codecs")
    return {kind: build(kind, folder / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_ranges_and_gradients(codecs, kind):
    codec = codecs[kind]
    assert isinstance(codec, Codec)
    assert (codec.grid, codec.channels, codec.image_size, codec.output_size) == EXPECTED[kind]
    image = image_for(codec)
    latent = codec.encode(image)
    assert latent.shape == (2, codec.grid[0] * codec.grid[1], codec.channels)
    assert not latent.requires_grad
    assert torch.equal(latent, codec.encode(image))  # no randomness unless draws are given
    torch.testing.assert_close(codec.encode(image[1:]), latent[1:], rtol=1e-4, atol=1e-5)  # rows don't see each other
    wanted = latent.clone().requires_grad_()
    picture = codec.decode(wanted)
    assert picture.shape == (2, 3, codec.output_size, codec.output_size)
    slope = torch.autograd.grad(picture.sum(), wanted)[0]
    assert slope.abs().amax(dim=(1, 2)).min() > 0
    trained = {name.split(".")[0] for name, value in codec.named_parameters() if value.requires_grad}
    assert trained == {"rae": {"decoder"}, "aligntok": {"adapter", "decoder"}}.get(kind.split("_")[0], set())
    codec.train()
    assert torch.equal(latent, codec.encode(image))  # what is frozen stays in eval mode


def test_what_is_exact_comes_back(codecs):
    image = image_for(codecs["pixels"])
    torch.testing.assert_close(codecs["pixels"].decode(codecs["pixels"].encode(image)), image)


@pytest.mark.parametrize("kind", ["rae", "aligntok"])
def test_statistics_are_taken_off_and_put_back(codecs, kind):
    codec = codecs[kind]
    image = image_for(codec)
    raw = codec.encoder(image) if kind == "rae" else codec.code(image)
    latent = codec.encode(image)
    assert (latent - raw).abs().max() > 0.1
    torch.testing.assert_close(codec.denormalise(latent), raw, rtol=1e-4, atol=1e-4)
    expected = (raw[0] - codec.statistics.mean) / torch.sqrt(codec.statistics.var + 1e-5)
    torch.testing.assert_close(latent[0], expected, rtol=1e-4, atol=1e-4)


def test_xla_gives_the_same_without_falling_back(codecs, in_process, tmp_path):
    found = in_process(codecs_on_xla, str(tmp_path))
    assert found["fallbacks"] == {}
    for kind in ON_XLA:
        codec = codecs[kind]
        latent = codec.encode(image_for(codec))
        with torch.no_grad():
            expected = (latent, codec.decode(latent))
        for ours, wanted in zip(found[kind], expected, strict=True):
            scale = float(wanted.abs().max())
            np.testing.assert_allclose(np.array(ours), wanted.numpy(), atol=2e-5 * max(1.0, scale), err_msg=kind)
        assert found[f"{kind} again"] == 0, kind
    gradient = decoder_gradient(codecs["aligntok"], image_for(codecs["aligntok"]))
    np.testing.assert_allclose(np.array(found["gradient"]), gradient.numpy(), atol=2e-4 * float(gradient.abs().max()))
