"""Parameters, FLOPs and bytes of a text-to-image recipe, in closed form: no device, no weights, about a second.

Memory is per chip and in float32 where the recipe computes in it: masters, gradients and optimiser states are always
float32. Activations are an estimate from what a block's backward pass reads; the compiler's own figure stands beside it
where there is one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from raexla.models.codecs import RAECodecRecipe
from raexla.models.dit import LightningDiT
from raexla.models.flops import bridge_work, dit_work, llm_work, vision_work
from raexla.nn.swiglu import swiglu_width
from raexla.plan.sizes import language_parameters, read_sizes, vision_parameters
from raexla.plan.slices import GIB, Slice
from raexla.recipe import UserError
from raexla.train.pretrain import PretrainRecipe


@dataclass(frozen=True)
class Part:
    """A network of the step: its parameters, whether they are trained and averaged, its FLOPs in a step."""

    name: str
    parameters: int
    trained: bool
    averaged: bool
    model_flops: float
    """Of a global step, forward and backward, by MFU's convention (`obs/timing.py`)."""


@dataclass(frozen=True)
class Counts:
    """A recipe in numbers, before any slice."""

    parts: tuple[Part, ...]
    global_batch_images: int
    steps: int
    activation_bytes_per_image: Mapping[str, float]
    """What the backward pass reads, per sample of the global batch (mean over kinds of samples)."""
    gathered_parameters: int
    """Parameters that fsdp gathers before use."""

    @property
    def model_flops(self) -> float:
        """Of a global step."""
        return sum(part.model_flops for part in self.parts)


def shares(recipe: PretrainRecipe) -> tuple[float, float]:
    """Samples of a global step with a target image, and without one."""
    total = sum(source.weight for source in recipe.data.sources)
    drawn = sum(s.weight for s in recipe.data.sources if (s.group or s.kind) in ("caption", "generation"))
    images = recipe.train.global_batch_images * drawn / total
    return images, recipe.train.global_batch_images - images


def count(recipe: PretrainRecipe) -> Counts:
    """The numbers of a pretraining recipe.

    Raises:
        UserError: a codec other than rae, or a network whose configuration is not known.
    """
    if not isinstance(recipe.codec, RAECodecRecipe):
        raise UserError(f"codec.type {recipe.codec.type}: the analytic plan knows rae")
    vision, llm = read_sizes(recipe.codec.encoder.path), read_sizes(recipe.model.llm.path)
    side = (recipe.codec.encoder.input_size or vision.image_size) // vision.patch_size
    channels, tokens = vision.hidden_size, side * side
    with torch.device("meta"):
        dit = LightningDiT(recipe.model.dit, (side, side), channels)
    condition = dit.condition_channels
    linears = bridge_work(recipe.model.llm, llm.hidden_size, tokens, channels, condition)
    images, asked = shares(recipe)
    lengths = recipe.chat.length, recipe.chat.conversation_length or recipe.chat.length
    times, rows = recipe.times_per_image, recipe.train.global_batch_images
    reading = images * llm_work(llm, lengths[0]).total + asked * (
        llm_work(llm, lengths[1]).total + linears["projector"]
    )
    drawing = images * (times * dit_work(recipe.model.dit, (side, side), channels).total + linears["connector"])
    learned = recipe.optim.llm is not None
    bridge = recipe.model.llm.queries * llm.hidden_size + channels * llm.hidden_size + llm.hidden_size**2
    bridge += 2 * llm.hidden_size
    connector = llm.hidden_size * condition + condition
    connector += condition * (condition + 1) if recipe.model.llm.connector == "mlp" else 0
    parts = (
        Part(
            "language model",
            sum(language_parameters(llm).values()) + bridge,
            learned,
            learned and recipe.optim.llm is not None and recipe.optim.llm.ema is not None,
            2.0 * reading * (3 if learned else 1),
        ),
        Part("DiT", _parameters(dit) + connector, True, recipe.optim.dit.ema is not None, 6.0 * drawing),
        Part("encoder", vision_parameters(vision), False, False, 2.0 * rows * vision_work(vision, side).total),
    )
    kept = recipe.runtime.blocks == "unrolled"
    read = [
        _llm_bytes(llm, length, kept) * length * many for length, many in zip(lengths, (images, asked), strict=True)
    ]
    logits = [length * many for length, many in zip(lengths, (images, asked), strict=True)]
    saved = {
        "language model": sum(read) / rows,
        "logits": sum(logits) * llm.vocab_size * 10.0 / recipe.losses.language_chunks / rows,
        "DiT": images * times * _dit_bytes(recipe, tokens, kept) / rows,
    }
    return Counts(parts, rows, recipe.train.total_steps, saved, sum(p.parameters for p in parts if p.trained))


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _llm_bytes(config: Any, length: int, kept: bool) -> float:
    """Bytes that the blocks' backward pass reads for one token, computed in bf16: the inputs of its matrix products and
    norms, and the attention's scores (float32) and weights (bf16), which stand in memory without a fused kernel.

    Args:
        kept: everything of every block; otherwise the blocks' inputs (float32) and one block's everything.
    """
    width, mlp, depth = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    keys = width * config.num_key_value_heads // config.num_attention_heads
    block = 2 * (6 * width + 2 * (width + keys) + 4 * mlp) + 6.0 * config.num_attention_heads * length
    return depth * block if kept else depth * width * 4 + block


def _dit_bytes(recipe: PretrainRecipe, tokens: int, kept: bool) -> float:
    """The same for the DiT, all tokens of one noisy latent; its blocks' inputs are bf16."""
    dit = recipe.model.dit
    ways = [(dit.width, dit.depth, dit.heads)]
    if dit.head is not None:
        ways.append((dit.head.width, dit.head.depth, dit.head.heads))
    own = tokens / dit.patch_size**2
    total = 0.0
    for width, depth, heads in ways:
        block = 2 * (16 * width + 4 * swiglu_width(width)) + 6.0 * heads * own
        total += own * (depth * block if kept else depth * width * 2 + block)
    return total


def recomputed_share(recipe: PretrainRecipe, counts: Counts) -> float:
    """FLOPs that are run again, as a part of the model's: the trained networks' forward pass, if at all."""
    if recipe.runtime.blocks == "unrolled":
        return 0.0
    return sum(part.model_flops for part in counts.parts if part.trained) / 3 / counts.model_flops


@dataclass(frozen=True)
class Memory:
    """GiB of one chip, by part."""

    weights: float
    gradients: float
    optimiser: float
    averages: float
    frozen: float
    activations: Mapping[str, float]

    @property
    def total(self) -> float:
        """All of it at once: an upper bound, since gradients grow while activations go."""
        standing = self.weights + self.gradients + self.optimiser + self.averages + self.frozen
        return standing + sum(self.activations.values())


def memory(counts: Counts, where: Slice, mesh: Mapping[str, int], accumulate: int = 1) -> Memory:
    """Bytes of a chip, when the parameters are split over fsdp x tensor and the batch over data x fsdp."""
    split = mesh["fsdp"] * mesh["tensor"]
    trained = sum(part.parameters for part in counts.parts if part.trained) * 4 / split / GIB
    averaged = sum(part.parameters for part in counts.parts if part.averaged) * 4 / split / GIB
    frozen = sum(part.parameters for part in counts.parts if not part.trained) * 4 / GIB
    rows = counts.global_batch_images / (mesh["data"] * mesh["fsdp"]) / accumulate
    if prod(mesh.values()) != where.chips:
        raise UserError(f"mesh: {prod(mesh.values())} devices, {where.name} has {where.chips} chips")
    activations = {name: size * rows / mesh["tensor"] / GIB for name, size in counts.activation_bytes_per_image.items()}
    return Memory(trained, trained, 2 * trained, averaged, frozen, activations)
