"""Pretraining of the unified model: language model, queries and DiT on captions and conversations together.

B: rows, L: sequence, N: latent tokens, C: latent channels. Loss = language weight x cross-entropy (mean over the
learned tokens of the global batch) + diffusion weight x flow-matching error (mean over the global batch's target
images), 000 section 3.1 and the released trainer. Conversations have no target image; the DiT is not run on them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raexla.checkpoint import write_artifact
from raexla.data import ChatRecipe, ImageTransformRecipe, Loader, chat_rows
from raexla.data.chat import IGNORE
from raexla.flow.path import flow_loss, interpolate, velocity_target
from raexla.flow.time import sample_time
from raexla.losses import linear_cross_entropy_sum
from raexla.models.codecs import NormalisedCodec
from raexla.models.flops import bridge_work, dit_work, encoder_work, encoding_work, llm_work
from raexla.models.mllm import Input, UnifiedModel
from raexla.optim import OptimizerRecipe, Part
from raexla.recipe import Recipe, UserError
from raexla.runtime import Draws, Runtime
from raexla.sampling.model import TextToImage, TextToImageRecipe, assemble, describe
from raexla.train.base import StageRecipe
from raexla.train.latents.training import blanks, check_latents, latent_groups
from raexla.train.task import Batch, Task, gradients, summed
from raexla.train.validate import TextToImageEvalRecipe, TextToImageValidation

GENERATION, UNDERSTANDING = "generation", "understanding"


class UnifiedLossRecipe(Recipe):
    """Weights of the two losses."""

    language: Annotated[float, Field(ge=0)] = 1.0
    diffusion: Annotated[float, Field(gt=0)] = 2.0
    """As in the released scripts (`vision_coef`)."""
    language_chunks: Annotated[int, Field(ge=1)] = 1
    """Parts of a sequence whose logits stand in memory one after another; the loss is the same. A vocabulary of 152k at
    512 tokens takes 0.6 GiB a sequence in one part."""
    answer_tokens: Annotated[int, Field(ge=1)] | None = None
    """Learned tokens of a generation sequence at most: logits are computed for so many of it, no more. None: what
    `chat.answer_prefix` and the marks can take (16 for the prefix as released), the whole sequence with
    `labels: released`. Samples that need more (answers written in the data) are refused by name."""

    def learned(self, chat: ChatRecipe) -> int:
        """`answer_tokens`, or the chat's own; no more than a sequence has."""
        return chat.answer_tokens if self.answer_tokens is None else min(self.answer_tokens, chat.length)


class UnifiedOptimRecipe(Recipe):
    """Two decoupled optimisers (000, appendix A)."""

    llm: OptimizerRecipe | None
    """Language model, queries and understanding projector; None leaves them as they are."""
    dit: OptimizerRecipe
    """DiT and connector."""


class PretrainRecipe(StageRecipe, TextToImageRecipe):
    """The stage `pretrain`."""

    stage: Literal["pretrain"]
    transform: ImageTransformRecipe
    """How pictures become squares of the codec's size."""
    times_per_image: Annotated[int, Field(ge=1)] = 1
    """Noise levels that a picture is trained at in a step (`diffusion_timesteps_per_sample` of the released code)."""
    losses: UnifiedLossRecipe = UnifiedLossRecipe()
    optim: UnifiedOptimRecipe
    eval: TextToImageEvalRecipe = TextToImageEvalRecipe()


def image_of(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> image [B, 3, H, W] in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 255.0


def group(batch: Batch, name: str) -> Batch:
    """The arrays of one group, without its prefix."""
    return {key.removeprefix(f"{name}/"): value for key, value in batch.items() if key.startswith(f"{name}/")}


class UnifiedTask(Task):
    """Trains a `TextToImage` model; `pretrain` and `finetune` differ in where it comes from and what is trained."""

    def __init__(
        self,
        recipe: StageRecipe,
        runtime: Runtime,
        model: TextToImage,
        transform: ImageTransformRecipe,
        times_per_image: int,
        losses: UnifiedLossRecipe,
        optim: UnifiedOptimRecipe,
        evaluation: TextToImageEvalRecipe,
    ) -> None:
        super().__init__(recipe, runtime)
        self.model, self.transform, self.losses = model, transform, losses
        self.times = times_per_image
        self.answer_tokens = losses.learned(model.recipe.chat)
        if transform.size != model.codec.image_size:
            raise UserError(f"transform.size is {transform.size}, the codec takes images of {model.codec.image_size}")
        kinds = {source.group or source.kind for source in recipe.data.sources}
        self.has_conversations = bool(kinds & {"conversation", "text", UNDERSTANDING})
        if not kinds & {"caption", GENERATION}:
            raise UserError("data.sources: none has captions, so there is nothing for the DiT to learn from")
        for source in recipe.data.sources:
            if source.kind in ("conversation", "text") and source.group == GENERATION:
                raise UserError(f"data.sources: {source.name}: kind {source.kind} can't be of group {GENERATION}")
        self.latents = latent_groups(recipe.data.sources, model.codec.grid, model.codec.channels)
        if UNDERSTANDING in self.latents and model.reader is not None:
            raise UserError(
                "data.sources: pictures that the model's second encoder reads can't be latents of the codec"
            )
        model.place(runtime)
        self.own("", model.unified)
        named = dict(model.unified.named_parameters())
        dit = {name: p for name, p in named.items() if name.startswith(("dit.", "mllm.connector."))}
        rest = {name: p for name, p in named.items() if name not in dit}
        if not self.has_conversations:  # no context images: the projector is not used
            rest = {name: p for name, p in rest.items() if not name.startswith("mllm.projector.")}
        self.parts = [Part("dit", optim.dit, dit, runtime, self.steps, epoch_steps=self.epoch_steps)]
        if optim.llm is not None:
            self.parts.insert(0, Part("llm", optim.llm, rest, runtime, self.steps, epoch_steps=self.epoch_steps))
        trained = {name for part in self.parts for name in part.parameters}
        for name, parameter in named.items():
            parameter.requires_grad_(name in trained)
        self.validation = TextToImageValidation(self, evaluation)

    def weights(self) -> dict[str, Tensor]:
        """What is evaluated and shipped: moving averages where there are any."""
        own = dict(self.model.unified.named_parameters())
        return {**own, **{name: value for part in self.parts for name, value in part.weights().items()}}

    def open_loader(self, cursor: Mapping[str, Any] | None) -> Loader:
        check_latents(self.data.sources, self.model.opened, self.transform)
        change, collate = chat_rows(self.model.chat, self.transform, self.answer_tokens, blanks(self.latents))
        return self.loader(change, collate, cursor)

    def train_step(self, phase: str, batch: Batch, controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        whole = self.totals(batch)
        parameters = [p for part in self.parts for p in part.parameters.values()]
        total: list[Tensor] | None = None
        scalars: list[dict[str, Tensor]] = []
        for micro in self.micro_batches(batch):
            values = self.shares(self.model.unified, micro, controls["step"].to(torch.int32), whole)
            total = gradients(values["loss"], parameters, total)
            scalars.append(values)
        assert total is not None
        out = self.over_processes(summed(scalars))
        start = 0
        for part in self.parts:
            count = len(part.parameters)
            out.update(part.update(total[start : start + count], controls))
            start += count
        return out

    def totals(self, batch: Batch) -> dict[str, Tensor]:
        """What the means divide by, over the global batch: learned tokens and target images."""
        labels = [value for name, value in batch.items() if name.endswith("/labels")]
        tokens = torch.stack([(value[..., 1:] != IGNORE).sum() for value in labels]).sum().float()
        images = torch.ones_like(batch[f"{GENERATION}/rows"]).sum().float()
        return {
            "tokens": self.runtime.sum_over_processes(tokens).clamp(min=1.0),
            "images": self.runtime.sum_over_processes(images),
        }

    def shares(
        self, unified: UnifiedModel, micro: Batch, step: Tensor, whole: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """A micro-batch's share of the global batch's losses.

        Args:
            unified: the model, or the model with other weights (called by method name).
            step: int32 scalar, for the draws.
            whole: from `totals`.
        """
        runtime = self.runtime
        rows = group(micro, GENERATION)
        latent = self._target(rows)
        draws = Draws(self.seed, step, rows["rows"])
        flow, dit = self.model.recipe.flow, self.model.recipe.model.dit
        times = sample_time(getattr(draws, flow.draw)("time", (self.times,)).flatten(), flow, self.model.shift)
        noise = draws.normal("noise", (self.times, *latent.shape[1:])).flatten(0, 1)
        target = latent.repeat_interleave(self.times, dim=0)
        drop = draws.uniform("drop_condition") < dit.condition_dropout if dit.condition_dropout else None
        with runtime.autocast():
            inputs = [Input(rows["tokens"], rows["image_slot"], use_queries=True)]
            if self.has_conversations:
                asked = group(micro, UNDERSTANDING)
                with torch.no_grad():
                    stored = asked["latent"].float() if "latent" in asked else None  # before statistics, as it is read
                    features = self.model.features(image_of(asked["pixels"])) if stored is None else stored
                inputs.append(Input(asked["tokens"], asked["image_slot"], features))
            hidden, *answers = unified.read(inputs, runtime.row_parts)
            summed_ce = self._language(unified, hidden, rows["labels"], self.answer_tokens)
            if self.has_conversations:
                summed_ce = summed_ce + self._language(unified, answers[0], asked["labels"])
            condition = unified.condition(hidden, rows["query_start"]).repeat_interleave(self.times, dim=0)
            if drop is not None:
                drop = drop.repeat_interleave(self.times, dim=0)
            velocity = unified.velocity(interpolate(target, noise, times), times, condition, drop)
        diffusion = flow_loss(velocity, velocity_target(target, noise)).sum() / (self.times * whole["images"])
        language = summed_ce / whole["tokens"]
        loss = self.losses.language * language + self.losses.diffusion * diffusion
        return {"loss": loss, "loss/language": language, "loss/diffusion": diffusion}

    def _target(self, rows: Batch) -> Tensor:
        """The latent [B, N, C] of a group's pictures, encoded now or ahead of the run."""
        codec = self.model.codec
        if "latent" not in rows:
            return codec.encode(image_of(rows["pixels"])).float()
        stored = rows["latent"].float()
        return codec.normalise(stored) if isinstance(codec, NormalisedCodec) else stored

    def _language(self, unified: UnifiedModel, hidden: Tensor, labels: Tensor, most: int | None = None) -> Tensor:
        """Summed cross-entropy of hidden states [B, L, h], of which at most `most` of each row predict a token."""
        table = self.runtime.whole(unified.mllm.output_table)
        return linear_cross_entropy_sum(hidden, table, labels, self.losses.language_chunks, most)[0]

    def evaluate(self, step: int, samples: Path) -> dict[str, float]:
        return self.validation.run(step, samples)

    def export(self, path: Path, meta: Mapping[str, Any]) -> str:
        state = {**self.model.unified.state_dict(), **self.weights()}  # buffers too: the time frequencies
        weights = {name: self.runtime.to_host(value) for name, value in state.items()}
        return write_artifact(path, "model", weights, self.model.facts(), meta, describe(self.model))

    def _lengths(self) -> tuple[int, int]:
        """Tokens of a generation sequence and of an understanding one."""
        chat = self.model.recipe.chat
        return chat.length, chat.conversation_length or chat.length

    def batch_shapes(self) -> dict[str, tuple[tuple[int, ...], type]]:
        captions = sum(s.weight for s in self.data.sources if (s.group or s.kind) in ("caption", GENERATION))
        images = round(self.batch_images * captions / sum(s.weight for s in self.data.sources))
        shapes: dict[str, tuple[tuple[int, ...], type]] = {}
        rows = {GENERATION: images, UNDERSTANDING: self.batch_images - images}
        for (name, count), length in zip(rows.items(), self._lengths(), strict=True):
            if not count:
                continue
            for array in ("tokens", "labels", "image_slot", "positions"):
                shapes[f"{name}/{array}"] = ((count, length), np.int32)
            for array in ("query_start", "length", "rows"):
                shapes[f"{name}/{array}"] = ((count,), np.int32)
            if (latent := self.latents.get(name)) is not None:
                shapes[f"{name}/latent"] = ((count, latent.tokens, latent.channels), latent.dtype)
            else:
                shapes[f"{name}/pixels"] = ((count, self.transform.size, self.transform.size, 3), np.uint8)
        return shapes

    def flops_per_step(self) -> float:
        model, codec = self.model, self.model.codec
        recipe, mllm = model.recipe.model, model.unified.mllm
        captions = sum(s.weight for s in self.data.sources if (s.group or s.kind) in ("caption", GENERATION))
        images = self.batch_images * captions / sum(s.weight for s in self.data.sources)
        asked = self.batch_images - images
        tokens = codec.grid[0] * codec.grid[1]
        reader, frozen = model.reader, encoding_work(codec).total
        channels, looking = (
            (codec.channels, frozen) if reader is None else (reader.channels, encoder_work(reader).total)
        )
        bridge = bridge_work(recipe.llm, mllm.width, tokens, channels, recipe.dit.condition_width)
        lengths = self._lengths()
        prompts = llm_work(mllm.config, lengths[0], self.answer_tokens).total
        answers = llm_work(mllm.config, lengths[1]).total
        reading = images * prompts + asked * (answers + bridge["projector"])
        reading *= 3.0 if any(part.name == "llm" for part in self.parts) else 1.0
        drawing = (
            3.0 * images * (self.times * dit_work(recipe.dit, codec.grid, codec.channels).total + bridge["connector"])
        )
        seen = images * frozen * (GENERATION not in self.latents) + asked * looking * (
            UNDERSTANDING not in self.latents
        )
        return 2.0 * (reading + drawing + seen)


class PretrainTask(UnifiedTask):
    """The stage `pretrain`: a pretrained language model and encoder, a fresh DiT.

    Args:
        model: taken instead of assembling the recipe's (an outline, for `raexla plan`).
    """

    def __init__(self, recipe: PretrainRecipe, runtime: Runtime, model: TextToImage | None = None) -> None:
        shared = {name: getattr(recipe, name) for name in TextToImageRecipe.model_fields}
        model = model or assemble(TextToImageRecipe(**shared), recipe.run.seed)
        super().__init__(
            recipe, runtime, model, recipe.transform, recipe.times_per_image, recipe.losses, recipe.optim, recipe.eval
        )
