"""What `tools/parity.py` does not ask of the decoder and of the losses around it."""

import torch

from raexla.losses import adaptive_weight
from raexla.models.decoder import DecoderRecipe
from raexla.models.decoder.official import DERIVED, position_table, released_layout


def test_official_keys_there_and_back(official):
    case = official("rae_decoder_patch16")
    config = case.config
    recipe = DecoderRecipe(
        width=config["decoder_hidden_size"],
        depth=config["decoder_num_hidden_layers"],
        heads=config["decoder_num_attention_heads"],
        mlp=config["decoder_intermediate_size"],
    )
    layout = released_layout(recipe, (4, 4), config["hidden_size"])
    assert layout.check(case.weights).problems() == []
    back = layout.write(layout.read(case.weights))
    assert back.keys() == case.weights.keys()
    torch.testing.assert_close(position_table((4, 4), 64), case.weights[DERIVED], rtol=0, atol=1e-6)
    assert all(torch.equal(back[key], value) for key, value in case.weights.items() if key != DERIVED)


def test_noise_that_is_half_normal_folds_its_draw(official, tool):
    """A negative draw is |.| under the papers' law, which then is the released law's number."""
    from parity_kinds.case import read_case
    from parity_kinds.decoder import LatentNorm

    from raexla.models.codecs import NoiseRecipe

    case = official("rae_latent_norm")
    path = __file__.replace("parity/test_decoder.py", "fixtures/parity/rae_latent_norm.safetensors")
    runner = LatentNorm(read_case(path, {"rae_latent_norm"}))
    runner.codec.noise = NoiseRecipe(tau=case.config["noise_tau"], kind="half_normal")
    runner.inputs["sigma_uniform"] = -runner.inputs["sigma_uniform"]
    case.check("normalised_noised", runner.output("normalised_noised"))


def test_adaptive_weight_of_a_layer(official):
    inputs = official("rae_adaptive_weight").inputs
    weight = torch.ones(24, 16, requires_grad=True)
    losses = [(weight * inputs[name]).sum() for name in ("grad_recon", "grad_gan")]
    gradients = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses]
    ours = adaptive_weight(*gradients)
    assert not ours.requires_grad
    torch.testing.assert_close(ours, adaptive_weight(inputs["grad_recon"], inputs["grad_gan"]))
