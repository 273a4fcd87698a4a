"""What a recipe can say about decoder training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raexla.data import ImageTransformRecipe
from raexla.losses import AdversarialKind, GramNormalisation
from raexla.models.codecs import CodecRecipe, NoiseRecipe
from raexla.models.critic import CriticRecipe
from raexla.optim import OptimizerRecipe
from raexla.recipe import Recipe
from raexla.train.base import StageRecipe
from raexla.train.decoder.collapse import DecoderGuardsRecipe
from raexla.train.reconstructions import ReconstructionEvalRecipe
from raexla.train.start import RidgeRecipe

Step = Annotated[int, Field(ge=0)]
Epoch = Annotated[float, Field(ge=0)]


class LpipsRecipe(Recipe):
    """LPIPS on VGG16, with the linear heads of the `lpips` package."""

    type: Literal["lpips"]
    backbone: str
    """VGG16's ImageNet weights: torchvision's file (`vgg16-397923af.pth`), the same keys in a .safetensors file or in a
    folder's `model.safetensors`, or a hub name (`timm/vgg16.tv_in1k`). If they can't be had, that is an error."""


class EncoderDistanceRecipe(Recipe):
    """Distance of the frozen encoder's own features, for models whose pictures VGG has never seen (nano)."""

    type: Literal["encoder"]
    layers: tuple[int, ...] = Field(min_length=1)
    """Blocks, counted from 1."""


class GramRecipe(Recipe):
    """The Gram loss of Gatys et al. 2015. Paper 000 cites it, says neither layers nor normalisation, and has no code
    for it; the defaults are this project's."""

    layers: tuple[str | int, ...] | None = Field(default=None, min_length=1)
    """With `lpips`: VGG16's activations by name, `relu1_1` to `relu5_3`; not given, the five that LPIPS reads (relu1_2,
    relu2_2, relu3_3, relu4_3, relu5_3), which cost nothing more. Gatys: relu1_1, relu2_1, relu3_1, relu4_1, relu5_1.
    With `encoder`: blocks by number; not given, those of the perceptual distance."""
    normalise: GramNormalisation = "mean"
    """`mean`: G = F F^T / (C N), squared difference averaged over entries, summed over layers (Johnson et al. 2016);
    `gatys`: sum of (F F^T - A A^T)^2 / (4 C^2 N^2), averaged over layers."""


class DecoderWeights(Recipe):
    """Weights of the decoder's losses.

    Paper 000 (app. A): l1 1, perceptual 1 (its w_L), gram 100 (w_G), adversarial 10 (w_A).
    Paper 001 (app. E): l1 1, perceptual 1 (w_L), gram 0, adversarial 0.75 (its w_G, which is no Gram). The defaults.
    """

    l1: Annotated[float, Field(ge=0)] = 1.0
    perceptual: Annotated[float, Field(ge=0)] = 1.0
    gram: Annotated[float, Field(ge=0)] = 0.0
    adversarial: Annotated[float, Field(ge=0)] = 0.75


class DecoderLossRecipe(Recipe):
    """The losses."""

    weights: DecoderWeights = DecoderWeights()
    perceptual: Annotated[LpipsRecipe | EncoderDistanceRecipe, Field(discriminator="type")] | None
    """Features of the perceptual and the Gram loss."""
    gram: GramRecipe = GramRecipe()
    """How the Gram loss is taken, where its weight is not 0."""
    adversarial: AdversarialKind = "hinge"
    adaptive: bool = True
    """Balance the adversarial gradient (lambda, from L1 + perceptual); false takes lambda = 1."""
    quantise_fakes: bool = True
    """The critic sees reconstructions clamped and rounded to 8 bits, as real pictures are."""


class DecoderOptimRecipe(Recipe):
    """Two optimisers."""

    decoder: OptimizerRecipe
    critic: OptimizerRecipe | None = None
    """None trains without a critic. Its schedule runs from the critic's first step to the last one."""

    @model_validator(mode="after")
    def _average_of_the_decoder_only(self) -> "DecoderOptimRecipe":
        if self.critic is not None and self.critic.ema is not None:
            raise ValueError(
                f"critic.ema is {self.critic.ema:g}, but only the decoder's average is ever used: leave it out"
            )
        return self


class DecoderTrainingRecipe(StageRecipe):
    """The stage `decoder`."""

    stage: Literal["decoder"]
    codec: CodecRecipe
    noise: NoiseRecipe = NoiseRecipe()
    """Noise on the latent (001, section 3): sigma = |N(0, tau^2)|."""
    transform: ImageTransformRecipe
    losses: DecoderLossRecipe
    critic: CriticRecipe | None = None
    critic_updates: Annotated[int, Field(ge=1)] = 1
    """Updates of the critic in a step, on the same pictures under other augmentations."""
    perceptual_from_step: Step | None = None
    """First step with the perceptual and the Gram loss; the first of all if neither key is given."""
    perceptual_from_epoch: Epoch | None = None
    """The same in virtual epochs."""
    critic_from_step: Step | None = None
    """First step at which the critic is updated; the first of all if neither key is given."""
    critic_from_epoch: Epoch | None = None
    """The same in virtual epochs."""
    adversarial_from_step: Step | None = None
    """First step at which the decoder hears the critic; the first of all if neither key is given."""
    adversarial_from_epoch: Epoch | None = None
    """The same in virtual epochs."""
    start: RidgeRecipe | None = None
    """A closed-form start of the decoder's last layer; None leaves it random."""
    optim: DecoderOptimRecipe
    guards: DecoderGuardsRecipe = DecoderGuardsRecipe()
    eval: ReconstructionEvalRecipe = ReconstructionEvalRecipe()

    @model_validator(mode="after")
    def _phases_in_order(self) -> "DecoderTrainingRecipe":
        for name in ("perceptual", "critic", "adversarial"):
            step, epoch = (getattr(self, f"{name}_from_{unit}") for unit in ("step", "epoch"))
            if step is not None and epoch is not None:
                raise ValueError(
                    f"{name}_from_step {step} and {name}_from_epoch {epoch:g} are both given: leave one out, or set it "
                    "to null"
                )
        perceptual, critic, adversarial = (self.first_step(n) for n in ("perceptual", "critic", "adversarial"))
        if adversarial < critic:
            raise ValueError(f"the adversarial loss starts at step {adversarial}, before the critic (step {critic})")
        if self.critic is not None and critic < perceptual:
            raise ValueError(f"the critic starts at step {critic}, before the perceptual loss (step {perceptual})")
        return self

    @model_validator(mode="after")
    def _critic_is_whole(self) -> "DecoderTrainingRecipe":
        if (self.critic is None) != (self.optim.critic is None):
            raise ValueError("critic and optim.critic belong together: give both or neither")
        return self

    @model_validator(mode="after")
    def _features_are_there(self) -> "DecoderTrainingRecipe":
        kind, weights = self.losses.perceptual, self.losses.weights
        if kind is None and (weights.perceptual or weights.gram):
            raise ValueError("losses.perceptual is null, so weights.perceptual and weights.gram must be 0")
        wanted = str if isinstance(kind, LpipsRecipe) else int
        wrong = [layer for layer in self.losses.gram.layers or () if not isinstance(layer, wanted)]
        if kind is not None and wrong:
            what = "names such as relu1_2" if wanted is str else "block numbers"
            raise ValueError(f"losses.gram.layers: {wrong[0]!r}, but features of type {kind.type} go by {what}")
        return self

    def first_step(self, what: Literal["perceptual", "critic", "adversarial"]) -> int:
        """The step (from 0) at which a loss or the critic starts."""
        epoch = getattr(self, f"{what}_from_epoch")
        if epoch is not None:
            return self.train.steps_in(epoch)
        return getattr(self, f"{what}_from_step") or 0

    def describe_start(self, what: Literal["perceptual", "critic", "adversarial"]) -> str:
        """`step 17,500 (7 epochs x 1,280,000 images / 512)`."""
        epoch = getattr(self, f"{what}_from_epoch")
        return f"step {self.first_step(what):,}" + (f" ({self.train.formula(epoch)})" if epoch else "")
