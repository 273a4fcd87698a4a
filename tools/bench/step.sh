#!/usr/bin/env bash
# Seconds of a nano pretraining step on the CPU: eager, and XLA on one and on four virtual devices, one after the other,
# twice; the best logged step of each. PyTorch gets one thread, since its threads spin where others work; XLA takes what
# cores it finds. Needs data/nano (`raexla shards nano --out data/nano`), nano artifacts.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

measure() {  # name, settings of the runtime
  local name=$1 runtime=$2 round=$3
  raexla train recipes/nano/pretrain.yaml --out "$out/$name-$round" --set "runtime=$runtime" \
    --set codec.weights=null --set eval.every_steps=null --set train.steps=40 --set checkpoint.every_steps=40 \
    --set obs.log_every_steps=10 2>"$out/log" || { cat "$out/log" >&2; exit 1; }
}
for round in 1 2; do
  measure eager '{type: eager, device: cpu}' $round
  measure xla-1 '{type: xla, platform: cpu, devices: 1}' $round
  measure xla-4 '{type: xla, platform: cpu, devices: 4}' $round
done
python - "$out" <<'PY'
import json, sys
from pathlib import Path

best = {}
for name in ("eager", "xla-1", "xla-4"):
    lines = [line for path in Path(sys.argv[1]).glob(f"{name}-[12]/metrics.jsonl") for line in path.open()]
    records = [json.loads(line) for line in lines]
    best[name] = min(record["seconds"] for record in records if record.get("step", 0) > 10)
for name, seconds in best.items():
    print(f"nano pretrain step  {name:6s} {seconds:6.3f} s, ratio to eager {seconds / best['eager']:.2f}")
PY
