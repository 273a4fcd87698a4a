#!/usr/bin/env bash
# Remake the two pretrained parts that the nano family ships: the encoder (SigLIP) and the language model (Qwen2).
# They go to recipes/nano/artifacts, which is in the repository; everything that was trained on the old ones will refuse
# the new ones by their hash.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
step() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; "$@"; }

step raexla shards nano --out data/nano --split decoder --split pretrain --split understanding --split language

for part in language encoder; do  # the encoder is trained with the tokenizer
  step raexla train recipes/nano/$part.yaml --out runs/nano/$part
  step rm -rf recipes/nano/artifacts/$part
  step cp -r runs/nano/$part/artifact recipes/nano/artifacts/$part
done
git status --short recipes/nano/artifacts
