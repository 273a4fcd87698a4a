"""The DiT's initialisation, gradients, conditions, stacks and sharding table."""

import fnmatch
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raexla.models.dit import DiTRecipe, LightningDiT, init_weights, sharding_table
from raexla.nn.rope import Rope2d
from raexla.recipe import UserError

SMALL = {"width": 32, "depth": 2, "heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "tokens": {"condition_channels": 24},
    "tokens, norm": {"qk_norm": True},
    "tokens, no null": {"condition_dropout": 0.0},
    "class": {"conditioning": {"type": "class", "num_classes": 5}, "outer_silu": False},
    "patches": {"patch_size": 2},
    "rae head": {
        "conditioning": {"type": "class", "num_classes": 5},
        "head": {"wiring": "rae", "width": 48, "depth": 1, "heads": 3},
    },
    "scale_rae head": {
        "condition_channels": 24,
        "head": {"wiring": "scale_rae", "width": 48, "depth": 1, "heads": 3},
    },
    "classic head": {"condition_channels": 24, "head": {"wiring": "classic", "width": 32, "depth": 1, "heads": 2}},
}
GRID, CHANNELS, BATCH = (4, 4), 6, 3


def build(kind: str, seed: int = 0, *, random: bool = True) -> LightningDiT:
    model = LightningDiT(DiTRecipe.model_validate(SMALL | KINDS[kind]), GRID, CHANNELS)
    generator = torch.Generator().manual_seed(seed)
    init_weights(model, generator)
    if random:  # a fresh model predicts zero; give everything a value
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model


def inputs(model: LightningDiT) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(BATCH, 16, CHANNELS, generator=generator)
    t = torch.tensor([0.1, 0.5, 0.9])
    if model.recipe.conditioning.type == "class":
        return x, t, torch.tensor([0, 4, 2])
    shape = (BATCH, model.condition_tokens, model.condition_channels)
    return x, t, torch.randn(shape, generator=generator)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_new_model_predicts_zero_and_depends_on_the_seed_only(kind: str) -> None:
    model = build(kind, random=False)
    assert torch.equal(model(*inputs(model)), torch.zeros(BATCH, 16, CHANNELS))
    torch.manual_seed(1)
    again, other = build(kind, random=False), build(kind, seed=1, random=False)
    for (name, a), b, c in zip(model.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        if name.endswith("attn.qkv.weight"):
            assert not torch.equal(a, c)


def test_initial_scales() -> None:
    model = build("tokens", random=False)
    qkv = model.blocks[0].attn.qkv
    assert qkv.weight.abs().max().item() <= math.sqrt(6 / (32 + 96))
    assert qkv.weight.std().item() == pytest.approx(math.sqrt(2 / (32 + 96)), rel=0.05)
    assert model.t_embedder.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert build("rae head", random=False).blocks[0].attn.qkv.bias.abs().max() > 0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    model = build(kind)
    drop = None if kind == "tokens, no null" else torch.tensor([True, False, False])
    out = model(*inputs(model), drop)
    assert out.shape == (BATCH, 16, CHANNELS)
    out.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", ["tokens", "class", "rae head", "scale_rae head"])
def test_dropping_replaces_the_condition_of_that_sample_only(kind: str) -> None:
    model = build(kind)
    x, t, condition = inputs(model)
    plain = model(x, t, condition)
    dropped = model(x, t, condition, torch.tensor([False, True, False]))
    torch.testing.assert_close(dropped[[0, 2]], plain[[0, 2]])
    assert (dropped[1] - plain[1]).abs().max() > 1e-3
    elsewhere = condition.clone()
    elsewhere[1] = 1
    torch.testing.assert_close(model(x, t, elsewhere, torch.tensor([False, True, False]))[1], dropped[1])


def test_dropping_without_a_null_condition_is_refused() -> None:
    model = build("tokens, no null")
    with pytest.raises(UserError, match="condition_dropout 0"):
        model(*inputs(model), torch.ones(BATCH, dtype=torch.bool))


def test_a_tokens_condition_modulates_that_token() -> None:
    """With attention silenced, changing condition i changes output token i alone."""
    model = build("tokens")
    with torch.no_grad():
        for block in model.blocks:
            block.attn.proj.weight.zero_()
    x, t, condition = inputs(model)
    other = condition.clone()
    other[:, 5] += 1
    changed = (model(x, t, other) - model(x, t, condition)).abs().amax(dim=(0, 2)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [5]


def test_a_stack_can_be_replaced_without_renaming_anything() -> None:
    class Counting(nn.ModuleList):
        calls = 0

        def forward(self, x: Tensor, condition: Tensor, rope: Rope2d) -> Tensor:
            self.calls += 1
            for block in self:
                x = block(x, condition, rope)
            return x

    model = build("scale_rae head")
    expected, names = model(*inputs(model)), list(model.state_dict())
    assert model.head is not None
    model.blocks, model.head.blocks = Counting(model.blocks), Counting(model.head.blocks)
    assert torch.equal(model(*inputs(model)), expected)
    assert list(model.state_dict()) == names
    assert model.blocks.calls == model.head.blocks.calls == 1


def test_built_on_meta_then_given_memory() -> None:
    recipe = DiTRecipe.model_validate(SMALL | KINDS["scale_rae head"])
    with torch.device("meta"):
        model = LightningDiT(recipe, GRID, CHANNELS)
    model.to_empty(device="cpu")
    init_weights(model, torch.Generator().manual_seed(0))
    expected = build("scale_rae head", random=False)
    for (name, a), (_, b) in zip(model.named_buffers(), expected.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    model.load_state_dict(build("scale_rae head").state_dict())
    assert torch.equal(model(*inputs(model)), build("scale_rae head")(*inputs(model)))


def matches(pattern: str, path: str) -> bool:
    ours, theirs = pattern.split("."), path.split(".")
    return len(ours) == len(theirs) and all(fnmatch.fnmatchcase(b, a) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_sharding_table_fits_both_ways(kind: str) -> None:
    model = build(kind)
    table = sharding_table(model.recipe)
    used = set()
    for path, parameter in model.named_parameters():
        rows = [row for row in table if matches(row[0], path)]
        assert len(rows) == 1, (path, rows)
        assert len(rows[0][1]) == parameter.dim(), path
        axes = [axis for axis in rows[0][1] if axis is not None]
        assert len(axes) == len(set(axes)), path
        used.add(rows[0][0])
    assert used == {pattern for pattern, _ in table}


def test_sharding_is_megatrons() -> None:
    rows = dict(sharding_table(DiTRecipe.model_validate(SMALL)))

    def split_by(name: str, axis: str) -> list[int]:
        """The dims of a parameter that are split over an axis of the mesh."""
        return [dim for dim, entry in enumerate(rows[f"blocks.*.{name}"]) if axis == entry or axis in (entry or ())]

    for name in ("attn.qkv", "mlp.w12"):
        assert split_by(f"{name}.weight", "tensor") == [0]
        assert split_by(f"{name}.bias", "tensor") == [0]
    for name in ("attn.proj", "mlp.w3"):
        assert split_by(f"{name}.weight", "tensor") == [1]
        assert split_by(f"{name}.bias", "tensor") == []
    for name in ("attn.qkv", "attn.proj", "mlp.w12", "mlp.w3"):
        assert len(split_by(f"{name}.weight", "fsdp")) == 1
