"""The decoder's training once more, from the formulas and in the plainest PyTorch: one loop, `torch.optim.AdamW`.

Of the code under test it takes the start weights, the samples' order, the decoder network and the random draws (each of
which has tests of its own); encoder, losses, augmentation, critic, adaptive weight, schedule, optimisers and the order
of the updates are written anew after 001, section 3, and the released trainer (`train_stage1.py`, `dinodisc.py`).
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import SiglipVisionModel

from raexla.runtime import Draws
from tests import stages

LAYERS = (1, 2)
WEIGHTS = {"l1": 1.0, "perceptual": 0.5, "adversarial": 0.75}
TAU, SEED, CRITIC_FROM, ADVERSARIAL_FROM = 0.3, 3, 3, 6


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


def cosine(peak: float, step: int, steps: int, warmup: int) -> float:
    """Linear warm-up from peak / warmup, then half a cosine, taken in the middle of each step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup + 0.5) / (steps - warmup)))


def train(made: dict[str, str], values: dict[str, Any], steps: int) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Scalars of each step, and the decoder's moving average after the last."""
    task: Any = stages.open_stage(values)[0]
    decoder, critic = copy.deepcopy(task.decoder), ReferenceCritic(task.critic.heads)
    average = {name: p.detach().clone() for name, p in decoder.named_parameters()}
    vision = SiglipVisionModel.from_pretrained(made["encoder"]).eval().requires_grad_(False)

    def features(image: Tensor) -> tuple[Tensor, ...]:
        return vision(pixel_values=(image - 0.5) / 0.5, output_hidden_states=True).hidden_states

    recipes = values["optim"]
    generator_optim = torch.optim.AdamW(
        decoder.parameters(), betas=recipes["decoder"]["betas"], eps=recipes["decoder"]["eps"], weight_decay=0.0
    )
    critic_optim = torch.optim.AdamW(
        critic.weights.values(), betas=recipes["critic"]["betas"], eps=recipes["critic"]["eps"], weight_decay=0.1
    )
    scalars: list[dict[str, float]] = []
    with task.open_loader(None) as loader:
        for step in range(steps):
            batch = next(loader).arrays
            image = torch.from_numpy(batch["pixels"]).permute(0, 3, 1, 2).float() / 255
            draws = Draws(SEED, step, torch.from_numpy(batch["rows"]))
            scale = TAU * draws.normal("noise_scale").abs()
            clean = F.layer_norm(features(image)[-1], (24,), eps=1e-6)
            latent = clean + scale[:, None, None] * draws.normal("noise", (16, 24))

            # the decoder: w1 L1 + w2 perceptual + w3 lambda adversarial
            fake = decoder(latent)
            l1 = (fake - image).abs().mean()
            real_features, fake_features = features(image), features(fake)
            distances = []
            for layer in LAYERS:
                a, b = (h[layer] / (h[layer].norm(dim=-1, keepdim=True) + 1e-6) for h in (fake_features, real_features))
                distances.append((a - b).pow(2).sum(-1).mean())
            perceptual = sum(distances) / len(distances)
            similarity = WEIGHTS["l1"] * l1 + WEIGHTS["perceptual"] * perceptual
            found = {"loss/l1": l1, "loss/perceptual": perceptual}
            loss = similarity
            if step >= ADVERSARIAL_FROM:
                seen = (augmented(fake * 2 - 1, draws.uniform("augment_generator", (7,))) + 1) / 2
                hidden = features(seen)
                adversarial = -critic.logits([hidden[layer] for layer in LAYERS]).mean()
                of_similarity = torch.autograd.grad(similarity, decoder.head.weight, retain_graph=True)[0].norm()
                adverse = torch.autograd.grad(adversarial, list(decoder.parameters()), retain_graph=True)
                found["gradient_norm/adversarial"] = torch.cat([g.flatten() for g in adverse]).norm()
                of_adversarial = torch.autograd.grad(adversarial, decoder.head.weight, retain_graph=True)[0].norm()
                lam = (of_similarity / (of_adversarial + 1e-6)).clamp(0, 1e4).detach()
                loss = similarity + WEIGHTS["adversarial"] * lam * adversarial
                found |= {"loss/adversarial": adversarial, "adversarial_weight": WEIGHTS["adversarial"] * lam}
            found["loss"] = loss
            generator_optim.param_groups[0]["lr"] = cosine(recipes["decoder"]["lr"], step, steps, 3)
            generator_optim.zero_grad()
            loss.backward()
            found["gradient_norm/decoder"] = torch.cat([p.grad.flatten() for p in decoder.parameters()]).norm()
            generator_optim.step()
            for name, parameter in decoder.named_parameters():
                average[name] = 0.9 * average[name] + 0.1 * parameter.detach()

            # the critic: hinge, on a fresh reconstruction by the updated decoder, in 8 bits
            if step >= CRITIC_FROM:
                with torch.no_grad():
                    fake = decoder(latent).clamp(0, 1)
                    if values["losses"].get("quantise_fakes", True):
                        fake = (fake * 255).round() / 255
                critic.power_iteration()
                logits = []
                for pictures, purpose in ((fake, "augment_fake"), (image, "augment_real")):
                    hidden = features((augmented(pictures * 2 - 1, draws.uniform(purpose, (7,))) + 1) / 2)
                    logits.append(critic.logits([hidden[layer] for layer in LAYERS]))
                fakes, reals = logits
                loss = 0.5 * (F.relu(1 - reals).mean() + F.relu(1 + fakes).mean())
                critic_optim.param_groups[0]["lr"] = cosine(
                    recipes["critic"]["lr"], step - CRITIC_FROM, steps - CRITIC_FROM, 0
                )
                critic_optim.zero_grad()
                loss.backward()
                found |= {"critic/loss": loss, "critic/real": reals.mean(), "critic/fake": fakes.mean()}
                found |= {"critic/real_std": reals.std(correction=0), "critic/fake_std": fakes.std(correction=0)}
                found["critic/accuracy"] = 0.5 * ((reals > 0).float().mean() + (fakes < 0).float().mean())
                found["gradient_norm/critic"] = torch.cat([p.grad.flatten() for p in critic.weights.values()]).norm()  # type: ignore[union-attr]
                critic_optim.step()
            scalars.append({name: value.item() for name, value in found.items()})
    return scalars, average
