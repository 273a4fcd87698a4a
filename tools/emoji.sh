#!/usr/bin/env bash
# Real pictures: draw the emoji of Debian's fonts-noto-color-emoji with their names as captions, pack them into shards,
# pretrain on them, and look at what comes out.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
step() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; "$@"; }

[[ -d data/emoji/pictures ]] || step python tools/make_emoji.py --out data/emoji/pictures
[[ -f data/emoji/shards/index.json ]] || step raexla shards pack data/emoji/pictures --out data/emoji/shards
step raexla shards peek data/emoji/shards --out data/emoji/peek.png

step raexla train recipes/emoji/pretrain.yaml --out runs/emoji/pretrain
step raexla sample --model runs/emoji/pretrain --prompt "red heart" --prompt "grinning face" --prompt "sun" \
  --prompt "flag: japan" --per-prompt 8 --out runs/emoji/samples
step raexla report runs/emoji --title "raexla on emoji"
echo "report: $PWD/runs/emoji/report.html"
