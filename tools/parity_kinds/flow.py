"""Times, paths, losses, grids and samplers of both official code bases."""

import re
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from parity_kinds.base import Gradients, Runner, gradients_of, planes, tokens
from parity_kinds.case import Case, Config
from parity_kinds.dit import build
from parity_kinds.rules import ELEMENT_WISE, GRADIENT, INVERSE_NORMAL, OUTPUT, Rule
from raexla.flow.path import flow_loss, interpolate, velocity_target
from raexla.flow.samplers import released_grid, released_indices, released_times, sample, shifted_grid
from raexla.flow.time import TimeRecipe, dimension_shift, sample_time
from raexla.models.dit import DiTRecipe, LightningDiT
from raexla.models.dit.official import key_map
from raexla.nn.timestep import fourier_frequencies
from raexla.recipe import UserError


class FourierFrequencies(Runner):
    """`gaussian_fourier_W`."""

    element_wise = True

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        config = case.config
        self.ours = fourier_frequencies(config.need("n"), config.need("seed")) * config.get("scale", 1.0)

    def output(self, name: str) -> Tensor | None:
        return self.ours if name == "W" else None


class ScaleRAETraining(Runner):
    """`scale_rae_flow_train`: times for several latent sizes, a loss on given predictions, and one with a real DiT."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        config = case.config
        config.note("shift", "dims")  # the formula as text; the sizes stand in the outputs' names too
        self.base_dim: int = config.get("base_dim", 4096)
        self.time = TimeRecipe(base_dim=self.base_dim)
        self.model: LightningDiT | None = None
        if config.has("full"):
            self._build(case, config.inside("full"))

    def _build(self, case: Case, full: Config) -> None:
        side = full.need("grid")
        self.grid: tuple[int, int] = (side, side)
        self.tokens, self.channels = side * side, full.need("channels")
        full.agree("tokens", self.tokens)
        recipe = DiTRecipe(
            width=full.need("hidden"),
            depth=full.need("depth"),
            heads=full.need("heads"),
            condition_channels=full.need("z"),
            condition_dropout=full.get("class_dropout_prob", 0.1),
            allow_narrow=True,
        )
        self.model = build(case.part("weight"), recipe, self.grid, self.channels, "scale_rae")
        self.modules = [self.model]

    def rule(self, part: str, name: str) -> Rule:
        if part == "grad":
            return GRADIENT
        return OUTPUT if name in ("full_v", "full_loss") else ELEMENT_WISE

    def output(self, name: str) -> Tensor | None:
        inputs = self.inputs
        if name == "t_before_shift":
            return sample_time(inputs["u"], self.time, 1.0)
        if name == "small_target":
            return velocity_target(inputs["x"], inputs["noise"])
        if name.startswith("full_") and self.model is not None:
            return self._full(name.removeprefix("full_"))
        if found := re.fullmatch(r"(shift|t|small_t|small_x_t|small_loss)_(\d+)x(\d+)", name):
            return self._small(found[1], self.time.factor(int(found[2]), int(found[3])))
        return None

    def _small(self, what: str, factor: float) -> Tensor:
        inputs = self.inputs
        if what == "shift":
            return torch.tensor([factor])
        if what == "t":
            return sample_time(inputs["u"], self.time, factor)
        t = sample_time(inputs["u4"], self.time, factor)
        if what == "small_t":
            return t
        if what == "small_x_t":
            return interpolate(inputs["x"], inputs["noise"], t)
        return flow_loss(inputs["pred"], velocity_target(inputs["x"], inputs["noise"]))

    def _full(self, what: str) -> Tensor | None:
        inputs, model = self.inputs, self.model
        assert model is not None
        x, noise = inputs["full_x"], tokens(inputs["full_noise"])
        t = sample_time(inputs["full_u"], self.time, self.time.factor(self.tokens, self.channels))
        x_t = interpolate(x, noise, t)
        drop = inputs["full_drop_uniform"] < model.recipe.condition_dropout
        if what == "t":
            return t
        if what == "x_t":
            return planes(x_t, self.grid)
        velocity = self.once("velocity", lambda: model(x_t, t, inputs["full_y"], drop))
        if what == "v":
            return planes(velocity, self.grid)
        return flow_loss(velocity, velocity_target(x, noise)) if what == "loss" else None

    def gradients(self) -> Gradients:
        if self.model is None:
            return {}
        loss = self._full("loss")
        assert loss is not None
        return gradients_of(loss.mean(), self.model, key_map(self.model.recipe, "scale_rae"), self.case.part("grad"))


class _Field:
    """The fixtures' velocity v(x, t)[c] = sum_j A[c, j] x[j] + t b[c], which keeps the times that it was asked for."""

    def __init__(self, inputs: dict[str, Tensor]) -> None:
        self.inputs = inputs
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t[0])
        linear = torch.einsum("cj,bjhw->bchw", self.inputs["A"], x)
        return linear + t.reshape(-1, 1, 1, 1) * self.inputs["b"].reshape(1, -1, 1, 1)


_DENSITIES: dict[str, Literal["logit_normal", "uniform"]] = {"logitnormal": "logit_normal", "uniform": "uniform"}


class RAETransport(Runner):
    """`rae_transport`: RAE's training times and its Euler sampler."""

    element_wise = True

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        config = case.config
        self.shift: float = config.need("shift")
        config.note("shift_formula")
        config.only("path", "Linear")
        config.only("prediction", "velocity")
        for name in case.part("output"):
            if found := re.fullmatch(r"(?:grid|sample|t_evaluated)_(\d+)_(shift|noshift)", name):
                self.inputs[f"schedule_{found[1]}_{found[2]}"] = released_grid(
                    "rae", int(found[1]), self._factor(found[2])
                )

    def _factor(self, name: str) -> float:
        return self.shift if name == "shift" else 1.0

    def rule(self, part: str, name: str) -> Rule:
        return INVERSE_NORMAL if re.match(r"(x_)?t_logitnormal_", name) else super().rule(part, name)

    def output(self, name: str) -> Tensor | None:
        inputs = self.inputs
        if name == "u_t":
            return velocity_target(inputs["x1"], inputs["x0"])
        if found := re.fullmatch(r"(t|x_t|loss)_(logitnormal|uniform)_(shift|noshift)", name):
            if found[1] == "loss":
                return flow_loss(inputs["pred"], velocity_target(inputs["x1"], inputs["x0"]))
            recipe = TimeRecipe(density=_DENSITIES[found[2]], largest=0.999)
            t = sample_time(inputs["U"], recipe, self._factor(found[3]))
            return t if found[1] == "t" else interpolate(inputs["x1"], inputs["x0"], t)
        if found := re.fullmatch(r"(grid|sample|t_evaluated)_(\d+_(?:shift|noshift))", name):
            schedule = inputs[f"schedule_{found[2]}"]
            if found[1] == "grid":
                return torch.cat([schedule[:, 0], schedule[-1:, 1]])
            return self._sampled(found[2], schedule, times=found[1] == "t_evaluated")
        return None

    def _sampled(self, key: str, schedule: Tensor, *, times: bool) -> Tensor:
        def run() -> Tensor:
            field = _Field(self.inputs)
            final = sample(field, self.inputs["noise"], schedule)
            self._memo[key, "times"] = torch.stack(field.times)
            return final

        final = self.once(key, run)
        return self._memo[key, "times"] if times else final


class ScaleRAESampler(Runner):
    """`scale_rae_sampler_grid`: the official T2I grid, stray step included."""

    element_wise = True

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        config = case.config
        self.steps: int = config.need("steps")
        self.times: int = config.get("diffusion_steps", 1000)
        self.factor = dimension_shift(config.need("tokens"), config.need("channels"), config.get("base_dim", 4096))
        given = config.get("shift", self.factor)
        if abs(given - self.factor) > 1e-6 * self.factor:
            raise UserError(f"the config has shift: {given}, but tokens and channels give {self.factor}")
        self.inputs["schedule"] = released_grid("scale_rae", self.steps, self.factor, self.times)
        self.field = _Field(self.inputs)

    def _states(self) -> dict[str, Callable[[], Tensor]]:
        schedule = self.inputs["schedule"]
        first = self._from(lambda: self.inputs["noise"], schedule[:1], "first")
        before = self._from(first, schedule[1:-1], "before")
        last = self._from(before, schedule[-1:], "last")
        return {"x_after_first_step": first, "x_before_stray_step": before, "sample": last}

    def _from(self, start: Callable[[], Tensor], rows: Tensor, key: str) -> Callable[[], Tensor]:
        self.field.inputs = self.inputs
        return lambda: self.once(key, lambda: sample(self.field, start(), rows))

    def output(self, name: str) -> Tensor | None:
        if state := self._states().get(name):
            return state()
        if name == "t_evaluated":
            self._states()["sample"]()
            return torch.stack(self.field.times)
        indices = released_indices(self.steps, self.times)
        if name == "used_indices":
            return self._in_their_order(name, indices)
        rising = released_times(self.factor, self.times)
        if name == f"grid_{self.steps}" and self.steps != self.times:
            return self._in_their_order(name, rising[indices])
        return self._in_their_order(name, rising) if name == f"grid_{self.times}" else None

    def _in_their_order(self, name: str, rising: Tensor) -> Tensor:
        """Lists of times are the same whichever end they begin at; the sampler's order is `t_evaluated`."""
        theirs = self.case.tensors[f"output/{name}"]
        return rising.flip(0) if len(theirs) > 1 and theirs[0] > theirs[-1] else rising

    def derived(self, name: str) -> Tensor | None:
        if name != f"t_grid_1_to_0_{self.steps}":
            return None
        schedule = shifted_grid(self.steps, self.factor)
        return torch.cat([schedule[:, 0], schedule[-1:, 1]])
