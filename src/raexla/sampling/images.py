"""Text -> condition -> latent -> image, in batches of one fixed shape."""

from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raexla.data import Refused, collate_chat
from raexla.flow.guidance import CFGRecipe, GuidanceRecipe, NoGuidance, guided, guided_together
from raexla.flow.samplers import EulerRecipe, HeunRecipe, SamplerRecipe, SDERecipe, euler_step, heun_step, make_grid
from raexla.flow.samplers import sde_step as _sde_step
from raexla.recipe import Recipe, UserError
from raexla.runtime import Draws, Runtime
from raexla.sampling.model import TextToImage, WithWeights


class SamplingRecipe(Recipe):
    """How pictures are drawn."""

    sampler: SamplerRecipe = EulerRecipe()
    guidance: GuidanceRecipe = NoGuidance()
    batch_images: Annotated[int, Field(ge=1)] = 16
    """Pictures at a time; rounded up to a multiple of the batch shards."""


class PromptError(UserError):
    """A prompt that the model's sequence has no room for."""

    def __init__(self, prompt: str, detail: str) -> None:
        super().__init__(f"prompt too long ({detail}): {shorten(prompt, 80, placeholder=' …')!r}")


class ImageSampler:
    """Draws pictures with a placed model. Three compiled functions: condition, one sampler step, decode.

    Args:
        weights: replace `model.unified`'s own (its moving average, say); names as in its `state_dict`.
        weak: the weaker model of AutoGuidance, placed likewise.
    """

    def __init__(
        self,
        model: TextToImage,
        runtime: Runtime,
        recipe: SamplingRecipe,
        weights: Mapping[str, Tensor] | None = None,
        weak: TextToImage | None = None,
    ) -> None:
        self.model, self.runtime, self.recipe = model, runtime, recipe
        shards = runtime.batch_shards
        self.batch = -(-recipe.batch_images // shards) * shards
        self._strong = WithWeights(model.unified, weights)
        self._weak = WithWeights(weak.unified, None) if weak is not None else None
        if recipe.guidance.type == "autoguidance" and weak is None:
            raise UserError("guidance.type is autoguidance, which needs the weaker model's artifact")
        if recipe.guidance.type == "cfg" and model.recipe.model.dit.condition_dropout == 0:
            raise UserError("guidance.type is cfg, but this model was trained without condition dropout")
        self.grid = make_grid(recipe.sampler, model.shift)
        self._condition = runtime.compile(self._condition_of)
        self._step = runtime.compile(self._step_of)
        self._decode = runtime.compile(self._decode_of)
        self._noise = runtime.compile(self._noise_of)

    def _condition_of(self, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), self.runtime.autocast():
            inputs = (rows["tokens"][0], rows["image_slot"][0], rows["query_start"][0])
            strong = self._strong.call("prompt_condition", *inputs).float()
            weak = self._weak.call("prompt_condition", *inputs).float() if self._weak else strong
        return strong, weak

    def _noise_of(self, rows: Tensor, step: Tensor, seed: int) -> Tensor:
        latent = (self.model.codec.grid[0] * self.model.codec.grid[1], self.model.codec.channels)
        return Draws(seed, step, rows[0]).normal("sample", latent)

    def _velocity(self, condition: Tensor, weak_condition: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        guidance = self.recipe.guidance

        def strong(x: Tensor, t: Tensor) -> Tensor:
            return self._strong.call("velocity", x, t, condition).float()

        if isinstance(guidance, NoGuidance) or guidance.scale == 1:
            return strong
        if isinstance(guidance, CFGRecipe):
            drop = torch.arange(2 * len(condition), device=condition.device) >= len(condition)

            def both(x: Tensor, t: Tensor) -> Tensor:
                return self._strong.call("velocity", x, t, torch.cat([condition, condition]), drop).float()

            return guided_together(both, guidance.scale, guidance.interval, guidance.channels)
        assert self._weak is not None

        def weak(x: Tensor, t: Tensor) -> Tensor:
            return self._weak.call("velocity", x, t, weak_condition).float()  # type: ignore[union-attr]

        return guided(strong, weak, guidance)

    def _step_of(self, x: Tensor, condition: Tensor, weak: Tensor, times: Tensor, draw: Tensor | None) -> Tensor:
        sampler = self.recipe.sampler
        t, t_next = times[0].expand(len(x)), times[1].expand(len(x))
        with torch.no_grad(), self.runtime.autocast():
            velocity = self._velocity(condition, weak)
            if isinstance(sampler, SDERecipe):
                assert draw is not None
                return _sde_step(velocity, x, t, t_next, draw, sampler.diffusion)
            step = heun_step if isinstance(sampler, HeunRecipe) else euler_step
            return step(velocity, x, t, t_next)

    def _decode_of(self, latent: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.codec.decode(latent).clamp(0, 1)

    def rows_of(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """The language model's inputs for prompts.

        Raises:
            PromptError: one is too long.
        """
        rows = []
        for prompt in prompts:
            try:
                rows.append(self.model.chat.generation_prompt(prompt, self.model.recipe.chat.length))
            except Refused as refused:
                raise PromptError(prompt, refused.detail) from None
        arrays = collate_chat(rows)
        return {name: arrays[name] for name in ("tokens", "image_slot", "query_start")}

    def latents(self, prompts: Sequence[str], seed: int, first_row: int = 0) -> Tensor:
        """Latents [batch, N, C] of exactly one batch of prompts, on the devices; picture i has the noise of row + i."""
        rows = np.arange(first_row, first_row + self.batch, dtype=np.int32)
        placed = self.runtime.put({**self.rows_of(prompts), "rows": rows})
        condition, weak = self._condition({name: placed[name] for name in ("tokens", "image_slot", "query_start")})
        x = self._noise(placed["rows"], self.runtime.replicate(np.array(0, dtype=np.int32)), seed)
        stochastic = isinstance(self.recipe.sampler, SDERecipe)
        for number, times in enumerate(self.grid.numpy()):
            step = self.runtime.replicate(np.array(number + 1, dtype=np.int32))
            draw = self._noise(placed["rows"], step, seed) if stochastic else None
            x = self._step(x, condition, weak, self.runtime.replicate(times.astype(np.float32)), draw)
        return x

    def images(
        self,
        prompts: Sequence[str],
        seed: int = 0,
        tick: Callable[[int], Any] = lambda count: None,
        first_row: int = 0,
    ) -> np.ndarray:
        """Pictures [n, 3, H, W] in [0, 1] for any number of prompts; picture i depends on (seed, first_row + i) alone.

        Args:
            tick: called with the number of pictures that each batch has finished.
        """
        out = []
        for start in range(0, len(prompts), self.batch):
            part = list(prompts[start : start + self.batch])
            padded = part + [part[-1]] * (self.batch - len(part))
            image = self._decode(self.latents(padded, seed, first_row + start))
            out.append(self.runtime.to_host(image)[: len(part)])
            tick(len(part))
        return np.concatenate(out)
