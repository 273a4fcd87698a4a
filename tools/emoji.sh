#!/usr/bin/env bash
# Real pictures: draw the emoji of Debian's fonts-noto-color-emoji with their names as captions, pack them into shards,
# train a decoder and pretrain on them, and look at what comes out. About half an hour on two cores. The encoder and the
# language model are the nano ones (recipes/nano/artifacts), which have never seen such a picture or such a word.
#
#   apt-get install fonts-noto-color-emoji     the font, if it is not there
#   tools/emoji.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=1  # XLA has threads of its own; PyTorch's would spin beside them
step() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; "$@"; }

if [[ ! -f data/emoji/validation/index.json ]]; then
  step python tools/make_emoji.py --size 64 --out data/emoji/pictures/train --held-out data/emoji/pictures/validation
  step raexla shards pack data/emoji/pictures/train --out data/emoji/train --overwrite
  step raexla shards pack data/emoji/pictures/validation --out data/emoji/validation --overwrite
fi
step raexla shards peek data/emoji/train --out data/emoji/peek.png

step raexla train recipes/emoji/decoder.yaml
step raexla train recipes/emoji/pretrain.yaml
step raexla sample --model runs/emoji/pretrain --prompts tools/emoji-prompts.txt --per-prompt 4 --steps 16 --guidance 3 \
  --guidance-interval 0.3 1.0 --out runs/emoji/samples
step raexla report runs/emoji --title "raexla on emoji"
echo "report: $PWD/runs/emoji/report.html"
