"""Requests (prompts or classes) -> condition -> latent -> image, in batches of one fixed shape."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raexla.flow.guidance import CFGRecipe, GuidanceRecipe, NoGuidance, guided, guided_together
from raexla.flow.samplers import EulerRecipe, HeunRecipe, SamplerRecipe, SDERecipe, euler_step, heun_step, make_grid
from raexla.flow.samplers import sde_step as _sde_step
from raexla.recipe import Recipe, UserError
from raexla.runtime import Draws, Runtime
from raexla.sampling.base import ImageModel, WithWeights


class SamplingRecipe(Recipe):
    """How pictures are drawn."""

    sampler: SamplerRecipe = EulerRecipe()
    guidance: GuidanceRecipe = NoGuidance()
    batch_images: Annotated[int, Field(ge=1)] = 16
    """Pictures at a time; rounded up to a multiple of the batch shards."""


@dataclass(frozen=True)
class _Weighted:
    """A model with the weights that it is to be called with."""

    model: ImageModel
    network: WithWeights

    def condition(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.model.condition(self.network, inputs)

    def velocity(self, x: Tensor, t: Tensor, condition: Tensor, drop: Tensor | None = None) -> Tensor:
        return self.model.velocity(self.network, x, t, condition, drop)


class ImageSampler:
    """Draws pictures with a placed model. Three compiled functions: condition, one sampler step, decode.

    Args:
        weights: replace `model.network`'s own (its moving average, say); names as in its `state_dict`.
        weak: the weaker model of AutoGuidance, placed likewise (see `raexla.sampling.weak`). It reads requests in its
            own way: its prompts may have another layout or length.
    """

    def __init__(
        self,
        model: ImageModel,
        runtime: Runtime,
        recipe: SamplingRecipe,
        weights: Mapping[str, Tensor] | None = None,
        weak: ImageModel | None = None,
    ) -> None:
        self.model, self.runtime, self.recipe = model, runtime, recipe
        shards = runtime.batch_shards
        self.batch = -(-recipe.batch_images // shards) * shards
        self._strong = _Weighted(model, WithWeights(model.network, weights))
        self.weak = _needed(recipe, model, weak)
        self._weak = _Weighted(self.weak, WithWeights(self.weak.network, None)) if self.weak is not None else None
        self.grid = make_grid(recipe.sampler, model.shift)
        self._condition = runtime.compile(self._condition_of)
        self._step = runtime.compile(self._step_of)
        self._decode = runtime.compile(self._decode_of)
        self._noise = runtime.compile(self._noise_of)

    def _condition_of(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        def of(whose: str) -> dict[str, Tensor]:
            return {name.removeprefix(whose): value[0] for name, value in inputs.items() if name.startswith(whose)}

        with torch.no_grad(), self.runtime.autocast():
            strong = self._strong.condition(of("strong/"))
            return strong, self._weak.condition(of("weak/")) if self._weak else strong

    def _noise_of(self, rows: Tensor, step: Tensor, seed: int) -> Tensor:
        latent = (self.model.codec.grid[0] * self.model.codec.grid[1], self.model.codec.channels)
        return Draws(seed, step, rows[0]).normal("sample", latent)

    def _velocity(self, condition: Tensor, weak_condition: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        guidance = self.recipe.guidance

        strong = partial(self._strong.velocity, condition=condition)
        if isinstance(guidance, NoGuidance) or guidance.scale == 1:
            return strong
        if isinstance(guidance, CFGRecipe):
            drop = torch.arange(2 * len(condition), device=condition.device) >= len(condition)
            both = partial(self._strong.velocity, condition=torch.cat([condition, condition]), drop=drop)
            return guided_together(both, guidance.scale, guidance.interval, guidance.channels)
        assert self._weak is not None
        return guided(strong, partial(self._weak.velocity, condition=weak_condition), guidance)

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

    def inputs(self, requests: Sequence[Any]) -> dict[str, np.ndarray]:
        """Arrays [n, ...] of n requests, `strong/...` and, with AutoGuidance, `weak/...`.

        Raises:
            UserError: a request that one of the two can't take.
        """
        arrays = {f"strong/{name}": value for name, value in self.model.inputs(requests).items()}
        if self.weak is not None:
            arrays |= {f"weak/{name}": value for name, value in self.weak.inputs(requests).items()}
        return arrays

    def latents(self, requests: Sequence[Any], seed: int, first_row: int = 0) -> Tensor:
        """Latents [batch, N, C] of exactly one batch of requests, on the devices; picture i has the noise of row + i.

        Raises:
            UserError: a request that the model can't take.
        """
        rows = np.arange(first_row, first_row + self.batch, dtype=np.int32)
        inputs = self.runtime.put({**self.inputs(requests), "rows": rows})
        placed = inputs.pop("rows")
        condition, weak = self._condition(inputs)
        x = self._noise(placed, self.runtime.replicate(np.array(0, dtype=np.int32)), seed)
        stochastic = isinstance(self.recipe.sampler, SDERecipe)
        for number, times in enumerate(self.grid.numpy()):
            step = self.runtime.replicate(np.array(number + 1, dtype=np.int32))
            draw = self._noise(placed, step, seed) if stochastic else None
            x = self._step(x, condition, weak, self.runtime.replicate(times.astype(np.float32)), draw)
        return x

    def images(
        self,
        requests: Sequence[Any],
        seed: int = 0,
        tick: Callable[[int], Any] = lambda count: None,
        first_row: int = 0,
    ) -> np.ndarray:
        """Pictures [n, 3, H, W] in [0, 1] for any number of requests; picture i depends on (seed, first_row + i) alone.

        Args:
            tick: called with the number of pictures that each batch has finished.
        """
        out = []
        for start in range(0, len(requests), self.batch):
            part = list(requests[start : start + self.batch])
            padded = part + [part[-1]] * (self.batch - len(part))
            image = self._decode(self.latents(padded, seed, first_row + start))
            out.append(self.runtime.to_host(image)[: len(part)])
            tick(len(part))
        return np.concatenate(out)


def _needed(recipe: SamplingRecipe, model: ImageModel, weak: ImageModel | None) -> ImageModel | None:
    """The weaker model if guidance asks it, None otherwise; refuses guidance that this model can't have."""
    guidance = recipe.guidance
    if isinstance(guidance, NoGuidance) or guidance.scale == 1:
        return None
    if guidance.channels is not None and guidance.channels > model.codec.channels:
        raise UserError(f"guidance.channels is {guidance.channels}, the latent has {model.codec.channels} channels")
    if isinstance(guidance, CFGRecipe):
        if model.dit.condition_dropout == 0:
            raise UserError(
                "guidance.type is cfg, but this model was trained without condition dropout: guide it by a weaker "
                "model (autoguidance), or not at all (scale 1)"
            )
        return None
    if weak is None:
        raise UserError("guidance.type is autoguidance, which needs the weaker model's artifact")
    return weak
