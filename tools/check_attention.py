#!/usr/bin/env python
"""Check the TPU attention kernel where there is no TPU; needs the extra `plan`.

tools/check_attention.py numbers   the kernel run by jax's interpreter, alone and inside PyTorch/XLA's programs on four
                                   virtual devices, against SDPA
tools/check_attention.py compile   a small transformer's gradient step through the TPU compiler, with SDPA and with the
                                   kernel: memory, FLOPs, cycles

exit status: 0 everything is as it should be, 1 it isn't, 2 something is missing.
"""

import argparse
import json
import math
import re
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.nn.attention import AttentionKernel, sdpa
from raexla.nn.stack import BlockStack
from raexla.recipe import UserError
from raexla.runtime import MeshRecipe, XlaRecipe, open_runtime, prepare_compiler, splash

#: batch, query heads, key heads, tokens, channels of a head, causal
SHAPES = [(2, 4, 2, 256, 32, True), (2, 4, 4, 256, 72, False), (1, 2, 1, 1024, 64, True), (1, 2, 1, 384, 128, True)]
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
"""The largest difference allowed from SDPA in float32, of the tensor's largest number; bfloat16 has 8 bits, and weights
and their gradients are rounded to it between the products."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("numbers")
    compiling = verbs.add_parser("compile")
    compiling.add_argument("--topology", default="v5e:2x2")
    compiling.add_argument(
        "--mesh", type=json.loads, default={"data": 1, "fsdp": None}, help='{"fsdp": 2, "tensor": 2}'
    )
    compiling.add_argument("--model", type=json.loads, default={}, help=f"as {json.dumps(Small().__dict__)}")
    compiling.add_argument("--runtime", type=json.loads, default={}, help='{"scan": true, "remat": "selective"}')
    compiling.add_argument("--effort", type=float, default=0.0, help="of the compiler; at -1 cycles mean nothing")
    given = parser.parse_args()
    prepare_compiler()
    try:
        if given.verb == "numbers":
            return int(not (inside() & numbers()))
        for attention in ("sdpa", "flash"):
            compiled(attention, given.topology, given.mesh, Small(**given.model), given.runtime, given.effort)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def numbers() -> bool:
    """The kernel alone, values and gradients of q, k and v."""
    import jax
    import jax.numpy as jnp

    print(f"{'the kernel alone, against SDPA in float32':42}{'type':10}{'value':>9}{'q':>9}{'k':>9}{'v':>9}")
    good = True
    for batch, heads, shared, tokens, channels, causal in SHAPES:
        generator = torch.Generator().manual_seed(0)
        shapes = [(batch, h, tokens, channels) for h in (heads, shared, shared, heads)]
        drawn = [torch.randn(shape, generator=generator) for shape in shapes]
        scale = 1 / math.sqrt(channels)
        for dtype in (torch.float32, torch.bfloat16):
            typed = [t.to(dtype) for t in drawn]
            expected = _by_sdpa([t.float() for t in typed], causal)
            name = str(dtype).removeprefix("torch.")
            q, k, v, gradient = (jnp.asarray(t.float().numpy(), dtype=name) for t in (drawn[0] * scale, *typed[1:]))
            forward = jax.jit(lambda *a, causal=causal: splash.forward(*a, causal=causal, interpret=True))
            backward = jax.jit(lambda *a, causal=causal: splash.backward(*a, causal=causal, interpret=True))
            made, normaliser = forward(q, k, v)
            to_q, to_k, to_v = backward(q, k, v, made, normaliser, gradient)
            found = [torch.tensor(jnp.asarray(t, dtype="float32").tolist()) for t in (made, to_q, to_k, to_v)]
            found[1] *= scale
            gaps = [_gap(a, b) for a, b in zip(found, expected, strict=True)]
            fine = max(gaps) <= LIMITS[dtype]
            good &= fine
            what = f"{batch} x {heads}/{shared} heads x {tokens} x {channels}{', causal' if causal else ''}"
            print(f"{what:42}{name:10}{''.join(f'{gap:9.1e}' for gap in gaps)}{'' if fine else '  FAILED'}")
    return good


def inside() -> bool:
    """The kernel in a program of PyTorch/XLA, split by hand over a 2 x 2 mesh of virtual devices. Comes first: autograd
    wants to know of XLA's device before it runs."""
    from raexla.runtime.attention import SplashAttention

    runtime: Any = open_runtime(XlaRecipe(platform="cpu", devices=4), MeshRecipe(data=1, fsdp=2, tensor=2))
    runtime.attention = SplashAttention(runtime._mesh, runtime.mesh, required=True, interpret=True)
    good = True
    for causal in (True, False):
        small = Small(blocks=1, width=32, heads=4, shared=2, tokens=128, batch=4, causal=causal)
        x = torch.randn(small.batch, small.tokens, small.width, generator=torch.Generator().manual_seed(1))
        network, alone = small.build(), small.build()
        runtime.place(network)
        found = [runtime.to_host(t) for t in _differentiate(network, runtime.put({"x": x.numpy()})["x"][0])]
        expected = _differentiate(alone, x)
        gap = max(_gap(torch.from_numpy(a), b) for a, b in zip(found, expected, strict=True))
        good &= gap <= LIMITS[torch.float32]
        what = f"in a program, fsdp 2 x tensor 2{', causal' if causal else ''}"
        print(f"{what:42}{'float32':10}{gap:9.1e}{'' if gap <= LIMITS[torch.float32] else '  FAILED'}")
    return good


@dataclass(frozen=True)
class Small:
    """A small transformer and its batch."""

    blocks: int = 2
    width: int = 512
    heads: int = 4
    shared: int = 2
    tokens: int = 512
    batch: int = 32
    causal: bool = True

    def build(self) -> BlockStack:
        """With weights that are always the same."""
        made = BlockStack(_Block(self) for _ in range(self.blocks))
        generator = torch.Generator().manual_seed(0)
        for parameter in made.parameters():
            if not parameter.is_meta:
                nn.init.normal_(parameter, std=0.2, generator=generator)
        return made


class _Block(nn.Module):
    def __init__(self, small: Small) -> None:
        super().__init__()
        width, channels = small.width, small.width // small.heads
        self.parts, self.channels = [small.heads, small.shared, small.shared], channels
        self.norm = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, sum(self.parts) * channels)
        self.proj = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.kernel = AttentionKernel(causal=small.causal)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm(x)).unflatten(-1, (-1, self.channels)).transpose(1, 2)
        q, k, v = heads.split(self.parts, dim=1)
        x = x + self.proj(self.kernel(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(x)))


def compiled(
    attention: str, topology: str, mesh: dict[str, Any], small: Small, settings: dict[str, Any], effort: float
) -> None:
    """One line of what the TPU compiler says of a step of gradient descent."""
    import torch_xla.core.xla_model as xm

    from raexla.plan.abstract import AbstractRuntime, Held
    from raexla.plan.compiler import compile_step
    from raexla.plan.slices import GIB, Slice
    from raexla.plan.trace import Program

    where = Slice.parse(topology)
    recipe = XlaRecipe.model_validate({"dtype": "bfloat16", **settings, "attention": attention})
    runtime = AbstractRuntime(where.chips, MeshRecipe(**mesh), recipe)
    with torch.device("meta"):
        network = small.build()
    rows = [(name, ("fsdp", *(None,) * (p.ndim - 1))) for name, p in network[0].named_parameters()]
    runtime.place(network, [(f"*.{name}", axes) for name, axes in rows])
    shape = (small.batch, small.tokens, small.width)
    x = runtime.hold("x", shape, torch.float32, (("data", "fsdp"), None, None))
    weights = list(network.parameters())
    with runtime.autocast():
        loss = (network(x).float() ** 2).mean()
    stepped = [w - 1e-3 * g for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True)]
    lowlevel = runtime._xla._XLAC
    numbers, data = lowlevel._get_tensors_xla_device_data_node([loss, *stepped])
    held = [runtime.held.get(n) or Held("", tuple(d.shape), d.dtype, "{replicated}") for n, d in zip(numbers, data)]  # noqa: B905
    results = ["{replicated}", *(lowlevel._get_xla_sharding_spec(w) or "{replicated}" for w in weights)]
    program = Program(xm.get_stablehlo([loss, *stepped]), tuple(held), {}, tuple(results))
    made = compile_step(program, where, effort=effort)
    cycles = sum(n for n in map(int, re.findall(r'"estimated_cycles":"(\d+)"', made.hlo)) if n < 2**62)
    declared = [int(n) for n in re.findall(r'"cost_estimate":\{"flops":"(\d+)"', made.hlo)]
    print(
        f"{attention:6} temporaries {made.temporaries_gib * GIB / 2**20:7.1f} MiB, bytes moved "
        f"{made.bytes_accessed:.3g}, FLOPs {made.flops:.4g} ({len(declared)} kernels: {sum(declared):.4g}), "
        f"{cycles / 1e6:.2f}e6 cycles outside kernels, compiled in {made.seconds:.0f} s",
        flush=True,
    )


def _by_sdpa(tensors: list[Tensor], causal: bool) -> list[Tensor]:
    """Values and gradients."""
    *sources, gradient = tensors
    sources = [t.detach().requires_grad_() for t in sources]
    made = sdpa(*sources, causal)
    return [t.detach().float() for t in (made, *torch.autograd.grad(made, sources, gradient))]


def _differentiate(network: nn.Module, x: Tensor) -> list[Tensor]:
    made = network(x)
    return [made.detach(), *torch.autograd.grad((made.float() ** 2).mean(), list(network.parameters()))]


def _gap(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    sys.exit(main())
