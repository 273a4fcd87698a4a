"""Diffusion transformers: Scale-RAE's plain one and its two DDT wirings, RAE's DiT-DH and plain LightningDiT."""

import re
from typing import Any

import torch
from torch import Tensor

from parity_kinds.base import Gradients, Runner, gradients_of, planes, tokens
from parity_kinds.case import Case, Config
from raexla.flow.guidance import guide
from raexla.models.dit import DiTRecipe, LightningDiT
from raexla.models.dit.official import Layout, from_official, key_map
from raexla.recipe import UserError

INTERVAL = (0.1, 0.9)
"""Times at which the RAE kinds were guided."""

NULL = "y_embedder.dropout_embedding"


def scale_rae_recipe(config: Config) -> DiTRecipe:
    """The recipe of a Scale-RAE DiT: sizes in lists have a wide head, `use_DDT` a classic one."""
    width, depth, heads = (config.need(f"model_{key}") for key in ("hidden_size", "depth", "heads"))
    head = None
    config.only("dit_cls", "DiT", "DDT", "LightningDiT", "LightningDDT")
    classic = config.only("use_DDT", False, True)
    if isinstance(width, list):
        heads = heads if isinstance(heads, list) else [heads, heads]
        head = {"wiring": "scale_rae", "width": width[1], "depth": depth[1], "heads": heads[1]}
        width, depth, heads = width[0], depth[0], heads[0]
        config.note("DDT_encoder_depth", "use_DDT")
    elif classic:
        backbone = config.need("DDT_encoder_depth")
        head = {"wiring": "classic", "width": width, "depth": depth - backbone, "heads": heads}
        depth = backbone
    else:
        config.note("DDT_encoder_depth")  # kept in official configs, without effect
    config.only("use_mlp", False)
    config.note("guidance_scale")  # of the official sampler; the scales of the outputs are in their names
    return _recipe(
        config,
        width=width,
        depth=depth,
        heads=heads,
        condition_channels=config.need("z_channels"),
        outer_silu=config.only("cond_silu", True, False),
        head=head,
    )


def rae_recipe(config: Config, sizes: Config, classes: int, *, head: bool) -> DiTRecipe:
    """The recipe of one of RAE's class-conditional DiTs; `sizes` may be the guide's."""
    width, depth, heads = (sizes.need(key) for key in ("hidden_size", "depth", "num_heads"))
    wide = None
    if head:
        heads = heads if isinstance(heads, list) else [heads, heads]
        wide = {"wiring": "rae", "width": width[1], "depth": depth[1], "heads": heads[1]}
        width, depth, heads = width[0], depth[0], heads[0]
    elif isinstance(width, list):
        raise UserError(f"the config has hidden_size: {width}: this kind has no head, so it takes one number")
    conditioning = {"type": "class", "num_classes": classes}
    return _recipe(config, width=width, depth=depth, heads=heads, conditioning=conditioning, outer_silu=head, head=wide)


def _recipe(config: Config, **fields: Any) -> DiTRecipe:
    """What the kinds have in common. A narrow DiT is fine here: the fixtures are tiny."""
    patch = config.get("patch_size", 1)
    if isinstance(patch, list):  # RAE's DiT-DH: backbone's and head's
        if len(set(patch)) != 1:
            raise UserError(f"the config has patch_size: {patch}; here backbone and head have the same")
        patch = patch[0]
    for key in ("use_swiglu", "use_rope", "use_rmsnorm", "use_pos_embed"):
        config.only(key, True)
    for key in ("wo_shift", "learn_sigma", "use_checkpoint"):
        config.only(key, False)
    config.only("mlp_ratio", 4.0, 4)
    qk_norm = bool(config.only("use_qknorm", False, True)) or bool(config.only("qk_norm", False, True))
    config.note("batch", "mlp_hidden", "head_dim")
    dropout = config.get("class_dropout_prob", 0.1)
    return DiTRecipe.model_validate(
        {**fields, "patch_size": patch, "qk_norm": qk_norm, "condition_dropout": dropout, "allow_narrow": True}
    )


def build(
    weights: dict[str, Tensor], recipe: DiTRecipe, grid: tuple[int, int], channels: int, layout: Layout
) -> LightningDiT:
    """Our module with official weights, through the importer."""
    model = LightningDiT(recipe, grid, channels)
    model.load_state_dict(from_official(weights, recipe, grid, channels, layout))
    return model


class _DiT(Runner):
    """What the kinds share: a latent `x` of [B, C, h, w], velocities at named times, gradients."""

    layout: Layout
    model: LightningDiT

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        _, self.channels, *grid = case.shape("input/x")
        self.grid: tuple[int, int] = (grid[0], grid[1])
        self.drop_all = torch.ones(case.shape("input/x")[0], dtype=torch.bool)

    def _sides(self, patch: int) -> list[int]:
        """What a config may call its grid: the latent's side or the tokens', for a square one."""
        return [self.grid[0], self.grid[0] // patch]

    def planes(self, x: Tensor) -> Tensor:
        """Our tokens as the official [B, C, h, w]."""
        return planes(x, self.grid)

    def gradients(self) -> Gradients:
        return self.gradients_at(self.velocity("t_0"), set(self.case.part("grad")))

    def gradients_at(self, velocity: Tensor, keys: set[str]) -> Gradients:
        """Of the mean square of `velocity` with respect to official `keys`."""
        like = {key: value for key, value in self.case.part("grad").items() if key in keys}
        return gradients_of(velocity.square().mean(), self.model, key_map(self.model.recipe, self.layout), like)

    def velocity(self, time: str) -> Tensor:
        """[B, N, C] at the input of this name."""
        raise NotImplementedError


class ScaleRAEDiT(_DiT):
    """`scale_rae_dit`, `scale_rae_ddt_classic`, `scale_rae_ddt_wide`."""

    layout: Layout = "scale_rae"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        config = case.config
        recipe = scale_rae_recipe(config)
        config.agree("diffusion_channels", self.channels)
        config.only("grid", *self._sides(recipe.patch_size))
        config.only("diffusion_tokens", *(side * side for side in self._sides(recipe.patch_size)))
        self.model = build(case.part("weight"), recipe, self.grid, self.channels, self.layout)
        self.modules = [self.model]
        self.inputs["drop_all"] = self.drop_all

    def velocity(self, time: str, drop: str | None = None) -> Tensor:
        """[B, N, C] at an input time; `drop` names the bool input that says which conditions are dropped."""

        def make() -> Tensor:
            dropped = None if drop is None else self.inputs[drop]
            return self.model(tokens(self.inputs["x"]), self.inputs[time], self.inputs["y"], dropped)

        return self.once((time, drop), make)

    def output(self, name: str) -> Tensor | None:
        if not self.model.recipe.condition_dropout and name.startswith(("v_uncond", "v_cfg")):
            return None  # without dropout there is no null condition
        if name == "v_uncond":
            return self.planes(self.velocity("t_0", "drop_all"))
        if name == "v_train_drop" and not self.model.recipe.condition_dropout:
            return self.planes(self.velocity("t_0"))
        if name == "v_train_drop":
            self.inputs["dropped"] = self.inputs["drop_uniform"] < self.model.recipe.condition_dropout
            return self.planes(self.velocity("t_0", "dropped"))
        if found := re.fullmatch(r"v_cfg_scale([\d.]+)_(empty|default)_interval", name):
            # the official interval is inverted: an empty one guides everywhere, the default one nowhere
            strong, weak = self.velocity("t_1"), self.velocity("t_1", "drop_all")
            interval = (0.0, 1.0) if found[2] == "empty" else (2.0, 3.0)
            return self.planes(guide(strong, weak, self.inputs["t_1"], float(found[1]), interval))
        if (found := re.fullmatch(r"v_(\d+)", name)) and self.has(f"t_{found[1]}"):
            return self.planes(self.velocity(f"t_{found[1]}"))
        return None

    def gradients(self) -> Gradients:
        keys = set(self.case.part("grad"))  # the null condition's is that of the unconditional velocity
        ours = self.gradients_at(self.velocity("t_0"), keys - {NULL})
        return ours | (self.gradients_at(self.velocity("t_0", "drop_all"), {NULL}) if NULL in keys else {})


class RAEDiT(_DiT):
    """`rae_ditdh` and, with `_Lightning`, `rae_lightningdit`."""

    layout: Layout = "rae"
    with_head = True

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        config = case.config
        self.classes: int = config.need("num_classes")
        recipe = rae_recipe(config, config, self.classes, head=self.with_head)
        for key in ("grid", "input_size"):
            config.only(key, *self._sides(recipe.patch_size))
        config.agree("in_channels", self.channels)
        self.interval = self._interval(config)
        self.model = build(case.part("weight"), recipe, self.grid, self.channels, self.layout)
        self.modules = [self.model]
        self.inputs["drop_all"] = self.drop_all
        self.guide: LightningDiT | None = None
        if weights := case.part("weight_guide"):
            sizes = config.inside("guide") if config.has("guide") else Config(_sizes(weights))
            weaker = rae_recipe(config, sizes, self.classes, head=self.with_head)
            self.guide = build(weights, weaker, self.grid, self.channels, self.layout)
            self.modules.append(self.guide)

    @staticmethod
    def _interval(config: Config) -> tuple[float, float]:
        given = config.get("cfg_interval", INTERVAL)
        flat = given[0] if isinstance(given[0], list | tuple) else given
        return float(flat[0]), float(flat[1])

    def velocity(self, time: str, which: str = "model") -> Tensor:
        """[B, N, C] at an input time, of the `model`, of its `null` class or of the `guide`."""
        x, t, label = tokens(self.inputs["x"]), self.inputs[time], self.inputs["label"]
        if which == "null":
            null = torch.full_like(label, self.classes)
            return self.once((time, which), lambda: self.model(x, t, null))
        model = self.guide if which == "guide" else self.model
        assert model is not None
        return self.once((time, which), lambda: model(x, t, label))

    def guided(self, time: str, weak: str, scale: float) -> Tensor:
        """Guided velocity [B, N, C]; DiT-DH's interval: per sample, ends included."""
        return guide(self.velocity(time), self.velocity(time, weak), self.inputs[time], scale, self.interval)

    def output(self, name: str) -> Tensor | None:
        if not self.model.recipe.condition_dropout and name.startswith(("v_null", "cfg")):
            return None  # without dropout there is no null class
        if name == "v_null":
            return self.planes(self.velocity("t_0", "null"))
        if found := re.fullmatch(r"(cfg|ag)([\d.]+)_(?:t_)?(\w+)", name):
            time, weak = f"t_{found[3]}", "null" if found[1] == "cfg" else "guide"
            if self.has(time) and (weak == "null" or self.guide is not None):
                return self.planes(self.guided(time, weak, float(found[2])))
        elif found := re.fullmatch(r"v_(guide_)?(t_\w+)", name):
            if self.has(found[2]) and not (found[1] and self.guide is None):
                return self.planes(self.velocity(found[2], "guide" if found[1] else "model"))
        return None


class RAELightningDiT(RAEDiT):
    """`rae_lightningdit`: no outer SiLU, and the official guidance with its inverted interval.

    Inside the interval the official code returns the plain prediction and outside it the guided one, and the first
    sample's time decides for the whole batch. This is reproduced here and nowhere else in the project.
    """

    with_head = False

    def guided(self, time: str, weak: str, scale: float) -> Tensor:
        t = self.inputs[time]
        outside = guide(self.velocity(time), self.velocity(time, weak), t, scale, (-1e4, 1e4))
        inside = (t[0] >= self.interval[0]) & (t[0] <= self.interval[1])
        return torch.where(inside, self.velocity(time), outside)


def _sizes(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Sizes of a plain LightningDiT that the config does not give, from its weights."""
    try:
        width = weights["x_embedder.proj.weight"].shape[0]
        head_channels = weights["feat_rope.freqs_cos"].shape[1]
    except KeyError as missing:
        raise UserError(f"missing: weight_guide/{missing.args[0]}; it gives the guide's sizes") from missing
    depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    return {"hidden_size": width, "depth": depth, "num_heads": width // head_channels}
