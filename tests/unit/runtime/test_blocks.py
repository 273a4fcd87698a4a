"""Blocks recomputed, or looped over in the program: the same values and gradients as one after the other."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raexla.models.dit.block import Block
from raexla.nn.rope import Rope2d
from raexla.nn.stack import BlockStack
from raexla.runtime import EagerRecipe, MeshRecipe, XlaRecipe, open_runtime

WIDTH, GRID, HEADS = 32, (4, 4), 2


class Network(nn.Module):
    """A stack whose blocks read a condition that itself has a gradient."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.rope = Rope2d(GRID, WIDTH // HEADS)
        self.blocks = BlockStack(Block(WIDTH, HEADS, WIDTH) for _ in range(depth))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1, generator=generator)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.blocks(x, condition * 2, rope=self.rope)


def differentiate(blocks: str, depth: int, dtype: str, devices: int) -> dict[str, Any]:
    """Output and gradients of a network of `depth` blocks; `lines` of the program, where there is one."""
    values = {"blocks": blocks, "dtype": dtype}
    recipe: Any = XlaRecipe(platform="cpu", devices=devices, **values) if devices else EagerRecipe(**values)
    runtime = open_runtime(recipe, MeshRecipe())
    network = Network(depth)
    runtime.place(network)
    generator = torch.Generator().manual_seed(1)
    x, condition = (
        runtime.put({"x": torch.randn(4, 16, WIDTH, generator=generator).numpy()})["x"][0] for _ in range(2)
    )
    sources = [x.detach().requires_grad_(), condition.detach().requires_grad_(), *network.parameters()]
    with runtime.autocast():
        made = network(sources[0], sources[1])
    found = [made, *torch.autograd.grad((made.float() ** 2).mean(), sources)]
    lines = 0
    if devices:
        import torch_xla

        lines = torch_xla._XLAC._get_xla_tensors_hlo(found).count("\n")
    found = [t.detach().float() for t in found]
    runtime.finish()
    return {"values": [runtime.to_host(t).tolist() for t in found], "lines": lines}


def gap(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Largest difference, of each tensor's largest value."""
    pairs = zip(found["values"], expected["values"], strict=True)
    return max(float((torch.tensor(a) - torch.tensor(b)).abs().max() / torch.tensor(b).abs().max()) for a, b in pairs)


def on_devices(devices: int) -> dict[str, Any]:
    """Every way to run the blocks, in one process."""
    found: dict[str, Any] = {
        blocks: differentiate(blocks, 3, "float32", devices) for blocks in ("unrolled", "recomputed", "scanned")
    }
    found["deep"] = differentiate("scanned", 16, "float32", devices)["lines"]
    for blocks in ("unrolled", "recomputed", "scanned"):
        found[f"{blocks} bfloat16"] = differentiate(blocks, 3, "bfloat16", devices)
    return found


@pytest.fixture(scope="module")
def found(in_process):
    return in_process(on_devices, 2)


@pytest.fixture(scope="module")
def plain():
    return differentiate("unrolled", 3, "float32", 0)


@pytest.mark.parametrize("blocks", ["unrolled", "recomputed", "scanned"])
def test_values_and_gradients_are_those_of_eager(blocks, found, plain):
    assert gap(found[blocks], plain) < 1e-5


@pytest.mark.parametrize("blocks", ["recomputed", "scanned"])
def test_bfloat16_is_that_of_unrolled_blocks(blocks, found, plain):
    assert gap(found[f"{blocks} bfloat16"], found["unrolled bfloat16"]) < 1e-2
    assert gap(found[f"{blocks} bfloat16"], plain) > 1e-4, "nothing was computed in bfloat16"


def test_a_loop_has_one_size_at_any_depth(found):
    per_block = found["unrolled"]["lines"] / 3
    grown = found["deep"] - found["scanned"]["lines"]  # stacking 13 more blocks' weights, unstacking their gradients
    assert grown < 13 * per_block / 4


def test_eager_recomputes_to_the_same_bits(plain):
    assert differentiate("recomputed", 3, "float32", 0)["values"] == plain["values"]
