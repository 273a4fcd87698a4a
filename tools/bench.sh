#!/usr/bin/env bash
# Timings on this machine, each next to what it is compared with: the ratios travel, the figures don't. A few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

OMP_NUM_THREADS=1 python tools/bench/loader.py
OMP_NUM_THREADS=1 python tools/bench/data.py
OMP_NUM_THREADS=1 python tools/bench/resume.py
python tools/bench/checkpoint.py
[[ -f data/nano/pretrain/index.json ]] || raexla shards nano --out data/nano
tools/bench/step.sh
