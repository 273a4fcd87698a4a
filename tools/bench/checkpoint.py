#!/usr/bin/env python3
"""Saving and restoring a state next to torch.save and torch's distributed checkpoint (DCP), in one go on one disk.

A state of float32 matrices and their AdamW moments. *Held* is how long a step stands still for a save, *total* how long
until the checkpoint is complete and on the disk. All writers sync their files; ours also hashes each byte, and checks
each hash when it restores. Files are read back from the page cache on purpose: the disk's speed is nobody's merit. The
best of the rounds counts; ratios travel, seconds don't.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from raexla.checkpoint import CheckpointRecipe, latest, open_saver
from raexla.runtime import EagerRecipe, MeshRecipe
from raexla.runtime.eager import EagerRuntime

State = dict[str, torch.Tensor]


def make_state(mebibytes: int) -> State:
    """Parameters and two moments each, as a model of width 1024 has them."""
    generator = torch.Generator().manual_seed(0)
    layers = max(1, mebibytes // (3 * 16 + 3 * 4))
    shapes = [("mlp", (4096, 1024)), ("attention", (1024, 1024)), ("norm", (1024,))]
    return {
        f"{kind}/{n}.{name}": torch.randn(shape, generator=generator)
        for n in range(layers)
        for name, shape in shapes
        for kind in ("model", "optim/exp_avg", "optim/exp_avg_sq")
    }


def sync(path: Path) -> None:
    """Have the disk remember a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ours(state: State, fresh: State, folder: Path) -> dict[str, float]:
    """raexla: one saver for two saves, as in a run; the second counts, whose host memory is there already."""
    runtime = EagerRuntime(EagerRecipe(device="cpu"), MeshRecipe())
    saver = open_saver(folder, runtime, CheckpointRecipe(keep=1))
    saver.save(1, state, {})
    saver.wait()
    began = time.perf_counter()
    saver.save(2, state, {})
    held = time.perf_counter() - began
    saver.wait()
    total = time.perf_counter() - began
    assert saver.close() is None
    found = latest(folder)
    assert found is not None
    return {"held": held, "save": total, "restore": timed(lambda: found.restore(fresh, runtime))}


def plain(state: State, fresh: State, folder: Path) -> dict[str, float]:
    """torch.save and torch.load into the tensors that are there."""
    file = folder / "state.pt"

    def save() -> None:
        torch.save(state, file)
        sync(file)

    def load() -> None:
        for name, value in torch.load(file, weights_only=True).items():
            fresh[name].copy_(value)

    save()
    seconds = timed(save)
    return {"held": seconds, "save": seconds, "restore": timed(load)}


def distributed(state: State, fresh: State, folder: Path) -> dict[str, float]:
    """DCP, which syncs by itself."""
    dcp.save(state, checkpoint_id=str(folder / "first"), no_dist=True)
    shutil.rmtree(folder / "first")
    seconds = timed(lambda: dcp.save(state, checkpoint_id=str(folder / "dcp"), no_dist=True))
    load = timed(lambda: dcp.load(fresh, checkpoint_id=str(folder / "dcp"), no_dist=True))
    return {"held": seconds, "save": seconds, "restore": load}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=1024, help="size of the state (default 1024)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts (default 3)")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary folder if left out")
    arguments = parser.parse_args()
    state = make_state(arguments.mebibytes)
    fresh = {name: torch.zeros_like(value) for name, value in state.items()}
    size = sum(value.numel() * value.element_size() for value in state.values())
    print(f"{len(state)} tensors, {size / 2**20:.0f} MiB, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    best: dict[str, dict[str, float]] = {}
    for _ in range(arguments.rounds):
        for name, run in (("raexla", ours), ("torch.save", plain), ("DCP", distributed)):
            for value in fresh.values():
                value.zero_()
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                found = run(state, fresh, Path(folder))
            assert all(torch.equal(fresh[key], value) for key, value in state.items()), (
                f"{name} restored something else"
            )
            known = best.setdefault(name, found)
            best[name] = {kind: min(known[kind], seconds) for kind, seconds in found.items()}
    print(f"{'':12}{'held':>9}{'save':>9}{'MiB/s':>9}{'restore':>9}{'MiB/s':>9}")
    for name, row in best.items():
        rates = {kind: size / 2**20 / row[kind] for kind in ("save", "restore")}
        print(
            f"{name:12}{row['held']:8.2f}s{row['save']:8.2f}s{rates['save']:9.0f}"
            f"{row['restore']:8.2f}s{rates['restore']:9.0f}"
        )
    mine = best["raexla"]
    print(f"raexla: a step is held for {mine['held'] / mine['save']:.2f} of the save's time")
    for name in ("torch.save", "DCP"):
        other = best[name]
        print(
            f"raexla / {name}: held {mine['held'] / other['held']:.2f} times as long, bandwidth of the save "
            f"{other['save'] / mine['save']:.2f} times, of the restore {other['restore'] / mine['restore']:.2f} times"
        )


if __name__ == "__main__":
    main()
