"""Validation of text-to-image training: losses on held-out samples, pictures of fixed prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raexla.data import DataRecipe, OrderRecipe, SourceRecipe, chat_rows, open_loader
from raexla.data.loader import GROUPS
from raexla.recipe import Recipe, UserError
from raexla.sampling.images import ImageSampler, SamplingRecipe
from raexla.sampling.sheet import save_sheet
from raexla.sampling.weak import open_weak
from raexla.train.latents.training import blanks, check_latents, latent_groups

if TYPE_CHECKING:
    from raexla.train.pretrain import UnifiedTask


class TextToImageEvalRecipe(Recipe):
    """What happens every `every_steps` steps, and after the last one."""

    every_steps: Annotated[int, Field(ge=1)] | None = None
    """None never evaluates."""
    sources: tuple[SourceRecipe, ...] = ()
    """Held-out samples for the validation losses, of the same groups as the training data."""
    batches: Annotated[int, Field(ge=1)] = 2
    """Batches of the training size that the losses are averaged over; the same ones, with the same draws, each time."""
    prompts: tuple[str, ...] = ()
    """A picture of each is drawn into `samples/`."""
    sampling: SamplingRecipe = SamplingRecipe()


class TextToImageValidation:
    """Runs the evaluation of a `UnifiedTask`."""

    def __init__(self, task: "UnifiedTask", recipe: TextToImageEvalRecipe) -> None:
        self._task, self._recipe = task, recipe
        if recipe.sources:
            _same_groups(recipe.sources, task.data.sources)
        self._sampler: ImageSampler | None = None
        self._weak = None
        if recipe.prompts and _can_decode(task.model.codec):
            where = "eval.sampling.guidance.weak"
            self._weak = open_weak(recipe.sampling, task.model, task.runtime, where)
        self._arrays: list[dict[str, np.ndarray]] = []
        self._losses = task.runtime.compile(self._losses_of)

    def _losses_of(self, batch: dict[str, Tensor], step: Tensor) -> Tensor:
        task = self._task
        with torch.no_grad():
            whole = task.totals(batch)
            weights = {f"unified.{name}": value for name, value in task.weights().items()}
            values = [
                torch.func.functional_call(_Shares(task), weights, (micro, step, whole))
                for micro in task.micro_batches(batch)
            ]
            return torch.stack([torch.stack([v[name] for v in values]).sum() for name in values[0]])

    def _batches(self) -> list[dict[str, np.ndarray]]:
        if not self._arrays and self._recipe.sources:
            task = self._task
            codec = task.model.codec
            check_latents(self._recipe.sources, task.model.opened, task.transform, "eval.sources")
            latents = blanks(latent_groups(self._recipe.sources, codec.grid, codec.channels))
            change, collate = chat_rows(task.model.chat, task.transform, task.answer_tokens, latents)
            data = DataRecipe(sources=self._recipe.sources, order=OrderRecipe(streams=task.data.order.streams))
            with open_loader(
                data,
                transform=change,
                collate=collate,
                global_batch_images=task.batch_images,
                seed=0,
                process_index=task.runtime.process_index,
                process_count=task.runtime.process_count,
            ) as loader:
                self._arrays = [next(loader).arrays for _ in range(self._recipe.batches)]
        return self._arrays

    def run(self, step: int, samples: Path) -> dict[str, float]:
        """Losses by name (`validation/...`); pictures go to `samples/step-XXXXXXXX.png`."""
        task, runtime = self._task, self._task.runtime
        totals: dict[str, float] = {}
        names = ("loss", "loss/language", "loss/diffusion")
        for number, arrays in enumerate(self._batches()):
            task.tick()
            placed = runtime.put(arrays, task.accumulate)
            shares = self._losses(placed, runtime.replicate(np.array(number, dtype=np.int32)))
            found = runtime.to_host(runtime.sum_over_processes(shares))
            for name, value in zip(names, found, strict=True):
                key = f"validation/{name}"
                totals[key] = totals.get(key, 0.0) + float(value) / self._recipe.batches
        if self._recipe.prompts and _can_decode(task.model.codec):
            if self._sampler is None:
                self._sampler = ImageSampler(
                    task.model, runtime, self._recipe.sampling, weights=task.weights(), weak=self._weak
                )
            task.tick()
            images = self._sampler.images(self._recipe.prompts, seed=0, tick=lambda count: task.tick())
            if runtime.process_index == 0:
                save_sheet(samples / f"step-{step:08d}.png", images, self._recipe.prompts)
        return totals


def _same_groups(held_out: Sequence[SourceRecipe], trained: Sequence[SourceRecipe]) -> None:
    """Refuse validation batches that don't have the arrays of the training's.

    Raises:
        UserError: a group is missing, or one too many.
    """
    found, wanted = ({_group(source) for source in sources} for sources in (held_out, trained))
    for group in sorted(wanted - found):
        kinds = " or ".join(kind for kind, name in GROUPS.items() if name == group)
        raise UserError(
            f"eval.sources: none is of the group {group!r} (kind {kinds}), which data.sources trains on: add one, or "
            "leave eval.sources out"
        )
    for source in held_out:
        if _group(source) not in wanted:
            raise UserError(
                f"eval.sources: {source.name} is of the group {_group(source)!r}, which no data.sources trains on: "
                "leave it out"
            )


def _group(source: SourceRecipe) -> str:
    return GROUPS[source.kind] if source.group is None else source.group


def _can_decode(codec: Any) -> bool:
    return getattr(codec, "decoder", codec) is not None


class _Shares(torch.nn.Module):
    """`UnifiedTask.shares` as a module, so that it can be called with other weights."""

    def __init__(self, task: "UnifiedTask") -> None:
        super().__init__()
        self.unified = task.model.unified
        self._shares = task.shares

    def forward(self, micro: dict[str, Tensor], step: Tensor, whole: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `UnifiedTask.shares`."""
        return self._shares(self.unified, micro, step, whole)
