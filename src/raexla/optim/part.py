"""One trained part of a model: its parameters, its AdamW, its EMA."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from raexla.optim.schedule import OptimizerRecipe, learning_rate


class Devices(Protocol):
    """What a part needs of a runtime."""

    type: str

    def prime(self, optimizer: Optimizer) -> None:
        """Create the optimiser's state on the devices."""
        ...

    def copy_of(self, tensor: Tensor) -> Tensor:
        """A tensor of its own with the same values, split in the same way."""
        ...

    def reduce_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        """Sum gradients over processes."""
        ...


class Part:
    """Parameters that share an optimiser. Parameters must already be placed on their devices.

    Args:
        name: its name in recipes, metrics and checkpoints.
        parameters: name -> parameter; frozen ones must not be among them.
        steps: optimiser steps of the whole run, for the schedule.
        start: the first step at which this part is updated; its schedule begins there.
        epoch_steps: steps of a virtual epoch, for a warm-up in epochs.
    """

    def __init__(
        self,
        name: str,
        recipe: OptimizerRecipe,
        parameters: Mapping[str, nn.Parameter],
        devices: Devices,
        steps: int,
        start: int = 0,
        epoch_steps: float | None = None,
    ) -> None:
        self.name, self.recipe, self.parameters = name, recipe, dict(parameters)
        self._devices, self._steps, self._start, self._epoch_steps = devices, steps, start, epoch_steps
        self.optimizer = AdamW(
            list(self.parameters.values()),
            lr=recipe.lr,
            betas=recipe.betas,
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
            foreach=False,
        )
        devices.prime(self.optimizer)
        self.ema: dict[str, Tensor] = {}
        if recipe.ema is not None:
            self.ema = {key: devices.copy_of(value) for key, value in self.parameters.items()}

    def controls(self, step: int) -> dict[str, float]:
        """Host values that the update of `step` needs."""
        own, steps = max(0, step - self._start), self._steps - self._start
        return {f"lr/{self.name}": learning_rate(self.recipe, own, steps, self._epoch_steps)}

    def describe(self) -> str:
        """Size and schedule for a person."""
        schedule = self.recipe.schedule
        warmup = schedule.warmup(self._steps - self._start, self._epoch_steps)
        size = sum(p.numel() for p in self.parameters.values()) / 1e6
        rate = f"{self.recipe.lr:g}" + ("" if schedule.type == "constant" else f" to {schedule.min_lr:g}")
        begins = f" from step {self._start:,}" if self._start else ""
        return (
            f"{self.name}: {size:.2f}M trained parameters, lr {rate} {schedule.type} over "
            f"{self._steps - self._start:,} steps{begins}, {warmup:,} of them warm-up"
        )

    def update(self, gradients: Sequence[Tensor], controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One AdamW step and EMA update.

        Args:
            gradients: one per parameter, in the order of `parameters`, summed over this process's rows.
            controls: device scalars for the names that `controls()` gave.

        Returns:
            `gradient_norm/<name>` before clipping.
        """
        reduced = self._devices.reduce_gradients(list(gradients))
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in reduced]))
        if self.recipe.clip is not None:
            scale = (self.recipe.clip / (norm + 1e-6)).clamp(max=1.0)
            reduced = [g * scale for g in reduced]
        for parameter, gradient in zip(self.parameters.values(), reduced, strict=True):
            parameter.grad = gradient
        lr = controls[f"lr/{self.name}"]
        for group in self.optimizer.param_groups:
            group["lr"] = lr if group["capturable"] else float(lr)
        self.optimizer.step()
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr
        for parameter in self.parameters.values():
            parameter.grad = None
        if self.recipe.ema is not None:
            with torch.no_grad():
                for key, average in self.ema.items():
                    average.lerp_(self.parameters[key].detach(), 1.0 - self.recipe.ema)
        return {f"gradient_norm/{self.name}": norm.detach()}

    def state(self) -> dict[str, Tensor]:
        """Optimiser state and EMA by name, for checkpoints."""
        out: dict[str, Tensor] = {}
        for key, parameter in self.parameters.items():
            for field, value in self.optimizer.state[parameter].items():
                out[f"optim/{self.name}/{key}/{field}"] = value
        out.update({f"ema/{self.name}/{key}": value for key, value in self.ema.items()})
        return out

    def weights(self) -> dict[str, Tensor]:
        """The weights to evaluate and ship: the moving average where there is one."""
        return dict(self.ema) if self.ema else dict(self.parameters)
