#!/usr/bin/env python3
"""Transformer blocks as one loop of the program (`runtime.scan`) against blocks in turn: what tracing, lowering and
compiling a LightningDiT's training step (forward, backward, clipping, AdamW) costs at several depths.

tools/bench/blocks.py                      XLA's CPU compiler, on virtual devices that split the weights
tools/bench/blocks.py --topology v5e:2x2   the TPU compiler ahead of time too; needs the extra `plan`, no TPU

Each figure comes from a process of its own. Times are CPU seconds of all threads, so that they mean the same on a busy
machine. On the CPU three steps are taken, and the losses of both must agree.

exit status: 0 losses agree, 1 they don't, 2 something is missing.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raexla.models.dit import DiTRecipe, LightningDiT, sharding_table
from raexla.optim import OptimizerRecipe, Part
from raexla.recipe import UserError
from raexla.runtime import MeshRecipe, XlaRecipe, prepare_compiler
from raexla.runtime.xla import XlaRuntime

GRID, CHANNELS, ROWS, STEPS = (4, 4), 32, 8, 3
TOLERANCE = 1e-5
"""Between the losses of a loop and those of blocks in turn."""


class Training:
    """What `raexla.plan.trace` and a runtime need of a Task: a DiT that learns a fixed velocity."""

    accumulate = 1

    def __init__(self, runtime: XlaRuntime, depth: int, width: int, meta: bool = False) -> None:
        recipe = DiTRecipe(width=width, depth=depth, heads=4, condition_channels=width, condition_dropout=0.0)
        with torch.device("meta" if meta else "cpu"):
            self.dit = LightningDiT(recipe, GRID, CHANNELS)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.dit.parameters():
            if not meta:
                nn.init.normal_(parameter, std=0.05, generator=generator)
        self.width, self.runtime = width, runtime
        runtime.place(self.dit, sharding_table(recipe))
        learning = OptimizerRecipe(lr=1e-3, clip=1.0)
        self.part = Part("dit", learning, dict(self.dit.named_parameters()), runtime, 100)

    def state(self) -> dict[str, Tensor]:
        """Everything that a step overwrites."""
        return {**{f"model/{name}": p for name, p in self.dit.named_parameters()}, **self.part.state()}

    def controls(self, step: int) -> dict[str, float]:
        """The learning rate."""
        return self.part.controls(step)

    def batch_shapes(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Rows of noisy latents, times, conditions, velocities."""
        tokens = (ROWS, GRID[0] * GRID[1])
        wide = {"x": CHANNELS, "condition": self.width, "velocity": CHANNELS}
        return {"t": ((ROWS,), np.float32), **{name: ((*tokens, c), np.float32) for name, c in wide.items()}}

    def train_step(self, phase: str, batch: Mapping[str, Tensor], controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One optimiser step."""
        rows = {name: value[0] for name, value in batch.items()}
        with self.runtime.autocast():
            made = self.dit(rows["x"], rows["t"], rows["condition"])
        loss = ((made - rows["velocity"]) ** 2).mean()
        found = torch.autograd.grad(loss, list(self.part.parameters.values()))
        return {"loss": loss, **self.part.update(found, controls)}


def on_cpu(depth: int, width: int, devices: int, way: dict[str, Any]) -> dict[str, Any]:
    """Trace, lower, compile and run the step on this machine."""
    runtime = XlaRuntime(XlaRecipe(platform="cpu", devices=devices, **way), MeshRecipe(data=1, fsdp=devices))
    import torch_xla

    training = Training(runtime, depth, width)
    lowlevel: Any = torch_xla._XLAC
    compiler, out, clock = lowlevel._xla_warm_up_cache, {}, [0.0]

    def timed(roots: list[Tensor], rest: list[Tensor]) -> None:
        out["trace"] = time.process_time() - clock[0]
        began = time.process_time()
        out["lines"] = lowlevel._get_xla_tensors_hlo(roots).count("\n")
        out["lower"] = time.process_time() - began
        compiler(roots, rest)
        out["compile"] = time.process_time() - began - 2 * out["lower"]  # compiling lowers once more

    lowlevel._xla_warm_up_cache = timed
    step = runtime.compile_step(partial(training.train_step, "train"), lambda: list(training.state().values()))
    generator = np.random.default_rng(0)
    arrays = {name: generator.random(shape).astype(dtype) for name, (shape, dtype) in training.batch_shapes().items()}
    batch, losses = runtime.put(arrays), []
    runtime.finish()
    for number in range(STEPS):
        clock[0] = time.process_time()
        losses.append(step(batch, training.controls(number)).read()["loss"])
    return {**out, "losses": losses}


def on_tpu(depth: int, width: int, topology: str, way: dict[str, Any]) -> dict[str, Any]:
    """Trace and lower the step as `raexla plan` does, and compile it for a slice."""
    prepare_compiler()
    from raexla.plan.abstract import AbstractRuntime
    from raexla.plan.compiler import compile_step, devices_of
    from raexla.plan.slices import Slice
    from raexla.plan.trace import trace_step

    where = Slice.parse(topology)
    devices_of(where)  # what is missing is said before anything is timed
    recipe = XlaRecipe(dtype="bfloat16", **way)
    runtime = AbstractRuntime(where.chips, MeshRecipe(data=1, fsdp=where.chips), recipe)
    training: Any = Training(runtime, depth, width, meta=True)
    began = time.process_time()
    program = trace_step(training, runtime, "train")
    traced = time.process_time()
    made = compile_step(program, where)
    return {
        "trace": traced - began,  # lowered in the same call
        "lower": 0.0,
        "compile": time.process_time() - traced,
        "lines": program.stablehlo.count("\n"),
        "compiled lines": made.hlo.count("\n"),
    }


def measure(given: argparse.Namespace, depth: int, scan: bool, topology: str | None) -> dict[str, Any]:
    """One figure's worth, in a fresh process."""
    task = {"depth": depth, "width": given.width, "way": {"scan": scan, "remat": given.remat}}
    task |= {"topology": topology} if topology else {"devices": given.devices}
    done = subprocess.run([sys.executable, __file__, "--one", json.dumps(task)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(given: argparse.Namespace, topology: str | None) -> bool:
    """Print both ways side by side; whether the losses agree."""
    where = f"TPU compiler, {topology}, bfloat16" if topology else f"CPU, {given.devices} devices, float32"
    print(f"\n{where}; {given.width} wide, remat {given.remat}; CPU seconds")
    columns = ["trace", "compile", "lines"] if topology else ["trace", "lower", "compile", "lines"]
    print(f"{'depth':>5}" + "".join(f"  {name:>8} {'in turn':>8} {'loop':>8}" for name in columns))
    good = True
    for depth in given.depths:
        turn, loop = (measure(given, depth, scan, topology) for scan in (False, True))
        cells = [f"{'':8}  {_figure(turn[name]):>8} {_figure(loop[name]):>8}" for name in columns]
        gap = ""
        if not topology:
            worst = max(abs(a - b) for a, b in zip(turn["losses"], loop["losses"], strict=True))
            fine = worst <= TOLERANCE
            good &= fine
            gap = f"   losses within {worst:.1e}{'' if fine else ' FAILED'}"
        print(f"{depth:5}" + "".join(f" {cell}" for cell in cells) + gap, flush=True)
    return good


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def main() -> int:
    """Print a table for each compiler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 16, 32])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--devices", type=int, default=2, help="virtual devices on the CPU")
    parser.add_argument("--remat", choices=["none", "selective", "blocks"], default="blocks")
    parser.add_argument("--topology", help="compile for this slice too: v5e:2x2")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        try:
            print(json.dumps((on_tpu if "topology" in given.one else on_cpu)(**given.one)))
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
        return 0
    good = table(given, None)
    if given.topology:
        table(given, given.topology)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
