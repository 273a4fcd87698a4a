#!/usr/bin/env python3
"""How far a training in bfloat16 drifts from float32 in its first steps: nano's pretraining with everything on that
recipes at scale use (loops, selective rematerialisation, chunked cross-entropy, 8 virtual devices as data 2 x fsdp 2 x
tensor 2), in bfloat16, in float32, and plainly by PyTorch in float32.

The last is what rounding alone does: two float32 programs that add up in another order. Data, noise and times are the
same in all three. Needs data/nano (`raexla shards nano --out data/nano`) and the nano artifacts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
EVERYTHING = "{type: xla, platform: cpu, devices: 8, scan: true, remat: selective, dtype: %s}"
RUNS = {
    "plain": ("{type: eager, device: cpu}", "{}"),
    "float32": (EVERYTHING % "float32", "{data: 2, fsdp: 2, tensor: 2}"),
    "bfloat16": (EVERYTHING % "bfloat16", "{data: 2, fsdp: 2, tensor: 2}"),
}


def train(name: str, folder: Path, steps: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Records of all steps, and the weights of the artifact."""
    runtime, mesh = RUNS[name]
    settings = [f"runtime={runtime}", f"mesh={mesh}", f"train.steps={steps}", f"checkpoint.every_steps={steps}"]
    settings += ["losses.language_chunks=4", "codec.weights=null", "eval.every_steps=null", "obs.log_every_steps=1"]
    command = [sys.executable, "-m", "raexla", "train", "recipes/nano/pretrain.yaml", "--out", str(folder / name)]
    command += [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(command, cwd=ROOT, env={"HF_HUB_OFFLINE": "1", **os.environ}, stderr=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.decode()[-2000:]}")
    records = [json.loads(line) for line in (folder / name / "metrics.jsonl").open()]
    return [record for record in records if "loss" in record], load_file(folder / name / "artifact/model.safetensors")


def distance(here: dict[str, np.ndarray], there: dict[str, np.ndarray]) -> float:
    """Between all weights, of the norm of `there`."""
    apart = sum(float(((here[name] - value).astype(np.float64) ** 2).sum()) for name, value in there.items())
    return float(np.sqrt(apart / sum(float((value.astype(np.float64) ** 2).sum()) for value in there.values())))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as temporary:
        found = {name: train(name, Path(temporary), steps) for name in RUNS}
    losses = {name: np.array([record["loss"] for record in records]) for name, (records, _) in found.items()}
    plain, gaps = losses["plain"], [losses[name] / losses["plain"] - 1 for name in ("float32", "bfloat16")]
    print("step  loss, plain   float32   bfloat16   (of the plain loss)")
    for step in sorted({1, 2, 5, *range(10, steps + 1, 10), steps}):
        print(f"{step:4}  {plain[step - 1]:11.4f}" + "".join(f"  {gap[step - 1]:+.1e}" for gap in gaps))
    print(f"mean  {plain.mean():11.4f}" + "".join(f"  {gap.mean():+.1e}" for gap in gaps))
    print(f"most  {'':11}" + "".join(f"  {abs(gap).max():8.1e}" for gap in gaps))
    apart = [distance(found[name][1], found["plain"][1]) for name in ("float32", "bfloat16")]
    print(f"weights, {steps} steps" + "".join(f"  {value:8.1e}" for value in apart) + "   (of their norm)")


if __name__ == "__main__":
    main()
