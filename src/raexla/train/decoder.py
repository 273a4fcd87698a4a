"""Decoder training: a ViT decoder against a frozen encoder, with a critic. Two optimisers in one Task.

B: rows, N: latent tokens, C: latent channels. Total loss of the decoder (000, section 2; 001, eq. of section 3):
w_l1 L1 + w_lpips perceptual + w_gram Gram + w_adv lambda adversarial, where lambda balances the gradients of
L1 + perceptual and of the adversarial loss at the decoder's last layer. The generator's update comes first; the critic
then sees fresh reconstructions of the same batch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from raexla.checkpoint import write_artifact
from raexla.data import ImageTransformRecipe, Loader, image_rows
from raexla.losses import (
    AdversarialKind,
    adaptive_weight,
    critic_loss,
    feature_distance,
    generator_loss,
    gram_loss,
    l1,
    load_lpips,
)
from raexla.models.codecs import CodecRecipe, NoiseRecipe, RAECodec, RAECodecRecipe
from raexla.models.critic import (
    AUGMENT_DRAWS,
    Critic,
    CriticRecipe,
    EncoderFeatures,
    EncoderFeaturesRecipe,
    load_dino,
)
from raexla.models.critic import init_weights as init_critic
from raexla.models.decoder import SHARDING, init_weights
from raexla.models.flops import decoder_work, encoder_work
from raexla.optim import OptimizerRecipe, Part
from raexla.recipe import Recipe, UserError
from raexla.runtime import Runtime
from raexla.sampling.codec import open_codec
from raexla.train.base import StageRecipe
from raexla.train.pretrain import image_of
from raexla.train.reconstructions import ReconstructionEvalRecipe, ReconstructionValidation
from raexla.train.start import RidgeRecipe, ridge_start
from raexla.train.task import Batch, Task, gradients, summed


class LpipsRecipe(Recipe):
    """LPIPS on VGG16."""

    type: Literal["lpips"]
    backbone: str
    """torchvision's VGG16 weights (`vgg16-397923af.pth`); a missing file is an error."""


class EncoderDistanceRecipe(Recipe):
    """Distance of the frozen encoder's own features, for models whose pictures VGG has never seen (nano)."""

    type: Literal["encoder"]
    layers: tuple[int, ...] = Field(min_length=1)
    """Blocks, counted from 1."""


class DecoderWeights(Recipe):
    """Weights of the decoder's losses; 001 has 1, 1, 0, 0.75, 000 has 1, 1, 100, 10."""

    l1: Annotated[float, Field(ge=0)] = 1.0
    perceptual: Annotated[float, Field(ge=0)] = 1.0
    gram: Annotated[float, Field(ge=0)] = 0.0
    adversarial: Annotated[float, Field(ge=0)] = 0.75


class DecoderLossRecipe(Recipe):
    """The losses."""

    weights: DecoderWeights = DecoderWeights()
    perceptual: Annotated[LpipsRecipe | EncoderDistanceRecipe, Field(discriminator="type")] | None
    """Features of the perceptual and the Gram loss."""
    adversarial: AdversarialKind = "hinge"
    adaptive: bool = True
    """Balance the adversarial gradient (lambda); false takes lambda = 1."""
    quantise_fakes: bool = True
    """The critic sees reconstructions clamped and rounded to 8 bits, as real pictures are."""


class DecoderOptimRecipe(Recipe):
    """Two optimisers."""

    decoder: OptimizerRecipe
    critic: OptimizerRecipe | None = None
    """None trains without a critic."""


class DecoderTrainingRecipe(StageRecipe):
    """The stage `decoder`."""

    stage: Literal["decoder"]
    codec: CodecRecipe
    noise: NoiseRecipe = NoiseRecipe()
    """Noise on the latent (001, section 3): sigma = |N(0, tau^2)|."""
    transform: ImageTransformRecipe
    losses: DecoderLossRecipe
    critic: CriticRecipe | None = None
    critic_from_step: Annotated[int, Field(ge=0)] = 0
    """First step at which the critic is updated."""
    adversarial_from_step: Annotated[int, Field(ge=0)] = 0
    """First step at which the decoder hears the critic."""
    start: RidgeRecipe | None = None
    """A closed-form start of the decoder's last layer; None leaves it random."""
    optim: DecoderOptimRecipe
    eval: ReconstructionEvalRecipe = ReconstructionEvalRecipe()

    @model_validator(mode="after")
    def _critic_is_whole(self) -> "DecoderTrainingRecipe":
        if (self.critic is None) != (self.optim.critic is None):
            raise ValueError("critic and optim.critic belong together: give both or neither")
        if self.adversarial_from_step < self.critic_from_step:
            raise ValueError(
                f"adversarial_from_step {self.adversarial_from_step} is before critic_from_step {self.critic_from_step}"
            )
        if self.losses.perceptual is None and (self.losses.weights.perceptual or self.losses.weights.gram):
            raise ValueError("losses.perceptual is null, so weights.perceptual and weights.gram must be 0")
        return self


class DecoderTask(Task):
    """The stage `decoder`. Phases: `reconstruction`, then `critic` (it learns alone), then `adversarial`."""

    def __init__(self, recipe: DecoderTrainingRecipe, runtime: Runtime) -> None:
        super().__init__(recipe, runtime)
        self.recipe = recipe
        if not isinstance(recipe.codec, RAECodecRecipe) or recipe.codec.decoder is None:
            raise UserError("codec: the stage decoder trains a codec of type rae; give it a decoder's sizes")
        opened = open_codec(recipe.codec)
        assert isinstance(opened.codec, RAECodec)
        assert opened.codec.decoder is not None
        self.codec, self.facts = opened.codec, opened.facts
        self.decoder = opened.codec.decoder
        self.codec.noise = recipe.noise
        if self.codec.image_size != self.codec.output_size:
            raise UserError(
                f"codec.image_size is {self.codec.image_size}, but the decoder draws {self.codec.output_size} pixels: "
                "leave it out, the encoder resizes what the decoder is trained against"
            )
        if recipe.transform.size != self.codec.output_size:
            raise UserError(
                f"transform.size is {recipe.transform.size}, the codec draws {self.codec.output_size} pixels"
            )
        generator = torch.Generator().manual_seed(recipe.run.seed)
        if recipe.codec.weights is None:
            init_weights(self.decoder, generator)
        self.decoder.requires_grad_(True)
        self.lpips = None
        if isinstance(recipe.losses.perceptual, LpipsRecipe):
            self.lpips = load_lpips(recipe.losses.perceptual.backbone)
            runtime.place(self.lpips)
        runtime.place(self.codec.encoder)
        if self.codec.statistics is not None:
            runtime.place(self.codec.statistics)
        self.critic = self._build_critic(recipe, generator)
        if self.critic is not None:
            runtime.place(self.critic)
            self.own("critic.heads", self.critic.heads)
        runtime.place(self.decoder, SHARDING)
        self.own("decoder", self.decoder)
        if recipe.start is not None and recipe.codec.weights is None:
            ridge_start(self, recipe.start)
        named = dict(self.decoder.named_parameters())
        self.parts = [Part("decoder", recipe.optim.decoder, named, runtime, self.steps)]
        if self.critic is not None and recipe.optim.critic is not None:
            heads = dict(self.critic.heads.named_parameters())
            start = min(recipe.critic_from_step, self.steps - 1)
            self.parts.append(Part("critic", recipe.optim.critic, heads, runtime, self.steps, start))
        self.validation = ReconstructionValidation(self, recipe.eval)

    def _build_critic(self, recipe: DecoderTrainingRecipe, generator: torch.Generator) -> Critic | None:
        if recipe.critic is None:
            return None
        kind = recipe.critic.features
        if isinstance(kind, EncoderFeaturesRecipe):
            features: Any = EncoderFeatures(self.codec.encoder, kind.layers)
        else:
            features = load_dino(kind, self.codec.image_size)
        critic = Critic(features, recipe.critic)
        init_critic(critic, generator)
        return critic

    def phase(self, step: int) -> str:
        if self.critic is None or step < self.recipe.critic_from_step:
            return "reconstruction"
        return "critic" if step < self.recipe.adversarial_from_step else "adversarial"

    def open_loader(self, cursor: Mapping[str, Any] | None) -> Loader:
        change, collate = image_rows(self.recipe.transform)
        return self.loader(change, collate, cursor, {"caption": "", "conversation": "", "text": "", "image": ""})

    def train_step(self, phase: str, batch: Batch, controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = self._decoder_update(phase, batch, controls)
        if phase != "reconstruction":
            out.update(self._critic_update(batch, controls))
        return out

    # -- the decoder's side --

    def reconstruct(self, micro: Batch, controls: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(target, reconstruction) [B, 3, H, W] of a micro-batch, noise on the latent included."""
        image = image_of(micro["pixels"])
        tokens = self.codec.grid[0] * self.codec.grid[1]
        if self.recipe.noise.tau > 0:
            draws = self.draws(controls, micro["rows"])
            kind = "normal" if self.recipe.noise.kind == "half_normal" else "uniform"
            sigma = getattr(draws, kind)("noise_scale")
            latent = self.codec.encode_noised(image, sigma, draws.normal("noise", (tokens, self.codec.channels)))
        else:
            latent = self.codec.encode(image)
        with self.runtime.autocast():
            return image, self.codec.decode(latent).float()

    def _similarity(self, image: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The non-adversarial losses, means over the micro-batch."""
        weights, kind = self.recipe.losses.weights, self.recipe.losses.perceptual
        values = {"l1": l1(fake, image)}
        if kind is None:
            return values
        if self.lpips is not None:
            with torch.no_grad():
                real_features = self.lpips.features(image)
            fake_features = self.lpips.features(fake)
            values["perceptual"] = self.lpips.distance(fake_features, real_features).mean()
        else:
            assert isinstance(kind, EncoderDistanceRecipe)
            with torch.no_grad():
                real_features = tuple(self.codec.encoder.features(image, kind.layers))
            fake_features = tuple(self.codec.encoder.features(fake, kind.layers))
            values["perceptual"] = feature_distance(fake_features, real_features)
        if weights.gram:
            values["gram"] = gram_loss(fake_features, real_features)
        return values

    def _decoder_update(self, phase: str, batch: Batch, controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients of the similarity and of the adversarial loss are summed apart over the micro-batches, since their
        ratio (lambda) is that of the whole batch."""
        recipe, part = self.recipe.losses, self.parts[0]
        weights, parameters = recipe.weights, list(part.parameters.values())
        last = list(part.parameters).index("head.weight")
        adversarial = phase == "adversarial"
        plain: list[Tensor] | None = None
        adverse: list[Tensor] | None = None
        balance: Tensor | None = None
        scalars: list[dict[str, Tensor]] = []
        for micro in self.micro_batches(batch):
            image, fake = self.reconstruct(micro, controls)
            share = 1.0 / (self.accumulate * self.runtime.loss_shards)
            values = {name: value * share for name, value in self._similarity(image, fake).items()}
            balanced = weights.l1 * values["l1"]
            if "perceptual" in values:
                balanced = balanced + weights.perceptual * values["perceptual"]
            similarity = balanced + weights.gram * values["gram"] if "gram" in values else balanced
            if adversarial:
                assert self.critic is not None
                self.critic.eval()
                draws = self.draws(controls, micro["rows"]).uniform("augment_generator", (AUGMENT_DRAWS,))
                values["adversarial"] = generator_loss(self.critic(fake, draws), recipe.adversarial) * share
                if recipe.adaptive:
                    at_last = torch.autograd.grad(balanced, parameters[last], retain_graph=True)[0]
                    balance = at_last if balance is None else balance + at_last
                adverse = gradients(values["adversarial"], parameters, adverse, retain=True)
            plain = gradients(similarity, parameters, plain)
            scalars.append({"loss": similarity, **{f"loss/{name}": value for name, value in values.items()}})
        assert plain is not None
        out = summed(scalars)
        if adverse is not None:
            factor = torch.ones_like(out["loss"])
            if recipe.adaptive:
                assert balance is not None
                total, against = self.runtime.reduce_gradients([balance, adverse[last]])
                factor = adaptive_weight(total, against)
            factor = weights.adversarial * factor
            plain = [a + factor * b for a, b in zip(plain, adverse, strict=True)]
            out["loss"] = out["loss"] + factor * out["loss/adversarial"]
            out["adversarial_weight"] = factor
        return {**out, **part.update(plain, controls)}

    # -- the critic's side --

    def _critic_update(self, batch: Batch, controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert self.critic is not None
        part = self.parts[1]
        total: list[Tensor] | None = None
        scalars: list[dict[str, Tensor]] = []
        share = 1.0 / (self.accumulate * self.runtime.loss_shards)
        batch_norm = self.critic.recipe.norm == "batch"
        for number, micro in enumerate(self.micro_batches(batch)):
            with torch.no_grad():
                image, fake = self.reconstruct(micro, controls)
                fake = fake.clamp(0, 1)
                if self.recipe.losses.quantise_fakes:
                    fake = torch.round(fake * 255.0) / 255.0
            draws = self.draws(controls, micro["rows"])
            # One power iteration a step, whatever the number of micro-batches.
            self.critic.train(number == 0 or batch_norm)
            fakes = self.critic(fake, draws.uniform("augment_fake", (AUGMENT_DRAWS,)))
            self.critic.train(batch_norm)
            reals = self.critic(image, draws.uniform("augment_real", (AUGMENT_DRAWS,)))
            loss = critic_loss(reals, fakes, self.recipe.losses.adversarial) * share
            total = gradients(loss, list(part.parameters.values()), total)
            right = 0.5 * ((reals > 0).float().mean() + (fakes < 0).float().mean())
            scalars.append(
                {
                    "critic/loss": loss,
                    "critic/accuracy": right * share,
                    "critic/real": reals.mean() * share,
                    "critic/fake": fakes.mean() * share,
                }
            )
        assert total is not None
        return {**summed(scalars), **part.update(total, controls)}

    # -- what comes out --

    def evaluate(self, step: int, samples: Path) -> dict[str, float]:
        return self.validation.run(step, samples)

    def export(self, path: Path, meta: Mapping[str, Any]) -> str:
        weights = {name: self.runtime.to_host(value) for name, value in self.parts[0].weights().items()}
        facts = {**self.facts, "decoder": self.decoder.recipe.model_dump(mode="json")}
        return write_artifact(path, "decoder", weights, facts, meta)

    def flops_per_step(self) -> float:
        decoding = decoder_work(self.decoder.recipe, self.codec.grid, self.codec.channels).total
        return 2.0 * self.batch_images * (3.0 * decoding + encoder_work(self.codec.encoder).total)
