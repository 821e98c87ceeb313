#!/usr/bin/env bash
# The models in the box, from plain stories: checkpoints/tokmat-stories and its autoregressive twin, checkpoints/ar-stories.
#
#     bash benchmarks/stories.sh FOLDER_OF_TEXTS runs/stories      (make stories TEXTS=FOLDER)
#
# FOLDER_OF_TEXTS holds tinystories-train.txt and tinystories-valid.txt, documents separated by lines of <|endoftext|>.
# Every step goes on where it was interrupted; all draws come from seeds below. About eight hours on two cores, four of
# them the practice, which took seven minutes on an H200.
#
# 1 ar       both begin as one autoregressive model
# 2 twin     goes on as it began; at last twin-long, until it has read as many stories as the model
# 3 front    the same steps and text, with phrases of the past as negatives
# 4 round1 .. round3: where no text may end the model before writes on, and is then taught there what the twin would
#            say without repeated phrases; the other rows stay stories
# 5 practice the same at length: eight rounds, larger ones, each on fresh text; settled: one more with a weaker penalty;
#            averaged: of their weights
# 6 own      what the model writes by itself; tail: adapters, which act in the tail alone, learn to foresee it, twice
# 7 judge    of another seed, to compare texts by; judge-long has read as many stories as twin-long
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
round() { # FOLDER START STEPS LEARNING_RATE NATS SEED ROWS SHARPNESS, then the names of texts
    local folder=$1 start=$2 count=$3 rate=$4 nats=$5 seed=$6 rows=$7 sharpness=$8
    shift 8
    train "$folder" "${text[@]}" --model "$out/$start" --max-steps "$(steps "$count")" --learning-rate "$rate" \
        --seed "$seed" --clean-probability 1 --context-negatives 3 --context-ngram 2 --per-device-train-batch-size "$rows" \
        --reference "$out/reference" --phrase-penalty "$nats" --reference-sharpness "$sharpness" \
        --tail-share 0.6 --tail-data "${@/#/$out/}"
}
endless ar 1024 1 loops-ar.jsonl
endless front 512 1 loops-front.jsonl
round round1 front 200 1e-3 2 0 16 1 loops-front.jsonl loops-ar.jsonl
endless round1 640 11 loops1.jsonl
round round2 round1 200 8e-4 2.5 1 16 1 loops1.jsonl
endless round2 640 12 loops2.jsonl
round round3 round2 240 6e-4 5 2 16 1 loops2.jsonl loops1.jsonl
before=round3 written=()
for number in 1 2 3 4 5 6 7 8; do
    endless "$before" 1280 "2$number" "practice$number.jsonl"
    written=("practice$number.jsonl" "${written[@]:0:1}")
    round "practice$number" "$before" 200 "$((9 - number))e-4" 5 "1$number" 32 2 "${written[@]}"
    before=practice$number
done
endless practice8 896 31 settling.jsonl
round settled practice8 200 5e-4 2 31 16 2 settling.jsonl
foresee() { # FOLDER START TEXT STEPS LEARNING_RATE ROWS
    train "$1" --model "$out/$2" --train tail --data "$out/$3" --validation-fraction 0.03 --block-size 256 \
        --max-steps "$(steps "$4")" --learning-rate "$5" --per-device-train-batch-size "$6" --context-negatives 0 \
        --phrase-penalty 0 --tail-metrics 0 --loop-share "${LOOP_SHARE:-0.25}"
}
write practice8 own.jsonl --prompt-tokens 4 8 16 --texts "$(steps 4096)" --seed 2
foresee tail-begun practice8 own.jsonl 450 1e-3 32
[ -f "$out/averaged/config.json" ] || python benchmarks/average.py "$out/tail-begun" "$out/settled" "$out/averaged" --weight 0.7
write averaged own-more.jsonl --prompt-tokens 4 8 16 --texts "$(steps 1024)" --seed 3
foresee tail averaged own-more.jsonl 200 6e-4 16
train twin-long --objective ar "${text[@]}" --model "$out/twin" --max-steps "$(steps 1620)" --learning-rate 1e-3 --seed 4
train judge --objective ar "${text[@]}" --backbone "${BACKBONE:-small}" --tokenizer "$out/ar" --seed 1 \
    --max-steps "$(steps 400)" --learning-rate 2e-3
train judge-long --objective ar "${text[@]}" --model "$out/judge" --max-steps "$(steps 1620)" --learning-rate 1e-3 --seed 5
python benchmarks/ship.py "$out/tail" "$out/tokmat-stories"
python benchmarks/ship.py "$out/twin-long" "$out/ar-stories"
echo "The models are $out/tokmat-stories and $out/ar-stories."
