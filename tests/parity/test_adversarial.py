"""The adaptive weight and the GAN losses against RAE's."""

import torch

from raexla.losses import adaptive_weight, critic_loss, generator_loss


def test_adaptive_weight(official):
    case = official("rae_adaptive_weight")
    inputs = case.inputs
    pairs = {
        "lambda_normal": ("grad_recon", "grad_gan"),
        "lambda_tiny_gan": ("grad_recon", "grad_gan_tiny"),
        "lambda_zero_gan": ("grad_recon", "grad_gan_zero"),
        "lambda_small_recon_zero_gan": ("grad_recon_small", "grad_gan_zero"),
    }
    for output, (reconstruction, adversarial) in pairs.items():
        ours = adaptive_weight(inputs[reconstruction], inputs[adversarial])
        case.check(output, ours.reshape(1), factor=1e-6, floor=0.0)
        assert not ours.requires_grad
    capped = adaptive_weight(inputs["grad_recon"], inputs["grad_gan"], limit=10.0)
    case.check("lambda_max10", capped.reshape(1), factor=1e-6, floor=0.0)


def test_adaptive_weight_of_a_layer(official):
    inputs = official("rae_adaptive_weight").inputs
    weight = torch.ones(24, 16, requires_grad=True)
    losses = [(weight * inputs[name]).sum() for name in ("grad_recon", "grad_gan")]
    gradients = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses]
    torch.testing.assert_close(adaptive_weight(*gradients), adaptive_weight(inputs["grad_recon"], inputs["grad_gan"]))


def test_gan_losses(official):
    case = official("rae_adaptive_weight")
    real, fake = case.inputs["logits_real"], case.inputs["logits_fake"]
    case.check("hinge_d", critic_loss(real, fake, "hinge").reshape(1), factor=1e-6, floor=0.0)
    case.check("vanilla_d", critic_loss(real, fake, "vanilla").reshape(1), factor=1e-6, floor=0.0)
    case.check("vanilla_g", generator_loss(fake, "hinge").reshape(1), factor=1e-6, floor=0.0)  # theirs is the hinge's
