"""The decoder's training once more, from the formulas and in the plainest PyTorch: one loop, `torch.optim.AdamW`.

Of the code under test it takes the start weights, the samples' order, the decoder network and the random draws (each of
which has tests of its own); encoder, losses, augmentation, critic, adaptive weight, schedules, optimisers and the order
of the updates are written anew after 001, section 3, 000, section 2, and the released trainer (`train_stage1.py`,
`dinodisc.py`).

Each convention of the step can be broken by name (`BREAKS`), so that a test can show that it would notice.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import SiglipVisionModel

from raexla.runtime import Draws
from tests import stages

STEPS = 9
WEIGHTS = {"l1": 1.0, "perceptual": 0.5, "gram": 200.0, "adversarial": 0.75}
LAYERS, GRAM_LAYERS = (1, 2), (2,)
TAU, SEED, CRITIC_FROM, ADVERSARIAL_FROM = 0.3, 3, 3, 6

BREAKS = {
    "lambda keeps its graph": "the ratio of the gradients is differentiated too",
    "lambda is not clamped": "nothing bounds the ratio",
    "lambda balances Gram too": "it is of the whole similarity, not of L1 + perceptual",
    "lambda of all layers": "norms over all of the decoder, not over its last layer",
    "no Gram": "the Gram loss is left out",
    "average before the step": "the moving average follows the weights from before the update",
    "average of the critic's pace": "the decoder's average moves at critic updates only",
    "the trained weights are shipped": "no moving average",
    "stale fakes": "the critic sees what the decoder drew before its update",
    "critic first": "the critic is updated before the decoder",
    "power iteration for the decoder": "the critic is in training mode when the decoder hears it",
    "critic keeps the decoder's gradients": "nobody clears what the adversarial loss left on the critic",
    "one augmentation": "fakes and originals are augmented by the same draws",
    "rates from the run's start": "the critic's schedule does not begin at its own first step",
}
"""What can be broken, and what it means."""


def recipe(made: dict[str, str], run: str | Path, **changes: Any) -> dict[str, Any]:
    """Everything on: three phases, L1 + perceptual + Gram + adaptive adversarial loss, DiffAugment, noise, EMA, two
    AdamWs with warm-up and cosine to a minimum."""
    values = stages.decoder(made, run)
    features = {"perceptual": {"type": "encoder", "layers": list(LAYERS)}, "gram": {"layers": list(GRAM_LAYERS)}}
    values["losses"] = {"weights": dict(WEIGHTS), **features, "adaptive": True}
    decoder, critic = values["optim"]["decoder"], values["optim"]["critic"]
    values["optim"] = {
        "decoder": {**decoder, "schedule": {"warmup_steps": 3, "min_lr": 0.0005}},
        "critic": {**critic, "schedule": {"warmup_steps": 2, "min_lr": 0.001}},
    }
    return {**values, **changes}


@dataclass
class Reference:
    """What training left behind: scalars of each step, and the weights after the last."""

    scalars: list[dict[str, float]]
    decoder: dict[str, Tensor]
    average: dict[str, Tensor]
    critic: dict[str, Tensor]


class ReferenceCritic:
    """Five-head critic of the released code in functional form; `weights` are trained, `vectors` are u and v."""

    def __init__(self, heads: Any) -> None:
        self.count = len(heads)
        self.weights = {name: p.detach().clone().requires_grad_() for name, p in heads.named_parameters()}
        self.vectors = {name: b.clone() for name, b in heads.named_buffers()}

    def power_iteration(self) -> None:
        for name in {key.rpartition(".")[0] for key in self.vectors}:
            matrix = self.weights[f"{name}.weight"].detach().flatten(1)
            self.vectors[f"{name}.v"] = F.normalize(matrix.T @ self.vectors[f"{name}.u"], dim=0)
            self.vectors[f"{name}.u"] = F.normalize(matrix @ self.vectors[f"{name}.v"], dim=0)

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        sigma = torch.dot(self.vectors[f"{name}.u"], weight.flatten(1) @ self.vectors[f"{name}.v"])
        side = weight.shape[-1] // 2
        x = F.pad(x, (side, side), mode="circular") if side else x
        return F.conv1d(x, weight / sigma, self.weights[f"{name}.bias"])

    def layer(self, name: str, x: Tensor) -> Tensor:
        x = self.conv(f"{name}.conv", x)
        x = F.instance_norm(
            x, weight=self.weights[f"{name}.norm.weight"], bias=self.weights[f"{name}.norm.bias"], eps=1e-6
        )
        return F.leaky_relu(x, 0.2)

    def logits(self, features: list[Tensor]) -> Tensor:
        out = []
        for number, tokens in enumerate([features[-1], *features]):  # the last tap stands first once more
            x = self.layer(f"{number}.enter", tokens.transpose(1, 2))
            x = (self.layer(f"{number}.mix", x) + x) / math.sqrt(2)
            out.append(self.conv(f"{number}.out", x).flatten(1))
        return torch.cat(out, dim=1)


def augmented(image: Tensor, draws: Tensor) -> Tensor:
    """DiffAug on [-1, 1]: a shift by up to an eighth with zeros coming in, brightness, saturation, contrast."""
    out = []
    size = image.shape[-1]
    reach = size // 8
    for picture, (row, column, brightness, saturation, contrast, *_) in zip(image, draws.tolist(), strict=True):
        down, right = (int(d * (2 * reach + 1)) - reach for d in (row, column))
        padded = F.pad(picture, (reach, reach, reach, reach))
        picture = padded[:, reach + down : reach + down + size, reach + right : reach + right + size]
        picture = picture + (brightness - 0.5)
        grey = picture.mean(0, keepdim=True)
        picture = grey + (picture - grey) * 2 * saturation
        picture = picture.mean() + (picture - picture.mean()) * (contrast + 0.5)
        out.append(picture)
    return torch.stack(out)


def gram(features: Tensor) -> Tensor:
    """Channel correlations [B, C, C] of tokens [B, N, C]."""
    return torch.einsum("bni,bnj->bij", features, features) / (features.shape[1] * features.shape[2])


def rate(optimizer: dict[str, Any], step: int, steps: int) -> float:
    """Linear warm-up from peak / warmup, then half a cosine to the minimum, taken in the middle of each step."""
    peak, least, warmup = optimizer["lr"], optimizer["schedule"]["min_lr"], optimizer["schedule"]["warmup_steps"]
    if step < warmup:
        return peak * (step + 1) / warmup
    return least + 0.5 * (peak - least) * (1 + math.cos(math.pi * (step - warmup + 0.5) / (steps - warmup)))


def norm(gradients: Iterable[Tensor]) -> Tensor:
    """Of all of them together."""
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()


class Trainer:
    """Decoder, critic and their optimisers; `decoder_update` and `critic_update` are the two halves of a step."""

    def __init__(self, made: dict[str, str], values: dict[str, Any], task: Any, broken: Collection[str]) -> None:
        assert set(broken) <= set(BREAKS)
        self.broken, self.values = broken, values
        self.decoder, self.critic = copy.deepcopy(task.decoder), ReferenceCritic(task.critic.heads)
        self.average = {name: p.detach().clone() for name, p in self.decoder.named_parameters()}
        self.vision = SiglipVisionModel.from_pretrained(made["encoder"]).eval().requires_grad_(False)
        kinds = values["optim"]
        self.decoder_optim = torch.optim.AdamW(
            self.decoder.parameters(), betas=kinds["decoder"]["betas"], eps=kinds["decoder"]["eps"], weight_decay=0.0
        )
        self.critic_optim = torch.optim.AdamW(
            self.critic.weights.values(), betas=kinds["critic"]["betas"], eps=kinds["critic"]["eps"], weight_decay=0.1
        )
        self.first_critic, self.first_adversarial = values["critic_from_step"], values["adversarial_from_step"]
        self.steps = values["train"]["steps"]

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """The encoder's hidden states of pictures in [0, 1]."""
        return self.vision(pixel_values=(image - 0.5) / 0.5, output_hidden_states=True).hidden_states

    def judged(self, image: Tensor, draws: Tensor) -> Tensor:
        """The critic's logits of augmented pictures in [0, 1]."""
        hidden = self.features((augmented(image * 2 - 1, draws) + 1) / 2)
        return self.critic.logits([hidden[layer] for layer in LAYERS])

    def step(self, step: int, image: Tensor, rows: Tensor) -> dict[str, float]:
        """One step; its scalars."""
        draws = Draws(SEED, step, rows)
        scale = TAU * draws.normal("noise_scale").abs()
        clean = F.layer_norm(self.features(image)[-1], (24,), eps=1e-6)
        latent = clean + scale[:, None, None] * draws.normal("noise", (16, 24))
        with torch.no_grad():
            before = self.decoder(latent)
        halves = [lambda: self.decoder_update(step, image, latent, draws)]
        if step >= self.first_critic:
            halves.append(lambda: self.critic_update(step, image, latent, before, draws))
        found: dict[str, Tensor] = {}
        for half in reversed(halves) if "critic first" in self.broken else halves:
            found |= half()
        return {name: value.item() for name, value in found.items()}

    def decoder_update(self, step: int, image: Tensor, latent: Tensor, draws: Draws) -> dict[str, Tensor]:
        """w1 L1 + w2 perceptual + w3 Gram + w4 lambda adversarial, AdamW, moving average."""
        names, parameters = zip(*self.decoder.named_parameters(), strict=True)
        fake = self.decoder(latent)
        l1 = (fake - image).abs().mean()
        real_features, fake_features = self.features(image), self.features(fake)
        distances = []
        for layer in LAYERS:
            a, b = (h[layer] / (h[layer].norm(dim=-1, keepdim=True) + 1e-6) for h in (fake_features, real_features))
            distances.append((a - b).pow(2).sum(-1).mean())
        perceptual = sum(distances) / len(distances)
        style = sum(
            (gram(fake_features[layer]) - gram(real_features[layer])).pow(2).mean((1, 2)) for layer in GRAM_LAYERS
        ).mean()
        balanced = WEIGHTS["l1"] * l1 + WEIGHTS["perceptual"] * perceptual
        loss = balanced + WEIGHTS["gram"] * style * ("no Gram" not in self.broken)
        found = {"loss/l1": l1, "loss/perceptual": perceptual, "loss/gram": style}
        if step >= self.first_adversarial:
            if "power iteration for the decoder" in self.broken:
                self.critic.power_iteration()
            adversarial = -self.judged(fake, draws.uniform("augment_generator", (7,))).mean()
            adverse = torch.autograd.grad(adversarial, parameters, retain_graph=True)
            found["gradient_norm/adversarial"] = norm(adverse)
            weight = WEIGHTS["adversarial"] * self.adaptive(loss if "lambda balances Gram too" in self.broken else
                                                            balanced, adversarial, parameters)  # fmt: skip
            loss = loss + weight * adversarial
            found |= {"loss/adversarial": adversarial, "adversarial_weight": weight}
        found["loss"] = loss
        self.decoder_optim.param_groups[0]["lr"] = rate(self.values["optim"]["decoder"], step, self.steps)
        self.decoder_optim.zero_grad()
        loss.backward()
        found["gradient_norm/decoder"] = norm(p.grad for p in parameters)
        older = {name: p.detach().clone() for name, p in zip(names, parameters, strict=True)}
        self.decoder_optim.step()
        newer = older if "average before the step" in self.broken else dict(self.decoder.named_parameters())
        if step >= self.first_critic or "average of the critic's pace" not in self.broken:
            for name in names:
                self.average[name] = 0.9 * self.average[name] + 0.1 * newer[name].detach()
        return found

    def adaptive(self, balanced: Tensor, adversarial: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """lambda = |d balanced / d last layer| / (|d adversarial / d last layer| + 1e-6), at most 1e4, a constant."""
        graph = "lambda keeps its graph" in self.broken
        last = list(parameters) if "lambda of all layers" in self.broken else [self.decoder.head.weight]
        norms = [
            norm(torch.autograd.grad(loss, last, retain_graph=True, create_graph=graph))
            for loss in (balanced, adversarial)
        ]
        ratio = norms[0] / (norms[1] + 1e-6)
        bounded = ratio if "lambda is not clamped" in self.broken else ratio.clamp(0, 1e4)
        return bounded if graph else bounded.detach()

    def critic_update(
        self, step: int, image: Tensor, latent: Tensor, before: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """Hinge, on a fresh reconstruction by the updated decoder, in 8 bits."""
        with torch.no_grad():
            fake = (before if "stale fakes" in self.broken else self.decoder(latent)).clamp(0, 1)
            if self.values["losses"].get("quantise_fakes", True):
                fake = (fake * 255).round() / 255
        self.critic.power_iteration()
        fakes = self.judged(fake, draws.uniform("augment_fake", (7,)))
        purpose = "augment_fake" if "one augmentation" in self.broken else "augment_real"
        reals = self.judged(image, draws.uniform(purpose, (7,)))
        loss = 0.5 * (F.relu(1 - reals).mean() + F.relu(1 + fakes).mean())
        start = 0 if "rates from the run's start" in self.broken else self.first_critic
        self.critic_optim.param_groups[0]["lr"] = rate(self.values["optim"]["critic"], step - start, self.steps - start)
        if "critic keeps the decoder's gradients" not in self.broken:
            self.critic_optim.zero_grad()
        loss.backward()
        found = {"critic/loss": loss, "critic/real": reals.mean(), "critic/fake": fakes.mean()}
        found |= {"critic/real_std": reals.std(correction=0), "critic/fake_std": fakes.std(correction=0)}
        found["critic/accuracy"] = 0.5 * ((reals > 0).float().mean() + (fakes < 0).float().mean())
        found["gradient_norm/critic"] = norm(p.grad for p in self.critic.weights.values() if p.grad is not None)
        self.critic_optim.step()
        if "critic keeps the decoder's gradients" in self.broken:
            self.critic_optim.zero_grad()
        return found


def train(
    made: dict[str, str],
    values: dict[str, Any],
    broken: Collection[str] = (),
    prepare: Callable[[Any], None] = lambda task: None,
) -> Reference:
    """The whole run of `values`.

    Args:
        broken: names of `BREAKS`.
        prepare: changes the Task whose weights are started from.
    """
    task: Any = stages.open_stage(values)[0]
    prepare(task)
    trainer, scalars = Trainer(made, values, task, broken), []
    exact = (
        sdpa_kernel(SDPBackend.MATH) if "lambda keeps its graph" in broken else nullcontext()
    )  # twice differentiable
    with task.open_loader(None) as loader, exact:
        for step in range(trainer.steps):
            batch = next(loader).arrays
            image = torch.from_numpy(batch["pixels"]).permute(0, 3, 1, 2).float() / 255
            scalars.append(trainer.step(step, image, torch.from_numpy(batch["rows"])))
    decoder = {name: p.detach() for name, p in trainer.decoder.named_parameters()}
    average = decoder if "the trained weights are shipped" in broken else trainer.average
    critic = {name: p.detach() for name, p in trainer.critic.weights.items()}
    return Reference(scalars, decoder, average, critic)
