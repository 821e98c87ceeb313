#!/bin/bash
# Every number of docs/LOOKAHEAD.md: trains a baseline, turns it into a TokMat model, trains that with each idea for the
# tail in turn, and evaluates all of them.
#
#     bash benchmarks/lookahead.sh stories-train.txt stories-valid.txt runs/lookahead
#
# Some three hours on two idle CPU cores with bf16. What is finished is not done again.
set -euo pipefail
train=$1 valid=$2 output=$3
here=$(cd "$(dirname "$0")" && pwd)
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_TOP_PAD_=268435456
mkdir -p "$output/models" "$output/results"

fit() { # NAME STEPS LEARNING_RATE flags...
    local name=$1 steps=$2 rate=$3
    shift 3
    [ -f "$output/models/$name/config.json" ] && return
    tokmat train --output-dir "$output/models/$name" --resume-from-checkpoint last --max-steps "$steps" \
        --learning-rate "$rate" --eval-steps "$steps" --logging-steps 50 --validation-data "$valid" "$@"
}
judge() { # NAME K FOLDER
    [ -f "$output/$3/$1/results.json" ] && return
    tokmat evaluate "$output/models/$1" --data "$valid" --judge "$output/models/ar" --tail-length "$2" \
        --look-ahead "$2" --mauve-continuations 0 --output "$output/$3/$1"
}
idea() { # NAME STEPS flags...: from the common base
    local name=$1 steps=$2
    shift 2
    fit "$name" "$steps" 4e-4 --model "$output/models/base" --context-negatives 2 --film-scope tail "$@"
}

fit ar 1500 2e-3 --objective ar --backbone small --data "$train"
[ -f "$output/models/start/config.json" ] || tokmat convert "$output/models/ar" "$output/models/start" --geometry sphere
fit base 600 6e-4 --model "$output/models/start" --context-negatives 2 --clean-probability 1 --film-scope tail \
    --data "$train"

real=(--data "$train")
sixteen=(--look-ahead --rollout-passes 2 --parallel-tails 16 --parallel-slots 0)
idea paper 250 "${real[@]}" --clean-probability 0.5
idea parallel 250 "${real[@]}" "${sixteen[@]}" --maturation simulated
idea rollout-16 250 "${real[@]}" "${sixteen[@]}"
idea rollout 250 "${real[@]}" --look-ahead
idea rollout-2 250 "${real[@]}" --look-ahead --rollout-passes 2
for k in 4 16; do
    idea rollout-K$k 250 "${real[@]}" --look-ahead --min-tail-length $k --max-tail-length $k
done

own=$output/own.jsonl
tokmat own-text "$output/models/rollout-16" --prompts "$train" --texts 4096 --add-bos --no-stop-loops --output "$own"
head -c 2000000 "$train" > "$output/some.txt"
idea own-mixed 250 "${sixteen[@]}" --data "$output/some.txt" "$own"
idea own-half 250 "${real[@]}" "${sixteen[@]}" --tail-data "$own"
quarter=(--tail-data "$own" --tail-share 0.25)
idea own-quarter 250 "${real[@]}" "${quarter[@]}" --look-ahead
idea own-quarter-jump 250 "${real[@]}" "${quarter[@]}" --look-ahead --rollout-jump 2
idea paper-long 800 "${real[@]}" --clean-probability 0.5
idea own-long 800 "${real[@]}" --look-ahead --rollout-jump 2 --parallel-tails 64 --tail-data "$own" \
    --tail-share 0.4
fit own-long-on 280 4e-4 --model "$output/models/own-long" "${real[@]}" --look-ahead --rollout-jump 2 \
    --parallel-tails 64 --tail-data "$own" --tail-share 0.15

for name in paper parallel rollout-16 rollout rollout-2 own-mixed own-half own-quarter own-quarter-jump paper-long own-long
do
    judge $name 8 results
done
for k in 4 16; do
    judge rollout $k K$k
    judge rollout-K$k $k K$k
done

python "$here/multi_token_heads.py" "$output/models/base" --data "$train" --held-out "$valid"
python "$here/picture_lookahead.py" "$output/results" --output "$output"
decode() { # NAME flags...
    local name=$1
    shift
    python "$here/decode.py" --model "$output/models/$name" --baseline "$output/models/ar" --data "$valid" --batches 1 \
        --tail-lengths 1,8 --rules verified --prefixes 16 --new-tokens 100 --prompts 8 "$@"
}
decode own-long --repeats 7 --attention eager
decode own-long --repeats 7 --attention sdpa
decode own-quarter --repeats 4 --dtypes bf16 --attention eager
decode rollout --repeats 4 --dtypes bf16 --attention eager
