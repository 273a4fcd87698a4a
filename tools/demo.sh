#!/usr/bin/env bash
# The whole pipeline, small, on the CPU, on four virtual XLA devices: shards, decoder, pretraining, finetuning, pictures,
# scores, report. Every step is one command that can be run by itself; what is complete is not done again, and a stage
# that was stopped goes on where it stood. The encoder and the language model come pretrained (recipes/nano/artifacts).
#
#   tools/demo.sh          12 minutes on two cores
#   tools/demo.sh --long   about 40 minutes: the same with larger budgets; with --keep, its decoder and model replace those
#                          that the repository ships, so that `--model nano` means them
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=1  # XLA has threads of its own; PyTorch's would spin beside them

case "${1:-}" in
  "")     recipes=recipes/nano      runs=runs/nano      guidance=3 pictures=24000 ;;
  --long) recipes=recipes/nano/long runs=runs/nano-long guidance=2 pictures=48000 ;;
  *)      echo "usage: tools/demo.sh [--long [--keep]]" >&2; exit 2 ;;
esac
keep=${2:-}
[[ -z "$keep" || "$keep" == --keep ]] || { echo "usage: tools/demo.sh [--long [--keep]]" >&2; exit 2; }
sampler=(--steps 16 --guidance $guidance --guidance-interval 0.3 1.0)
step() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; "$@"; }

step raexla shards nano --out data/nano --split decoder --split pretrain --split finetune --split understanding \
  --split validation --count pretrain=$pictures --count understanding=$((pictures / 2))

step raexla train $recipes/decoder.yaml  --out $runs/decoder
step raexla train $recipes/pretrain.yaml --out $runs/pretrain
step raexla train $recipes/finetune.yaml --out $runs/finetune

step raexla sample --model $runs/finetune --prompts tools/demo-prompts.txt --per-prompt 4 "${sampler[@]}" \
  --out $runs/samples
step raexla score  --model $runs/finetune "${sampler[@]}" --devices 4 --out $runs/score

step raexla report $runs --title "raexla on the nano world: from shards to pictures"

if [[ -n "$keep" ]]; then
  kept=recipes/nano/artifacts
  step python tools/keep_nano.py $runs/decoder/artifact $kept/decoder
  step python tools/keep_nano.py $runs/finetune/artifact $kept/model
  step raexla sample --model nano --prompt "a red circle left of a blue square" --out $runs/kept
fi

cat <<END

  report   $PWD/$runs/report.html
  scores   $PWD/$runs/score/scores.json   (every score with its protocol)
  pictures $PWD/$runs/samples/sheet.png

Next:
  .venv/bin/raexla sample --model $runs/finetune --prompt "a red circle left of a blue square" --per-prompt 8
  .venv/bin/raexla understand --model $runs/finetune --image $runs/score/real/position-0000.png --question "What is in the top left?"
  .venv/bin/raexla train $recipes/pretrain.yaml --out runs/mine --set model.dit.depth=2
  .venv/bin/raexla recipe show $recipes/pretrain.yaml
END
[[ "${1:-}" == --long ]] || echo "  make demo-long"
