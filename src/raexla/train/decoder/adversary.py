"""The critic's side of decoder training: what it says to the decoder, and what it learns from."""

import torch
from torch import Tensor

from raexla.losses import critic_loss, generator_loss
from raexla.models.critic import AUGMENT_DRAWS, Critic
from raexla.runtime import Draws
from raexla.train.decoder.recipe import DecoderLossRecipe


class Adversary:
    """A critic and its loss."""

    def __init__(self, critic: Critic, losses: DecoderLossRecipe) -> None:
        self.critic, self._losses = critic, losses
        self._batch_norm = critic.recipe.norm == "batch"

    def of_decoder(self, fake: Tensor, draws: Draws) -> Tensor:
        """The decoder's adversarial loss of reconstructions [B, 3, H, W]; a scalar. The critic is in eval mode: no
        power iteration, as released."""
        self.critic.eval()
        logits = self.critic(fake, draws.uniform("augment_generator", (AUGMENT_DRAWS,)))
        return generator_loss(logits, self._losses.adversarial)

    def of_critic(self, image: Tensor, fake: Tensor, draws: Draws, iterate: bool, update: int = 0) -> dict[str, Tensor]:
        """The critic's `loss`, and what shows whether it collapses or wins; scalars.

        `accuracy`: half the share of real logits above 0 plus half that of fake ones below. `real`, `fake`: mean
        logits; `real_square`, `fake_square`: mean squared ones.

        Args:
            image, fake: originals and reconstructions [B, 3, H, W]; no gradient flows to them.
            iterate: take one power iteration (once a step, whatever the number of micro-batches).
            update: which of the step's updates this is.
        """
        fake = fake.clamp(0, 1)
        if self._losses.quantise_fakes:
            fake = torch.round(fake * 255.0) / 255.0
        more = f"_{update}" if update else ""
        self.critic.train(iterate or self._batch_norm)
        fakes = self.critic(fake, draws.uniform(f"augment_fake{more}", (AUGMENT_DRAWS,)))
        self.critic.train(self._batch_norm)
        reals = self.critic(image, draws.uniform(f"augment_real{more}", (AUGMENT_DRAWS,)))
        return {
            "loss": critic_loss(reals, fakes, self._losses.adversarial),
            "accuracy": 0.5 * ((reals > 0).float().mean() + (fakes < 0).float().mean()),
            "real": reals.mean(),
            "fake": fakes.mean(),
            "real_square": reals.detach().square().mean(),
            "fake_square": fakes.detach().square().mean(),
        }


def with_spread(scalars: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums over the whole batch -> metrics: the mean squares become standard deviations."""
    out = {f"critic/{name}": value for name, value in scalars.items() if not name.endswith("_square")}
    for name in ("real", "fake"):
        variance = scalars[f"{name}_square"] - scalars[name].square()
        out[f"critic/{name}_std"] = variance.clamp(min=0.0).sqrt()
    return out
