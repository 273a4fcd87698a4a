"""A tiny pretraining with everything on that recipes at scale use, on several virtual devices or plainly on one.

Needs pytest for nothing, so that it runs in the fresh processes of `harness.py`.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from raexla.optim import Part
from tests import stages

#: 32 captions and 16 conversations a step: half of each divides over up to 8 devices.
IMAGES = 48
CHUNKS = 3


def recipe(made: dict[str, str], folder: str, **changes: Any) -> dict[str, Any]:
    """Captions and conversations, chunked cross-entropy, two micro-batches, moving averages of both parts.

    Every width divides by 8, so that no mesh of eight devices leaves a weight whole.
    """
    # A large eps: else the first steps are signs of gradients, and rounding decides about the small ones.
    optim = {
        name: {"lr": lr, "eps": 1e-4, "clip": 1.0, "ema": 0.9, "schedule": {"warmup_steps": 2}}
        for name, lr in (("llm", 0.001), ("dit", 0.002))
    }
    values = stages.pretrain(made, folder, optim=optim, losses={"language_chunks": CHUNKS})
    values["train"] = {"steps": 50, "global_batch_images": IMAGES, "accumulate": 2}
    return {**values, **changes}


def _tiles(spec: str) -> list[int]:
    """Into how many parts each dim is split, by XLA's own words: `{devices=[4,1]0,1,2,3}` -> [4, 1]."""
    found = re.search(r"devices=\[([\d,]+)\]", spec)
    return [int(count) for count in found[1].split(",")] if found else []


def train(values: dict[str, Any], steps: int, kept: str = "") -> dict[str, Any]:
    """Take `steps` steps.

    Args:
        kept: .npz file for all trained parameters and their averages.
    """
    task, runtime = stages.open_stage(values)
    trace = stages.run_steps(task, runtime, steps)
    parts: list[Part] = task.parts
    trained = {f"{part.name}/{name}": p for part in parts for name, p in part.parameters.items()}
    averages = {f"average/{part.name}/{name}": p for part in parts for name, p in part.weights().items()}
    if kept:
        np.savez(kept, **{name: runtime.to_host(p) for name, p in {**trained, **averages}.items()})
    out: dict[str, Any] = {"losses": trace.losses, "scalars": trace.scalars, "compilations": trace.compilations}
    out |= {"fallbacks": runtime.counters().fallbacks, "mesh": runtime.mesh}
    if runtime.type == "xla":
        import torch_xla

        spec = torch_xla._XLAC._get_xla_sharding_spec
        out["tiles"] = {name: _tiles(spec(t.detach())) for name, t in task.state().items() if t.ndim}
        out["sizes"] = {name: list(t.shape) for name, t in task.state().items()}
    return out


def xla(devices: int, mesh: tuple[int, int, int], **runtime: Any) -> dict[str, Any]:
    """The keys `runtime` and `mesh` for data x fsdp x tensor."""
    chosen = {"type": "xla", "platform": "cpu", "devices": devices, **runtime}
    return {"runtime": chosen, "mesh": dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))}


def several(made: dict[str, str], folder: str, devices: int, cases: dict[str, Any], steps: int) -> dict[str, Any]:
    """Cases by name, each (mesh, runtime keys), one after the other on so many devices; arrays go to `folder`."""
    return {
        name: train(
            recipe(made, f"{folder}/{name}", **xla(devices, tuple(mesh), **keys)), steps, f"{folder}/{name}.npz"
        )
        for name, (mesh, keys) in cases.items()
    }


def plain(made: dict[str, str], folder: Path, steps: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The same training by plain PyTorch, nothing on: neither chunks nor micro-batches; its arrays."""
    values = recipe(made, str(folder / "plain"), losses={})
    values["train"] = {**values["train"], "accumulate": 1}
    found = train(values, steps, str(folder / "plain.npz"))
    with np.load(folder / "plain.npz") as arrays:
        return found, dict(arrays)
