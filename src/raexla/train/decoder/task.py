"""The Task of the stage `decoder`: one step, its phases, what comes out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raexla.checkpoint import write_artifact
from raexla.data import Loader, image_rows
from raexla.losses import adaptive_weight
from raexla.models.critic import sharding_table as critic_table
from raexla.models.decoder import sharding_table as decoder_table
from raexla.models.flops import decoder_work, encoder_work
from raexla.optim import Part
from raexla.recipe import UserError
from raexla.runtime import Runtime
from raexla.train.decoder.adversary import Adversary, with_spread
from raexla.train.decoder.collapse import CriticWatch
from raexla.train.decoder.networks import Networks, check_codec, load_networks
from raexla.train.decoder.recipe import DecoderTrainingRecipe
from raexla.train.decoder.similarity import Similarity
from raexla.train.decoder.sources import by_source, split
from raexla.train.decoder.work import Sizes, step_work
from raexla.train.pretrain import image_of
from raexla.train.reconstructions import ReconstructionValidation
from raexla.train.start import ridge_start
from raexla.train.task import Batch, Task, gradients, summed


class DecoderTask(Task):
    """The stage `decoder`. Phases, in order, those that the recipe has: `pixels` (L1 alone), `reconstruction` (with the
    perceptual losses), `critic` (it learns, the decoder does not hear it), `adversarial`; and `reconstruction` again if
    a guard has switched the critic off.

    Args:
        networks: taken instead of loading the recipe's (an outline, for `raexla plan`).
    """

    def __init__(self, recipe: DecoderTrainingRecipe, runtime: Runtime, networks: Networks | None = None) -> None:
        super().__init__(recipe, runtime)
        self.recipe = recipe
        networks = networks or load_networks(recipe)
        self.codec, self.decoder, self.critic = networks.codec, networks.decoder, networks.critic
        self.facts = networks.opened.facts
        self.codec.noise = recipe.noise
        self._check_sizes()
        self.decoder.requires_grad_(True)
        self.similarity = Similarity(recipe.losses, self.codec.encoder, networks.lpips)
        if networks.lpips is not None:
            runtime.place(networks.lpips)
        runtime.place(self.codec.encoder)
        if self.codec.statistics is not None:
            runtime.place(self.codec.statistics)
        self.adversary = Adversary(self.critic, recipe.losses) if self.critic is not None else None
        if self.critic is not None:
            runtime.place(self.critic, critic_table(self.critic.recipe))
            self.own("critic.heads", self.critic.heads)
        runtime.place(self.decoder, decoder_table(self.decoder.recipe))
        self.own("decoder", self.decoder)
        names = [source.name for source in recipe.data.sources]
        self.sources = names if len(names) > 1 else []
        if recipe.start is not None and check_codec(recipe).weights is None:
            ridge_start(self, recipe.start)
        self._first = {name: recipe.first_step(name) for name in ("perceptual", "critic", "adversarial")}
        self.parts = self._make_parts()
        self.watch = CriticWatch(recipe.guards.critic_accuracy)
        self.validation = ReconstructionValidation(self, recipe.eval)

    def _check_sizes(self) -> None:
        if self.codec.image_size != self.codec.output_size:
            raise UserError(
                f"codec.image_size is {self.codec.image_size}, but the decoder draws {self.codec.output_size} pixels: "
                "leave it out, the encoder resizes what the decoder is trained against"
            )
        if self.recipe.transform.size != self.codec.output_size:
            raise UserError(
                f"transform.size is {self.recipe.transform.size}, the codec draws {self.codec.output_size} pixels"
            )

    def _make_parts(self) -> list[Part]:
        optim, runtime, steps, epoch = self.recipe.optim, self.runtime, self.steps, self.epoch_steps
        drawn = dict(self.decoder.named_parameters())
        parts = [Part("decoder", optim.decoder, drawn, runtime, steps, epoch_steps=epoch)]
        if self.critic is not None and optim.critic is not None:
            heads = dict(self.critic.heads.named_parameters())
            start = min(self._first["critic"], steps - 1)
            parts.append(Part("critic", optim.critic, heads, runtime, steps, start, epoch))
        return parts

    def phase(self, step: int) -> str:
        if step < self._first["perceptual"]:
            return "pixels"
        off = self.watch.off_from is not None and step >= self.watch.off_from
        if self.critic is None or step < self._first["critic"] or off:
            return "reconstruction"
        return "critic" if step < self._first["adversarial"] else "adversarial"

    def describe(self) -> list[str]:
        starts = []
        if self._first["perceptual"]:
            starts.append(f"perceptual loss from {self.recipe.describe_start('perceptual')}")
        if self.critic is not None:
            starts.append(f"critic from {self.recipe.describe_start('critic')}")
            starts.append(f"adversarial loss from {self.recipe.describe_start('adversarial')}")
        work = step_work(self.recipe, Sizes.of(self.codec, self.decoder))
        told = ", ".join(f"{name} {2e-12 * self.batch_images * w.total:.3g}" for name, w in work.items())
        return [*super().describe(), *starts, f"TFLOP of a step, all networks: {told}"]

    def open_loader(self, cursor: Mapping[str, Any] | None) -> Loader:
        change, collate = image_rows(self.recipe.transform, sources=self.sources)
        return self.loader(change, collate, cursor, {"caption": "", "conversation": "", "text": "", "image": ""})

    def batch_shapes(self) -> dict[str, tuple[tuple[int, ...], type]]:
        side, rows = self.recipe.transform.size, self.batch_images
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            "pixels": ((rows, side, side, 3), np.uint8),
            "rows": ((rows,), np.int32),
        }
        return {**shapes, "source": ((rows,), np.int32)} if self.sources else shapes

    def train_step(self, phase: str, batch: Batch, controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # Encoded once, though the critic sees reconstructions of its own: the encoder is as large as the decoder.
        micros = [{**micro, "latent": self.encode(micro, controls)} for micro in self.micro_batches(batch)]
        out = self._decoder_update(phase, micros, controls)
        if phase in ("critic", "adversarial"):
            for update in range(self.recipe.critic_updates):
                out.update(self._critic_update(update, micros, controls))
        return out

    def encode(self, micro: Batch, controls: Mapping[str, Tensor]) -> Tensor:
        """The latent [B, N, C] of a micro-batch, with its noise."""
        image = image_of(micro["pixels"])
        tokens = self.codec.grid[0] * self.codec.grid[1]
        if self.recipe.noise.tau > 0:
            draws = self.draws(controls, micro["rows"])
            kind = "normal" if self.recipe.noise.kind == "half_normal" else "uniform"
            sigma = getattr(draws, kind)("noise_scale")
            return self.codec.encode_noised(image, sigma, draws.normal("noise", (tokens, self.codec.channels)))
        return self.codec.encode(image)

    def reconstruct(self, micro: Batch) -> tuple[Tensor, Tensor]:
        """(target, reconstruction) [B, 3, H, W] of a micro-batch that has its `latent`."""
        with self.runtime.autocast():
            return image_of(micro["pixels"]), self.codec.decode(micro["latent"]).float()

    def _decoder_update(self, phase: str, micros: Sequence[Batch], controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients of the similarity and of the adversarial loss are summed apart over the micro-batches, since their
        ratio (lambda) is that of the whole batch."""
        part, adaptive = self.parts[0], self.recipe.losses.adaptive
        parameters = list(part.parameters.values())
        last = list(part.parameters).index("head.weight")
        plain: list[Tensor] | None = None
        adverse: list[Tensor] | None = None
        balance: Tensor | None = None
        scalars: list[dict[str, Tensor]] = []
        share = 1.0 / (self.accumulate * self.runtime.loss_shards)
        for micro in micros:
            image, fake = self.reconstruct(micro)
            rows = self.similarity(image, fake, features=phase != "pixels")
            means = {name: value.mean() * share for name, value in rows.items()}
            similarity = self.similarity.total(means)
            if phase == "adversarial":
                assert self.adversary is not None
                loss = self.adversary.of_decoder(fake, self.draws(controls, micro["rows"])) * share
                if adaptive:
                    balanced = self.similarity.balanced(means)
                    at_last = torch.autograd.grad(balanced, parameters[last], retain_graph=True)[0]
                    balance = at_last if balance is None else balance + at_last
                adverse = gradients(loss, parameters, adverse, retain=True)
                means["adversarial"] = loss
            plain = gradients(similarity, parameters, plain)
            mine = {"loss": similarity, **{f"loss/{name}": value for name, value in means.items()}}
            scalars.append({**mine, **split(rows, micro["source"], self.sources)} if self.sources else mine)
        assert plain is not None
        out = self.over_processes(summed(scalars))
        if adverse is not None:
            weight, found = self._balance(adverse, balance, last)
            plain = [a + weight * b for a, b in zip(plain, adverse, strict=True)]
            out["loss"] = out["loss"] + weight * out["loss/adversarial"]
            out.update(found)
        return {**out, **part.update(plain, controls)}

    def _balance(self, adverse: list[Tensor], balance: Tensor | None, last: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The adversarial loss's weight, lambda included, and what to log of it.

        Args:
            adverse: the adversarial gradients, `last` of them at the decoder's last layer. balance: the gradient of
                L1 + perceptual there, or None if the weight does not adapt.
        """
        whole = self.runtime.reduce_gradients(adverse)
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in whole]))
        weight = torch.full_like(norm, self.recipe.losses.weights.adversarial)
        if balance is not None:
            weight = weight * adaptive_weight(self.runtime.reduce_gradients([balance])[0], whole[last])
        return weight, {"adversarial_weight": weight, "gradient_norm/adversarial": norm.detach()}

    def _critic_update(self, update: int, micros: Sequence[Batch], controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert self.adversary is not None
        part = self.parts[1]
        total: list[Tensor] | None = None
        scalars: list[dict[str, Tensor]] = []
        share = 1.0 / (self.accumulate * self.runtime.loss_shards)
        for number, micro in enumerate(micros):
            with torch.no_grad():
                image, fake = self.reconstruct(micro)
            draws = self.draws(controls, micro["rows"])
            values = self.adversary.of_critic(image, fake, draws, iterate=number == 0, update=update)
            values = {name: value * share for name, value in values.items()}
            total = gradients(values["loss"], list(part.parameters.values()), total)
            scalars.append(values)
        assert total is not None
        return {**with_spread(self.over_processes(summed(scalars))), **part.update(total, controls)}

    def legible(self, values: dict[str, float]) -> dict[str, float]:
        return by_source(values)

    def observe(self, step: int, phase: str, values: Mapping[str, float], coming: int) -> str | None:
        return self.watch.look(step, values["critic/accuracy"], coming) if phase == "adversarial" else None

    def memory(self) -> dict[str, Any]:
        return self.watch.memory()

    def recall(self, memory: Mapping[str, Any]) -> None:
        self.watch.recall(memory)

    def evaluate(self, step: int, samples: Path) -> dict[str, float]:
        return self.validation.run(step, samples)

    def export(self, path: Path, meta: Mapping[str, Any]) -> str:
        weights = {name: self.runtime.to_host(value) for name, value in self.parts[0].weights().items()}
        facts = {**self.facts, "decoder": self.decoder.recipe.model_dump(mode="json")}
        return write_artifact(path, "decoder", weights, facts, meta)

    def flops_per_step(self) -> float:
        decoding = decoder_work(self.decoder.recipe, self.codec.grid, self.codec.channels).total
        return 2.0 * self.batch_images * (3.0 * decoding + encoder_work(self.codec.encoder).total)
