#!/usr/bin/env bash
# The models in the box, from plain stories: checkpoints/tokmat-stories and its autoregressive twin, checkpoints/ar-stories.
#
#     bash benchmarks/stories.sh FOLDER_OF_TEXTS runs/stories      (make stories TEXTS=FOLDER)
#
# FOLDER_OF_TEXTS holds tinystories-train.txt and tinystories-valid.txt, documents separated by lines of <|endoftext|>.
# Every step goes on where it was interrupted; all draws come from seeds below. About three hours on two cores.
#
# 1 ar       both begin as one autoregressive model
# 2 twin     goes on as it began
# 3 front    the same steps and text, with phrases of the past as negatives
# 4 round1 .. round3: where no text may end the model before writes on, and is then taught there what the twin would
#            say without repeated phrases; the other rows stay stories
# 5 own      what that model writes by itself; tail: adapters, which act in the tail alone, learn to foresee it, twice
# 6 judge    of another seed, to compare texts by
set -euo pipefail
texts=$1 out=$2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_TOP_PAD_=268435456
# For trials of the machinery: SHARE=0.01 takes a hundredth of the steps, BACKBONE=tiny a smaller model; LOOP_SHARE=1 lets its
# tail learn from what such a model writes.
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
train front "${text[@]}" --model "$out/start" --max-steps "$(steps 300)" --learning-rate 6e-4 --clean-probability 1 \
    --context-negatives 3 --context-ngram 2
write() { # MODEL FILE, then arguments of tokmat own-text
    local model=$out/$1 file=$out/$2
    shift 2
    tokmat own-text "$model" --prompts "$texts/tinystories-train.txt" --add-bos --max-new-tokens 224 --batch-size 128 \
        --dtype float32 --output "$file" "$@"
}
endless() { # MODEL TEXTS SEED FILE
    write "$1" "$4" --prompt-tokens 8 16 --texts "$(steps "$2")" --seed "$3" --stop-loops false --may-end false
}
[ -f "$out/reference/config.json" ] || tokmat convert "$out/twin" "$out/reference"
round() { # FOLDER START STEPS LEARNING_RATE NATS SEED, then the names of texts
    local folder=$1 start=$2 count=$3 rate=$4 nats=$5 seed=$6
    shift 6
    train "$folder" "${text[@]}" --model "$out/$start" --max-steps "$(steps "$count")" --learning-rate "$rate" \
        --seed "$seed" --clean-probability 1 --context-negatives 3 --context-ngram 2 \
        --reference "$out/reference" --phrase-penalty "$nats" --tail-share 0.6 --tail-data "${@/#/$out/}"
}
endless ar 1024 1 loops-ar.jsonl
endless front 512 1 loops-front.jsonl
round round1 front 200 1e-3 2 0 loops-front.jsonl loops-ar.jsonl
endless round1 640 11 loops1.jsonl
round round2 round1 200 8e-4 2.5 1 loops1.jsonl
endless round2 640 12 loops2.jsonl
round round3 round2 240 6e-4 5 2 loops2.jsonl loops1.jsonl
write round3 own.jsonl --prompt-tokens 4 8 16 --texts "$(steps 1024)" --seed 2
foresee() { # FOLDER START TEXT STEPS LEARNING_RATE
    train "$1" --model "$out/$2" --train tail --data "$out/$3" --validation-fraction 0.03 --block-size 256 \
        --max-steps "$(steps "$4")" --learning-rate "$5" --context-negatives 0 --phrase-penalty 0 --tail-metrics 0 \
        --loop-share "${LOOP_SHARE:-0.25}"
}
foresee tail-begun round3 own.jsonl 320 1e-3
write round3 own-more.jsonl --prompt-tokens 4 8 16 --texts "$(steps 1024)" --seed 3
foresee tail tail-begun own-more.jsonl 240 6e-4
train judge --objective ar "${text[@]}" --backbone "${BACKBONE:-small}" --tokenizer "$out/ar" --seed 1 \
    --max-steps "$(steps 400)" --learning-rate 2e-3
python benchmarks/ship.py "$out/tail" "$out/tokmat-stories"
python benchmarks/ship.py "$out/twin" "$out/ar-stories"
echo "The models are $out/tokmat-stories and $out/ar-stories."
