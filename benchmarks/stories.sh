#!/usr/bin/env bash
# The models in the box, from plain stories: checkpoints/tokmat-stories and its autoregressive twin, checkpoints/ar-stories.
#
#     bash benchmarks/stories.sh FOLDER_OF_TEXTS runs/stories      (make stories TEXTS=FOLDER)
#
# FOLDER_OF_TEXTS holds tinystories-train.txt and tinystories-valid.txt, documents separated by lines of <|endoftext|>.
# Every step goes on where it was interrupted; all draws come from the seed 0. About two hours on two cores.
#
# 1 ar      both begin as one autoregressive model
# 2 twin    goes on as it began; front: the same steps and text, with the past as negatives
# 3 own     what the front writes by itself
# 4 tail    adapters that act in the tail alone learn to foresee it; the front is frozen
set -euo pipefail
texts=$1 out=$2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_TOP_PAD_=268435456
# For trials of the machinery: SHARE=0.01 takes a hundredth of the steps, BACKBONE=tiny a smaller model.
steps() { python3 -c "print(max(2, round($1 * ${SHARE:-1})))"; }
text=(--data "$texts/tinystories-train.txt" --validation-data "$texts/tinystories-valid.txt" --block-size 256)
saving=(--save-steps "$(steps 100)" --eval-steps "$(steps 1000)" --resume-from-checkpoint last)
mkdir -p "$out"

train() { # FOLDER, then arguments of tokmat train
    local folder=$out/$1
    shift
    [ -f "$folder/config.json" ] || tokmat train --output-dir "$folder" "${saving[@]}" "$@"
}

train ar --objective ar "${text[@]}" --backbone "${BACKBONE:-small}" --vocab-size 4096 --max-steps "$(steps 1000)" --learning-rate 2e-3
train twin --objective ar "${text[@]}" --model "$out/ar" --max-steps "$(steps 300)" --learning-rate 6e-4
[ -f "$out/start/config.json" ] || tokmat convert "$out/ar" "$out/start"
train front "${text[@]}" --model "$out/start" --max-steps "$(steps 300)" --learning-rate 6e-4 \
    --context-negatives 3 --context-ngram 2 --clean-probability 1
tokmat own-text "$out/front" --prompts "$texts/tinystories-train.txt" --prompt-tokens 4 8 16 --add-bos \
    --texts "$(steps 4096)" --max-new-tokens 240 --batch-size 128 --dtype float32 --output "$out/own.jsonl"
train tail --model "$out/front" --train tail --data "$out/own.jsonl" --validation-fraction 0.03 --block-size 256 \
    --max-steps "$(steps 600)" --learning-rate 1e-3 --context-negatives 0
python benchmarks/ship.py "$out/tail" "$out/tokmat-stories"
python benchmarks/ship.py "$out/twin" "$out/ar-stories"
echo "The models are $out/tokmat-stories and $out/ar-stories."
