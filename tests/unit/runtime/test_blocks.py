"""Blocks recomputed, or looped over in the program: the same values and gradients as one after the other."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from raexla.models.dit.block import Block
from raexla.models.encoders import Siglip2Recipe, load_encoder
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


PLAIN = (False, "none")
WAYS = [(scan, remat) for scan in (False, True) for remat in ("none", "selective", "blocks")]
Way = tuple[bool, str]


def differentiate(way: Way, depth: int, dtype: str, devices: int) -> dict[str, Any]:
    """Output and gradients of a network of `depth` blocks; `lines` of the program, where there is one."""
    scan, remat = way
    values: dict[str, Any] = {"remat": remat, "dtype": dtype}
    recipe: Any = XlaRecipe(platform="cpu", devices=devices, scan=scan, **values) if devices else EagerRecipe(**values)
    runtime = open_runtime(recipe, MeshRecipe())
    network = Network(depth)
    split = {2: ("tensor", "fsdp"), 1: (None,)}
    runtime.place(network, [(name, split[p.ndim]) for name, p in network.named_parameters()])
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
    found = {
        called(*way, dtype): differentiate(way, 3, dtype, devices) for way in WAYS for dtype in ("float32", "bfloat16")
    }
    for remat in ("none", "selective", "blocks"):
        found[f"{remat} deep"] = differentiate((True, remat), 16, "float32", devices)
    return found


def called(scan: bool, remat: str, dtype: str = "float32") -> str:
    """A key of what comes back from the process."""
    return f"{'scan' if scan else 'turn'} {remat} {dtype}"


@pytest.fixture(scope="module")
def found(in_process):
    return in_process(on_devices, 2)


@pytest.fixture(scope="module")
def plain():
    return differentiate(PLAIN, 3, "float32", 0)


@pytest.mark.parametrize(("scan", "remat"), WAYS)
def test_values_and_gradients_are_those_of_eager(scan, remat, found, plain):
    assert gap(found[called(scan, remat)], plain) < 1e-5


@pytest.mark.parametrize(("scan", "remat"), WAYS[1:])
def test_bfloat16_is_that_of_plain_blocks(scan, remat, found, plain):
    assert gap(found[called(scan, remat, "bfloat16")], found[called(*PLAIN, "bfloat16")]) < 2e-2
    assert gap(found[called(scan, remat, "bfloat16")], plain) > 1e-4, "nothing was computed in bfloat16"


@pytest.mark.parametrize("remat", ["none", "selective", "blocks"])
def test_a_loop_has_one_size_at_any_depth(remat, found):
    per_block = found[called(*PLAIN)]["lines"] / 3
    grown = (
        found[f"{remat} deep"]["lines"] - found[called(True, remat)]["lines"]
    )  # stacking 13 more blocks' weights, unstacking
    assert grown < 13 * per_block / 4


def encode(folder: str, scan: bool, devices: int) -> Any:
    """Tokens of every block of a frozen encoder, and of the last."""
    xla = XlaRecipe(platform="cpu", devices=devices, scan=scan) if devices else EagerRecipe(device="cpu")
    runtime = open_runtime(xla, MeshRecipe())
    encoder = load_encoder(Siglip2Recipe(type="siglip2", path=folder))
    runtime.place(encoder)
    pixels = torch.rand(4, 28, 28, 3, generator=torch.Generator().manual_seed(1)).numpy()
    image = runtime.put({"x": pixels})["x"][0].permute(0, 3, 1, 2)
    with torch.no_grad():
        found = [encoder(image), *encoder.features(image, [0, 1, 3])]
    return [runtime.to_host(tokens).tolist() for tokens in found]


def test_a_frozen_encoder_loops_to_the_same_tokens(in_process, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    SiglipVisionModel(SiglipVisionConfig(intermediate_size=48, **sizes)).save_pretrained(tmp_path)
    for made, plain in zip(in_process(encode, str(tmp_path), True, 2), encode(str(tmp_path), False, 0), strict=True):
        torch.testing.assert_close(torch.tensor(made), torch.tensor(plain), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("remat", ["selective", "blocks"])
def test_eager_runs_again_to_the_same_bits(remat, plain):
    assert differentiate((False, remat), 3, "float32", 0)["values"] == plain["values"]
